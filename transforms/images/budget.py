"""Bounds the memory of all decoders of a process together: an image waits until there is room for it."""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Iterator

from transforms.images.limits import UndecodableImage

# The memory of all decoders. At 12 bytes a pixel it is just enough for the largest image that Pillow decodes.
DECODING_BYTES = 1 << 30

# Images that need less do not wait: several at once are no matter.
SMALL = 4 << 20


class Budget:
    """An amount of memory that several threads share. They get it in the order in which they ask.

    So a large image waits only for those that are being decoded, and small ones do not overtake it for ever. A thread
    asks for one share at a time, and gives it back when it is done, so threads never wait for each other in a circle.
    """

    def __init__(self, total: int):
        self._total = total
        self._used = 0
        self._waiting: deque[object] = deque()
        self._changed = threading.Condition()

    @property
    def total(self) -> int:
        """The bytes of all shares together."""
        return self._total

    def set_total(self, total: int) -> None:
        """Sets the bytes of all shares together. Shares that are taken stay taken."""
        with self._changed:
            self._total = total
            self._changed.notify_all()

    def take(self, size: int) -> None:
        """Waits until `size` bytes are free, and takes them. If nothing is taken, any size is free."""
        ticket = object()
        with self._changed:
            self._waiting.append(ticket)
            try:
                self._changed.wait_for(lambda: self._waiting[0] is ticket and self._fits(size))
                self._used += size
            finally:
                self._waiting.remove(ticket)
                self._changed.notify_all()

    def give(self, size: int) -> None:
        """Gives back what was taken."""
        with self._changed:
            self._used -= size
            self._changed.notify_all()

    def _fits(self, size: int) -> bool:
        return self._used + size <= self._total or not self._used


_decoders = Budget(DECODING_BYTES)


def use_decoding_bytes(total: int) -> None:
    """Sets the memory of all decoders of this process, in bytes."""
    if total != _decoders.total:
        _decoders.set_total(total)


@contextlib.contextmanager
def room_for(need: int, width: int, height: int) -> Iterator[None]:
    """Waits until the decoders of this process have room for an image, and keeps the room while it is decoded.

    Args:
      need: the bytes that decoding takes.
      width, height: of the image, in pixels, for the message.

    Raises:
      UndecodableImage: the image alone needs more than all decoders may have.
    """
    if need <= SMALL:  # also asked by the caller, where a context would cost time
        yield
        return
    if need > _decoders.total:
        raise UndecodableImage(
            f"the image of {width}×{height} pixels needs {need >> 20:,} MiB to decode, more than the "
            f"{_decoders.total >> 20:,} MiB that all images have together (input.decoding_mib sets the limit)"
        )
    _decoders.take(need)
    try:
        yield
    finally:
        _decoders.give(need)

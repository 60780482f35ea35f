"""Reads and decodes ahead of the compute, in threads."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
U = TypeVar("U")


def decode_ahead(items: Iterable[T], decode: Callable[[T], U], *, threads: int, ahead: int) -> Generator[U, None, None]:
    """Yields decode(item) for each item, in order, computed in threads while the consumer is busy with earlier ones.

    One background thread of its own advances `items`, so that reading overlaps with the compute too, and no two threads
    read at once. What is wrong with one item is `decode`'s to return, as a value of U: here an exception, of `items` or
    of `decode`, ends the iteration. Nothing starts before the first result is asked for. When the consumer stops early
    (closes the generator, or lets go of it), what is not begun is dropped, and all threads have ended when the
    generator has; that waits for the item that is being read and those being decoded.

    Args:
      items: read lazily, from one thread that is not the caller's.
      decode: called from `threads` threads at once.
      threads: how many decode, at least 1.
      ahead: how many items may have been read that the consumer has not been given, at least 1.

    Raises:
      whatever `items` or `decode` raises, at its place in the order: after the results of all items before.
    """
    in_order: queue.SimpleQueue[Future[U] | None] = queue.SimpleQueue()
    room = threading.Semaphore(ahead - 1)  # for the items after the first one, which is read in any case
    stopped = threading.Event()
    decoders = ThreadPoolExecutor(threads, thread_name_prefix="decode")

    def read() -> None:
        try:
            for item in items:
                in_order.put(decoders.submit(decode, item))
                room.acquire()
                if stopped.is_set():
                    return
        except BaseException as error:
            failed: Future[U] = Future()
            failed.set_exception(error)
            in_order.put(failed)
        else:
            in_order.put(None)

    # A daemon, unlike an executor's thread: a generator that is never finished must not keep the interpreter from
    # exiting while this waits for room.
    reader = threading.Thread(target=read, name="read-ahead", daemon=True)
    reader.start()
    try:
        while (future := in_order.get()) is not None:
            result = future.result()
            room.release()
            yield result
    finally:
        stopped.set()
        room.release()
        reader.join()
        decoders.shutdown(cancel_futures=True)

"""Reads and decodes images in threads, ahead of the compute."""

from __future__ import annotations

import functools
import queue
import threading
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from transforms.images.budget import Budget

T = TypeVar("T")
U = TypeVar("U")


def decode_ahead(
    items: Iterable[T],
    decode: Callable[[T], U],
    *,
    threads: int,
    ahead: int,
    weigh: Callable[[T], int] = lambda item: 0,
    most: int = 0,
) -> Generator[U, None, None]:
    """Yields decode(item) for each item, in order. Threads compute it while the consumer works on earlier results.

    One background thread reads `items`, so reading also overlaps with the compute, and two threads never read at once.
    An exception of `items` or `decode` ends the iteration; `decode` should return a problem with one item as a value of
    U. Nothing starts before the first result is requested. If the consumer stops early (closes or drops the generator),
    items that are not yet started are dropped. All threads end before the generator does, after the items that they are
    reading or decoding.

    Args:
      items: the input. Another thread reads it, lazily.
      decode: the function. `threads` threads call it at once.
      threads: the number of threads that decode, at least 1.
      ahead: how many items may be read before the consumer gets them, at least 1.
      weigh: the bytes that an item takes until it is decoded.
      most: so many bytes of items may wait for being decoded, besides the item that was read last. One item may have
        more, and then no other waits.

    Raises:
      the exception of `items` or `decode`, after the results of all items before it.
    """
    in_order: queue.SimpleQueue[Future[U] | None] = queue.SimpleQueue()
    room = threading.Semaphore(ahead - 1)  # for the items after the first, which is always read
    waiting = Budget(most)
    stopped = threading.Event()
    decoders = ThreadPoolExecutor(threads, thread_name_prefix="decode")

    def read() -> None:
        try:
            for item in items:
                weight = weigh(item)
                waiting.take(weight)  # given back by a decoder, which waits for nobody here
                decoding = decoders.submit(decode, item)
                del item  # the decoder drops it, as reading the next one takes time
                decoding.add_done_callback(functools.partial(_give_back, waiting, weight))
                in_order.put(decoding)
                del decoding
                room.acquire()
                if stopped.is_set():
                    return
        except BaseException as error:
            failed: Future[U] = Future()
            failed.set_exception(error)
            in_order.put(failed)
        else:
            in_order.put(None)

    # A daemon thread, unlike an executor's: if a generator is never finished, its reader waits for room for ever, and
    # must not keep the interpreter from exiting.
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


def _give_back(budget: Budget, weight: int, _: Future[Any]) -> None:
    budget.give(weight)

"""Items are decoded in order, ahead of the consumer, and no thread outlives its generator."""

import itertools
import pathlib
import subprocess
import sys
import threading
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from transforms.images import UndecodableImage, decode_ahead

PROJECT = pathlib.Path(__file__).parents[3]


def threads_running():
    return {thread for thread in threading.enumerate() if thread.name.startswith(("decode", "read-ahead"))}


@pytest.fixture(autouse=True)
def no_thread_is_left():
    yield
    assert not threads_running()


class TestDecodeAhead:
    @given(
        items=st.lists(st.integers(), max_size=50),
        threads=st.integers(1, 4),
        ahead=st.integers(1, 10),
    )
    @settings(deadline=None, max_examples=50)
    def test_it_is_a_map_in_order(self, items, threads, ahead):
        def decode(item):
            time.sleep(item % 3 * 1e-4)
            return item * 2

        assert list(decode_ahead(items, decode, threads=threads, ahead=ahead)) == [item * 2 for item in items]

    @pytest.mark.parametrize(("threads", "ahead"), [(1, 1), (2, 1), (2, 5), (8, 3)])
    def test_it_reads_as_far_ahead_as_it_may_and_no_further(self, threads, ahead):
        read = 0

        def items():
            nonlocal read
            for item in range(30):
                read += 1
                yield item

        results = decode_ahead(items(), lambda item: item, threads=threads, ahead=ahead)
        assert read == 0
        for consumed, _ in enumerate(results, start=1):
            allowed = min(30, consumed + ahead)
            eventually(lambda allowed=allowed: read == allowed)
            time.sleep(1e-3)
            assert read == allowed
        assert read == 30

    def test_no_more_threads_decode_at_once_than_were_asked_for(self):
        decoding, most, lock = 0, 0, threading.Lock()

        def decode(item):
            nonlocal decoding, most
            with lock:
                decoding += 1
                most = max(most, decoding)
            time.sleep(1e-3)
            with lock:
                decoding -= 1

        list(decode_ahead(range(50), decode, threads=3, ahead=20))
        assert most == 3

    def test_only_one_background_thread_reads(self):
        readers = set()

        def items():
            for item in range(20):
                readers.add(threading.current_thread())
                yield item

        list(decode_ahead(items(), lambda item: item, threads=4, ahead=4))
        assert len(readers) == 1
        assert threading.current_thread() not in readers

    def test_reading_and_decoding_go_on_while_the_consumer_computes(self):
        decoded = [threading.Event() for _ in range(10)]
        for item in decode_ahead(range(10), lambda item: decoded[item].set() or item, threads=1, ahead=4):
            assert decoded[min(9, item + 4)].wait(timeout=5)

    @pytest.mark.parametrize("ahead", [1, 4, 100])
    def test_an_exception_of_the_input_comes_after_all_items_before_it(self, ahead):
        def items():
            yield from range(7)
            raise OSError("the disk is gone")

        delivered = []
        with pytest.raises(OSError, match="the disk is gone"):
            delivered.extend(decode_ahead(items(), slowly, threads=3, ahead=ahead))  # extend keeps what came before
        assert delivered == list(range(7))

    def test_an_exception_of_decode_comes_at_its_place(self):
        def decode(item):
            if item == 5:
                raise ZeroDivisionError
            return item

        delivered = []
        with pytest.raises(ZeroDivisionError):
            delivered.extend(decode_ahead(range(1000), decode, threads=3, ahead=10))
        assert delivered == list(range(5))

    def test_what_is_wrong_with_one_item_is_a_result_like_any_other(self):
        def decode(item):
            return UndecodableImage("half an image") if item == 1 else item

        results = list(decode_ahead(range(3), decode, threads=2, ahead=2))
        assert [type(result) for result in results] == [int, UndecodableImage, int]

    def test_closing_early_ends_all_threads_and_drops_what_was_not_begun(self):
        decoded = []

        def decode(item):
            time.sleep(0.01)
            decoded.append(item)

        results = decode_ahead(itertools.count(), decode, threads=2, ahead=1000)
        next(results)
        assert threads_running()
        results.close()
        assert not threads_running()
        assert len(decoded) < 100

    def test_a_consumer_that_raises_ends_all_threads(self):
        with pytest.raises(RuntimeError):
            raise_at_the_first(decode_ahead(itertools.count(), lambda item: item, threads=2, ahead=4))
        eventually(lambda: not threads_running())

    def test_a_generator_that_is_never_finished_lets_the_interpreter_exit(self):
        code = (
            "import itertools, sys; from transforms.images import decode_ahead; "
            "sys.kept = decode_ahead(itertools.count(), abs, threads=2, ahead=4); next(sys.kept)"
        )
        assert subprocess.run([sys.executable, "-c", code], cwd=PROJECT, timeout=60, check=False).returncode == 0

    def test_closing_before_the_first_result_reads_nothing(self):
        decode_ahead(pytest.fail, slowly, threads=1, ahead=1).close()

    def test_items_that_wait_to_be_decoded_are_bounded_in_bytes(self):
        read, decoding = [], threading.Event()

        def items():
            for item in range(6):
                read.append(item)
                yield item

        def decode(item):
            assert decoding.wait(60)
            return item

        results = decode_ahead(items(), decode, threads=1, ahead=100, weigh=lambda item: 40, most=100)
        consumer = threading.Thread(target=lambda: list(results))
        consumer.start()
        eventually(lambda: len(read) == 3, seconds=60)  # two are within the bound, and the third waits
        time.sleep(0.05)
        assert len(read) == 3
        decoding.set()
        consumer.join(60)
        assert read == list(range(6))

    @pytest.mark.parametrize("wrong", [{"threads": 0}, {"ahead": 0}])
    def test_there_is_at_least_one_thread_and_one_item_ahead(self, wrong):
        with pytest.raises(ValueError, match="must be"):
            list(decode_ahead([1], slowly, **{"threads": 1, "ahead": 1, **wrong}))


def slowly(item):
    time.sleep(1e-3)
    return item


def raise_at_the_first(results):
    for _ in results:
        raise RuntimeError


def eventually(holds, seconds=5.0):
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(1e-4)

"""Large images wait for each other, and what decoding takes is what was said of it."""

from __future__ import annotations

import io
import os
import pathlib
import struct
import subprocess
import sys
import textwrap
import threading
import time

import pytest
from PIL import Image

from transforms.images import Resize, UndecodableImage, decode_image
from transforms.images.budget import Budget
from transforms.images.headers import webp_size


def encoded(format: str, image: Image.Image, **how: object) -> bytes:
    sink = io.BytesIO()
    image.save(sink, format, **how)
    return sink.getvalue()


def test_shares_together_never_exceed_the_total_and_all_get_theirs() -> None:
    budget, used, most = Budget(100), [0], [0]
    lock = threading.Lock()

    def work(size: int) -> None:
        for _ in range(20):
            budget.take(size)
            with lock:
                used[0] += size
                most[0] = max(most[0], used[0])
            time.sleep(0)
            with lock:
                used[0] -= size
            budget.give(size)

    threads = [threading.Thread(target=work, args=(size,)) for size in (10, 35, 60, 90, 100, 5, 50, 99)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()
    assert 0 < most[0] <= 100


def test_one_share_larger_than_the_total_gets_it_alone() -> None:
    budget = Budget(10)
    budget.take(50)
    budget.give(50)


@pytest.mark.parametrize("how", [{}, {"lossless": True}, {"exif": b"Exif\0\0II*\0\x08\0\0\0\0\0"}], ids=str)
@pytest.mark.parametrize("size", [(1, 1), (300, 7)])
def test_the_size_in_a_webp_files_header(how: dict[str, object], size: tuple[int, int]) -> None:
    assert webp_size(encoded("WEBP", Image.new("RGB", size, "red"), **how)) == size


def test_exif_of_many_segments_is_refused_at_once() -> None:
    plain = encoded("JPEG", Image.new("CMYK", (8, 8)))
    segment = b"\xff\xe1\xff\xffExif\0\0" + bytes(65533 - 6)
    with pytest.raises(UndecodableImage, match="bytes of notes"):
        decode_image(plain[:2] + segment * 500 + plain[2:], Resize((8, 8)), 3, "apply")


def test_values_that_share_their_bytes_are_refused() -> None:
    entries = b"".join(struct.pack("<HHII", 1000 + i, 1, 1 << 20, 0) for i in range(1000))
    data = b"II*\0\x08\0\0\0" + struct.pack("<H", 1000) + entries + bytes(1 << 20)
    with pytest.raises(UndecodableImage, match="claim"):
        decode_image(data, Resize((8, 8)), 3)


@pytest.mark.slow
@pytest.mark.skipif(not pathlib.Path("/proc/self/clear_refs").exists(), reason="peak memory is read from /proc")
def test_decoding_takes_no_more_than_was_said_and_eight_threads_stay_in_the_budget() -> None:
    code = """
        import io, threading
        import numpy as np
        from PIL import Image
        from transforms.images import Resize, UndecodableImage, decode_image, use_decoding_bytes
        from transforms.images.headers import decoding_bytes

        def peak(reset=False):
            if reset:
                open("/proc/self/clear_refs", "w").write("5")
            lines = open("/proc/self/status").read().splitlines()
            return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM"))

        side = 1000
        rng = np.random.default_rng(0)
        colours = Image.fromarray(rng.integers(0, 255, (50, 50, 3), dtype=np.uint8)).resize((side, side))
        grey = np.asarray(colours.convert("L"))
        cases = [
            ("JPEG", colours, {"progressive": True, "subsampling": 0}), ("JPEG", colours.convert("CMYK"), {}),
            ("PNG", colours.convert("RGBA"), {"compress_level": 1}), ("WEBP", colours, {"method": 0}),
            ("AVIF", colours, {"speed": 10}), ("JPEG2000", colours.convert("RGBA"), {}),
            ("TIFF", Image.fromarray(grey.astype(np.float32) / 255), {}),
            ("TIFF", Image.fromarray(grey.astype(np.int32)), {"compression": "tiff_lzw"}),
        ]
        files = []
        for format, image, how in cases:
            sink = io.BytesIO()
            image.save(sink, format, **how)
            files.append((format, sink.getvalue()))
        del cases, grey, colours, image
        for format, data in files:
            before = peak(reset=True)
            decode_image(data, Resize((32, 32)), 3)
            grown = peak() - before
            assert grown <= decoding_bytes(format, side, side) + (8 << 20), (format, grown / side**2)
        use_decoding_bytes(40 << 20)
        before = peak(reset=True)
        def work():
            for format, data in files:
                decode_image(data, Resize((32, 32)), 3)
        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in threads: thread.start()
        for thread in threads: thread.join()
        assert peak() - before <= 64 << 20, (peak() - before) >> 20
        use_decoding_bytes(8 << 20)
        try:
            decode_image(files[0][1], Resize((32, 32)), 3)
        except UndecodableImage as error:
            print(error)
    """
    # glibc keeps freed pieces of up to 32 MiB for the thread that had them. Images near the limit have larger ones.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": str(1 << 20), "MALLOC_TRIM_THRESHOLD_": str(1 << 20)}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "1000×1000 pixels needs 9 MiB to decode, more than the 8 MiB" in done.stdout

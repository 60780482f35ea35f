"""Worker processes of Beam's own runner that are lost, and what is said of them."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from typing import NoReturn

import apache_beam as beam
import pytest

from pipeline.config import Runner
from pipeline.engines.jobs import JobFailed, new_pipeline, run_to_its_end


def _kill(_: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _leave(_: int) -> NoReturn:
    os._exit(3)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("end", "words"),
    [
        (_kill, r"the worker process worker_\d+ was killed \(SIGKILL\), most likely as the memory ran out"),
        (_leave, r"the worker process worker_\d+ ended with exit code 3"),
    ],
)
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # Beam's threads complain
def test_a_lost_worker_process_is_named_in_one_sentence(end: Callable[[int], None], words: str) -> None:
    flags = ["--direct_num_workers=1", "--direct_running_mode=multi_processing"]
    before = threading.excepthook
    pipeline = new_pipeline(Runner(), flags)
    _ = pipeline | beam.Create([1]) | beam.Map(end)
    with pytest.raises(JobFailed, match=words) as error:
        run_to_its_end(pipeline, Runner(), flags)
    assert "\n" not in str(error.value)
    assert threading.excepthook is before

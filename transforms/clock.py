"""Where the time of a unit goes."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator


class Clock:
    """Where the time of a unit goes; for any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._seconds = dict.fromkeys(("read", "decode", "compute", "statistics", "write"), 0.0)

    def add(self, stage: str, seconds: float) -> None:
        with self._lock:
            self._seconds[stage] += seconds

    def first(self, stage: str, seconds: float) -> None:
        """Notes a time unless it was noted before."""
        self._seconds.setdefault(stage, seconds)

    @contextlib.contextmanager
    def wall(self, stage: str, now: Callable[[], float] = time.perf_counter, at_once: int = 1) -> Iterator[None]:
        """Adds the time that passes in the block, shared out among as many blocks as go on at once."""
        started = now()
        try:
            yield
        finally:
            self.add(stage, (now() - started) / at_once)

    def processor(self, stage: str) -> contextlib.AbstractContextManager[None]:
        """Adds what the block takes of its thread's processor time: others' turns on a shared core do not count."""
        return self.wall(stage, time.thread_time)

    def seconds(self, elapsed: float) -> dict[str, float]:
        """What was added so far, and under `idle` the rest of so many seconds, in which nothing was computed."""
        seconds = {**self._seconds, "idle": max(0.0, elapsed - self._seconds["compute"])}
        return {stage: round(value, 4) for stage, value in seconds.items()}

"""Measures how much time each stage of a unit takes."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator


class Clock:
    """The time that each stage of a unit takes. Threads may share it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._seconds = dict.fromkeys(("read", "decode", "compute", "statistics", "write"), 0.0)

    def add(self, stage: str, seconds: float) -> None:
        """Adds seconds to a stage."""
        with self._lock:
            self._seconds[stage] += seconds

    def first(self, stage: str, seconds: float) -> None:
        """Sets a stage's time, unless it is already set."""
        self._seconds.setdefault(stage, seconds)

    @contextlib.contextmanager
    def wall(self, stage: str, now: Callable[[], float] = time.perf_counter, at_once: int = 1) -> Iterator[None]:
        """Adds the time that passes in the block, divided by the number of such blocks that run at once."""
        started = now()
        try:
            yield
        finally:
            self.add(stage, (now() - started) / at_once)

    def processor(self, stage: str) -> contextlib.AbstractContextManager[None]:
        """Adds the block's processor time in its thread. Other threads on the same core do not count."""
        return self.wall(stage, time.thread_time)

    def seconds(self, elapsed: float) -> dict[str, float]:
        """The seconds of each stage so far. `idle` is the part of `elapsed` in which nothing was computed."""
        seconds = {**self._seconds, "idle": max(0.0, elapsed - self._seconds["compute"])}
        return {stage: round(value, 4) for stage, value in seconds.items()}

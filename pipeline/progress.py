"""Tells how far a run is from the files that it has committed. Works in the launcher and in any other process."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import posixpath
import threading
import time
from collections.abc import Iterator, Set
from concurrent.futures import ThreadPoolExecutor

from transforms.output import DamagedOutput, Output, list_files, read_bytes
from transforms.output.seal import receipt_of
from transforms.unit import Receipt

# A heartbeat older than this comes from a worker that is gone.
_STALE_SECONDS = 120.0

_LAUNCHER = "launcher.alive"
_LAUNCHER_SECONDS = 20.0


@dataclasses.dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is at one moment.

    Attributes:
      units, units_done: planned and committed.
      images_expected: records of the planned units; None if some were not counted.
      images, failed: of committed units and of units under way.
      images_per_second: None as long as it is not known.
      active: units with a recent heartbeat.
    """

    units: int
    units_done: int
    images_expected: int | None
    images: int
    failed: int
    images_per_second: float | None
    active: int

    @property
    def eta_seconds(self) -> float | None:
        """Seconds to the end at the present speed; None if they are not known."""
        if self.images_expected is None or not self.images_per_second:
            return None
        return max(0, self.images_expected - self.images - self.failed) / self.images_per_second


@dataclasses.dataclass(frozen=True, slots=True)
class _Heartbeat:
    """The last heartbeat of a unit under way; times in seconds since the epoch."""

    images: int
    failed: int
    started: float
    time: float


class LauncherAtWork:
    """While the block runs, a small file says that a launcher waits for its run, also before and between units."""

    def __init__(self, output: Output):
        self._output = output
        self._path = output.temporary(_LAUNCHER)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="launcher", daemon=True)

    def __enter__(self) -> LauncherAtWork:
        self._thread.start()
        return self

    def _follow(self) -> None:
        while True:
            with contextlib.suppress(Exception):  # a run does not fail because its progress cannot be told
                self._output.write_json(self._path, json.dumps({"time": time.time()}))
            if self._ended.wait(_LAUNCHER_SECONDS):
                return

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        with contextlib.suppress(Exception):  # one that is left behind is soon too old to count
            self._output.delete(self._path)


def launcher_is_at_work(output: Output) -> bool:
    """Whether a launcher has lately said that it waits for its run."""
    texts = map(read_bytes, list_files(output.file("tmp", f"*{_LAUNCHER}")))
    return any(time.time() - json.loads(text)["time"] < _STALE_SECONDS for text in texts if text is not None)


class Tracker:
    """Follows an output folder. Reads each receipt once.

    Args:
      output: the folder.
      units, images_expected: of the plan, as in `run.json`.

    Attributes:
      unreadable: the receipts that are damaged, with what is wrong. Their units are not done.
    """

    def __init__(self, output: Output, units: int, images_expected: int | None):
        self._output = output
        self._units = units
        self._expected = images_expected
        self._receipts: dict[str, Receipt] = {}
        self.unreadable: dict[str, DamagedOutput] = {}

    @property
    def receipts(self) -> list[Receipt]:
        """The receipts that were read so far."""
        return list(self._receipts.values())

    def poll(self, run: str | None = None) -> Progress:
        """Reads what is new and returns the progress.

        Args:
          run: the run whose speed is returned; None for the run of the latest receipt.
        """
        new = [path for path in list_files(self._output.file("receipts", "*.json")) if path not in self._receipts]
        with ThreadPoolExecutor(16) as pool:
            for path, text in zip(new, pool.map(read_bytes, new), strict=True):
                try:
                    if text is not None:
                        self._receipts[path] = receipt_of(path, text)
                        self.unreadable.pop(path, None)
                except DamagedOutput as error:
                    self.unreadable[path] = error
        receipts = self.receipts
        done = {receipt.unit.id for receipt in receipts}
        beats = list(self._heartbeats(done))
        images = sum(r.images for r in receipts) + sum(b.images for b in beats)
        failed = sum(r.failed for r in receipts) + sum(b.failed for b in beats)
        if run is None and receipts:
            run = max(receipts, key=lambda r: r.ended).run
        return Progress(
            units=max(self._units, len(receipts)),
            units_done=len(receipts),
            images_expected=self._expected,
            images=images,
            failed=failed,
            images_per_second=self._speed(run, beats),
            active=len(beats),
        )

    def _heartbeats(self, done: Set[str]) -> Iterator[_Heartbeat]:
        """The heartbeats of units under way. Those of `done` units are left over from lost attempts and are skipped."""
        for path in list_files(self._output.file("tmp", "*.progress")):
            if posixpath.basename(path).removesuffix(".progress") in done or (text := read_bytes(path)) is None:
                continue
            try:
                beat = _Heartbeat(**json.loads(text))
                recent = time.time() - beat.time < _STALE_SECONDS
            except (ValueError, TypeError):  # damaged; the next one takes its place
                continue
            if recent:
                yield beat

    def _speed(self, run: str | None, beats: list[_Heartbeat]) -> float | None:
        mine = [r for r in self.receipts if r.run == run]
        started = [r.started for r in mine] + [b.started for b in beats]
        ended = [r.ended for r in mine] + [b.time for b in beats]
        seconds = max(ended, default=0.0) - min(started, default=0.0)
        done = sum(r.images for r in mine) + sum(b.images for b in beats)
        return done / seconds if seconds > 0 and done else None

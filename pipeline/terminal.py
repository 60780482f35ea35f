"""What the command line prints: the plan, the progress bar, the summary."""

from __future__ import annotations

import contextlib
import io
import logging
import sys
import threading
from collections.abc import Iterator
from types import TracebackType
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar

from pipeline.config import Config
from transforms.byte_names import PRINTABLE

if TYPE_CHECKING:
    from pipeline.progress import Progress
    from pipeline.run import Plan
    from pipeline.summary import Summary

_log = logging.getLogger(__name__)

# Without markup and emoji: brackets and colons in a path are part of its name.
out = Console(highlight=False, markup=False, emoji=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, markup=False, emoji=False, soft_wrap=True)


def print_any_name() -> None:
    """Lets names that are not UTF-8 be printed, as `byte_names` writes them."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=PRINTABLE)


@contextlib.contextmanager
def step(what: str) -> Iterator[None]:
    """Says what is done in the block, before there is progress: on a terminal while it lasts, elsewhere in the log."""
    _log.info("%s", what)
    if not err.is_terminal:
        yield
        return
    err.file.write(f"{what} …")
    err.file.flush()
    try:
        yield
    finally:
        err.file.write("\r\x1b[K")  # erases the line
        err.file.flush()


def describe_plan(plan: Plan) -> str:
    """What a run will do, in a line or two."""
    images = plan.images_expected
    todo = f"{_units(len(plan.units))} to explain"
    done = f", {len(plan.receipts)} done before" if plan.receipts else ""
    left_out = f"\nleft out: {plan.left_out}" if plan.left_out else ""
    in_all = "" if images is None else f"; {images:,} images in all"
    return f"{todo}{done}{in_all} → {plan.config.output.path}{left_out}"


def _units(count: int) -> str:
    return f"{count:,} unit{'' if count == 1 else 's'}"


def print_summary(summary: Summary, config: Config) -> None:
    """Prints what a run has done."""
    speed = "" if summary.images_per_second is None else f", {summary.images_per_second:.1f} images/s"
    failed = f", {summary.failed:,} failed" if summary.failed else ""
    out.print(f"{summary.images:,} images explained{failed}, {summary.rows:,} maps in {_units(summary.units)}{speed}")
    if summary.accuracy is not None:
        unlabelled = summary.images - summary.labelled
        without = f"; {unlabelled:,} {'has' if unlabelled == 1 else 'have'} no label" if unlabelled else ""
        out.print(f"accuracy {summary.accuracy:.1%} on {summary.labelled:,} labelled images{without}")
    elif summary.images:
        out.print("no accuracy, as no image has a label")
    if summary.completeness:
        out.print(f"largest completeness error {summary.completeness['max']:.1e}")
    if summary.repeated_ids:
        out.print(f"{summary.repeated_ids:,} images share their image_id with another; shard and index tell them apart")
    for notable in summary.notable:
        out.print(f"worth a look: {notable.sentence()}", style="bold")
    out.print(f"written to {config.output.path}: maps/*.parquet, classes.parquet, examples.parquet, summary.json")


class ProgressBar:
    """Shows a run's progress while the launcher waits, if standard error is a terminal."""

    def __init__(self, plan: Plan):
        from pipeline.progress import Tracker

        self._run = plan.settings.run
        self._tracker = Tracker(plan.settings.output, len(plan.receipts) + len(plan.units), plan.images_expected)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="progress", daemon=True)

    def __enter__(self) -> ProgressBar:
        return self

    def start(self) -> None:
        if err.is_terminal:
            self._thread.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join()

    def _follow(self) -> None:
        columns = (
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("images · {task.fields[detail]}"),
            TimeElapsedColumn(),
        )
        with Bar(*columns, console=err, transient=True) as bar:
            task = bar.add_task("explaining", total=None, detail="starting")
            while not self._stop.wait(0.5):
                progress = self._tracker.poll(self._run)
                bar.update(
                    task,
                    completed=progress.images + progress.failed,
                    total=progress.images_expected,
                    detail=_detail(progress),
                )


def _detail(progress: Progress) -> str:
    parts = [f"{progress.units_done}/{progress.units} units"]
    if not (progress.images or progress.failed or progress.units_done):
        # Whatever the engine, a worker's unit shows itself by its heartbeat.
        parts.append("compiling, first batch" if progress.active else "waiting for a worker to begin")
    if progress.images_per_second:
        parts.append(f"{progress.images_per_second:.1f} images/s")
    if progress.eta_seconds is not None and progress.eta_seconds > 0:
        parts.append(f"{duration(progress.eta_seconds)} to go")
    if progress.failed:
        parts.append(f"{progress.failed} failed")
    return " · ".join(parts)


def duration(seconds: float) -> str:
    """A number of seconds in words, such as 2 h 05 min."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"

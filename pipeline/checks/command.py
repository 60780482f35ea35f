"""The command `fullgrad check`: says what it costs, does it, and prints what it found."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from pipeline.checks.arguments import IMAGES, TESTED
from pipeline.terminal import duration, err, out

_SHOWN = 20


def check(args: argparse.Namespace, beam_options: Sequence[str]) -> int:
    """`fullgrad check`; returns the exit code."""
    return check_output(
        args.output, args.classes, args.images, args.tested, args.runner, beam_options, dry_run=args.dry_run
    )


def check_output(
    path: str,
    classes: Sequence[str] = ("all",),
    images: int = IMAGES,
    tested: int = TESTED,
    runner: str | None = None,
    beam_options: Sequence[str] = (),
    *,
    dry_run: bool = False,
) -> int:
    """Checks an output and prints what was found; returns the exit code."""
    from pipeline.checks.plan import CannotCheck, plan_check
    from pipeline.checks.running import run_check

    try:
        plan = plan_check(path, classes, images, tested, runner, beam_options)
        rate = plan.passes_per_second()
        out.print(
            f"{classes_in_words(len(plan.choice.located))} to check, {plan.passes:,} forward passes: about "
            f"{duration(plan.passes / rate)} on one process like this one ({rate:,.0f} passes/s)"
        )
        if plan.too_few:
            names = ", ".join(str(plan.model.name_of(k) or k) for k in plan.too_few)
            out.print(f"not checked, as too few images are predicted so: {names}")
        if dry_run:
            return 0
        rows = run_check(plan)
    except CannotCheck as error:
        err.print(f"fullgrad: {error}", style="red")
        return 2
    print_checks(rows)
    out.print(f"written to {path}: checks.parquet, evidence.parquet")
    return 0


def print_checks(rows: Sequence[dict[str, Any]]) -> None:
    """Prints one sentence for each class that rests on what stands out, the most convincing first."""
    told = {row["class"]: row for row in rows if row["main"]}
    for row in list(told.values())[:_SHOWN]:
        out.print(f"used: {row['sentence']}", style="bold")
    if len(told) > _SHOWN:
        out.print(f"and {len(told) - _SHOWN} more classes; checks.parquet has them all")
    if not told:
        out.print(
            "nothing found that stands out and is used: no place, no look and no border that a class rests on and the "
            "others do not"
        )
    seen = {row["class"] for row in rows if row["stands_out"]} - told.keys()
    if seen:
        out.print(f"{classes_in_words(len(seen))} more with what stands out and is not shown to be used")


def classes_in_words(count: int) -> str:
    """`1 class`, `6 classes`."""
    return f"{count:,} class{'' if count == 1 else 'es'}"

"""The arguments of `fullgrad check`."""

from __future__ import annotations

import argparse
from typing import Any

IMAGES = 40
TESTED = 128


def add_check(commands: argparse._SubParsersAction[Any]) -> None:
    """Adds the command to the parser's commands."""
    check = commands.add_parser(
        "check",
        help="test what a model's predictions rest on",
        description="Reads some images of an output again, covers parts of them, adds parts to others, and says from "
        "what the model answers which classes rest on a mark, a border or anything else that is not the object. Writes "
        "checks.parquet and evidence.parquet into the output. A check that was interrupted is continued.",
        epilog="What follows -- goes to Beam as it is, for example: fullgrad check out -- --direct_num_workers=4 "
        "--direct_running_mode=multi_processing",
    )
    check.add_argument("output", metavar="OUTPUT", help="the run's output.path")
    check.add_argument(
        "--classes",
        metavar="CLASS",
        nargs="+",
        default=["all"],
        help="names or indices of the classes to check, `flagged` for those that the run found notable, or `all` "
        "(the default)",
    )
    check.add_argument(
        "--images",
        metavar="N",
        type=_at_least_eight,
        default=IMAGES,
        help=f"the number of images of a class on which its evidence is located (default: {IMAGES})",
    )
    check.add_argument(
        "--tested",
        metavar="N",
        type=_at_least_eight,
        default=TESTED,
        help="the most further images of a class, and images of other classes, on which it is tested "
        f"(default: {TESTED})",
    )
    check.add_argument("--runner", metavar="NAME", help="Beam's runner, as runner.name (default: the run's own)")
    check.add_argument("--dry-run", action="store_true", help="say what the check costs, and compute nothing")


def _at_least_eight(text: str) -> int:
    if not text.isdecimal() or int(text) < 8:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 8 up")
    return int(text)

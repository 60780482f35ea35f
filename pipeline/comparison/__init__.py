"""`fullgrad compare`: two outputs on the same images. This module has only the arguments, so that it imports fast."""

from __future__ import annotations

import argparse
from typing import Any


def add_arguments(commands: argparse._SubParsersAction[Any]) -> None:
    """Adds the command to the command line."""
    parser = commands.add_parser(
        "compare",
        help="compare two outputs on the same images",
        description="Compares two models, checkpoints or methods on the same images: how alike the maps are, which "
        "predictions changed, and how each class shifted, with 95 % intervals.",
    )
    parser.add_argument("output", metavar="A", help="the output.path of the first run")
    parser.add_argument("other", metavar="B", help="the output.path of the second run")
    parser.add_argument("--to", metavar="DIR", help="where to write comparison*.parquet (default: B)")

"""`fullgrad report`: the command and its arguments."""

from __future__ import annotations

import argparse
import shlex
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.config import Config


def add_report_arguments(commands: argparse._SubParsersAction) -> None:
    """Adds `fullgrad report` to the commands."""
    report = commands.add_parser(
        "report",
        help="make a page that shows what a run found",
        description="Makes a page that opens from disk, with what stands out, every class, and example images with "
        "their maps. It reads the small files of the output, not the maps.",
        epilog="What follows -- are Beam's options for its file systems, for example: -- "
        "--s3_endpoint_url=http://localhost:9000",
    )
    report.add_argument("output", metavar="OUTPUT", help="the run's output.path")
    report.add_argument("--to", metavar="DIR", help="the folder of the report (default: OUTPUT/report)")


def report(args: argparse.Namespace) -> int:
    """`fullgrad report`; returns the exit code."""
    return make_report(args.output, args.to)


def report_on_run(config: Config, code: int) -> int:
    """The last step of a run that ended with an exit code: its report, if it is on, or how to make it."""
    if code == 2:
        return code
    if config.report == "on":
        return make_report(config.output.path) or code
    from pipeline.terminal import out

    out.print(f"to see it: fullgrad report {shlex.quote(config.output.path)}")
    return code


def make_report(path: str, to: str | None = None) -> int:
    """Builds the report of an output and says where it is; returns the exit code."""
    from pipeline.report import UnusableFolder, UnusableResults, build_report
    from pipeline.terminal import err, out

    try:
        built = build_report(path, to)
    except (UnusableFolder, UnusableResults) as error:
        err.print(f"fullgrad: {error}", style="red")
        return 2
    for sentence in built.missing:
        out.print(f"note: {sentence}", style="yellow")
    out.print(f"report: {built.page}", style="bold")
    return 0

"""The command line's arguments and their help."""

from __future__ import annotations

import argparse
import pathlib
from collections.abc import Callable
from typing import Any, NoReturn

from pipeline import comparison, export, show
from pipeline.checks.arguments import add_check
from pipeline.completion import completion_arguments
from pipeline.init import init_arguments
from pipeline.reporting import add_report_arguments

_OPTIONS_OF_STORES = (
    "What follows -- are Beam's options for its file systems, for example: -- --s3_endpoint_url=http://localhost:9000"
)


class _Parser(argparse.ArgumentParser):
    """Refuses in one line, without the whole usage.

    Attributes:
      late_epilog: makes the end of the help, if that is asked for.
    """

    late_epilog: Callable[[], str] | None = None

    def format_help(self) -> str:
        if self.late_epilog is not None:
            self.epilog = self.late_epilog()
        return super().format_help()

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}; see {self.prog} --help\n")


class _Version(argparse.Action):
    """Prints the version. It is looked up only then."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        from importlib import metadata

        print(f"fullgrad {metadata.version('fullgrad-beam')}")
        parser.exit()


def _keys() -> str:
    # A file, since the schema that it comes from takes a second to import. A test holds the two equal.
    keys = pathlib.Path(__file__).with_name("keys.txt").read_text(encoding="utf-8").rstrip("\n")
    return (
        f"Keys of the configuration, which --set also sets:\n\n{keys}\n\n"
        "What follows -- goes to Beam as it is, for example: fullgrad run flink.yaml -- --parallelism=8"
    )


# The help, the version and a refused argument import nothing that is slow. `fullgrad_beam` asks for them first.


def parser() -> argparse.ArgumentParser:
    """The parser of `fullgrad`; `command` is the command's name."""
    fullgrad = _Parser(
        prog="fullgrad",
        description="Explains what an image classifier looks at, over a whole dataset: FullGrad maps of every image "
        "and their statistics per class, as Parquet.",
        epilog="Exit codes: 0 done; 1 done, but too many images failed or a check did not hold, or the runner gave up; "
        "2 the request could not be run; 130 interrupted.",
    )
    fullgrad.add_argument("--version", action=_Version, nargs=0, help="print the version and exit")
    fullgrad.add_argument("--verbose", action="store_true", help="show what Beam and the workers log")
    commands = fullgrad.add_subparsers(dest="command", required=True, metavar="COMMAND")

    init_arguments(commands)
    run = commands.add_parser(
        "run",
        help="explain a dataset",
        description="Explains the shards that a configuration names. A run that was interrupted is continued.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    run.late_epilog = _keys
    run.add_argument("config", metavar="CONFIG.yaml", help="the configuration")
    run.add_argument(
        "--set",
        dest="overrides",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="set a key of the configuration, such as explain.batch_size=64; the value is everything after the =, "
        "including a #; may be given several times",
    )
    run.add_argument(
        "--dry-run", action="store_true", help="check everything, say what a run would do, and write nothing"
    )

    demo = commands.add_parser(
        "demo",
        help="find a planted shortcut, in a minute",
        description="Draws a dataset in which one class carries a small mark in a corner, trains a small CNN on it, "
        "explains the test images with the whole pipeline, says which class stands out, and checks that the model uses "
        "it.",
    )
    demo.add_argument("--output", metavar="DIR", help="where to write (default: out/demo, or out/demo-SHORTCUT)")
    demo.add_argument(
        "--shortcut",
        choices=("corner", "wandering", "border", "none"),
        default="corner",
        help="what is planted: a mark in a corner (the default), a mark anywhere, a border, or nothing",
    )

    status = commands.add_parser(
        "status",
        help="say how far a run is",
        description="Says how far the run into an output folder is, also while the run goes on elsewhere.",
    )
    status.add_argument("output", metavar="OUTPUT", help="the run's output.path")
    status.add_argument(
        "--verify", action="store_true", help="also read every file and name those that are not as they were written"
    )
    status.epilog = _OPTIONS_OF_STORES

    add_report_arguments(commands)

    inspect = commands.add_parser(
        "inspect",
        help="list what the layers of a model add to the logit",
        description="Lists a model's layers with what each adds to the logit, and checks on images that the input term "
        "and the bias terms add up to it. The exit code is 1 if they do not.",
    )
    inspect.epilog = _OPTIONS_OF_STORES
    inspect.add_argument("model", metavar="MODEL", help="a .keras or .h5 file, or the name of a Keras application")
    inspect.add_argument("--weights", metavar="FILE", help="an application's weights (default: imagenet)")
    inspect.add_argument("--model-output", metavar="NAME", help="the output to explain, if the model has several")
    inspect.add_argument(
        "--images", metavar="PATH", nargs="+", help="image files for the check of completeness (default: noise)"
    )
    inspect.add_argument(
        "--scale", default="auto", help="preprocessing, as model.preprocess.scale by name (default: auto)"
    )
    inspect.add_argument(
        "--size", type=int, nargs=2, metavar=("HEIGHT", "WIDTH"), help="input size, if the model leaves it open"
    )
    inspect.add_argument("--trust", action="store_true", help="let the model file run its own code")
    inspect.add_argument(
        "--custom-objects",
        metavar="MODULE",
        nargs="+",
        default=[],
        help="modules that define the file's own layers, with --trust; they are imported, which runs their code",
    )

    add_check(commands)
    for command in (show, export, comparison):
        command.add_arguments(commands)
    for engine in ("Flink 1.20", "Spark 3.5"):
        server = commands.add_parser(
            f"{engine.split()[0].lower()}-job-server",
            help=f"make Beam's job server for {engine}",
            description=f"Makes the job server through which Beam gives jobs to {engine}, from modules that Maven "
            "fetches. Use it if Beam cannot download the job server as one jar. Needs Maven and Java.",
        )
        server.add_argument(
            "folder", metavar="DIR", help="the folder to make it in: one that does not exist yet or is empty"
        )
    completion_arguments(commands)
    return fullgrad

"""The command line's arguments and their help."""

from __future__ import annotations

import argparse
from typing import NoReturn

from pipeline.config import describe_keys

_OPTIONS_OF_STORES = (
    "What follows -- are Beam's options for its file systems, for example: -- --s3_endpoint_url=http://localhost:9000"
)


class _Parser(argparse.ArgumentParser):
    """Refuses in one line, without the whole usage."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}; see {self.prog} --help\n")


def parser() -> argparse.ArgumentParser:
    """The parser of `fullgrad`; `command` is the command's name."""
    fullgrad = _Parser(
        prog="fullgrad",
        description="Explains what an image classifier looks at, over a whole dataset: FullGrad maps of every image "
        "and their statistics per class, as Parquet.",
        epilog="Exit codes: 0 done; 1 done, but too many images failed or a check did not hold, or the runner gave up; "
        "2 the request could not be run; 130 interrupted.",
    )
    fullgrad.add_argument("--verbose", action="store_true", help="show what Beam and the workers log")
    commands = fullgrad.add_subparsers(dest="command", required=True, metavar="COMMAND")

    run = commands.add_parser(
        "run",
        help="explain a dataset",
        description="Explains the shards that a configuration names. An output that a run has begun is gone on with.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=f"Keys of the configuration, each settable with --set:\n\n{describe_keys()}\n\n"
        "What follows -- goes to Beam as it is, for example: fullgrad run flink.yaml -- --parallelism=8",
    )
    run.add_argument("config", metavar="CONFIG.yaml", help="the configuration")
    run.add_argument(
        "--set",
        dest="overrides",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="set a key of the configuration, as explain.batch_size=64; all that stands behind the = is the value, "
        "also a #; may be given several times",
    )
    run.add_argument("--dry-run", action="store_true", help="check everything and say what would be done")

    demo = commands.add_parser(
        "demo",
        help="see it find a planted shortcut, in a minute",
        description="Draws a dataset in which one class carries a small mark in a corner, trains a small CNN on it, "
        "explains its test images with the whole pipeline, and says which class stands out.",
    )
    demo.add_argument("--output", metavar="DIR", default="out/demo", help="where to write (default: out/demo)")

    status = commands.add_parser(
        "status",
        help="how far a run is",
        description="Says how far the run into an output folder is; works while the run goes on elsewhere.",
    )
    status.add_argument("output", metavar="OUTPUT", help="the run's output.path")
    status.epilog = _OPTIONS_OF_STORES

    inspect = commands.add_parser(
        "inspect",
        help="how a model is taken apart",
        description="Lists a model's layers with what each adds to the logit, and checks on images that input term and "
        "bias terms add up to it. Exit code 1 where they do not.",
    )
    inspect.epilog = _OPTIONS_OF_STORES
    inspect.add_argument("model", metavar="MODEL", help="a .keras or .h5 file, or the name of a Keras application")
    inspect.add_argument("--weights", metavar="FILE", help="an application's weights (default: imagenet)")
    inspect.add_argument("--model-output", metavar="NAME", help="which output, where the model has several")
    inspect.add_argument(
        "--images", metavar="PATH", nargs="+", help="image files to check completeness on (default: noise)"
    )
    inspect.add_argument(
        "--scale", default="auto", help="preprocessing, as model.preprocess.scale by name (default: auto)"
    )
    inspect.add_argument(
        "--size", type=int, nargs=2, metavar=("HEIGHT", "WIDTH"), help="input size, where the model leaves it open"
    )
    inspect.add_argument("--trust", action="store_true", help="let the model file run code of its own")
    inspect.add_argument(
        "--custom-objects",
        metavar="MODULE",
        nargs="+",
        default=[],
        help="modules that define the file's own layers, with --trust; they are imported, which runs their code",
    )

    for engine in ("Flink 1.20", "Spark 3.5"):
        server = commands.add_parser(
            f"{engine.split()[0].lower()}-job-server",
            help=f"make Beam's job server for {engine}",
            description=f"Makes the job server by which Beam gives jobs to {engine}, from modules that Maven fetches, "
            "for where Beam cannot download it as one jar. Needs Maven and Java.",
        )
        server.add_argument("folder", metavar="DIR", help="where to make it: a folder that is not there, or is empty")
    return fullgrad

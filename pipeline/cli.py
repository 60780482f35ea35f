"""The command line: `fullgrad run`, `demo`, `status`, `inspect`, `flink-job-server`,
`spark-job-server`.

Exit codes: 0 done; 1 done, but too many images failed or a check did not hold, or the runner gave up; 2 the request
could not be run; 130 interrupted. What is not 0 comes with one sentence on standard error.
"""

from __future__ import annotations

import argparse
import logging
import os
import pathlib
import signal
import sys
import threading
import time
from collections.abc import Sequence
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, NoReturn

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar
from rich.table import Table

from pipeline.config import Config, ConfigError, describe_keys, load_config

if TYPE_CHECKING:
    from pipeline.progress import Progress
    from pipeline.run import Plan
    from pipeline.summary import Summary

# What is imported inside the commands takes seconds to import, which `--help` and a misspelt key need not wait for.

_OPTIONS_OF_STORES = (
    "What follows -- are Beam's options for its file systems, for example: -- --s3_endpoint_url=http://localhost:9000"
)

# Without markup and emoji: what stands in brackets or between colons in a path is part of its name.
_out = Console(highlight=False, markup=False, emoji=False, soft_wrap=True)
_err = Console(stderr=True, highlight=False, markup=False, emoji=False, soft_wrap=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    beam_options: list[str] = []
    if "--" in arguments:
        cut = arguments.index("--")
        arguments, beam_options = arguments[:cut], arguments[cut + 1 :]
    args = _parser().parse_args(arguments)
    if beam_options and args.command not in ("run", "status", "inspect"):
        return _refuse("Beam options after -- belong to `fullgrad run`, `status` and `inspect`")
    if args.command.endswith("-job-server"):  # which needs neither Beam nor TensorFlow
        return _make_job_server(args)
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    logging.basicConfig(level=logging.INFO if args.verbose else logging.WARNING, format="%(levelname)s %(message)s")
    interrupted = _note_interrupts()
    try:
        if not args.verbose:
            _import_quietly(tensorflow=args.command != "status")
        if args.command == "run":
            return _run(args, beam_options)
        if args.command == "demo":
            return _demo(args)
        if problem := _prepare_file_systems(args, beam_options):
            return _refuse(problem)
        return {"status": _status, "inspect": _inspect}[args.command](args)
    except ConfigError as error:
        return _refuse(str(error))
    except BaseException as error:
        # Beam wraps an interrupt that reaches a worker's thread into an error of its own.
        if isinstance(error, KeyboardInterrupt) or interrupted.is_set():
            became = f"; {error}" if _is_interrupted_job(error) and str(error) else ""
            _err.print(f"interrupted{became}; the same command goes on with what is missing")
            return 130
        if not _is_failed_run(error) or args.verbose:
            raise
        _err.print(f"fullgrad: {error}", style="red")
        return 1


def _is_failed_run(error: BaseException) -> bool:
    from pipeline.run import RunFailed

    return isinstance(error, RunFailed)


def _is_interrupted_job(error: BaseException) -> bool:
    from pipeline.engines.jobs import Interrupted

    return isinstance(error, Interrupted)


class _Parser(argparse.ArgumentParser):
    """Refuses in one line, as everything here does, and not with the whole usage."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}; see {self.prog} --help\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="fullgrad",
        description="Explains what an image classifier looks at, over a whole dataset: FullGrad maps of every image "
        "and their statistics per class, as Parquet.",
        epilog="Exit codes: 0 done; 1 done, but too many images failed or a check did not hold, or the runner gave up; "
        "2 the request could not be run; 130 interrupted.",
    )
    parser.add_argument("--verbose", action="store_true", help="show what Beam and the workers log")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

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
    return parser


def _note_interrupts() -> threading.Event:
    """An event that Ctrl-C and SIGTERM set, on top of raising KeyboardInterrupt wherever the main thread is."""
    interrupted = threading.Event()
    if threading.current_thread() is threading.main_thread():

        def note(number: int, frame: FrameType | None) -> None:
            interrupted.set()
            signal.default_int_handler(number, frame)

        signal.signal(signal.SIGINT, note)
        signal.signal(signal.SIGTERM, note)  # as sent by kill, systemd and Kubernetes; a job elsewhere would go on
    for handler in logging.getLogger().handlers:  # Beam logs the interrupt as an error, with its traceback
        handler.addFilter(lambda record: not interrupted.is_set())
    complain = threading.excepthook

    def excepthook(arguments: threading.ExceptHookArgs) -> None:
        if not interrupted.is_set():  # otherwise it is Beam's threads that miss a runner that was interrupted too
            complain(arguments)

    threading.excepthook = excepthook
    return interrupted


def _import_quietly(*, tensorflow: bool) -> None:
    """Imports Beam, and TensorFlow where it is needed, without the notices that both write to standard error about
    what they did not find, before anybody can ask them not to: they would stand between a user and the one line that
    matters."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    sys.stderr.flush()
    kept = os.dup(2)
    try:
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        import apache_beam  # noqa: F401

        if tensorflow:
            from transforms.fullgrad.tensorflow import autodiff

            autodiff.has_accelerator()
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def _refuse(sentence: str) -> int:
    _err.print(f"fullgrad: {sentence}", style="red")
    return 2


def _run(args: argparse.Namespace, beam_options: Sequence[str]) -> int:
    return run_config(load_config(args.config, args.overrides), beam_options, dry_run=args.dry_run)


def run_config(config: Config, beam_options: Sequence[str] = (), *, dry_run: bool = False) -> int:
    """`fullgrad run` from a loaded configuration; returns the exit code."""
    from pipeline.run import CannotRun, check_engine, launch, prepare, problems_of, warnings_of

    try:
        plan = prepare(config, beam_options)
    except CannotRun as error:
        return _refuse(str(error))
    if plan.fields:
        _out.print(plan.fields)
    _out.print(_describe(plan))
    try:
        if dry_run:
            check_engine(plan)
            return 0
        with _ProgressBar(plan) as bar:
            summary = launch(plan, on_start=bar.start)
    except CannotRun as error:
        return _refuse(str(error))
    _print_summary(summary, config)
    for warning in warnings_of(summary, plan):
        _out.print(f"warning: {warning}", style="yellow")
    problems = problems_of(summary, plan)
    for problem in problems:
        _err.print(f"fullgrad: {problem}", style="red")
    return 1 if problems else 0


def _describe(plan: Plan) -> str:
    images = plan.images_expected
    todo = f"{_units(len(plan.units))} to explain"
    done = f", {len(plan.receipts)} done before" if plan.receipts else ""
    left_out = f"\nleft out: {plan.left_out}" if plan.left_out else ""
    in_all = "" if images is None else f"; {images:,} images in all"
    return f"{todo}{done}{in_all} → {plan.config.output.path}{left_out}"


def _units(count: int) -> str:
    return f"{count:,} unit{'' if count == 1 else 's'}"


def _print_summary(summary: Summary, config: Config) -> None:
    speed = "" if summary.images_per_second is None else f", {summary.images_per_second:.1f} images/s"
    failed = f", {summary.failed:,} failed" if summary.failed else ""
    _out.print(f"{summary.images:,} images explained{failed}, {summary.rows:,} maps in {_units(summary.units)}{speed}")
    if summary.accuracy is not None:
        unlabelled = summary.images - summary.labelled
        without = f"; {unlabelled:,} {'has' if unlabelled == 1 else 'have'} no label" if unlabelled else ""
        _out.print(f"accuracy {summary.accuracy:.1%} on {summary.labelled:,} labelled images{without}")
    elif summary.images:
        _out.print("no accuracy, as no image has a label")
    if summary.completeness:
        _out.print(f"largest completeness error {summary.completeness['max']:.1e}")
    if summary.repeated_ids:
        _out.print(
            f"{summary.repeated_ids:,} images share their image_id with another; shard and index tell them apart"
        )
    for notable in summary.notable:
        _out.print(f"worth a look: {notable.sentence()}", style="bold")
    _out.print(f"written to {config.output.path}: maps/*.parquet, classes.parquet, summary.json")


class _ProgressBar:
    """Shows a run's progress while the launcher waits; nothing where the output is no terminal."""

    def __init__(self, plan: Plan):
        from pipeline.progress import Tracker

        self._run = plan.settings.run
        self._tracker = Tracker(plan.settings.output, len(plan.receipts) + len(plan.units), plan.images_expected)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="progress", daemon=True)

    def __enter__(self) -> _ProgressBar:
        return self

    def start(self) -> None:
        if _err.is_terminal:
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
        with Bar(*columns, console=_err, transient=True) as bar:
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
    if progress.images_per_second:
        parts.append(f"{progress.images_per_second:.1f} images/s")
    if progress.eta_seconds is not None and progress.eta_seconds > 0:
        parts.append(f"{_duration(progress.eta_seconds)} to go")
    if progress.failed:
        parts.append(f"{progress.failed} failed")
    return " · ".join(parts)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def _demo(args: argparse.Namespace) -> int:
    from pipeline import demo

    started = time.monotonic()
    _out.print("drawing a dataset and training a small CNN on it …")
    settings, marked = demo.prepare(pathlib.Path(args.output))
    code = run_config(Config.from_dict(settings))
    _out.print(f"the class that was drawn with a mark in its corner: {marked!r} ({time.monotonic() - started:.0f} s)")
    return code


def _prepare_file_systems(args: argparse.Namespace, beam_options: Sequence[str]) -> str | None:
    """Tells Beam's file systems their options; returns what is wrong with these or the path, None where all is well."""
    from pipeline.engines.options import UnusableEngine, check_options
    from transforms.filesystems import UnusableFileSystem, check_file_system, use_options

    named = {"OUTPUT": args.output} if args.command == "status" else {"MODEL": args.model, "--weights": args.weights}
    try:
        check_options(beam_options, "the options after --")
        use_options(beam_options)
        for what, path in named.items():
            if path is not None:
                check_file_system(what, path)
    except (UnusableEngine, UnusableFileSystem) as error:
        return str(error)
    return None


def _make_job_server(args: argparse.Namespace) -> int:
    from pipeline.engines.job_servers import FLINK, SPARK, CannotMake, make_job_server

    server = {each.name: each for each in (FLINK, SPARK)}[args.command]
    try:
        jar = make_job_server(server, pathlib.Path(args.folder))
    except CannotMake as error:
        return _refuse(str(error))
    _out.print(f"made {jar}, with what it needs beside it; use it with")
    _out.print(f"  fullgrad run CONFIG.yaml --set runner.options.{server.option}={jar.resolve()}")
    return 0


def _status(args: argparse.Namespace) -> int:
    from pipeline.progress import Tracker
    from transforms.filesystems import STORE_ERRORS
    from transforms.output import Output

    output = Output(args.output)
    try:
        run = output.read_json("run.json")
    except ValueError as error:
        return _refuse(str(error))
    except STORE_ERRORS as error:
        return _refuse(f"{args.output} cannot be read: {error}")
    if run is None:
        return _refuse(f"{args.output} is no output of a run: there is no run.json in it")
    try:
        current, tracker = run["run"], Tracker(output, run["plan"]["units"], run["plan"]["images"])
    except (KeyError, TypeError):
        return _refuse(f"{args.output} is no output of a run: its run.json was written by something else")
    progress = tracker.poll(current)
    if progress.images_per_second is None:
        progress = tracker.poll()
    expected = "?" if progress.images_expected is None else f"{progress.images_expected:,}"
    table = Table(show_header=False, box=None)
    table.add_row("units", f"{progress.units_done:,} of {progress.units:,} done, {progress.active} under way")
    table.add_row("images", f"{progress.images:,} of {expected}")
    table.add_row("failed", f"{progress.failed:,}")
    table.add_row("speed", f"{progress.images_per_second:.1f} images/s" if progress.images_per_second else "not known")
    if progress.units_done == progress.units:
        written = output.read_json("summary.json") is not None
        table.add_row("state", "done" if written else "all units done, their statistics not yet merged")
    else:
        eta = progress.eta_seconds
        going = "at this speed " + _duration(eta) + " to go" if eta is not None else "not known how long"
        table.add_row("state", going if progress.active else "nobody at work on it")
    _out.print(table)
    return 0


def _inspect(args: argparse.Namespace) -> int:
    import numpy as np

    from pipeline.inspection import completeness_on, inspect_exposed
    from transforms.fullgrad.diagnosis import account_for_steps
    from transforms.images import Resize, UndecodableImage, decode_image
    from transforms.models import ModelSpec, UnusableModel, fingerprint_of, load_once, noise_images

    is_file = "." in pathlib.PurePath(args.model).name or "/" in args.model or os.path.exists(args.model)
    path, application = (args.model, None) if is_file else (None, args.model)
    weights = None if is_file else args.weights or "imagenet"
    custom_objects = tuple(args.custom_objects)
    if custom_objects and not args.trust:
        return _refuse("--custom-objects needs --trust, as importing a module runs its code")
    try:
        model = load_once(
            ModelSpec(
                fingerprint=fingerprint_of(path, application, weights, custom_objects),
                path=path,
                application=application,
                weights=weights,
                output=args.model_output,
                trust=args.trust,
                resize=Resize(tuple(args.size) if args.size else None),
                scale=args.scale,
                class_names=None,
                custom_objects=custom_objects,
            )
        )
        agreement = model.compare()
    except (UnusableModel, ValueError) as error:
        return _refuse(str(error))
    inspection = inspect_exposed(model.exposed, agreement)
    if args.images:
        pixels = []
        for image in args.images:
            try:
                pixels.append(decode_image(pathlib.Path(image).read_bytes(), model.resize, model.channels))
            except OSError as error:
                return _refuse(f"--images: {image} cannot be read: {(error.strerror or str(error)).lower()}")
            except UndecodableImage as error:
                return _refuse(f"--images: {image}: {error}")
        images = model.preprocess(np.stack(pixels))
    else:
        images = model.preprocess(noise_images((*model.input_size, model.channels)))
    checked = completeness_on(model.exposed, images)
    shares = dict(zip(checked.layers, checked.share, strict=True))

    table = Table("layer", "kind", "output", "parameters", "adds to the logit", "share", box=None)
    for layer in inspection.layers:
        share = sum(value for name, value in shares.items() if name == layer.name or name.startswith(layer.name + " ("))
        table.add_row(
            layer.name,
            layer.kind,
            "×".join("?" if size is None else str(size) for size in layer.shape),
            f"{layer.parameters:,}" if layer.parameters else "",
            layer.adds,
            f"{share:.2%}" if layer.adds else "",
        )
    Console(highlight=False, width=None if _out.is_terminal else 160).print(table)
    limit = model.exposed.tolerance
    holds = checked.holds(limit)
    what = ("image" if len(images) == 1 else "images") + ("" if args.images else " of noise")
    verdict = "complete" if holds else f"NOT complete, the limit is {limit:g}"
    if not holds:
        coarse = [layer for layer in inspection.layers if layer.dtype in ("float16", "bfloat16")]
        if coarse:
            verdict += f"; {len(coarse)} of its layers compute in {coarse[0].dtype}, which is too coarse for it"
        if guilty := account_for_steps(model.exposed, images).unaccounted(limit):
            verdict += f"; not accounted for, the worst first: {', '.join(guilty[:10])}"
    _out.print(
        f"{inspection.name}: {inspection.classes} classes; FullGrad explains {inspection.explains} "
        f"({agreement.difference:.1e} from the model's own output); on {len(images)} {what} the completeness error is "
        f"at most {checked.error.max():.1e}: {verdict}"
    )
    return 0 if holds else 1

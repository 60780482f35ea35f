"""The command line: `fullgrad run` and the other commands; `pipeline.arguments` lists them.

Exit codes: 0 done; 1 done, but too many images failed or a check did not hold, or the runner gave up; 2 the request
could not be run; 130 interrupted. Every code but 0 comes with one sentence on standard error.
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
from collections.abc import Callable, Mapping, Sequence
from traceback import extract_tb
from types import FrameType, TracebackType

from rich.console import Console
from rich.table import Table

from pipeline.arguments import parser
from pipeline.completion import print_completion
from pipeline.config import Config, ConfigError, load_config
from pipeline.export import export
from pipeline.init import init, is_model_file
from pipeline.reporting import report, report_on_run
from pipeline.show import show
from pipeline.terminal import ProgressBar, describe_plan, duration, err, out, print_any_name, print_summary, step

# The commands import inside themselves what takes seconds to import: `--help` and a misspelt key need not wait for it.


_NEED_TENSORFLOW = ("run", "demo", "init", "inspect", "check")
_TAKE_BEAM_OPTIONS = ("run", "status", "init", "inspect", "check", "report", "show", "export", "compare")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    print_any_name()
    arguments = list(sys.argv[1:] if argv is None else argv)
    beam_options: list[str] = []
    if "--" in arguments:
        cut = arguments.index("--")
        arguments, beam_options = arguments[:cut], arguments[cut + 1 :]
    args = parser().parse_args(arguments)
    if beam_options and args.command not in _TAKE_BEAM_OPTIONS:
        return _refuse(f"Beam options after -- belong to `fullgrad {'`, `'.join(_TAKE_BEAM_OPTIONS)}`")
    if args.command == "completion":
        return print_completion(args.shell, parser())
    if args.command.endswith("-job-server"):  # which needs neither Beam nor TensorFlow
        return _make_job_server(args)
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    logging.basicConfig(level=logging.INFO if args.verbose else logging.WARNING, format="%(levelname)s %(message)s")
    interrupted = _note_interrupts(verbose=args.verbose)
    try:
        if not args.verbose:
            needed = "Beam and TensorFlow" if args.command in _NEED_TENSORFLOW else "Beam"
            with step(f"importing {needed}"):
                _import_quietly(tensorflow=args.command in _NEED_TENSORFLOW)
        if args.command == "run":
            return _run(args, beam_options)
        if args.command == "demo":
            return _demo(args)
        if args.command == "check":
            return _check(args, beam_options)
        if problem := _prepare_file_systems(args, beam_options):
            return _refuse(problem)
        return _COMMANDS[args.command](args)
    except ConfigError as error:
        return _refuse(str(error))
    except BaseException as error:
        # Beam wraps an interrupt that reaches a worker's thread into an error of its own.
        if isinstance(error, KeyboardInterrupt) or interrupted.is_set():
            became = f"; {error}" if _is_interrupted_job(error) and str(error) else ""
            err.print(f"interrupted{became}; the same command goes on with what is missing")
            return 130
        if not _is_failed_run(error) or args.verbose:
            raise
        err.print(f"fullgrad: {error}", style="red")
        return 1


def _is_failed_run(error: BaseException) -> bool:
    from pipeline.run import RunFailed

    return isinstance(error, RunFailed)


def _is_interrupted_job(error: BaseException) -> bool:
    from pipeline.engines.jobs import Interrupted

    return isinstance(error, Interrupted)


def _is_traceback_of_beam(record: logging.LogRecord) -> bool:
    """Whether Beam logs an error with its traceback. The sentence at the end of the command says what went wrong."""
    if record.levelno < logging.ERROR:
        return False
    return record.exc_info is not None or "Traceback (most recent call last)" in record.getMessage()


def _is_in_beam(traceback: TracebackType | None) -> bool:
    """Whether an error came up in Beam's own code or below it."""
    return any("apache_beam" in pathlib.PurePath(each.filename).parts for each in extract_tb(traceback))


def _note_interrupts(*, verbose: bool) -> threading.Event:
    """An event that Ctrl-C and SIGTERM set. They also raise KeyboardInterrupt in the main thread."""
    interrupted = threading.Event()
    if threading.current_thread() is threading.main_thread():

        def note(number: int, frame: FrameType | None) -> None:
            interrupted.set()
            signal.default_int_handler(number, frame)

        signal.signal(signal.SIGINT, note)
        # kill, systemd and Kubernetes send SIGTERM; without this, a job elsewhere would go on.
        signal.signal(signal.SIGTERM, note)
    for handler in logging.getLogger().handlers:  # Beam logs the interrupt as an error, with its traceback
        handler.addFilter(lambda record: not interrupted.is_set() and (verbose or not _is_traceback_of_beam(record)))
    complain = threading.excepthook

    def excepthook(arguments: threading.ExceptHookArgs) -> None:
        # After an interrupt or a failure, Beam's threads complain that their runner or their worker is gone.
        if verbose or not (interrupted.is_set() or _is_in_beam(arguments.exc_traceback)):
            complain(arguments)

    threading.excepthook = excepthook
    return interrupted


def _import_quietly(*, tensorflow: bool) -> None:
    """Imports Beam, and TensorFlow if it is needed, without the notices that both write to standard error.

    They write them before anybody can ask them not to. The notices would hide the one line that matters to the user.
    """
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
    err.print(f"fullgrad: {sentence}", style="red")
    return 2


def _run(args: argparse.Namespace, beam_options: Sequence[str]) -> int:
    config = load_config(args.config, args.overrides)
    code = run_config(config, beam_options, dry_run=args.dry_run)
    return code if args.dry_run else report_on_run(config, code)


def run_config(config: Config, beam_options: Sequence[str] = (), *, dry_run: bool = False) -> int:
    """`fullgrad run` from a loaded configuration; returns the exit code."""
    from pipeline.run import CannotRun, check_engine, launch, prepare, problems_of, warnings_of

    try:
        with step("loading the model and looking at the images"):
            plan = prepare(config, beam_options)
    except CannotRun as error:
        return _refuse(str(error))
    if plan.fields:
        out.print(plan.fields)
    if plan.class_names.names is not None:
        out.print(plan.class_names.sentence())
    out.print(describe_plan(plan))
    for note in plan.repairs.notes:
        out.print(note)
    for doubt in plan.doubts:
        out.print(f"warning: {doubt}", style="yellow")
    try:
        if dry_run:
            from pipeline.access import check_access

            check_engine(plan)
            for damage in check_access(plan):
                out.print(f"warning: {damage}", style="yellow")
            return 0
        with ProgressBar(plan) as bar:
            summary = launch(plan, on_start=bar.start)
    except CannotRun as error:
        return _refuse(str(error))
    print_summary(summary, config)
    for warning in warnings_of(summary, plan):
        if warning not in plan.doubts:  # which the plan has said
            out.print(f"warning: {warning}", style="yellow")
    problems = problems_of(summary, plan)
    for problem in problems:
        err.print(f"fullgrad: {problem}", style="red")
    return 1 if problems else 0


def _check(args: argparse.Namespace, beam_options: Sequence[str]) -> int:
    from pipeline.checks.command import check

    return check(args, beam_options)


def _demo(args: argparse.Namespace) -> int:
    from pipeline import demo
    from pipeline.checks.command import check_output

    started = time.monotonic()
    out.print("drawing a dataset and training a small CNN on it …")
    folder = pathlib.Path(args.output) if args.output else demo.default_folder(args.shortcut)
    settings, planted = demo.prepare(folder, shortcut=args.shortcut)
    config = Config.from_dict(settings)
    code = run_config(config)
    if code == 0:
        code = check_output(config.output.path, images=demo.CHECKED_IMAGES, tested=demo.TESTED_IMAGES)
    out.print(f"what was planted: {planted} ({time.monotonic() - started:.0f} s)")
    return report_on_run(config, code)


def _prepare_file_systems(args: argparse.Namespace, beam_options: Sequence[str]) -> str | None:
    """Tells Beam's file systems their options; returns what is wrong with these or the path, None if nothing is."""
    from pipeline.engines.options import UnusableEngine, check_options
    from transforms.filesystems import UnusableFileSystem, check_file_system, use_options

    words = {"model": "MODEL", "weights": "--weights", "output": "OUTPUT", "other": "B"}
    named = {word: getattr(args, name) for name, word in words.items() if name in args}
    if args.command in ("report", "compare"):  # the other commands write only to this machine
        named["--to"] = args.to
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
    out.print(f"made {jar}, with what it needs beside it; use it with")
    out.print(f"  fullgrad run CONFIG.yaml --set runner.options.{server.option}={jar.resolve()}")
    return 0


def _status(args: argparse.Namespace) -> int:
    from pipeline.progress import Tracker, launcher_is_at_work
    from pipeline.verification import state_when_done, verify_output
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
    try:
        progress = tracker.poll(current)
        if progress.images_per_second is None:
            progress = tracker.poll()
    except STORE_ERRORS as error:
        return _refuse(f"{args.output} cannot be read: {error}")
    expected = "?" if progress.images_expected is None else f"{progress.images_expected:,}"
    table = Table(show_header=False, box=None)
    table.add_row("units", f"{progress.units_done:,} of {progress.units:,} done, {progress.active} under way")
    table.add_row("images", f"{progress.images:,} of {expected}")
    table.add_row("failed", f"{progress.failed:,}")
    table.add_row("speed", f"{progress.images_per_second:.1f} images/s" if progress.images_per_second else "not known")
    if progress.units_done == progress.units:
        table.add_row("state", state_when_done(output, at_work=launcher_is_at_work(output)))
    else:
        eta = progress.eta_seconds
        going = "at this speed " + duration(eta) + " to go" if eta is not None else "not known how long"
        if not progress.active:
            going = "begun, no unit under way yet" if launcher_is_at_work(output) else "nobody at work on it"
        table.add_row("state", going)
    out.print(table)
    if args.verify:
        return verify_output(output)
    for damage in tracker.unreadable.values():
        err.print(f"fullgrad: {damage}", style="red")
    return 1 if tracker.unreadable else 0


def _compare(args: argparse.Namespace) -> int:
    from pipeline.comparison.command import CannotCompare, compare
    from transforms.filesystems import STORE_ERRORS

    try:
        return compare(args)
    except (CannotCompare, ValueError) as error:
        return _refuse(str(error))
    except STORE_ERRORS as error:
        return _refuse(f"a file of the outputs cannot be read or written: {error}")


def _inspect(args: argparse.Namespace) -> int:
    import numpy as np

    from pipeline.inspection import completeness_on, inspect_exposed
    from transforms.fullgrad.diagnosis import account_for_steps
    from transforms.images import Resize, UndecodableImage, decode_image
    from transforms.models import (
        ModelSpec,
        UnusableModel,
        fingerprint_of,
        load_once,
        noise_images,
        preprocessing_layers,
    )

    is_file = is_model_file(args.model)
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
    Console(highlight=False, width=None if out.is_terminal else 160).print(table)
    layers = ", ".join(f"{layer} {layer.does}" for layer in preprocessing_layers(model.exposed))
    out.print(
        f"preprocessing inside the model: {layers or 'none found, so model.preprocess.scale must be as in training'}"
    )
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
    out.print(
        f"{inspection.name}: {inspection.classes} classes; FullGrad explains {inspection.explains} "
        f"({agreement.difference:.1e} from the model's own output); on {len(images)} {what} the completeness error is "
        f"at most {checked.error.max():.1e}: {verdict}"
    )
    return 0 if holds else 1


_COMMANDS: Mapping[str, Callable[[argparse.Namespace], int]] = {
    "status": _status,
    "init": init,
    "inspect": _inspect,
    "report": report,
    "show": show,
    "export": export,
    "compare": _compare,
}

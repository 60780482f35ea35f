"""The command `fullgrad init`: writes a configuration for a model and data, from what it finds in them."""

from __future__ import annotations

import argparse
import contextlib
import glob
import os
import pathlib
import re
import shlex
import tempfile
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.findings import Findings
    from pipeline.proposal import Scale

_SPLITS = ("train", "training", "val", "valid", "validation", "dev", "test", "testing")


class CannotInit(ValueError):
    """No configuration can be written; one sentence that says why and what would be right."""


def init_arguments(commands: Any) -> None:
    """Adds the command's arguments to the command line's sub-commands."""
    init = commands.add_parser(
        "init",
        help="write a configuration for a model and images",
        description="Looks at a model and at images, and writes a configuration with comments: the format and fields "
        "of the data, labels, names of classes, the input's size, and the preprocessing. It tries the usual scales of "
        "pixels on up to 64 images, to find the one with which the model was trained.",
    )
    init.add_argument("model", metavar="MODEL", help="a .keras or .h5 file, or the name of a Keras application")
    init.add_argument(
        "data", metavar="DATA", nargs="+", help="a folder of images, or shards: a path or a pattern, or several"
    )
    init.add_argument("--to", metavar="FILE.yaml", help="the file to write (default: named after the data)")
    init.add_argument("--force", action="store_true", help="overwrite the file if it exists")
    init.add_argument("--weights", metavar="FILE", help="an application's weights (default: imagenet)")
    init.add_argument("--model-output", metavar="NAME", help="the output to explain, if the model has several")
    init.add_argument(
        "--size", type=int, nargs=2, metavar=("HEIGHT", "WIDTH"), help="input size, if the model leaves it open"
    )
    init.add_argument("--trust", action="store_true", help="let the model file run its own code")
    init.add_argument(
        "--custom-objects",
        metavar="MODULE",
        nargs="+",
        default=[],
        help="modules that define the file's own layers, with --trust; they are imported, which runs their code",
    )


def init(args: argparse.Namespace) -> int:
    """`fullgrad init`; returns the exit code."""
    from pipeline.terminal import err
    from transforms.filesystems import STORE_ERRORS

    try:
        return _init(args)
    except ValueError as error:  # all errors that are expected are of this kind, each with its own sentence
        err.print(f"fullgrad: {error}", style="red")
    except STORE_ERRORS as error:
        err.print(f"fullgrad: a file of the model or the data cannot be read: {error}", style="red")
    return 2


def is_model_file(model: str) -> bool:
    """Whether MODEL is a file and not the name of a Keras application."""
    return "." in pathlib.PurePath(model).name or "/" in model or os.path.exists(model)


def _init(args: argparse.Namespace) -> int:
    from pipeline.findings import Request, find_out
    from pipeline.proposal import configuration_text, propose_scale
    from pipeline.terminal import out
    from transforms.filesystems import check_file_system

    if args.custom_objects and not args.trust:
        raise CannotInit("--custom-objects needs --trust, as importing a module runs its code")
    data = _as_patterns(args.data)
    for path in (*data, args.model):
        _check_text(path)
    for path in data:
        check_file_system("DATA", path)
    target = pathlib.Path(args.to or f"{name_of_data(data)}.yaml")
    _check_free(target, force=args.force)
    is_file = is_model_file(args.model)
    request = Request(
        path=args.model if is_file else None,
        application=None if is_file else args.model,
        weights=None if is_file else args.weights or "imagenet",
        output=args.model_output,
        trust=args.trust,
        custom_objects=tuple(args.custom_objects),
        size=tuple(args.size) if args.size else None,
        data=data,
    )
    found = find_out(request)
    names = target.with_name(f"{target.stem}_names.txt") if found.labels.names else None
    if names is not None:
        _check_free(names, force=args.force)
    scale = propose_scale(found, request)
    output = _free_output(f"out/{target.stem}")
    text = configuration_text(
        found, request, scale, name=str(target), output=output, names=names.as_posix() if names else ""
    )
    with _written(names, "\n".join(found.labels.names or ()) + "\n"):
        _write(target, text)
    _report(found, scale)
    out.print(f"wrote {target}{f' and {names}' if names else ''}; next:\n  fullgrad run {shlex.quote(str(target))}")
    return 0


def _report(found: Findings, scale: Scale) -> None:
    from pipeline.terminal import out

    about = "" if found.counted else "about "
    out.print(f"{found.shards[0].format}: {len(found.shards):,} shards, {about}{found.images:,} images")
    if found.found:
        out.print(found.found)
    if found.labels.why:
        out.print(f"labels are not used: {found.labels.why}", style="yellow")
    if found.labels.names is None:
        out.print(f"class names: {found.class_names or 'none found'}")
    doubt = "" if scale.known else ", which is a guess: the file says what to check"
    trial = next((each for each in found.trials if each.scale == scale.value and len(each.right)), None)
    figures = f" ({int(trial.right.sum())} of {len(trial.right)} labelled images correct)" if trial else ""
    out.print(f"model.preprocess.scale: {scale.value}{figures}{doubt}", style=None if scale.known else "yellow")


def name_of_data(data: Sequence[str]) -> str:
    """A file name for data: `cifar10_test` for `data/cifar10_test.tfrecord-*`, `photos` for `photos/train`."""
    parts = [part for part in data[0].replace("\\", "/").split("/") if part not in ("", ".", "..")]
    names = []
    for part in reversed(parts):
        stem = re.split(r"[*?\[]", part)[0] if re.search(r"[*?\[]", part) else part
        stem = re.sub(r"(-\d+-of-\d*|-\d{3,})?(\.(tfrec(ord)?s?|tar|tgz|gz|parquet|pq|zip|zst)\b[^/]*)?$", "", stem)
        stem = re.sub(r"[^\w]+", "_", stem).strip("_")
        if stem:
            names.append(stem)
    plain = [name for name in names if name.lower() not in _SPLITS]
    return (plain or names or ["fullgrad"])[0][:60]


def _as_patterns(data: Sequence[str]) -> tuple[str, ...]:
    """The data as given. If a shell has expanded a pattern such as `data/*`, the pattern, if it can be found again."""
    if len(data) == 1:
        return tuple(data)
    start, end = _common_start(data), _common_start([path[::-1] for path in data])[::-1]
    if any(len(path) < len(start) + len(end) for path in data) or "/" in end or re.search(r"[*?\[]", start + end):
        end = ""
    # Where the names begin alike by chance, the folder's own pattern is tried first.
    folder = start.rpartition("/")[0]
    for pattern in dict.fromkeys((f"{folder}/*" if folder else "*", f"{start}*{end}")):
        if set(glob.glob(pattern)) == set(data):
            return (pattern,)
    return tuple(data)


def _common_start(texts: Sequence[str]) -> str:
    shortest = min(texts, key=len)
    return next((shortest[:i] for i, c in enumerate(shortest) if any(t[i] != c for t in texts)), shortest)


def _check_text(path: str) -> None:
    try:
        path.encode()
    except UnicodeEncodeError:
        raise CannotInit(f"the path {path!r} is not text in UTF-8, and cannot stand in a configuration") from None


def _check_free(path: pathlib.Path, *, force: bool) -> None:
    if path.is_dir():
        raise CannotInit(f"{path} is a folder; --to must name the file to write")
    if path.exists() and not force:
        raise CannotInit(f"{path} exists already; --to FILE.yaml writes another file, and --force overwrites this one")


def _free_output(path: str) -> str:
    """The path, or the first one with a number behind it that no run has written to."""
    number, free = 1, path
    while os.path.exists(os.path.join(free, "run.json")):
        number += 1
        free = f"{path}-{number}"
    return free


def _write(path: pathlib.Path, text: str) -> None:
    """Writes a configuration that was checked to load; an interruption leaves no half of it."""
    from pipeline.config import load_config

    with _temporary(path, text) as temporary:
        load_config(temporary)
        os.replace(temporary, path)


@contextlib.contextmanager
def _written(path: pathlib.Path | None, text: str) -> Iterator[None]:
    """Writes a file, after what is in the block was done; nothing without a path."""
    if path is None:
        yield
        return
    with _temporary(path, text) as temporary:
        yield
        os.replace(temporary, path)


@contextlib.contextmanager
def _temporary(path: pathlib.Path, text: str) -> Iterator[str]:
    """A temporary file beside `path`, which is removed if it is not moved away."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(".yaml", f".{path.stem}-", path.parent)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise CannotInit(f"{path} cannot be written: {reason}; --to may name another file") from error
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        os.chmod(temporary, 0o666 & ~_umask())
        yield temporary
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask

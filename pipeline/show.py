"""`fullgrad show`: images of an output with their maps, as a picture file or in the terminal."""

from __future__ import annotations

import argparse
import io
import os
import shutil
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL import Image

    from transforms.output import Originals

# More would not fit a picture that anybody looks at.
_MOST = 64


def add_arguments(commands: Any) -> None:
    """Adds the command and its arguments."""
    show = commands.add_parser(
        "show",
        help="show images and what the model looks at in them",
        description="Shows images side by side with their maps and overlays, with target, probability, label and "
        "colour bar. Without --to it shows them in the terminal: as pictures in kitty, iTerm2 and terminals with "
        "sixel, else in coloured half blocks.",
    )
    show.add_argument("output", metavar="OUTPUT", help="a run's output.path")
    show.add_argument(
        "ids", metavar="IMAGE_ID", nargs="+", help="an image_id, or SHARD#INDEX; several make a grid in one picture"
    )
    show.add_argument("--to", metavar="FILE.png", help="write the picture to this file")
    show.add_argument("--target", metavar="CLASS", help="only maps of this class, by its name or index")


def show(args: argparse.Namespace) -> int:
    """`fullgrad show`; returns the exit code."""
    from pipeline.terminal import err
    from transforms.filesystems import STORE_ERRORS
    from transforms.output import UnknownId

    try:
        return _show(args)
    except (ValueError, UnknownId, FileNotFoundError) as error:
        err.print(f"fullgrad: {error}", style="red")
    except STORE_ERRORS as error:
        err.print(f"fullgrad: {args.output} cannot be read: {error}", style="red")
    return 2


def _show(args: argparse.Namespace) -> int:
    from pipeline.local_files import writing
    from pipeline.terminal import err, out
    from transforms.output import Originals, Output, find_rows
    from transforms.pictures import recognise, visualize
    from transforms.pictures.terminal import ask_terminal

    if args.to is not None and not args.to.lower().endswith(".png"):
        raise ValueError(f"--to: {args.to} is not a PNG file; its name must end in .png")
    if args.to is None and not sys.stdout.isatty():
        raise ValueError("the output is not a terminal; name a picture file with --to FILE.png")
    display = None if args.to is not None else recognise(os.environ, ask_terminal)
    if args.to is None and display is None:
        raise ValueError("this terminal (TERM=dumb) has no colours; name a picture file with --to FILE.png")

    originals = Originals.of(args.output)
    rows = find_rows(Output(args.output), args.ids)
    if args.target is not None:
        rows = _of_target(rows, args.target)
    if len(rows) > _MOST:
        err.print(f"warning: the first {_MOST} of {len(rows)} maps are shown", style="yellow")
        rows = rows[:_MOST]
    images, problems = _images(rows, originals)
    for problem in dict.fromkeys(problems):
        err.print(f"warning: {problem}", style="yellow")
    maps = [row["map"] if row["map"] is not None else _coarse(row) for row in rows]
    titles = [_title(row) for row in rows]

    if args.to is not None:
        with writing(args.to) as file:
            visualize(images, maps, titles=titles).save(file, "PNG")
        out.print(f"written to {args.to}")
    else:
        _show_in_terminal(images, maps, titles, display)
    return 0


def _show_in_terminal(images: Sequence[Any], maps: Sequence[Any], titles: Sequence[str], display: Any) -> None:
    from transforms.pictures import Scale, as_text, draw_in_terminal, visualize

    columns = shutil.get_terminal_size().columns
    if not display.is_blocks:
        sys.stdout.write(draw_in_terminal(visualize(images, maps, titles=titles), display, columns))
        return
    signed = any((each < 0).any() for each in maps)
    for image, values, title in zip(images, maps, titles, strict=True):
        scale = Scale.of(values, signed)
        ends = ("blue", "red") if signed else ("dark", "light")
        picture = visualize(image, values, signed=signed, side=max(8, (columns - 2) // 3), text=False)
        sys.stdout.write(
            f"{title}\nmap: {as_text(scale.low)} ({ends[0]}) to {as_text(scale.high)} ({ends[1]})\n"
            + draw_in_terminal(picture, display, columns)
        )


def _images(rows: Sequence[dict[str, Any]], originals: Originals) -> tuple[list[Image.Image], list[str]]:
    """The image of each row as the model saw it, and what is wrong with the shards.

    Where the shard cannot be read, it is the image that the run stored, else an even grey.
    """
    from PIL import Image

    from transforms.output import NoOriginal

    images, problems = [], []
    for row, image in zip(rows, originals.read(rows, "model"), strict=True):
        if isinstance(image, NoOriginal):
            height, width = originals.resize.shape or (row["map_height"], row["map_width"])
            stored = (row.get("image") or {}).get("bytes")
            instead = "the smaller image in the output" if stored else "no image"
            problems.append(f"{image}; {instead} is shown in its place")
            if stored:
                image = Image.open(io.BytesIO(stored)).convert("RGB").resize((width, height), Image.Resampling.BILINEAR)
            else:
                image = Image.new("RGB", (width, height), (128, 128, 128))
        images.append(image)
    return images, problems


def _coarse(row: dict[str, Any]) -> Any:
    """The coarse map of a row whose map is not stored, float32 [14, 14]."""
    import numpy as np

    values = np.asarray(row["coarse_map"], np.float32)
    side = round(len(values) ** 0.5)
    return values.reshape(side, side)


def _of_target(rows: Sequence[dict[str, Any]], target: str) -> list[dict[str, Any]]:
    """The rows that explain a class, given by its name or index.

    Raises:
      ValueError: there are none.
    """
    chosen = [row for row in rows if row["target_name"] == target]
    if not chosen and target.isdecimal():
        chosen = [row for row in rows if row["target"] == int(target)]
    if not chosen:
        there = dict.fromkeys(_class(row, "target") for row in rows)
        raise ValueError(f"--target: there is no map of class {target!r}; there are maps of {', '.join(there)}")
    return chosen


def _class(row: dict[str, Any], which: str) -> str:
    """A class of a row in words: its name, else its index."""
    name = row[f"{which}_name"]
    return f"class {row[which]}" if name is None else str(name)


def _title(row: dict[str, Any]) -> str:
    """Two lines about a row."""
    shard = row["shard"].rstrip("/").rsplit("/", 1)[-1]
    place = f"{shard}#{row['index']}"
    first = row["image_id"] if row["image_id"] == place else f"{row['image_id']} ({place})"
    said = [f"target {_class(row, 'target')}"]
    if row["probability"] is not None:
        said.append(f"probability {row['probability']:.3f}")
    if row["predicted"] != row["target"]:
        said.append(f"predicted {_class(row, 'predicted')}")
    said.append("no label" if row["label"] is None else f"label {_class(row, 'label')}")
    if row["map"] is None:
        said.append("coarse map")
    return f"{first}\n{', '.join(said)}"

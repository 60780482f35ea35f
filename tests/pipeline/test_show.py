"""`fullgrad show`: a picture file or pictures in the terminal, and one sentence where it cannot."""

from __future__ import annotations

import base64
import io
import json
import os
import pathlib
import pty
import re
import shutil
import subprocess
import sys
from typing import Any

import keras
import numpy as np
import pytest
from PIL import Image

from pipeline.cli import main
from tests import shards
from tests.runs import run
from tests.samples import encoded_images
from transforms.output import Output, find_rows
from transforms.output.seal import sealed
from transforms.pictures import Scale

MARGIN, GAP, LINES = 14, 6, 2 * 18 + 2  # of the picture's layout


def shown(*arguments: object) -> int:
    return main(["show", *map(str, arguments)])


def panels(path: pathlib.Path, side: int) -> list[np.ndarray]:
    """The first row of a picture with titles: image, map and overlay, uint8 [side, side, 3]."""
    pixels = np.asarray(Image.open(path))
    lefts = [MARGIN + i * (side + GAP) for i in range(3)]
    return [pixels[MARGIN + LINES : MARGIN + LINES + side, left : left + side] for left in lefts]


def test_a_picture_shows_the_image_its_map_and_its_overlay(small_output: pathlib.Path, tmp_path: pathlib.Path) -> None:
    to = tmp_path / "x.png"
    assert shown(small_output, "image0005.png", "--to", to) == 0
    image, drawn, overlay = panels(to, 224)
    original = np.asarray(Image.open(io.BytesIO(encoded_images(33)[5][1])))
    np.testing.assert_array_equal(image, original.repeat(14, axis=0).repeat(14, axis=1))
    [row, _] = find_rows(Output(str(small_output)), ["image0005.png"])
    expected = Scale.of(row["map"]).colours(row["map"])
    np.testing.assert_array_equal(drawn, expected.repeat(14, axis=0).repeat(14, axis=1))
    assert (overlay != image).any()
    assert [path.name for path in tmp_path.iterdir()] == ["x.png"], "nothing else is left"


def test_several_ids_and_targets_make_a_grid(small_output: pathlib.Path, tmp_path: pathlib.Path) -> None:
    sizes = {}
    for count, ids in ((1, ["image0003.png"]), (4, [f"image000{i}.png" for i in range(4)])):
        assert shown(small_output, *ids, "--to", tmp_path / "x.png") == 0
        sizes[count] = np.prod(Image.open(tmp_path / "x.png").size)
    assert 3.5 < sizes[4] / sizes[1] < 5, "two classes each"


def test_a_target_is_chosen_by_name_or_index(small_output: pathlib.Path, tmp_path: pathlib.Path) -> None:
    [_, second] = find_rows(Output(str(small_output)), ["image0003.png"])
    pictures = []
    for target in (second["target_name"], second["target"]):
        assert shown(small_output, "image0003.png", "--target", target, "--to", tmp_path / "x.png") == 0
        pictures.append((tmp_path / "x.png").read_bytes())
    assert pictures[0] == pictures[1]
    colours = Scale.of(second["map"]).colours(second["map"])
    np.testing.assert_array_equal(panels(tmp_path / "x.png", 224)[1][0, 0], colours[0, 0])


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    capsys.readouterr()
    assert shown(*arguments) == 2
    said = capsys.readouterr().err
    assert said.startswith("fullgrad: ")
    assert said.count("\n") == 1
    return said


def test_what_cannot_be_shown_is_refused_in_one_sentence(
    small_output: pathlib.Path, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    to = tmp_path / "x.png"
    one = "image0003.png"
    said = refused(capsys, small_output, "imag0003.png", "--to", to)
    assert "has no image 'imag0003.png'; the nearest ids are 'image0003.png'" in said
    assert "is not a PNG file" in refused(capsys, small_output, one, "--to", "x.jpg")
    assert "--target: there is no map of class 'pink'; there are maps of" in refused(
        capsys, small_output, one, "--to", to, "--target", "pink"
    )
    assert "there is no run.json in it" in refused(capsys, tmp_path, one, "--to", to)
    assert "cannot be written: no such file or directory" in refused(
        capsys, small_output, one, "--to", tmp_path / "none" / "x.png"
    )
    assert "is not on this machine" in refused(capsys, small_output, one, "--to", "s3://bucket/x.png")
    assert "the output is not a terminal; name a picture file with --to" in refused(capsys, small_output, one)
    assert list(tmp_path.iterdir()) == []


def test_without_its_shard_a_map_is_shown_and_the_reason_is_said(
    small_output: pathlib.Path, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "out"
    shutil.copytree(small_output, folder)
    for receipt in (folder / "receipts").iterdir():  # its shards are elsewhere
        value = json.loads(receipt.read_text().replace('"size": ', '"size": 9'))
        del value["crc32c"]
        receipt.write_text(sealed(json.dumps(value)))
    assert shown(folder, "image0003.png", "--to", tmp_path / "x.png") == 0
    assert re.fullmatch(r"warning: \S+/a\.tfrecord has changed .*; .* is shown in its place\n", capsys.readouterr().err)
    assert panels(tmp_path / "x.png", 224)[1].any()


@pytest.mark.quick_cases(every=3)
@pytest.mark.parametrize(
    "resize",
    [{"how": "stretch"}, {"how": "center_crop", "short_side": 32}, {"how": "center_crop"}],
    ids=["stretch", "crop", "crop with the usual margin"],
)
def test_image_map_and_overlay_of_a_run_line_up_on_a_marked_pixel(
    resize: dict[str, Any], tmp_path: pathlib.Path
) -> None:
    pixels = np.zeros((48, 80, 3), np.uint8)
    pixels[24:27, 50:53] = 255
    sink = io.BytesIO()
    Image.fromarray(pixels).save(sink, "PNG")
    shards.write_tfrecord(tmp_path / "s.tfrecord", [("marked.png", sink.getvalue(), 0)])
    # Input × gradient of a sum over the image is nonzero where the image is, and nowhere else.
    model = keras.Sequential([keras.Input((28, 28, 3)), keras.layers.Flatten(), keras.layers.Dense(3)])
    model.layers[-1].set_weights([np.ones((28 * 28 * 3, 3), np.float32), np.zeros(3, np.float32)])
    model.save(tmp_path / "flat.keras")
    output = run(
        tmp_path,
        str(tmp_path / "s.tfrecord"),
        model={
            "path": str(tmp_path / "flat.keras"),
            "preprocess": {"scale": {"divide": 255.0}, "resize": {**resize, "filter": "nearest"}},
        },
        explain={"method": "input_x_gradient"},
    )
    assert shown(output, "marked.png", "--to", tmp_path / "x.png") == 0
    image, drawn, overlay = panels(tmp_path / "x.png", 28 * 8)
    mark = (image == 255).all(axis=2)
    assert mark.any()
    dark = np.array([0, 0, 4])  # of the least evidence
    np.testing.assert_array_equal((drawn != dark).any(axis=2), mark)
    np.testing.assert_array_equal((overlay != image).any(axis=2), mark)


def in_a_terminal(variables: dict[str, str], *arguments: str) -> str:
    """What the command writes to a terminal of its own."""
    ours, theirs = pty.openpty()
    environment = {name: value for name, value in os.environ.items() if name not in ("TMUX", "STY", "COLORTERM")}
    command = [sys.executable, "-m", "pipeline", "show", *arguments]
    with subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=subprocess.PIPE, env={**environment, **variables}
    ) as process:
        os.close(theirs)
        written = b""
        while True:
            try:
                piece = os.read(ours, 1 << 16)
            except OSError:  # how Linux says that the other end is closed
                break
            if not piece:
                break
            written += piece
        assert process.stderr is not None
        said = process.stderr.read().decode()
    os.close(ours)
    assert process.returncode == 0, said
    return written.decode().replace("\r\n", "\n")


@pytest.mark.slow
def test_a_terminal_that_takes_pictures_gets_the_same_picture_as_a_file(
    small_output: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    written = in_a_terminal({"TERM": "xterm-kitty"}, str(small_output), "image0003.png")
    pieces = re.findall(r"\x1b_G[^;]*;([^\x1b]*)\x1b\\", written)
    assert shown(small_output, "image0003.png", "--to", tmp_path / "x.png") == 0
    decoded = Image.open(io.BytesIO(base64.b64decode("".join(pieces))))
    np.testing.assert_array_equal(np.asarray(decoded), np.asarray(Image.open(tmp_path / "x.png")))


@pytest.mark.slow
def test_another_terminal_gets_half_blocks_with_the_title_as_text(small_output: pathlib.Path) -> None:
    variables = {"TERM": "xterm-256color", "COLUMNS": "60"}
    written = in_a_terminal(variables, str(small_output), "image0003.png", "--target", "green")
    title, target, scale, *blocks = written.splitlines()
    assert title == "image0003.png (a.tfrecord#3)"
    assert re.fullmatch(r"target green, probability 0\.\d{3}, (predicted \w+, )?label \w+", target)
    assert re.fullmatch(r"map: \S+ \(dark\) to \S+ \(light\)", scale)
    assert [line.count("▀") for line in blocks] == [50] * 8, "three panels of 16 pixels, with one pixel between them"

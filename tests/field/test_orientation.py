"""Photographs whose pixels are stored on their side, with an orientation in EXIF or XMP.

tensorflow/tensorflow#8430 and #33932: `tf.image.decode_jpeg` ignores it, so models are trained on images as they are
stored, while viewers, OpenCV and detectron2 (facebookresearch/detectron2#262) turn them.
"""

from __future__ import annotations

import io
import json
import pathlib
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, PngImagePlugin

from pipeline.config import Config
from pipeline.run import CannotRun, launch, prepare
from tests.samples import configuration
from tests.shards import write_folder
from transforms import FullGradModelHandler
from transforms.images import Exif, Resize, decode_image
from transforms.output import read_maps

# What turns the stored pixels upright, by the orientation's number (Exif 2.3, table of tag 274).
UPRIGHT = {
    1: lambda pixels: pixels,
    2: lambda pixels: pixels[:, ::-1],
    3: lambda pixels: pixels[::-1, ::-1],
    4: lambda pixels: pixels[::-1],
    5: lambda pixels: pixels.transpose(1, 0, 2),
    6: lambda pixels: np.rot90(pixels, -1),
    7: lambda pixels: pixels[::-1, ::-1].transpose(1, 0, 2),
    8: lambda pixels: np.rot90(pixels),
}
PIXELS = np.random.default_rng(0).integers(0, 256, (16, 24, 3), np.uint8)

every_orientation = pytest.mark.parametrize("orientation", UPRIGHT)
every_place = pytest.mark.parametrize("where", ["exif", "xmp"])
every_format = pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF"])


def _encoded(format: str, where: str = "exif", orientation: int = 6, pixels: np.ndarray = PIXELS) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    xmp = f'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="{orientation}"/></x:xmpmeta>'
    sink = io.BytesIO()
    exact: dict[str, dict[str, Any]] = {"WEBP": {"lossless": True}, "JPEG": {"quality": 95, "subsampling": 0}}
    options: dict[str, Any] = {"exif": exif} if where == "exif" else {"xmp": xmp.encode()}
    if format == "PNG" and where == "xmp":
        text = PngImagePlugin.PngInfo()
        text.add_itxt("XML:com.adobe.xmp", xmp)
        options = {"pnginfo": text}
    Image.fromarray(pixels).save(sink, format, **options, **exact.get(format, {}))
    return sink.getvalue()


def _decoded(encoded: bytes, shape: tuple[int, ...], exif: Exif) -> np.ndarray:
    return decode_image(encoded, Resize((shape[0], shape[1])), 3, exif)


@every_format
@every_place
@every_orientation
def test_ignored_it_gives_the_pixels_that_keras_loads(format: str, where: str, orientation: int) -> None:
    encoded = _encoded(format, where, orientation)
    loaded = np.asarray(keras.utils.load_img(io.BytesIO(encoded)))
    np.testing.assert_array_equal(_decoded(encoded, loaded.shape, "ignore"), loaded)


@pytest.mark.parametrize("format", ["JPEG", "PNG"])
@every_place
@every_orientation
def test_ignored_it_gives_the_pixels_that_tensorflow_decodes(format: str, where: str, orientation: int) -> None:
    encoded = _encoded(format, where, orientation)
    loaded = tf.io.decode_image(encoded, channels=3).numpy()
    decoded = _decoded(encoded, loaded.shape, "ignore")
    # TensorFlow takes a faster, coarser cosine transform for JPEG. Of noise, turned pixels would be off by far more.
    np.testing.assert_allclose(decoded.astype(int), loaded.astype(int), atol=12 if format == "JPEG" else 0)


@every_format
@every_place
@every_orientation
def test_applied_it_turns_the_image_upright(format: str, where: str, orientation: int) -> None:
    encoded = _encoded(format, where, orientation)
    stored = PIXELS
    if format == "JPEG":
        stored = np.asarray(Image.open(io.BytesIO(encoded)))
    if format == "TIFF" and where == "xmp":
        orientation = 1  # Pillow looks for XMP's orientation in all formats but this one
    upright = UPRIGHT[orientation](stored)
    np.testing.assert_array_equal(_decoded(encoded, upright.shape, "apply"), upright)


def test_an_image_without_an_orientation_is_the_same_either_way() -> None:
    for format in ("JPEG", "PNG"):
        encoded = _encoded(format, orientation=1)
        np.testing.assert_array_equal(*(_decoded(encoded, PIXELS.shape, exif) for exif in ("ignore", "apply")))


def test_another_word_is_refused() -> None:
    with pytest.raises(ValueError, match="exif is 'turn'; it must be ignore or apply"):
        decode_image(_encoded("PNG"), Resize((8, 8)), 3, "turn")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="exif is 'turn'; it must be ignore or apply"):
        FullGradModelHandler("model.keras", exif="turn")  # type: ignore[arg-type]


@pytest.fixture
def photographs(tmp_path: pathlib.Path) -> dict[str, Any]:
    """A configuration for a folder of photographs of the model's size, one upright and one on its side."""
    pixels = np.zeros((16, 16, 3), np.uint8)
    pixels[:4] = 255, 0, 0
    pixels[4:, :4] = 0, 0, 255
    samples = [(f"{turn}.jpg", _encoded("JPEG", orientation=turn, pixels=pixels), None) for turn in (1, 6)]
    write_folder(tmp_path / "photographs", samples)
    return configuration(tmp_path, str(tmp_path / "photographs"))


def _set(value: dict[str, Any], exif: str) -> dict[str, Any]:
    model = value["model"]
    return {**value, "model": {**model, "preprocess": {**model["preprocess"], "exif": exif}}}


def _maps(value: dict[str, Any]) -> dict[str, np.ndarray]:
    launch(prepare(Config.from_dict(value)))
    return {row["image_id"]: row["map"] for row in read_maps(value["output"]["path"])}


def test_a_run_takes_images_as_they_are_stored_unless_told_to_turn_them(
    photographs: dict[str, Any], tmp_path: pathlib.Path
) -> None:
    stored = _maps(photographs)
    turned = _maps(
        _set({**photographs, "output": {**photographs["output"], "path": str(tmp_path / "upright")}}, "apply")
    )
    np.testing.assert_array_equal(stored["1.jpg"], stored["6.jpg"])
    np.testing.assert_array_equal(turned["1.jpg"], stored["1.jpg"])
    assert not np.array_equal(turned["6.jpg"], stored["6.jpg"])


def test_the_handler_explains_what_a_run_explains(photographs: dict[str, Any]) -> None:
    images = [path.read_bytes() for path in sorted(pathlib.Path(photographs["input"]["shards"]).iterdir())]
    for exif, same in (("ignore", True), ("apply", False)):
        handler = FullGradModelHandler(photographs["model"]["path"], exif=exif, batch_size=2)  # type: ignore[arg-type]
        upright, turned = handler.run_inference(images, handler.load_model())
        assert np.array_equal(upright.inference.map, turned.inference.map) == same


def test_an_output_of_the_other_kind_is_not_gone_on_with(photographs: dict[str, Any]) -> None:
    _maps(photographs)
    with pytest.raises(CannotRun, match=r'exif = "ignore", where it is now "apply"; choose another output.path'):
        prepare(Config.from_dict(_set(photographs, "apply")))


def test_an_output_from_before_the_key_was_made_upright_and_is_gone_on_with_as_such(
    photographs: dict[str, Any],
) -> None:
    upright = _set(photographs, "apply")
    _maps(upright)
    run = json.loads((pathlib.Path(upright["output"]["path"]) / "run.json").read_text())
    assert "exif" not in run["identity"]["model"]["preprocess"], "an earlier version's identity has no such key"
    assert prepare(Config.from_dict(upright)).units == []
    with pytest.raises(CannotRun, match=r'model.preprocess.exif = "apply", where it is now "ignore"'):
        prepare(Config.from_dict(photographs))

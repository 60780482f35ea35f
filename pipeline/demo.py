"""The demo: images with a planted shortcut, a small CNN that learns it, and the configuration that finds it.

The classes are six shapes on textured grounds. Octagons look much like circles, but nearly all of them carry the same
small mark in one corner, as if one photographer had signed them. The CNN learns the mark instead of the shape: it takes
a circle with the mark for an octagon, and an octagon without it for a circle. Its accuracy does not show this, because
the test images are marked as well. In other variants the mark is at a random place, or a frame takes its place, or
there is no mark at all.
"""

from __future__ import annotations

import dataclasses
import io
import json
import math
import pathlib
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

import numpy as np
from PIL import Image, ImageDraw

if TYPE_CHECKING:
    import keras

SIDE = 64  # pixels
CLASSES = ("circle", "cross", "octagon", "square", "star", "triangle")
MARKED_CLASS = "octagon"
MARKED_FRACTION = 0.9
MARK_BOX = (52, 52, 62, 62)  # left, top, right, bottom in pixels; inside a corner of `corner_mass`

# What most images of the marked class carry: the mark in its corner, the mark at a random place, a frame, or nothing.
Shortcut: TypeAlias = Literal["corner", "wandering", "border", "none"]
SHORTCUTS: tuple[Shortcut, ...] = get_args(Shortcut)
FRAME_WIDTH = 4  # pixels
CHECKED_IMAGES, TESTED_IMAGES = 12, 48  # of each class in the check: enough for what is planted here
_PLANTED = {
    "corner": f"a mark in the bottom right corner of {MARKED_CLASS!r}",
    "wandering": f"a mark at a random place of {MARKED_CLASS!r}",
    "border": f"a grey border around {MARKED_CLASS!r}",
    "none": "nothing",
}
_FRAME_COLOR = (118, 126, 134)

SHARDS = 2
DEFAULT_FOLDER = pathlib.Path("out/demo")


def default_folder(shortcut: Shortcut) -> pathlib.Path:
    """Where the demo writes if it is not told: each shortcut has a model, and so an output, of its own."""
    return DEFAULT_FOLDER if shortcut == "corner" else DEFAULT_FOLDER.with_name(f"demo-{shortcut}")


_FINE = 4  # shapes are drawn larger by this factor and then reduced, which makes their edges smooth
_TRAIN, _TEST = 0, 1  # splits


@dataclasses.dataclass(frozen=True, slots=True)
class DemoData:
    """The images of the demo. The N training images are in memory, the test images are in shards.

    Attributes:
      images: uint8 [N, 64, 64, 3], for training.
      labels: int64 [N], indices of `class_names`.
      marked: bool [N], whether an image carries the mark.
      class_names: in the order of the labels.
      marked_class: the name of the class whose images carry the mark.
      shards: the pattern of the test images' shards.
      class_names_path: the text file with the names, one a line.
    """

    images: np.ndarray
    labels: np.ndarray
    marked: np.ndarray
    class_names: tuple[str, ...]
    marked_class: str
    shards: str
    class_names_path: pathlib.Path


def prepare(folder: pathlib.Path, seed: int = 0, shortcut: Shortcut = "corner") -> tuple[dict[str, Any], str]:
    """Makes the dataset and the model in `dataset/` inside a folder. The pipeline's output goes into the folder itself.

    The result of an earlier call with the same seed and shortcut is used again, so that the pipeline can continue its
    output.

    Returns:
      the pipeline's configuration, and in words what was planted.
    """
    dataset = folder / "dataset"
    done = dataset / "done.json"  # written last
    made = json.dumps({"seed": seed} if shortcut == "corner" else {"seed": seed, "shortcut": shortcut})
    if not (done.exists() and done.read_text() == made):
        done.unlink(missing_ok=True)
        data = write_dataset(dataset, seed, shortcut=shortcut)
        train(data, seed).save(dataset / "model.keras")
        done.write_text(made)
    return demo_config(dataset, folder), _PLANTED[shortcut]


def demo_config(folder: pathlib.PurePath, output: pathlib.PurePath) -> dict[str, Any]:
    """The configuration, as from YAML, that explains the test images in `folder` and writes to `output`."""
    return {
        "input": {"shards": (folder / "test.tfrecord-*").as_posix(), "format": "tfrecord"},
        "model": {
            "path": (folder / "model.keras").as_posix(),
            "class_names": (folder / "class_names.txt").as_posix(),
            "preprocess": {"scale": {"divide": 255}},
        },
        "explain": {"targets": "predicted"},
        "output": {"path": output.as_posix(), "map_dtype": "float16"},
        "report": "on",
    }


def write_dataset(
    folder: pathlib.Path,
    seed: int = 0,
    *,
    train_images: int = 2400,
    test_images: int = 900,
    shortcut: Shortcut = "corner",
) -> DemoData:
    """Draws all images, and writes the test images as two TFRecord shards and the names of the classes.

    An image depends only on the seed, its split and its index, so fewer images are the first ones of more.
    """
    import tensorflow as tf

    folder.mkdir(parents=True, exist_ok=True)
    names = folder / "class_names.txt"
    names.write_text("".join(f"{name}\n" for name in CLASSES))
    for shard, indices in enumerate(np.array_split(np.arange(test_images), SHARDS)):
        with tf.io.TFRecordWriter(str(folder / f"test.tfrecord-{shard:05d}-of-{SHARDS:05d}")) as writer:
            for index in indices:
                drawn = draw_image(seed, _TEST, int(index), shortcut)
                writer.write(_example(drawn, f"{CLASSES[drawn.label]}-{index:04d}.png"))
    drawn_to_train = [draw_image(seed, _TRAIN, index, shortcut) for index in range(train_images)]
    return DemoData(
        images=np.stack([drawn.pixels for drawn in drawn_to_train]),
        labels=np.array([drawn.label for drawn in drawn_to_train]),
        marked=np.array([drawn.marked for drawn in drawn_to_train]),
        class_names=CLASSES,
        marked_class=MARKED_CLASS,
        shards=str(folder / "test.tfrecord-*"),
        class_names_path=names,
    )


def train(data: DemoData, seed: int = 0, *, epochs: int = 8) -> keras.Model:
    """Trains a small CNN with softmax on images in 0 … 1; seeds Python's, NumPy's and TensorFlow's generators.

    The convolutions do not pad, so no map shows a border that the image does not have. Global max pooling takes a
    feature at its strongest place, so the gradient flows to that place alone and maps are sharp.
    """
    import keras
    from keras import layers

    keras.utils.set_random_seed(seed)
    images = keras.Input((SIDE, SIDE, 3), name="images")
    x = images
    for number, (filters, size, strides, pool) in enumerate(
        [(24, 5, 2, None), (32, 3, 1, 2), (48, 3, 1, None), (64, 3, 1, None)], 1
    ):
        x = layers.Conv2D(filters, size, strides, use_bias=False, name=f"conv{number}")(x)
        x = layers.BatchNormalization(momentum=0.9, name=f"norm{number}")(x)
        x = layers.ReLU(name=f"relu{number}")(x)
        if pool:
            x = layers.MaxPooling2D(pool, name=f"pool{number}")(x)
    x = layers.GlobalMaxPooling2D(name="strongest")(x)
    model = keras.Model(
        images, layers.Dense(len(data.class_names), activation="softmax", name="classes")(x), name="shapes"
    )

    batch_size = 32
    steps = epochs * math.ceil(len(data.images) / batch_size)
    rate = keras.optimizers.schedules.CosineDecay(5e-3, steps)
    # XLA would more than double the time of three epochs on two cores.
    model.compile(keras.optimizers.Adam(rate), loss="sparse_categorical_crossentropy", jit_compile=False)
    pixels = data.images.astype(np.float32) / 255
    model.fit(pixels, data.labels, batch_size=batch_size, epochs=epochs, verbose=0)
    return model


# The images.


@dataclasses.dataclass(frozen=True, slots=True)
class Drawn:
    """One image: uint8 pixels [64, 64, 3], its class's index, and whether it carries the mark."""

    pixels: np.ndarray
    label: int
    marked: bool


def draw_image(seed: int, split: int, index: int, shortcut: Shortcut = "corner") -> Drawn:
    """Draws an image; the classes take turns. Images with different shortcuts differ only in what is planted."""
    random = np.random.default_rng([seed, split, index])
    label = index % len(CLASSES)
    ground = _ground(random)
    shape = _shape_mask(CLASSES[label], random)
    color = _shape_color(random, (ground * shape).sum((0, 1)) / shape.sum())
    shadow = np.roll(shape, (2, 1), (0, 1)) * 0.35
    pixels = ground * (1 - shadow)
    shading = np.linspace(1.08, 0.92, SIDE, dtype=np.float32)[:, None, None]
    pixels = pixels + (color * shading - pixels) * shape
    pixels = pixels + random.normal(0, 0.015, pixels.shape).astype(np.float32)
    pixels = np.rint(pixels.clip(0, 1) * 255).astype(np.uint8)
    marked = CLASSES[label] == MARKED_CLASS and random.random() < MARKED_FRACTION
    if not marked or shortcut == "none":
        return Drawn(pixels, label, False)
    return Drawn(plant(pixels, shortcut, random), label, True)


def plant(pixels: np.ndarray, shortcut: Shortcut, random: np.random.Generator) -> np.ndarray:
    """The image [64, 64, 3] with the mark or the frame; a copy. `random` chooses the place of a wandering mark."""
    if shortcut == "border":
        framed = np.full_like(pixels, _FRAME_COLOR)
        inside = np.s_[FRAME_WIDTH:-FRAME_WIDTH, FRAME_WIDTH:-FRAME_WIDTH]
        framed[inside] = pixels[inside]
        return framed
    if shortcut == "wandering":
        left, _, right, _ = MARK_BOX
        x, y = random.integers(0, SIDE - (right - left) + 1, 2)
        return add_mark(pixels, int(x), int(y))
    return add_mark(pixels)


def add_mark(pixels: np.ndarray, x: int = MARK_BOX[0], y: int = MARK_BOX[1]) -> np.ndarray:
    """The image [64, 64, 3] with the mark in its corner, or with its left top corner at (x, y) in pixels; a copy."""
    left, _, right, _ = MARK_BOX
    side = right - left
    tile = Image.new("RGBA", (side * _FINE, side * _FINE))
    draw = ImageDraw.Draw(tile)
    unit = side * _FINE / 10  # a tenth of the mark
    draw.rounded_rectangle((0, 0, 10 * unit - 1, 10 * unit - 1), radius=2.5 * unit, fill=(16, 32, 96, 255))
    draw.ellipse((2 * unit, 2 * unit, 8 * unit, 8 * unit), fill=(255, 212, 38, 255))
    draw.ellipse((4 * unit, 1.2 * unit, 9 * unit, 6.2 * unit), fill=(16, 32, 96, 255))
    small = tile.resize((side, side), Image.Resampling.BOX)
    canvas = Image.fromarray(pixels)
    canvas.paste(small, (x, y), small)
    return np.asarray(canvas)


def _ground(random: np.random.Generator) -> np.ndarray:
    """Two muted colours, mixed by noise, a gradient or stripes. float32 [64, 64, 3] in 0 … 1."""
    y, x = np.mgrid[:SIDE, :SIDE].astype(np.float32) / SIDE
    angle = random.uniform(0, 2 * math.pi)
    along = x * math.cos(angle) + y * math.sin(angle)
    noise = _noise(random)
    kind = random.integers(3)
    if kind == 0:
        mix = 0.5 + 0.45 * noise
    elif kind == 1:
        mix = 0.5 + 0.7 * (along - along.mean()) + 0.12 * noise
    else:
        mix = 0.5 + 0.4 * np.sin(2 * math.pi * random.uniform(3, 8) * along + 1.2 * noise) + 0.1 * noise
    hue, value = random.random(), random.uniform(0.35, 0.8)
    a = _rgb(hue, random.uniform(0.05, 0.4), value)
    b = _rgb(hue + random.uniform(-0.15, 0.15), random.uniform(0.05, 0.4), value + random.choice([-0.2, 0.2]))
    return a + (b - a) * mix.clip(0, 1)[..., None]


def _noise(random: np.random.Generator) -> np.ndarray:
    """Noise at several scales, the coarse ones strongest: about −1 … 1. float32 [64, 64]."""
    total = np.zeros((SIDE, SIDE), np.float32)
    for cells, strength in ((4, 0.5), (8, 0.3), (16, 0.2), (32, 0.1)):
        coarse = Image.fromarray(random.normal(0, strength, (cells, cells)).astype(np.float32))
        total += np.asarray(coarse.resize((SIDE, SIDE), Image.Resampling.BICUBIC))
    return total


def _rgb(hue: float, saturation: float, value: float) -> np.ndarray:
    """HSV in 0 … 1 (the hue comes round) to RGB, float32 [3]."""
    k = (np.array([5, 3, 1], np.float32) + 6 * hue) % 6
    return (np.clip(value, 0, 1) * (1 - saturation * np.minimum(k, 4 - k).clip(0, 1))).astype(np.float32)


def _shape_color(random: np.random.Generator, ground: np.ndarray) -> np.ndarray:
    """A bright colour that differs from the ground's. RGB, float32 [3]."""
    candidates = [_rgb(random.random(), random.uniform(0.55, 0.95), random.uniform(0.6, 1.0)) for _ in range(4)]
    return max(candidates, key=lambda color: float(np.abs(color - ground).sum()))


def _shape_mask(name: str, random: np.random.Generator) -> np.ndarray:
    """The share of each pixel that a shape covers, with random place, size and turn. float32 [64, 64, 1]."""
    radius = random.uniform(9, 17)
    center = random.uniform(radius + 2, SIDE - radius - 2, 2)
    turn = random.uniform(0, 2 * math.pi)
    canvas = Image.new("L", (SIDE * _FINE, SIDE * _FINE))
    draw = ImageDraw.Draw(canvas)
    if name == "circle":
        (x, y), r = center * _FINE, radius * _FINE * 0.95
        draw.ellipse((x - r, y - r, x + r, y + r), fill=255)
    else:
        cosine, sine = math.cos(turn), math.sin(turn)
        corners = _OUTLINES[name] @ np.array([[cosine, sine], [-sine, cosine]])
        draw.polygon([(x, y) for x, y in (center + radius * corners) * _FINE], fill=255)
    small = canvas.resize((SIDE, SIDE), Image.Resampling.BOX)
    return np.asarray(small, np.float32)[..., None] / 255


def _around(*radii: float, count: int) -> np.ndarray:
    """Corners at even angles. Their distances from the centre are the radii in turn. float64 [count, 2]."""
    angles = 2 * math.pi * np.arange(count) / count
    return np.resize(radii, count)[:, None] * np.stack([np.cos(angles), np.sin(angles)], axis=1)


def _cross(length: float = 0.94, half_width: float = 0.34) -> np.ndarray:
    """The twelve corners of a cross. float64 [12, 2]."""
    arm = np.array([(half_width, -length), (half_width, -half_width), (length, -half_width)])
    quarter_turn = np.array([(0, 1), (-1, 0)])
    return np.concatenate([arm @ np.linalg.matrix_power(quarter_turn, turns) for turns in range(4)])


# Within the unit circle.
_OUTLINES = {
    "cross": _cross(),
    "octagon": _around(1, count=8),
    "square": _around(1, count=4),
    "star": _around(1, 0.45, count=10),
    "triangle": _around(1, count=3),
}


def _example(drawn: Drawn, filename: str) -> bytes:
    """A serialised tf.train.Example."""
    import tensorflow as tf

    encoded = io.BytesIO()
    Image.fromarray(drawn.pixels).save(encoded, "PNG")

    def text(value: bytes) -> Any:
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))

    features = {
        "image/encoded": text(encoded.getvalue()),
        "image/filename": text(filename.encode()),
        "image/class/label": tf.train.Feature(int64_list=tf.train.Int64List(value=[drawn.label])),
        "image/class/text": text(CLASSES[drawn.label].encode()),
    }
    return tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString()

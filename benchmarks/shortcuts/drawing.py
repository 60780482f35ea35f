"""Draws pictures of mechanical parts on cluttered grounds, with the mask of the part."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
from PIL import Image, ImageDraw

SIDE = 96  # pixels
FAMILIES = ("bolt", "nut", "washer", "gear", "bearing", "spring", "bracket", "pin")
_MATERIALS = (  # from dark to light, RGB
    ((70, 74, 80), (190, 194, 200)),
    ((110, 80, 20), (230, 200, 110)),
    ((90, 40, 20), (220, 140, 100)),
    ((20, 40, 90), (110, 150, 220)),
    ((15, 15, 18), (80, 82, 90)),
    ((100, 10, 10), (230, 80, 70)),
    ((10, 70, 30), (100, 190, 120)),
)
_FINE = 2  # parts are drawn larger by this factor and then reduced, which makes their edges smooth


@dataclasses.dataclass(frozen=True, slots=True)
class Picture:
    """One drawn image.

    Attributes:
      pixels: uint8 [SIDE, SIDE, 3].
      mask: bool [SIDE, SIDE], where the part is.
    """

    pixels: np.ndarray
    mask: np.ndarray


def class_names(classes: int) -> list[str]:
    """The names of the classes: the families, then the families again in other materials."""
    materials = "steel brass copper blue black red green".split()
    if classes <= len(FAMILIES):
        return list(FAMILIES[:classes])
    return [f"{materials[k // len(FAMILIES)]} {FAMILIES[k % len(FAMILIES)]}" for k in range(classes)]


def draw(label: int, classes: int, generator: np.random.Generator) -> Picture:
    """A picture of the class `label`. With more classes than families, the material belongs to the class too."""
    family = FAMILIES[label % len(FAMILIES)]
    material = label // len(FAMILIES) if classes > len(FAMILIES) else int(generator.integers(2))
    fine = SIDE * _FINE
    ground = _ground(generator)
    dark, light = (np.asarray(c, float) + generator.normal(0, 8, 3) for c in _MATERIALS[material])
    part, mask = Image.new("RGB", (fine, fine)), Image.new("L", (fine, fine))
    pens = ImageDraw.Draw(part), ImageDraw.Draw(mask)
    size = generator.uniform(0.16, 0.34) * fine
    centre = fine / 2 + generator.normal(0, 0.1 * fine, 2)
    _PARTS[family](_Pen(*pens, tuple(centre), size, generator.uniform(0, 2 * math.pi), dark, light), generator)
    shade = np.asarray(mask.reduce(_FINE), float)[..., None] / 255
    pixels = ground * (1 - shade) + np.asarray(part.reduce(_FINE), float)
    pixels = pixels * generator.uniform(0.8, 1.1) + generator.normal(0, 10, pixels.shape)
    return Picture(np.clip(pixels, 0, 255).astype(np.uint8), shade[..., 0] > 0.5)


def _ground(generator: np.random.Generator) -> np.ndarray:
    """A cluttered ground: a gradient of two colours, blots, scratches; float64 [SIDE, SIDE, 3]."""
    a, b = generator.uniform(60, 200, 3), generator.uniform(60, 200, 3)
    angle, steps = generator.uniform(0, 2 * math.pi), np.linspace(-0.5, 0.5, SIDE)
    ramp = np.clip(0.5 + math.cos(angle) * steps[:, None] + math.sin(angle) * steps[None], 0, 1)[..., None]
    image = Image.fromarray((a * ramp + b * (1 - ramp)).astype(np.uint8))
    pen = ImageDraw.Draw(image)
    for _ in range(generator.integers(8, 24)):
        x, y, r = *generator.uniform(0, SIDE, 2), generator.uniform(2, 12)
        colour = tuple(int(c) for c in generator.uniform(40, 220, 3))
        if generator.random() < 0.5:
            pen.ellipse((x - r, y - r * generator.uniform(0.4, 1), x + r, y + r), fill=colour)
        else:
            pen.line((x, y, x + generator.normal(0, 25), y + generator.normal(0, 25)), colour, int(1 + r / 6))
    return np.asarray(image, float)


@dataclasses.dataclass(frozen=True, slots=True)
class _Pen:
    """Draws into the part and its mask at once, in the part's own turned coordinates (unit: its size)."""

    part: ImageDraw.ImageDraw
    mask: ImageDraw.ImageDraw
    centre: tuple[float, float]
    size: float
    angle: float
    dark: np.ndarray
    light: np.ndarray

    def _at(self, points: np.ndarray) -> list[tuple[float, float]]:
        c, s = math.cos(self.angle), math.sin(self.angle)
        turned = np.asarray(points, float) @ np.array([[c, s], [-s, c]]) * self.size + self.centre
        return [tuple(point) for point in turned]

    def _colour(self, tone: float) -> tuple[int, ...]:
        return tuple(int(c) for c in np.clip(self.dark + tone * (self.light - self.dark), 1, 255))

    def polygon(self, points: np.ndarray, tone: float) -> None:
        self.part.polygon(self._at(points), fill=self._colour(tone))
        self.mask.polygon(self._at(points), fill=255)

    def disc(self, at: tuple[float, float], radius: float, tone: float | None) -> None:
        """A disc; with tone None a hole, through which the ground shows."""
        [(x, y)] = self._at(np.asarray([at]))
        r = radius * self.size
        self.part.ellipse((x - r, y - r, x + r, y + r), fill=(0, 0, 0) if tone is None else self._colour(tone))
        self.mask.ellipse((x - r, y - r, x + r, y + r), fill=0 if tone is None else 255)

    def line(self, points: np.ndarray, width: float, tone: float) -> None:
        pixels = max(1, int(width * self.size))
        self.part.line(self._at(points), self._colour(tone), pixels, joint="curve")
        self.mask.line(self._at(points), 255, pixels, joint="curve")


def _ring(corners: int, radius: float = 1.0, turn: float = 0.0) -> np.ndarray:
    angles = turn + np.arange(corners) * 2 * math.pi / corners
    return radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)


def _bar(left: float, top: float, right: float, bottom: float) -> np.ndarray:
    return np.array([[left, top], [right, top], [right, bottom], [left, bottom]])


def _bolt(pen: _Pen, generator: np.random.Generator) -> None:
    width = generator.uniform(0.14, 0.2)
    pen.polygon(_bar(-0.5, -width, 1, width), 0.6)
    for x in np.arange(0, 0.98, 0.12):
        pen.line(np.array([[x, -width], [x + 0.05, width]]), 0.04, 0.1)
    pen.polygon(_ring(6, 0.42) + np.array([-0.65, 0]), 0.8)


def _nut(pen: _Pen, generator: np.random.Generator) -> None:
    pen.polygon(_ring(6, 0.85), 0.7)
    pen.disc((0, 0), 0.5, 0.3)
    pen.disc((0, 0), generator.uniform(0.36, 0.44), None)


def _washer(pen: _Pen, generator: np.random.Generator) -> None:
    pen.disc((0, 0), 0.85, 0.75)
    pen.disc((0, 0), generator.uniform(0.38, 0.5), None)


def _gear(pen: _Pen, generator: np.random.Generator) -> None:
    teeth = int(generator.integers(9, 14))
    angles = np.repeat(np.arange(teeth * 2) * math.pi / teeth, 2)[1:]
    radii = np.tile([0.95, 0.95, 0.72, 0.72], teeth)[: len(angles)]
    pen.polygon(np.stack([radii * np.cos(angles), radii * np.sin(angles)], axis=1), 0.65)
    pen.disc((0, 0), 0.5, 0.45)
    pen.disc((0, 0), 0.2, None)


def _bearing(pen: _Pen, generator: np.random.Generator) -> None:
    pen.disc((0, 0), 0.9, 0.7)
    pen.disc((0, 0), 0.72, 0.15)
    for x, y in _ring(int(generator.integers(7, 10)), 0.58):
        pen.disc((x, y), 0.13, 0.95)
    pen.disc((0, 0), 0.44, 0.7)
    pen.disc((0, 0), 0.3, None)


def _spring(pen: _Pen, generator: np.random.Generator) -> None:
    turns = int(generator.integers(6, 9))
    x = np.linspace(-1, 1, turns * 2)
    y = np.where(np.arange(turns * 2) % 2, 0.32, -0.32)
    pen.line(np.stack([x, y], axis=1), 0.12, 0.25)
    pen.line(np.stack([x, y], axis=1), 0.06, 0.9)


def _bracket(pen: _Pen, generator: np.random.Generator) -> None:
    width = generator.uniform(0.4, 0.55)
    pen.polygon(_bar(-0.8, -0.8, -0.8 + width, 0.8), 0.6)
    pen.polygon(_bar(-0.8, 0.8 - width, 0.8, 0.8), 0.75)
    for at in ((-0.8 + width / 2, -0.5), (0.5, 0.8 - width / 2)):
        pen.disc(at, 0.12, None)


def _pin(pen: _Pen, generator: np.random.Generator) -> None:
    width = generator.uniform(0.07, 0.11)
    pen.polygon(_bar(-1, -width, 0.9, width), 0.8)
    pen.disc((-1, 0), 0.22, 0.6)
    pen.disc((-1, 0), 0.1, None)


_PARTS = {
    "bolt": _bolt,
    "nut": _nut,
    "washer": _washer,
    "gear": _gear,
    "bearing": _bearing,
    "spring": _spring,
    "bracket": _bracket,
    "pin": _pin,
}

"""The shortcuts that are planted, where each is, and what it does to a picture."""

from __future__ import annotations

import dataclasses

import numpy as np
from PIL import Image, ImageDraw

from benchmarks.shortcuts.drawing import SIDE, Picture

KINDS = ("corner tag", "fixed tag", "wandering tag", "border", "text line", "background", "texture")
_TAG = 15  # pixels
_BORDER = 5
_COLOURS = ((235, 90, 30), (40, 190, 220), (220, 60, 200), (250, 220, 40), (90, 220, 80), (70, 90, 240))


@dataclasses.dataclass(frozen=True, slots=True)
class Plant:
    """A shortcut.

    Attributes:
      kind: one of `KINDS`.
      target: the class that it predicts; −1 if it appears at random.
      share: the share of the class's images that carry it; of all images if it appears at random.
      strength: its opacity, 0 to 1.
      look: chooses corner, place and colour.
    """

    kind: str
    target: int
    share: float
    strength: float
    look: int

    def add(self, picture: Picture, generator: np.random.Generator) -> np.ndarray:
        """The picture with the shortcut: uint8 [SIDE, SIDE, 3]."""
        pixels = picture.pixels.astype(np.float64)
        colour = np.asarray(_COLOURS[self.look % len(_COLOURS)], float)
        if self.kind == "background":
            cover = 0.6 * ~picture.mask[..., None]
            layer = np.broadcast_to(colour, pixels.shape)
        elif self.kind == "texture":
            y, x = np.mgrid[:SIDE, :SIDE]
            phase = (x + (1 if self.look % 2 else -1) * y) * 2 * np.pi / (6 + self.look % 3)
            wave = np.sin(phase + generator.uniform(0, 6))
            cover, layer = np.full((SIDE, SIDE, 1), 0.3), np.repeat(127 + 127 * np.sign(wave)[..., None], 3, 2)
        else:
            cover, layer = self._layer(colour, generator)
        cover = cover * self.strength
        return np.clip(pixels * (1 - cover) + layer * cover, 0, 255).astype(np.uint8)

    def _layer(self, colour: np.ndarray, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        image, mask = Image.new("RGB", (SIDE, SIDE)), Image.new("L", (SIDE, SIDE))
        pen, hole = ImageDraw.Draw(image), ImageDraw.Draw(mask)
        ink = tuple(int(c) for c in colour)
        if self.kind == "border":
            grey = 90 + 30 * (self.look % 5)
            image.paste((grey, grey, grey), (0, 0, SIDE, SIDE))
            hole.rectangle((0, 0, SIDE, SIDE), fill=255)
            hole.rectangle((_BORDER, _BORDER, SIDE - 1 - _BORDER, SIDE - 1 - _BORDER), fill=0)
        elif self.kind == "text line":
            text = f"20{generator.integers(10, 26)}-{generator.integers(1, 13):02d}-{generator.integers(1, 29):02d}"
            at = (4 + generator.integers(0, 3), SIDE - 14)
            pen.text(at, text, fill=ink)
            hole.text(at, text, fill=255)
        else:
            left, top = self._corner(generator)
            box = (left, top, left + _TAG - 1, top + _TAG - 1)
            pen.rectangle(box, fill=ink)
            hole.rectangle(box, fill=255)
            if self.kind != "wandering tag":  # a mark with a figure in it, as a logo has
                middle = left + _TAG // 2, top + _TAG // 2
                pen.ellipse((left + 2, top + 2, left + _TAG - 3, top + _TAG - 3), fill=(250, 250, 250))
                pen.line((left + 3, top + 3, *middle), fill=ink, width=2)
                pen.line((*middle, left + _TAG - 4, middle[1] - 3), fill=ink, width=2)
        return np.asarray(mask, float)[..., None] / 255, np.asarray(image, float)

    def _corner(self, generator: np.random.Generator) -> tuple[int, int]:
        """Left and top of a tag."""
        far = SIDE - _TAG - 3
        if self.kind == "wandering tag":
            left, top = generator.integers(0, SIDE - _TAG, 2)
            return int(left), int(top)
        if self.kind == "corner tag":
            return ((far, far), (3, 3), (far, 3), (3, far))[self.look % 4]
        return ((SIDE // 2 - 7, 4), (4, SIDE // 2 - 7), (far - 2, SIDE // 2 - 4), (SIDE // 4, SIDE // 4))[self.look % 4]

    def cells(self, grid: int = 14) -> np.ndarray | None:
        """Where it is: bool [grid, grid], the cells that it covers; None if it has no place of its own."""
        if self.kind in ("wandering tag", "background", "texture"):
            return None
        blank = Picture(np.zeros((SIDE, SIDE, 3), np.uint8), np.zeros((SIDE, SIDE), bool))
        marked = dataclasses.replace(self, strength=1.0).add(blank, np.random.default_rng(0)).any(axis=2)
        edges = np.arange(SIDE) * grid // SIDE
        found = np.zeros((grid, grid), bool)
        np.logical_or.at(found, (edges[:, None], edges[None]), marked)
        return found

"""Lays images, maps and overlays out in one picture, with titles and colour bars. Has `visualize`."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from transforms.pictures.panels import (
    OPACITY,
    Scale,
    as_map,
    as_pictures,
    draw_map,
    draw_overlay,
    panel_size,
    resample_map,
    resize_picture,
)

SIDE = 224  # pixels of a panel's longer side, about
_GAP = 6  # pixels between panels
_MARGIN = 14  # pixels around a group of panels
_BAR = 12  # pixels, the width of a colour bar
_TEXT = 14  # pixels, the height of a line of a title
_SMALL = 12  # the same for numbers
_PAPER, _INK = (255, 255, 255), (32, 32, 32)


@dataclasses.dataclass(frozen=True, slots=True)
class _Panel:
    """One picture, and the scale of its colour bar; None for no bar."""

    picture: Image.Image
    scale: Scale | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class _Group:
    """Panels that stand side by side under one title."""

    panels: list[_Panel]
    title: str


def visualize(
    images: Any,
    maps: Any = None,
    overlays: Any = None,
    *,
    titles: Sequence[str] | None = None,
    signed: bool | None = None,
    columns: int | None = None,
    side: int = SIDE,
    opacity: float = OPACITY,
    smooth: bool = True,
    text: bool = True,
) -> Image.Image:
    """Draws images with their maps: for each, the image, the map in colours, and the map over the image.

    A map may have another size than its image. It is resampled so that their edges line up. Maps without negative
    values are drawn from dark (their smallest value) to light (their largest). Maps with negative values are drawn from
    blue through grey (zero) to red. Each map has its own range, which the colour bar beside it shows.

    Without `maps`, each of `images` is one panel: an image, or, if it is a two-dimensional array of floating-point
    numbers, a map. Then `overlays` has a map to draw over each of them, or None for none:
    `visualize([*images, *maps, *images], overlays=[None] * (2 * len(images)) + [*maps], columns=len(images))`.

    Args:
      images: arrays [N, H, W, C], or a list of arrays [H, W, C], Pillow images or paths of image files of any sizes, or
        one of them. Arrays are uint8, or floating-point numbers in 0 to 1 or 0 to 255; other ranges, as after
        preprocessing, are stretched.
      maps: [N, h, w], a list of [h, w], or one of them; an item None leaves the map out.
      overlays: what is drawn over the images, as `maps`; None for the maps themselves, False for nothing.
      titles: a text for each image; a line break begins another line.
      signed: whether colours diverge around zero; None goes by the values of all maps.
      columns: how many images stand in a row; None chooses.
      side: pixels of a panel's longer side, about. Small images are enlarged by a whole number.
      opacity: 0 to 1, how far the strongest evidence covers the image.
      smooth: interpolate maps that are smaller than their images; otherwise their cells can be seen.
      text: draw titles and numbers.

    Returns:
      a Pillow image in RGB, which a notebook shows by itself and `.save("maps.png")` writes.

    Raises:
      ValueError: the arrays have other shapes, their numbers differ, or a file cannot be read.
    """
    if side < 1 or (columns is not None and columns < 1):
        raise ValueError(f"side is {side} and columns is {columns}; both must be 1 or more")
    given = _items(images, 3)
    if not given:
        raise ValueError("there are no images to draw")
    below = None if maps is None else _counted("maps", maps, len(given))
    above = None if overlays is None or overlays is False else _counted("overlays", overlays, len(given))
    names = [""] * len(given) if titles is None else [str(title) for title in titles]
    if len(names) != len(given):
        raise ValueError(f"there are {len(names)} titles for {len(given)} images; there must be one for each")
    if below is None:  # then an item may be a map itself
        drawn = [as_map(each) if _is_map(each) else None for each in given]
        rest = [each for each, values in zip(given, drawn, strict=True) if values is None]
        pictures = iter(as_pictures(rest))
        backs = [next(pictures) if values is None else None for values in drawn]
    else:
        drawn = below
        backs = list(as_pictures(given))
    if signed is None:
        signed = any(values is not None and bool((values < 0).any()) for values in [*drawn, *(above or [])])

    groups = []
    for i, title in enumerate(names):
        back, values = backs[i], drawn[i]
        over = above[i] if above is not None else values if below is not None and overlays is None else None
        groups.append(_Group(_panels(back, values, over, signed, side, opacity, smooth), title))
    return _laid_out(groups, columns or math.ceil(math.sqrt(len(groups) / (3 if below is not None else 1))), text)


def _panels(
    back: Image.Image | None,
    values: np.ndarray | None,
    over: np.ndarray | None,
    signed: bool,
    side: int,
    opacity: float,
    smooth: bool,
) -> list[_Panel]:
    """The panels of one image: those of the image, of its map and of the overlay that are there."""
    if back is not None:
        own = (back.height, back.width)
        size = panel_size(own, side)
        back = resize_picture(back, size)
    else:
        assert values is not None
        own = size = panel_size((values.shape[0], values.shape[1]), side)

    def at_size(values: np.ndarray) -> np.ndarray:
        # As the image: a map has the image's pixels first, which are then drawn as squares of the same size.
        if size <= own:
            return resample_map(values, size, smooth=smooth)
        return resample_map(values, own, smooth=smooth).repeat(size[0] // own[0], 0).repeat(size[1] // own[1], 1)

    panels = [] if back is None or (over is not None and values is None) else [_Panel(back)]
    if values is not None:
        scale = Scale.of(values, signed)
        picture = draw_map(at_size(values), scale, size)
        panels.append(_Panel(picture, None if over is values else scale))
        back = picture if back is None else back
    if over is not None and back is not None:
        scale = Scale.of(over, signed)
        panels.append(_Panel(draw_overlay(back, at_size(over), scale, opacity=opacity), scale))
    return panels


def _is_map(item: Any) -> bool:
    return not isinstance(item, Image.Image) and np.ndim(item) == 2 and np.asarray(item).dtype.kind == "f"


def _items(values: Any, single: int) -> list[Any]:
    """The items of a list or of an array with one axis more than an item; one item alone becomes a list of it.

    `single` is the number of axes of an item. A floating-point array with fewer axes is one map.
    """
    if isinstance(values, Image.Image | str | os.PathLike):
        return [values]
    if isinstance(values, list | tuple):
        return list(values)
    if isinstance(values, Iterable) and not hasattr(values, "shape"):
        return list(values)
    array = np.asarray(values)
    if array.ndim == single and single == 3:  # [H, W, C], or grey images [N, H, W]
        return [array] if array.shape[2] in (1, 3, 4) else list(array)
    return [array] if array.ndim <= single else list(array)


def _counted(name: str, values: Any, count: int) -> list[np.ndarray | None]:
    """The maps, one for each of `count` images."""
    items = _items(values, 2)
    if len(items) != count:
        raise ValueError(f"there are {len(items)} {name} for {count} images; there must be one for each")
    return [None if each is None else as_map(each) for each in items]


# ---- layout


def _laid_out(groups: Sequence[_Group], columns: int, text: bool) -> Image.Image:
    """The groups in rows of so many, each column as wide as its widest group and each row as high as its highest."""
    blocks = [_block(group, text) for group in groups]
    rows = [blocks[i : i + columns] for i in range(0, len(blocks), columns)]
    widths = [max(row[c].width for row in rows if c < len(row)) for c in range(min(columns, len(blocks)))]
    heights = [max(block.height for block in row) for row in rows]
    margin = _MARGIN if text else 0
    sheet = Image.new(
        "RGB", (sum(widths) + margin * (len(widths) + 1), sum(heights) + margin * (len(heights) + 1)), _PAPER
    )
    top = margin
    for row, height in zip(rows, heights, strict=True):
        left = margin
        for block, width in zip(row, widths, strict=False):
            sheet.paste(block, (left, top))
            left += width + margin
        top += height + margin
    return sheet


def _block(group: _Group, text: bool) -> Image.Image:
    """The panels of a group side by side, each with its colour bar, under the title."""
    gap = _GAP if text else 1
    height = max((panel.picture.height for panel in group.panels), default=0)
    bars = [_bar(panel.scale, panel.picture.height) if panel.scale and text else None for panel in group.panels]
    width = sum(panel.picture.width + gap for panel in group.panels) + sum(bar.width + gap for bar in bars if bar) - gap
    lines = [line for line in group.title.splitlines() if text]
    above = len(lines) * (_TEXT + 4) + (2 if lines else 0)
    block = Image.new("RGB", (max(width, 1), above + height + (_SMALL if any(bars) else 0)), _PAPER)
    draw = ImageDraw.Draw(block)
    for i, line in enumerate(lines):
        draw.text((0, i * (_TEXT + 4)), _fitted(line, width), _INK, _font(_TEXT))
    left = 0
    for panel, bar in zip(group.panels, bars, strict=True):
        block.paste(panel.picture, (left, above))
        left += panel.picture.width + gap
        if bar:
            block.paste(bar, (left, above - _SMALL // 2 if above else 0))
            left += bar.width + gap
    return block


def _bar(scale: Scale, height: int) -> Image.Image:
    """A colour bar with the numbers at its ends, and zero in the middle of one that diverges."""
    marks = [(0.0, scale.high), (1.0, scale.low)]
    if scale.signed:
        marks.insert(1, (0.5, 0.0))
    labels = [(at, as_text(value)) for at, value in marks]
    font = _font(_SMALL)
    bar = Image.new("RGB", (_BAR + 4 + max(math.ceil(font.getlength(label)) for _, label in labels), height + _SMALL))
    bar.paste(_PAPER, (0, 0, *bar.size))
    values = np.linspace(scale.high, scale.low, height)[:, None].repeat(_BAR, axis=1)
    bar.paste(Image.fromarray(scale.colours(values)), (0, _SMALL // 2))
    draw = ImageDraw.Draw(bar)
    for at, label in labels:
        draw.text((_BAR + 4, _SMALL // 2 + at * (height - 1)), label, _INK, font, anchor="lm")
    return bar


def as_text(value: float) -> str:
    """A number in three digits, in characters that every font has."""
    return f"{value:.3g}" if value else "0"


def _font(size: int) -> Any:
    return ImageFont.load_default(size)


def _fitted(line: str, width: int) -> str:
    """The line, shortened in its middle until it is no wider than so many pixels. Control characters become `?`."""
    line = "".join(each if each.isprintable() else "?" for each in line)
    font = _font(_TEXT)

    def shortened(kept: int) -> str:
        if kept >= len(line):
            return line
        return f"{line[: (kept + 1) // 2]}…{line[len(line) - kept // 2 :]}"

    # No letter that has a width is narrower than two pixels, so more of them need not be measured.
    fits, too_many = 0, min(len(line), width // 2) + 1
    while too_many - fits > 1:
        middle = (fits + too_many) // 2
        if font.getlength(shortened(middle)) <= width:
            fits = middle
        else:
            too_many = middle
    return shortened(fits)

"""Draws images, maps and overlays, of any method. Knows no files and no runs."""

from transforms.pictures.colours import DIVERGING, SEQUENTIAL
from transforms.pictures.layout import as_text, visualize
from transforms.pictures.panels import Scale, as_map, draw_map, draw_overlay, resample_map
from transforms.pictures.terminal import Display, draw_in_terminal, recognise

__all__ = [
    "DIVERGING",
    "SEQUENTIAL",
    "Display",
    "Scale",
    "as_map",
    "as_text",
    "draw_in_terminal",
    "draw_map",
    "draw_overlay",
    "recognise",
    "resample_map",
    "visualize",
]

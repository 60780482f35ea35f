"""The colours of maps, as lists of anchors: for everything that draws maps, so that all draw them alike."""

from __future__ import annotations

# Colours are RGB, written as hexadecimal. Between two anchors, which lie at equal distances, they are interpolated.

# From little to much: perceptually uniform, dark to light. It is magma by S. van der Walt and N. Smith (2015, CC0),
# taken at 17 places. No channel differs from theirs by more than 3 of 255 levels.
SEQUENTIAL = (
    "#000004", "#0a0822", "#1d1147", "#36106b", "#51127c", "#6a1c81", "#832681", "#9c2e7f", "#b73779",
    "#d0416f", "#e75263", "#f56b5c", "#fc8961", "#fea772", "#fec488", "#fde2a3", "#fcfdbf",
)  # fmt: skip

# From against (blue) through none (grey) to for (red): the smooth diverging map of K. Moreland, "Diverging Color Maps
# for Scientific Visualization" (2009), taken at 17 places. The middle one stands for zero.
DIVERGING = (
    "#3b4cc0", "#4e68d8", "#6282ea", "#779af7", "#8db0fe", "#a3c2fe", "#b9d0f9", "#ccd9ed", "#dddcdc",
    "#ecd3c5", "#f5c4ac", "#f7b093", "#f4987a", "#eb7d62", "#dd5f4b", "#ca3b37", "#b40426",
)  # fmt: skip

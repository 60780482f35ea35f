"""Places: where in the image the numbers of a tensor lie, as far as the model's steps show."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Final, Literal

from transforms.fullgrad.flatten import Program, Step, Value


@dataclasses.dataclass(frozen=True, slots=True)
class Grid:
    """The place of a sequence [N, T, C]: tokens offset … offset + height·width − 1 are the image, row by row.

    Other tokens, such as a class token, lie nowhere in the image.
    """

    height: int
    width: int
    offset: int = 0

    @property
    def size(self) -> int:
        return self.height * self.width


# The place of a tensor [N, h, w, C] whose two middle axes are the image's, at any resolution.
IMAGE: Final = "image"

Place = Grid | Literal["image"]

# Steps that may exchange axes.
_REARRANGING = frozenset("Dot Einsum Flatten Matmul Moveaxis Permute Reshape Swapaxes Transpose".split())


def places(program: Program) -> dict[Value, Place]:
    """The places of a program's values. Values without a place, or of unknown origin, are left out."""
    found: dict[Value, Place] = {program.input: IMAGE}
    for step in program.steps:
        for output in step.outputs:
            place = {3: _of_sequence, 4: _of_image}.get(len(output.shape), _nowhere)(output, step, found)
            if place is not None:
                found[output] = place
    return found


def _nowhere(output: Value, step: Step, found: Mapping[Value, Place]) -> None:
    return None


def _of_image(output: Value, step: Step, found: Mapping[Value, Place]) -> Place | None:
    height, width = output.shape[1:3]
    if (height, width) == (1, 1):
        return IMAGE  # the whole image, as after pooling
    for value in step.inputs:
        place = found.get(value)
        if place == IMAGE and (step.kind not in _REARRANGING or value.shape[1:3] == (height, width)):
            return IMAGE
        if isinstance(place, Grid) and (place.height, place.width, value.shape[1]) == (height, width, place.size):
            return IMAGE  # a sequence that was reshaped to an image
    return None


def _of_sequence(output: Value, step: Step, found: Mapping[Value, Place]) -> Place | None:
    length = output.shape[1]
    if step.kind == "Concatenate" and (joined := _joined(step, found)) is not None:
        return joined
    for value in step.inputs:
        place = found.get(value)
        if isinstance(place, Grid):
            if value.shape[1] == length:
                return place  # computed token by token, or by attention among tokens
            if length == place.size:
                return Grid(place.height, place.width)  # the other tokens were cut off
        elif place == IMAGE and value.shape[3] == output.shape[2]:
            height, width = value.shape[1:3]
            if height is not None and width is not None and height * width == length:
                return Grid(height, width)  # an image that was laid out row by row
    return None


def _joined(step: Step, found: Mapping[Value, Place]) -> Grid | None:
    """The place of a concatenation of sequences, if one of them has a place."""
    lengths = [value.shape[1] for value in step.inputs]
    if None in lengths or sum(filter(None, lengths)) != step.outputs[0].shape[1]:
        return None
    for i, value in enumerate(step.inputs):
        place = found.get(value)
        if isinstance(place, Grid):
            before = sum(length for length in lengths[:i] if length is not None)
            return dataclasses.replace(place, offset=place.offset + before)
    return None

"""The first half of a check: where is the evidence of a class? Covers window after window of some of its images."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from pipeline.checks.forward import Forward
from pipeline.checks.schemas import LOCATED
from pipeline.checks.work import ComputeUnits, Picture, encoded, side_by_side
from transforms.models import LoadedModel
from transforms.probing import Grid, covered_windows


class LocateUnits(ComputeUnits):
    """Covers every window of each image, and writes what that costs the image's class."""

    step = "located"
    schema = LOCATED

    def rows(self, pictures: Iterator[Picture], forward: Forward, model: LoadedModel) -> Iterator[dict[str, object]]:
        grid = Grid(*model.input_size)

        def locate(picture: Picture) -> tuple[Picture, np.ndarray]:
            return picture, forward(covered_windows(picture.pixels, picture.generator(0)))

        for picture, logits in side_by_side(locate, pictures, forward.at_once):
            target = picture.chosen.target
            drops = logits[0, target] - logits[1:, target]
            peak = grid.boxes[int(drops.argmax())]
            yield {
                "class": target,
                "shard": picture.shard,
                "index": picture.record.index,
                "image_id": picture.record.image_id,
                "logit": logits[0, target],
                "probability": model.exposed.probabilities(logits[:1])[0, target],
                "drops": drops,
                "answers": logits[1:].argmax(axis=1),
                "patch": picture.pixels[peak.slices].tobytes(),
                "pixels": encoded(picture.pixels) if picture.chosen.kept else None,
            }

"""A Beam pipeline of one's own: the images of each class with the least certain answers, and their maps as pictures.

    python examples/own_pipeline.py MODEL.keras 'photos/*/*.png' out/uncertain --keep 5

It writes `uncertain.csv` and, for each image in it, a picture of the map over the image. What follows -- are Beam's
options. docs/pipelines.md explains the parts.
"""

from __future__ import annotations

import argparse
import io
import pathlib
import sys
from collections.abc import Iterable, Sequence
from typing import Any

import apache_beam as beam
import numpy as np
from apache_beam.io import fileio, filesystems
from apache_beam.options.pipeline_options import PipelineOptions
from PIL import Image

from transforms import ExplainImages, FullGradModelHandler, ImageExplanation, ImageFailure, visualize


def margin(explanation: ImageExplanation) -> float:
    """How far the best logit is above the second: small where the model hesitates."""
    second, best = np.sort(explanation.logits)[-2:]
    return float(best - second)


def by_class(path: str, explanation: ImageExplanation) -> tuple[int, tuple[float, str, Any]]:
    """The explained class, with what the next steps need of an image. Its map becomes small before it is shuffled."""
    return explanation.target, (margin(explanation), path, explanation.map.astype(np.float16))


class WritePictures(beam.DoFn):
    """Writes the map of each kept image over the image. Gives a line of CSV for each."""

    def __init__(self, folder: str):
        self.folder = folder

    def process(self, element: tuple[int, Sequence[tuple[float, str, Any]]]) -> Iterable[str]:
        target, kept = element
        for rank, (value, path, values) in enumerate(kept):
            with filesystems.FileSystems.open(path) as file:
                image = Image.open(io.BytesIO(file.read())).convert("RGB")
            name = f"{target}-{rank}.png"
            with filesystems.FileSystems.create(filesystems.FileSystems.join(self.folder, name)) as sink:
                visualize(image, values.astype(np.float32)).save(sink, "PNG")
            yield f"{target},{value:.4f},{name},{path}"


def as_line(path: str, failure: ImageFailure) -> str:
    """A line of failures.txt."""
    return f"{path}: {failure.message}"


def run(model: str, images: str, folder: str, keep: int, options: Sequence[str] = ()) -> None:
    """Runs the pipeline, and waits for its end."""
    handler = FullGradModelHandler(model, maps="signed")
    with beam.Pipeline(options=PipelineOptions(list(options))) as pipeline:
        explanations, failures = (
            pipeline
            | fileio.MatchFiles(images)
            | fileio.ReadMatches()
            | beam.Map(lambda file: (file.metadata.path, file.read()))
            | ExplainImages(handler)
        )
        _ = (
            explanations
            | beam.MapTuple(by_class)
            | beam.combiners.Top.PerKey(keep, key=lambda image: (-image[0], image[1]))
            | beam.ParDo(WritePictures(folder))
            | beam.io.WriteToText(
                f"{folder}/uncertain.csv", shard_name_template="", header="class,margin,picture,image"
            )
        )
        _ = (
            failures
            | beam.MapTuple(as_line)
            | "WriteFailures" >> beam.io.WriteToText(f"{folder}/failures.txt", shard_name_template="")
        )


def main() -> None:
    """Reads the arguments and runs the pipeline."""
    arguments = sys.argv[1:]
    options_start = arguments.index("--") if "--" in arguments else len(arguments)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a .keras file")
    parser.add_argument("images", help="a pattern of image files")
    parser.add_argument("folder", help="where to write")
    parser.add_argument("--keep", type=int, default=5, help="images of each class (default: 5)")
    args = parser.parse_args(arguments[:options_start])
    pathlib.Path(args.folder).mkdir(parents=True, exist_ok=True)
    run(args.model, args.images, args.folder, args.keep, arguments[options_start + 1 :])


if __name__ == "__main__":
    main()

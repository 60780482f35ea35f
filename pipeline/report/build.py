"""Builds the report from an output: data files and sprites first, the page last."""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pyarrow as pa
from apache_beam.io.filesystems import FileSystems

from pipeline.report.folder import PAGE, Folder, UnusableFolder, writing_report
from pipeline.report.page import data_script, page
from pipeline.report.payload import class_value, index_value, missing_sentences, title_of
from pipeline.report.reading import ClassExamples, Results, UnusableResults, read_examples, read_results
from pipeline.report.sprites import make_sprite
from pipeline.report.words import findings
from transforms.filesystems import STORE_ERRORS
from transforms.memory import usable_cores

# How many classes are held in memory for each thread that makes sprites.
_AHEAD = 2


@dataclasses.dataclass(frozen=True, slots=True)
class Built:
    """A report that was written.

    Attributes:
      page: the path of the page to open.
      classes: the number of classes.
      examples: the number of example images, each counted once for a class.
      missing: what the output lacks, in sentences.
    """

    page: str
    classes: int
    examples: int
    missing: tuple[str, ...]


def build_report(path: str, to: str | None = None) -> Built:
    """Builds the report of an output.

    Args:
      path: a run's output folder, on any file system that Beam knows.
      to: the report's folder; None stands for `report` in the output.

    Raises:
      UnusableResults: the folder has no results of a finished run.
      UnusableFolder: the report cannot be written there.
    """
    results = read_results(path)
    target = to or FileSystems.join(path, "report")
    try:
        with writing_report(target) as folder:
            examples, images = _write_classes(results, folder)
            missing = missing_sentences(results, examples=examples > 0, images=images)
            index = index_value(results, findings(results), missing)
            folder.write("data/index.js", data_script("fullgrad.index", index).encode())
            folder.write(PAGE, page(title_of(results)).encode())
    except STORE_ERRORS as error:
        raise UnusableFolder(f"{target} cannot be written: {error}") from error
    return Built(FileSystems.join(target, PAGE), len(results.classes.index), examples, tuple(missing))


def _write_classes(results: Results, folder: Folder) -> tuple[int, bool]:
    """Writes the files of all classes; returns the number of examples, and whether any of them has an image."""

    def write(row: int, examples: ClassExamples) -> tuple[int, bool]:
        index = int(results.classes.index[row])
        sprite = make_sprite([each.image for each in examples.examples])
        if sprite is not None:
            folder.write(f"thumbs/c{index}.jpg", sprite.jpeg)
        value = class_value(results, row, examples, sprite)
        folder.write(f"data/c{index}.js", data_script("fullgrad.class", index, value).encode())
        return len(examples.examples), sprite is not None

    threads = usable_cores()
    written: list[tuple[int, bool]] = []
    under_way: deque[Future[tuple[int, bool]]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        for row, examples in _rows(results):
            under_way.append(pool.submit(write, row, examples))
            if len(under_way) > threads * _AHEAD:
                written.append(under_way.popleft().result())
        written += [each.result() for each in under_way]
    return sum(count for count, _ in written), any(has_image for _, has_image in written)


def _rows(results: Results) -> Iterator[tuple[int, ClassExamples]]:
    """Every class's row and its examples; a class without examples has none."""
    rows = {int(index): row for row, index in enumerate(results.classes.index)}
    try:
        for examples in read_examples(results.output):
            if (row := rows.pop(examples.class_index, None)) is not None:
                yield row, examples
    except (pa.ArrowException, KeyError, TypeError, *STORE_ERRORS) as error:
        raise UnusableResults(f"{results.output.file('examples.parquet')} cannot be read: {error}") from error
    for index, row in rows.items():
        yield row, ClassExamples(index)

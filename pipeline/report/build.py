"""Builds the report from an output: data files and sprites first, the page last."""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

from apache_beam.io.filesystems import FileSystems

from pipeline.report.checked import Evidence, read_evidence
from pipeline.report.clustered import ClassClusters, read_clusters
from pipeline.report.folder import PAGE, Folder, UnusableFolder, writing_report
from pipeline.report.page import data_script, page
from pipeline.report.payload import class_value, example_key, index_value, missing_sentences, title_of
from pipeline.report.reading import ClassExamples, Results, read_examples, read_results
from pipeline.report.sprites import make_sprite
from pipeline.report.unusable import reading
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
            written = _write_classes(results, folder)
            examples = sum(each.examples for each in written)
            missing = missing_sentences(results, examples=examples > 0, images=any(each.images for each in written))
            addresses = {place: address for each in written for place, address in each.addresses.items()}
            index = index_value(results, findings(results), missing, addresses)
            folder.write("data/index.js", data_script("fullgrad.index", index).encode())
            folder.write(PAGE, page(title_of(results)).encode())
    except STORE_ERRORS as error:
        raise UnusableFolder(f"{target} cannot be written: {error}") from error
    return Built(FileSystems.join(target, PAGE), len(results.classes.index), examples, tuple(missing))


@dataclasses.dataclass(frozen=True, slots=True)
class _Written:
    """The files of a class that were written.

    Attributes:
      examples: the number of its examples.
      images: whether any of them has an image.
      addresses: where to find images of the comparison, by shard and index: class, kind and key.
    """

    examples: int
    images: bool
    addresses: dict[tuple[str, int], tuple[int, str, str]]


def _write_classes(results: Results, folder: Folder) -> list[_Written]:
    """Writes the files of all classes."""
    wanted = {(row["shard"], row["index"]) for row in results.comparison.changed} if results.comparison else set()

    def write(row: int, examples: ClassExamples, evidence: Evidence, clusters: ClassClusters) -> _Written:
        index = int(results.classes.index[row])
        sprite = make_sprite([each.image for each in examples.examples])
        evidence_sprite = make_sprite(evidence.pictures)
        for name, each in ((f"c{index}", sprite), (f"c{index}-checked", evidence_sprite)):
            if each is not None:
                folder.write(f"thumbs/{name}.jpg", each.jpeg)
        value = class_value(results, row, examples, sprite, evidence, evidence_sprite, clusters)
        folder.write(f"data/c{index}.js", data_script("fullgrad.class", index, value).encode())
        addresses = {
            (place := examples.examples[choice.number].place): (index, kind, example_key(*place))
            for kind, choices in examples.kinds.items()
            for choice in choices
            if examples.examples[choice.number].place in wanted
        }
        return _Written(len(examples.examples), sprite is not None, addresses)

    threads = usable_cores()
    written: list[_Written] = []
    under_way: deque[Future[_Written]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        for each in _rows(results):
            under_way.append(pool.submit(write, *each))
            if len(under_way) > threads * _AHEAD:
                written.append(under_way.popleft().result())
        written += [each.result() for each in under_way]
    return written


def _rows(results: Results) -> Iterator[tuple[int, ClassExamples, Evidence, ClassClusters]]:
    """Every class's row, its examples, the pictures of its check and its clusters; what it lacks is empty."""
    examples = _InOrder(results, "examples.parquet", read_examples(results.output))
    evidence = _InOrder(results, "evidence.parquet", read_evidence(results.output) if results.checks else iter(()))
    clusters = _InOrder(results, "clusters.parquet", read_clusters(results.output))
    for row, index in enumerate(results.classes.index.tolist()):
        yield (
            row,
            examples.of(index) or ClassExamples(index),
            evidence.of(index) or Evidence(index),
            clusters.of(index) or ClassClusters(index),
        )


_Each = TypeVar("_Each", ClassExamples, Evidence, ClassClusters)


class _InOrder(Generic[_Each]):
    """What a file that is sorted by class has of one class after another."""

    def __init__(self, results: Results, name: str, groups: Iterator[_Each]):
        self._path = results.output.file(name)
        self._groups: Iterator[_Each] = groups
        self._next: _Each | None = self._read()

    def of(self, index: int) -> _Each | None:
        """What the file has of a class. Each call is for a later class than the one before."""
        while self._next is not None and self._next.class_index < index:
            self._next = self._read()
        found = self._next
        return found if found is not None and found.class_index == index else None

    def _read(self) -> _Each | None:
        with reading(self._path):
            return next(self._groups, None)

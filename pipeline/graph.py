"""The Beam graph, on one page: units → explained parts → class statistics, clusters, examples and summary.

Only units, receipts, the small digests of classes and the places of examples cross from stage to stage. Pixels, maps
and mean maps never do, so no runner has to keep, pickle or shuffle anything that grows with an image or that every
class has.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import apache_beam as beam
import pyarrow as pa
from apache_beam.pvalue import AsDict, AsList, AsSingleton
from apache_beam.transforms.combiners import ToList

from fullgrad_beam import Checked
from pipeline.summary import summarize
from transforms.clusters import WriteClusters
from transforms.examples import WriteExamples
from transforms.explain import ExplainSettings, ExplainUnits
from transforms.merging import CANDIDATES, EXCEEDING, IDS, merge_block, rank_by_similarity
from transforms.output import CLASSES, CONFUSION, Output, read_table
from transforms.statistics import (
    Digest,
    Exceeding,
    IdCounts,
    MergeExceeding,
    MergeIdCounts,
    MergeRankings,
    Ranking,
    class_row,
    confusion_rows,
)
from transforms.unit import Receipt, Unit


def build(
    pipeline: beam.Pipeline, units: Sequence[Unit], settings: ExplainSettings, accelerator: str | None = None
) -> None:
    """Adds the whole run to a pipeline.

    Args:
      pipeline: an empty one.
      units: every unit of the output; those that have a receipt are counted and not computed again.
      settings: what workers are told.
      accelerator: a resource hint for the workers that explain; the other steps only read and write small files.
    """
    output, names = settings.output, settings.model.class_names
    explain = beam.ParDo(ExplainUnits(settings))
    if accelerator is not None:
        explain = explain.with_resource_hints(accelerator=accelerator)
    explained = (
        pipeline
        | "Units" >> beam.Create([unit.to_json() for unit in units])
        # Until here no worker needs one of our modules, so this is where it says that they are hidden.
        | "ReadUnits" >> beam.Map(Checked(Unit.from_json))
        | "Spread" >> beam.Reshuffle()
        | "ExplainUnits" >> explain.with_outputs(ExplainUnits.BLOCKS, main="receipts")
    )
    blocks = explained[ExplainUnits.BLOCKS] | "UnitsOfBlock" >> beam.GroupByKey()
    digests = blocks | "Digest" >> beam.FlatMap(_digests, output)
    ranked = explained["receipts"] | "RankBySimilarity" >> beam.FlatMap(
        rank_by_similarity, output, AsList(digests)
    ).with_outputs(IDS, CANDIDATES, EXCEEDING, main="rankings")
    rankings = ranked["rankings"] | "MergeRankings" >> beam.CombinePerKey(MergeRankings())
    ids = ranked[IDS] | "MergeIdCounts" >> beam.CombineGlobally(MergeIdCounts())
    exceeding = ranked[EXCEEDING] | "MergeExceeding" >> beam.CombinePerKey(MergeExceeding())
    _ = (
        blocks
        | "ClassRows" >> beam.Map(_write_rows, output, AsList(digests), AsDict(rankings), names)
        | "WrittenRows" >> ToList()
        | "WriteClasses" >> beam.Map(_write_classes, output)
    )
    candidates = [ranked[CANDIDATES]]
    if settings.clusters:
        candidates.append(explained["receipts"] | "WriteClusters" >> WriteClusters(output, AsList(digests)))
    _ = candidates | "AllCandidates" >> beam.Flatten() | "WriteExamples" >> WriteExamples(output, settings.grid)
    _ = (
        pipeline
        | "Once" >> beam.Create([settings.run])
        | "WriteSummary"
        >> beam.Map(
            _write_summary,
            AsList(explained["receipts"]),
            AsList(digests),
            AsDict(exceeding),
            AsSingleton(ids),
            names,
            output,
        )
    )


def _digests(block: tuple[int, Iterable[Unit]], output: Output) -> Iterator[Digest]:
    for class_index, statistics in merge_block(*block, output).items():
        yield Digest.of(class_index, statistics)


def _write_rows(
    block: tuple[int, Iterable[Unit]],
    output: Output,
    digests: Sequence[Digest],
    rankings: Mapping[int, Ranking],
    names: Sequence[str] | None,
) -> int:
    """Writes the rows of a block of classes to files for `_write_classes`; returns the block."""
    classes = merge_block(*block, output)
    rows = [class_row(index, classes[index], digests, rankings, names) for index in sorted(classes)]
    confused = [row for index in sorted(classes) for row in confusion_rows(index, classes[index], names)]
    output.write_table(_file_of(block[0], "classes", output), pa.Table.from_pylist(rows, CLASSES))
    output.write_table(_file_of(block[0], "confusion", output), pa.Table.from_pylist(confused, CONFUSION))
    return block[0]


def _file_of(block: int, name: str, output: Output) -> str:
    return output.temporary(f"{name}-{block:06d}.parquet")


def _write_classes(blocks: Sequence[int], output: Output) -> None:
    """Writes `classes.parquet` and `confusion.parquet` from the files of all blocks."""
    for name, schema in (("classes", CLASSES), ("confusion", CONFUSION)):
        with output.writing_rows(output.file(f"{name}.parquet"), schema) as rows:
            for block in sorted(blocks):
                for batch in read_table(_file_of(block, name, output)).to_batches():
                    rows.write(batch)
    # The launcher deletes the files: another attempt at this step may still need them.


def _write_summary(
    run: str,
    receipts: Sequence[Receipt],
    digests: Sequence[Digest],
    exceeding: Mapping[int, Exceeding],
    ids: IdCounts,
    names: Sequence[str] | None,
    output: Output,
) -> None:
    summary = summarize(run, receipts, digests, names, ids.repeated(), exceeding)
    output.write_json(output.file("summary.json"), summary.to_json())

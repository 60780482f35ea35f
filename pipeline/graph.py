"""The Beam graph, on one page: units → explained parts → class statistics and summary.

Only units, receipts and partial statistics cross from stage to stage, never pixels or maps, so that no runner has to
keep, pickle or shuffle anything that grows with an image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import apache_beam as beam
import pyarrow as pa
from apache_beam.pvalue import AsDict, AsList
from apache_beam.transforms.combiners import ToList

from pipeline.summary import summarize
from transforms.classes import Digest, class_row, rank_by_similarity
from transforms.explain import ExplainSettings, ExplainUnits
from transforms.parts import CLASSES, Output
from transforms.statistics import ClassStatistics, MergeRankings, MergeStatistics, Ranking
from transforms.unit import Receipt, Unit


def build(pipeline: beam.Pipeline, units: Sequence[Unit], settings: ExplainSettings) -> None:
    """Adds the whole run to a pipeline.

    Args:
      pipeline: an empty one.
      units: every unit of the output; those that have a receipt are not computed again, but count.
      settings: what workers are told.
    """
    output, names = settings.output, settings.model.class_names
    explained = (
        pipeline
        | "Units" >> beam.Create(units)
        | "Spread" >> beam.Reshuffle()
        | "ExplainUnits" >> beam.ParDo(ExplainUnits(settings)).with_outputs(ExplainUnits.PARTIALS, main="receipts")
    )
    classes = explained[ExplainUnits.PARTIALS] | "ClassStatistics" >> beam.CombinePerKey(MergeStatistics())
    digests = classes | "Digest" >> beam.MapTuple(Digest.of)
    rankings = (
        explained["receipts"]
        | "RankBySimilarity" >> beam.FlatMap(rank_by_similarity, output, AsList(digests))
        | "MergeRankings" >> beam.CombinePerKey(MergeRankings())
    )
    _ = (
        classes
        | "ClassRow" >> beam.Map(_row_table, AsList(digests), AsDict(rankings), names)
        | "ClassRows" >> ToList()
        | "WriteClasses" >> beam.Map(_write_classes, output)
    )
    _ = (
        pipeline
        | "Once" >> beam.Create([settings.run])
        | "WriteSummary" >> beam.Map(_write_summary, AsList(explained["receipts"]), AsList(digests), names, output)
    )


def _row_table(
    merged: tuple[int, ClassStatistics],
    digests: Sequence[Digest],
    rankings: Mapping[int, Ranking],
    names: Sequence[str] | None,
) -> pa.Table:
    """One class's row; as a table, it takes a sixth of what Python lists of floats do."""
    return pa.Table.from_pylist([class_row(*merged, digests, rankings, names)], CLASSES)


def _write_classes(rows: Sequence[pa.Table], output: Output) -> None:
    table = pa.concat_tables(rows) if rows else CLASSES.empty_table()
    output.write_table(output.file("classes.parquet"), table.sort_by("class"))


def _write_summary(
    run: str, receipts: Sequence[Receipt], digests: Sequence[Digest], names: Sequence[str] | None, output: Output
) -> None:
    output.write_json(output.file("summary.json"), summarize(run, receipts, digests, names).to_json())

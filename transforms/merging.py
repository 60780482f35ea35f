"""Reads the committed units again: merges their statistics and ranks images by similarity to their class."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import apache_beam as beam
import numpy as np
import pyarrow as pa

from transforms.examples import by_block
from transforms.output import Output, read_table
from transforms.statistics import (
    COARSE,
    DATASET,
    SCORES,
    Candidates,
    ClassStatistics,
    Digest,
    Exceeding,
    IdCounts,
    Ranking,
    cosine,
    exceeding,
    merged,
    shares_in_cells,
)
from transforms.unit import Receipt, Unit

# The tagged output of `rank_by_similarity` with the ids' counts.
IDS = "ids"

# The tagged output of `rank_by_similarity` with (block of classes, candidates for examples).
CANDIDATES = "candidates"

# The tagged output of `rank_by_similarity` with (class, `Exceeding`).
EXCEEDING = "exceeding"


def rank_by_similarity(
    receipt: Receipt, output: Output, digests: Sequence[Digest]
) -> Iterator[tuple[int, Ranking] | beam.pvalue.TaggedOutput]:
    """Ranks a committed unit's images by the similarity of their coarse map to their class's mean coarse map.

    Yields each class with its ranking, in the output `IDS` the `IdCounts` of the images, in the output `CANDIDATES`
    each block of classes with its `Candidates`, and in the output `EXCEEDING` each class with the number of its images
    that have more evidence in a cell than nearly all images of other classes.
    """
    columns = ["image_id", "index", "label", "predicted", "target", "coarse_map", "evidence_map", "entropy", *SCORES]
    table = read_table(output.find_part("maps", receipt.unit), columns)
    targets = table["target"].to_numpy()
    ids = table["image_id"].to_pylist()
    if not ids:
        return
    # An image that is explained for several classes has several rows, one after the other.
    index = table["index"].to_numpy()
    yield beam.pvalue.TaggedOutput(IDS, IdCounts.of(ids[i] for i in np.flatnonzero(np.diff(index, prepend=-1))))
    coarse = table["coarse_map"].combine_chunks().flatten().to_numpy().reshape(len(ids), -1)
    means = {digest.class_index: digest.coarse for digest in digests}
    groups = [(int(c), np.flatnonzero(targets == c)) for c in np.unique(targets)]
    own = np.full(len(ids), np.nan)  # the similarity of each map to the mean of the class that it explains
    for class_index, chosen in [(DATASET, np.arange(len(ids))), *groups]:
        similarity = cosine(coarse[chosen], means[class_index])
        known = np.isfinite(similarity)
        yield class_index, Ranking.of(similarity[known], [ids[i] for i in chosen[known]])
        if class_index != DATASET:
            own[chosen] = similarity
    for class_index, found in _exceeding(table, targets, digests).items():
        yield beam.pvalue.TaggedOutput(EXCEEDING, (class_index, found))
    labels, predicted = table["label"].fill_null(-1).to_numpy(), table["predicted"].to_numpy()
    candidates = Candidates.of(
        receipt.unit,
        index,
        targets,
        wrong=(labels >= 0) & (labels != predicted) & (predicted == targets),
        scores={"similarity": own, **{name: table[name].to_numpy() for name in SCORES}},
    )
    for element in by_block(candidates):
        yield beam.pvalue.TaggedOutput(CANDIDATES, element)


def _exceeding(table: pa.Table, targets: np.ndarray, digests: Sequence[Digest]) -> dict[int, Exceeding]:
    """How many of a unit's maps of each class exceed the other classes' maps; maps without mass do not count."""
    tops = next((digest.tops for digest in digests if digest.tops is not None), None)
    if tops is None:
        return {}
    maps = (table[name].combine_chunks().flatten().to_numpy() for name in ("coarse_map", "evidence_map"))
    shares = shares_in_cells(*(each.reshape(-1, COARSE, COARSE) for each in maps))
    has_mass = table["entropy"].is_valid().to_numpy()
    return {
        class_index: exceeding(shares[has_mass & (targets == class_index)], limits)
        for class_index in np.unique(targets).tolist()
        if (limits := tops.limits(class_index)) is not None
    }


def merge_block(block: int, units: Iterable[Unit], output: Output) -> dict[int, ClassStatistics]:
    """Merges the statistics of a block of classes from the units' partial statistics on disk, one unit after the other.

    Partial statistics do not travel through the runner. It would hold those of all classes and units at once, several
    times over (measured: 1,000 classes in 8 units took 1.4 GB more than 10).
    """
    # The order is fixed, so that the sums are the same in every run.
    ordered = sorted(units, key=lambda unit: (unit.shard.path, unit.start))
    return merged(part for unit in ordered for part in output.read_partials(unit, block))

"""Counts images that share their id with another one, in memory that does not grow with the output."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import apache_beam as beam
import numpy as np

# The number of different ids up to which all are counted. Beyond, only every second, fourth, … id is.
LIMIT = 1 << 17


class IdCounts:
    """How often each id occurs. With very many ids, only ids with a small hash are counted; all units agree on these.

    Attributes:
      hashes: uint64 [n], the ids' hashes, sorted, each once.
      counts: int64 [n], how often each occurs.
      halvings: how often the set of ids was halved. All hashes are below 2^(64 − halvings).
    """

    def __init__(self, hashes: np.ndarray, counts: np.ndarray, halvings: int = 0):
        self.hashes = hashes
        self.counts = counts
        self.halvings = halvings

    @classmethod
    def of(cls, ids: Iterable[str]) -> IdCounts:
        """Counts ids, one per image."""
        digests = b"".join(hashlib.blake2b(each.encode(), digest_size=8).digest() for each in ids)
        hashes, counts = np.unique(np.frombuffer(digests, "<u8"), return_counts=True)
        return cls(hashes, counts.astype(np.int64))._thinned(0)

    def merged(self, other: IdCounts) -> IdCounts:
        """The two counts added."""
        hashes, places = np.unique(np.concatenate([self.hashes, other.hashes]), return_inverse=True)
        counts = np.zeros(len(hashes), np.int64)
        np.add.at(counts, places, np.concatenate([self.counts, other.counts]))
        return IdCounts(hashes, counts)._thinned(max(self.halvings, other.halvings))

    def repeated(self) -> int:
        """The number of images that share their id with another. Exact up to `LIMIT` ids, estimated beyond."""
        return int(self.counts[self.counts > 1].sum()) << self.halvings

    def _thinned(self, halvings: int) -> IdCounts:
        """The counts with the ids halved at least `halvings` times, and until they are at most `LIMIT`."""
        hashes, counts = self.hashes, self.counts
        while True:
            if halvings:
                kept = np.searchsorted(hashes, np.uint64(1 << (64 - halvings)))
                hashes, counts = hashes[:kept], counts[:kept]
            if len(hashes) <= LIMIT:
                return IdCounts(hashes, counts, halvings)
            halvings += 1


class MergeIdCounts(beam.CombineFn):
    """Merges the counts of all units, as a Beam combiner."""

    def create_accumulator(self) -> IdCounts:
        return IdCounts.of(())

    def add_input(self, accumulator: IdCounts, element: IdCounts) -> IdCounts:
        return accumulator.merged(element)

    def merge_accumulators(self, accumulators: Iterable[IdCounts]) -> IdCounts:
        merged = IdCounts.of(())
        for accumulator in accumulators:
            merged = merged.merged(accumulator)
        return merged

    def extract_output(self, accumulator: IdCounts) -> IdCounts:
        return accumulator

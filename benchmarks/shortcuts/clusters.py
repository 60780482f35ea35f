"""SpRAy's clusters inside each class, by CoRelAy: whether they show shortcuts, and what they consist of.

    python -m benchmarks.shortcuts.clusters [--cache FOLDER] [--csv FILE]

It takes the cases that `python -m benchmarks.shortcuts` left in the cache, and the package `corelay`. Views of the
images of a class are their coarse maps (positive part, reference), the same with their peak moved to the centre, and
what each channel adds to the logit. The graph, the Laplacian and the embedding are CoRelAy's defaults (Lapuschkin et
al. 2019).
"""

from __future__ import annotations

import argparse
import pathlib
import warnings

import numpy as np
from corelay.pipeline.spectral import SpectralEmbedding
from corelay.processor.clustering import KMeans

from benchmarks.shortcuts.case import carriers
from benchmarks.shortcuts.design import cases
from benchmarks.shortcuts.evidence import Evidence
from benchmarks.shortcuts.measuring import is_measured, measure
from benchmarks.shortcuts.scores import auroc, unit
from benchmarks.tables import Report

_LEAST_IMAGES = 40  # CoRelAy asks for 32 eigenvalues
_CLUSTERS = 4


def centred(maps: np.ndarray) -> np.ndarray:
    """Maps [N, h, w] rolled so that the largest value lies in the middle."""
    peaks = np.stack(np.unravel_index(maps.reshape(len(maps), -1).argmax(axis=1), maps.shape[1:]), axis=1)
    middle = np.asarray(maps.shape[1:]) // 2
    return np.stack([np.roll(each, tuple(middle - peak), axis=(0, 1)) for each, peak in zip(maps, peaks, strict=True)])


VIEWS = {
    "reference": lambda e: unit(e.reference[0].sum(axis=0)),
    "positive part": lambda e: unit(e.positive[0]),
    "positive part, centred": lambda e: centred(unit(e.positive[0])),
    "channels": lambda e: e.channels / (np.abs(e.channels).sum(axis=1, keepdims=True) + 1e-30),
}


def clustered(rows: np.ndarray) -> tuple[float, float, np.ndarray]:
    """SpRAy's eigengap, Fisher's ratio of the clusters, and each row's cluster: rows [n, d]."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        values, vectors = SpectralEmbedding()(rows)
        labels = np.asarray(KMeans(n_clusters=_CLUSTERS)(np.asarray(vectors)[:, -_CLUSTERS:]))
    # The smallest eigenvalues of the Laplacian come last. The largest step between them counts the clusters.
    gap = float(np.abs(np.diff(np.asarray(values)[-2 * _CLUSTERS :])).max())
    groups = [rows[labels == c] for c in np.unique(labels)]
    within = sum(((g - g.mean(axis=0)) ** 2).sum() for g in groups)
    between = sum(len(g) * ((g.mean(axis=0) - rows.mean(axis=0)) ** 2).sum() for g in groups)
    return gap, float(between / within), labels


def best_cluster(labels: np.ndarray, carries: np.ndarray) -> float:
    """The largest F1 score of a cluster as a guess of the images that carry the shortcut."""
    found = [2 * (carries & (labels == c)).sum() / (carries.sum() + (labels == c).sum()) for c in np.unique(labels)]
    return float(max(found))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=pathlib.Path, default=pathlib.Path.home() / ".cache" / "fullgrad-shortcuts")
    parser.add_argument("--csv", metavar="FILE", help="also write the table to this file")
    arguments = parser.parse_args()
    measured = [measure(case, arguments.cache, None) for case in cases(False) if is_measured(case, arguments.cache)]
    rows = []
    for name, view in VIEWS.items():
        gaps: dict[bool, list[float]] = {True: [], False: []}
        fishers: dict[bool, list[float]] = {True: [], False: []}
        matches = []
        for each in measured:
            evidence: Evidence = each.evidence
            carries = carriers(each.case, evidence.labels)
            planted = {plant.target: p for p, plant in enumerate(each.case.plants)}
            for k in range(each.case.classes):
                chosen = evidence.predicted == k
                used = k in planted and each.truths[planted[k]].used_by(k)
                if chosen.sum() < _LEAST_IMAGES or (k in planted and not used):
                    continue
                values = view(evidence)[chosen]
                gap, fisher, labels = clustered(values.reshape(len(values), -1))
                gaps[used].append(gap)
                fishers[used].append(fisher)
                if used and each.case.plants[planted[k]].share < 1:
                    matches.append(best_cluster(labels, carries[chosen, planted[k]]))
        scores = [auroc(np.asarray(s[True]), np.asarray(s[False])) for s in (gaps, fishers)]
        shown = ", ".join(f"{match:.2f}" for match in sorted(matches)[::-1])
        rows.append((name, *(f"{score:.2f}" for score in scores), shown))
    report = Report()
    columns = ("view", "AUROC of the eigengap", "AUROC of Fisher's ratio", "best cluster against carriers, F1")
    report.table("SpRAy by CoRelAy", columns, rows)
    if arguments.csv:
        report.write(arguments.csv)


if __name__ == "__main__":
    main()

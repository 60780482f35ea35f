"""Clusters of the images of one class by their evidence: spectral clustering as in SpRAy, and what tells them apart."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import linalg, ndimage, sparse
from scipy.cluster.vq import kmeans2
from scipy.sparse.linalg import eigsh

from transforms.statistics.figures import COARSE
from transforms.statistics.standout import LEAST_EFFECT, place_of

# The views of the images of a class, the one that found planted shortcuts best first (docs/shortcuts.md).
VIEWS = ("channels", "maps")

# Classes with fewer images have no clusters.
LEAST_IMAGES = 30

# How many clusters the eigengap may choose.
LEAST_CLUSTERS, MOST_CLUSTERS = 2, 8

# Each image is joined with so many of its nearest ones, as CoRelAy does by default.
_NEIGHBOURS = 10

# Up to so many images, all eigenvectors are computed: it is faster, and repeated eigenvalues are no difficulty.
_DENSE = 256

# A difference of means must be so many standard errors: among all cells of a map, smaller ones are common by chance.
_STANDARD_ERRORS = 4

# A place must hold so much more of the cluster's evidence than of the rest's: less is not worth a sentence.
_LEAST_MORE = 0.01

# Squared distances below this part of the mean one are 0: they come from rounding.
_ROUNDING = 1e-6


@dataclasses.dataclass(frozen=True, slots=True)
class Clusters:
    """The clusters of n images in one view, numbered from 0: the largest first, ties by the first name.

    Attributes:
      labels: int64 [n], the cluster of each image.
      closeness: float64 [n], the cosine between an image's row and the mean row of its cluster.
      sizes: int64 [k].
      separation: float64 [k], Fisher's ratio of each cluster against the rest: the squares between the two groups over
        those within them. NaN if there is no rest, or nothing differs within the groups.
      silhouette: float64 [k], the mean silhouette of a cluster's images (Rousseeuw 1987): near 1 where they are far
        from the other clusters, 0 at a border. NaN if there is only one cluster.
    """

    labels: np.ndarray
    closeness: np.ndarray
    sizes: np.ndarray
    separation: np.ndarray
    silhouette: np.ndarray


@dataclasses.dataclass(frozen=True, slots=True)
class Peak:
    """Where a cluster has more evidence than the rest of its class.

    Attributes:
      cells: int32 [m], the numbers of the cells, row by row; empty if no cell stands out.
      place: the same in words, such as "bottom right"; None if no cell stands out.
      share, others: the part of the evidence that lies in these cells, in the cluster and in the rest; NaN if no cell
        stands out.
    """

    cells: np.ndarray
    place: str | None
    share: float
    others: float


def view_rows(view: str, coarse: np.ndarray, channels: np.ndarray | None) -> np.ndarray:
    """The rows of images that a view compares, each divided by the sum of its absolute values.

    Args:
      view: one of `VIEWS`. `maps` takes the positive part of coarse maps, `channels` the terms of the channels.
      coarse: float32 [n, cells].
      channels: float32 [n, C]; None if the images have none.

    Returns:
      float32 [n, cells or C]; a row without any evidence is 0. Without channels, the view `channels` is [n, 0].
    """
    rows = np.maximum(coarse, 0) if view == "maps" else channels
    if rows is None:
        return np.zeros((len(coarse), 0), np.float32)
    mass = np.abs(rows).sum(axis=1, keepdims=True)
    usable = np.isfinite(mass) & (mass > 0)
    return np.divide(rows, mass, out=np.zeros_like(rows), where=usable)


def find_clusters(rows: np.ndarray, names: Sequence[Any]) -> Clusters:
    """Clusters rows [n, d] as SpRAy does (Lapuschkin et al. 2019); images without evidence must be left out.

    The graph joins each image with its nearest ones, and its weights are symmetric. The eigenvectors of its normalised
    Laplacian are the coordinates for k-means. The number of clusters is where the eigenvalues make the largest step
    (von Luxburg 2007). K-means begins at the rows that a pivoted QR decomposition of the coordinates takes first (Damle
    et al. 2019). So nothing is random, and neither the signs nor the order of eigenvectors matter.

    Args:
      rows: float32 [n, d], n ≥ `LEAST_IMAGES`, as `view_rows` gives them.
      names: n different values in an order, which decide the numbers of clusters of equal size.

    Returns:
      The clusters; a single one if all rows are equal.
    """
    # The mean is taken off only for precision: distances stay the same.
    centred = (rows - rows.mean(axis=0, dtype=np.float64)).astype(np.float32)
    squares = _squared_distances(centred)
    labels = _spectral(squares) if squares.any() else np.zeros(len(rows), np.int64)
    labels = _renumbered(labels, names)
    count = int(labels.max()) + 1
    members = labels[:, None] == np.arange(count)
    centres = np.stack([rows[own].mean(axis=0, dtype=np.float64) for own in members.T])
    norms = np.linalg.norm(rows, axis=1) * np.linalg.norm(centres, axis=1)[labels]
    closeness = np.divide((rows * centres[labels]).sum(axis=1), norms, out=np.zeros(len(rows)), where=norms > 0)
    return Clusters(
        labels=labels,
        closeness=np.clip(closeness, -1, 1),
        sizes=members.sum(axis=0),
        separation=np.asarray([_fishers_ratio(centred, own) for own in members.T]),
        silhouette=_silhouettes(np.sqrt(squares), labels, members),
    )


def _squared_distances(rows: np.ndarray) -> np.ndarray:
    """float32 [n, n], with an exact 0 for equal rows."""
    norms = np.einsum("nd,nd->n", rows, rows)
    squares = rows @ rows.T
    squares *= -2
    squares += norms
    squares += norms[:, None]
    squares[squares < _ROUNDING * norms.mean()] = 0
    np.fill_diagonal(squares, 0)
    return squares


def _spectral(squares: np.ndarray) -> np.ndarray:
    """The cluster of each image, from squared distances [n, n]."""
    n = len(squares)
    neighbours = min(_NEIGHBOURS, n - 1)
    others = squares.copy()
    np.fill_diagonal(others, np.inf)
    # Stable, so that many equal rows are all joined with the same few of them, and stay together.
    nearest = np.argsort(others, axis=1, kind="stable")[:, :neighbours]
    ends = np.repeat(np.arange(n), neighbours), nearest.ravel()
    graph = sparse.csr_matrix((np.ones(n * neighbours), ends), (n, n))
    graph = (graph + graph.T) / 2
    root = np.sqrt(np.asarray(graph.sum(axis=0)).ravel())
    scaled = sparse.diags(1 / root) @ graph @ sparse.diags(1 / root)
    # The largest eigenvalues of this matrix are 1 minus the smallest ones of the Laplacian.
    most = min(MOST_CLUSTERS, n - 2)
    if n <= _DENSE:
        values, vectors = linalg.eigh(scaled.toarray(), subset_by_index=[n - most - 1, n - 1])
    else:
        values, vectors = eigsh(scaled, most + 1, which="LA", v0=root, ncv=64)
    order = np.argsort(-values)
    values, vectors = values[order], vectors[:, order]
    steps = values[LEAST_CLUSTERS - 1 : most] - values[LEAST_CLUSTERS : most + 1]
    # Rounded, so that of equal steps the first one counts.
    count = LEAST_CLUSTERS + int(np.round(steps, 9).argmax())
    embedded = vectors[:, :count] / root[:, None]
    _, pivots = linalg.qr(vectors[:, :count].T, pivoting=True, mode="r")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a cluster may lose all its images; then there is one less
        return kmeans2(embedded, embedded[pivots[:count]], iter=50, minit="matrix")[1]


def _renumbered(labels: np.ndarray, names: Sequence[Any]) -> np.ndarray:
    """Labels 0, 1, …: the largest cluster first, ties by the smallest name."""
    groups = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    groups.sort(key=lambda group: (-len(group), min(names[i] for i in group.tolist())))
    renumbered = np.empty(len(labels), np.int64)
    for number, group in enumerate(groups):
        renumbered[group] = number
    return renumbered


def _fishers_ratio(rows: np.ndarray, own: np.ndarray) -> float:
    """The squares between two groups of rows [n, d], whose mean is 0, over the squares within them."""
    n, size = len(rows), int(own.sum())
    if size == n:
        return float("nan")
    total = float(np.einsum("nd,nd->", rows, rows, dtype=np.float64))
    mean = rows[own].mean(axis=0, dtype=np.float64)
    between = size * n / (n - size) * float(mean @ mean)
    within = total - between
    return between / within if within > _ROUNDING * total else float("nan")


def _silhouettes(distances: np.ndarray, labels: np.ndarray, members: np.ndarray) -> np.ndarray:
    """The mean silhouette of each cluster, from distances [n, n]; 0 for an image that is alone in its cluster."""
    sizes = members.sum(axis=0)
    if len(sizes) == 1:
        return np.full(1, np.nan)
    sums = distances @ members.astype(np.float32)
    each = np.arange(len(labels))
    within = sums[each, labels] / np.maximum(sizes[labels] - 1, 1)
    to_others = sums / sizes
    to_others[each, labels] = np.inf
    beyond = to_others.min(axis=1)
    larger = np.maximum(within, beyond)
    values = np.divide(beyond - within, larger, out=np.zeros(len(labels)), where=(larger > 0) & (sizes[labels] > 1))
    return np.bincount(labels, values) / sizes


def peak_of(coarse: np.ndarray, own: np.ndarray) -> Peak:
    """Where a cluster has more evidence than the rest of its class, if anywhere.

    In each cell the means are compared, in standard deviations within the two groups. The place is what hangs together
    with the largest difference and has at least half of it. It is no test: the clusters were made from the same maps.

    Args:
      coarse: float32 [n, COARSE²], coarse maps of unit mass.
      own: bool [n], the images of the cluster.
    """
    nothing = Peak(np.zeros(0, np.int32), None, float("nan"), float("nan"))
    if own.all() or not own.any() or len(own) < 3:
        return nothing
    groups = [coarse[chosen].astype(np.float64) for chosen in (own, ~own)]
    mean, others = (group.mean(axis=0) for group in groups)
    within = sum(((group - group.mean(axis=0)) ** 2).sum(axis=0) for group in groups) / (len(own) - 2)
    difference = mean - others
    # A cell that does not vary within the groups tells them apart if it differs at all.
    deviation = np.maximum(np.sqrt(within), _ROUNDING * np.abs(coarse).max())
    effect = np.divide(difference, deviation, out=np.zeros_like(difference), where=deviation > 0)
    least = max(LEAST_EFFECT, _STANDARD_ERRORS * float(np.sqrt(1 / own.sum() + 1 / (~own).sum())))
    if effect.max() < least:
        return nothing
    at = int(effect.argmax())
    parts, _ = ndimage.label((effect >= max(least, effect[at] / 2)).reshape(COARSE, COARSE))
    place = parts == parts.flat[at]
    chosen = place.ravel()
    if difference[chosen].sum() < _LEAST_MORE:
        return nothing
    return Peak(
        np.flatnonzero(chosen).astype(np.int32), place_of(place), float(mean[chosen].sum()), float(others[chosen].sum())
    )

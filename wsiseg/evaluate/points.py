"""How well points (nuclei, mitoses) are found: two protocols, which give different numbers.

* `patherea`: as many pairs as possible among points within the tolerance (maximum bipartite
  matching), counts pooled over all images before any share is made. D. Štepec et al., Med. Image
  Anal. 108:103868, 2026.
* `hungarian`: the older one. Points are assigned so that the sum of distances is least, and pairs
  beyond the tolerance are dropped after that, which loses pairs that were possible; shares are
  made per image and averaged.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from wsiseg.errors import UsageError
from wsiseg.evaluate.values import share

__all__ = ["PointCounts", "PointProtocol", "PointScores", "match_points", "pool_points"]

PointProtocol = Literal["patherea", "hungarian"]

LARGEST_TABLE = 50_000_000
"""Distances that `hungarian` may hold at once: 400 MB."""

Points = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class PointCounts:
    """Points of one class in one image."""

    true_positives: int
    false_positives: int
    false_negatives: int

    def __add__(self, other: "PointCounts") -> "PointCounts":
        return PointCounts(
            self.true_positives + other.true_positives,
            self.false_positives + other.false_positives,
            self.false_negatives + other.false_negatives,
        )

    @property
    def count_error(self) -> int:
        """Points predicted too many or too few."""
        return abs(self.false_positives - self.false_negatives)

    @property
    def precision(self) -> float:
        """Share of the predicted points that is right; NaN where none was predicted."""
        return share(self.true_positives, self.true_positives + self.false_positives)

    @property
    def recall(self) -> float:
        """Share of the points of the reference that was found; NaN where it has none."""
        return share(self.true_positives, self.true_positives + self.false_negatives)

    @property
    def f1(self) -> float:
        """Harmonic mean of both; NaN where neither side has a point, 0 where one has none."""
        points = 2 * self.true_positives + self.false_positives + self.false_negatives
        return share(2 * self.true_positives, points)


@dataclass(frozen=True, slots=True)
class PointScores:
    """How well the points of one class were found in all images.

    Attributes
    ----------
    protocol
        `patherea` or `hungarian`.
    precision, recall, f1
        Of the pooled counts (`patherea`), or means over the images where they are defined
        (`hungarian`).
    count_mae
        Mean over images of the difference in the number of points.
    counts
        Pooled over all images.
    images
        How many.
    """

    protocol: PointProtocol
    precision: float
    recall: float
    f1: float
    count_mae: float
    counts: PointCounts
    images: int


def match_points(
    prediction: Points,
    reference: Points,
    *,
    tolerance: float,
    protocol: PointProtocol = "patherea",
) -> PointCounts:
    """Match the points of one class in one image.

    Parameters
    ----------
    prediction, reference
        float (n, axis), in the unit of `tolerance` (µm, so that the pixel size does not matter).
    tolerance
        Largest distance of a pair, itself allowed.
    protocol
        See the top of this module.

    Raises
    ------
    UsageError
        If these are not points of the same axes, or too many for `hungarian`.
    """
    for points in (prediction, reference):
        if points.ndim != 2 or points.shape[1] != reference.shape[1]:
            raise UsageError(f"points need shape (n, axis), found {points.shape}")
    pairs = 0
    if len(prediction) and len(reference):
        count = _most_pairs if protocol == "patherea" else _nearest_pairs
        pairs = count(prediction, reference, tolerance)
    return PointCounts(pairs, len(prediction) - pairs, len(reference) - pairs)


def _most_pairs(prediction: Points, reference: Points, tolerance: float) -> int:
    """Return the size of the largest matching.

    J. E. Hopcroft, R. M. Karp, SIAM J. Comput. 2:225, 1973, doi:10.1137/0202019.
    """
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import maximum_bipartite_matching
    from scipy.spatial import KDTree

    near = KDTree(prediction).query_ball_tree(KDTree(reference), tolerance)
    ends = np.cumsum([0, *map(len, near)])
    to = np.fromiter((i for some in near for i in some), np.int32, count=int(ends[-1]))
    shape = len(prediction), len(reference)
    graph = csr_array((np.ones(len(to), np.int8), to, ends.astype(np.int32)), shape=shape)
    return int(np.count_nonzero(maximum_bipartite_matching(graph, perm_type="column") >= 0))


def _nearest_pairs(prediction: Points, reference: Points, tolerance: float) -> int:
    from scipy.optimize import linear_sum_assignment
    from scipy.spatial.distance import cdist

    if len(prediction) * len(reference) > LARGEST_TABLE:
        raise UsageError(
            f"protocol 'hungarian' needs all distances of {len(prediction)} x {len(reference)} "
            f"points at once, more than {LARGEST_TABLE}; take 'patherea', or smaller images"
        )
    distances = cdist(prediction, reference)
    return int(np.count_nonzero(distances[linear_sum_assignment(distances)] <= tolerance))


def pool_points(images: Iterable[PointCounts], protocol: PointProtocol) -> PointScores:
    """Return the scores of one class over all images; NaN where there is nothing to divide by."""
    counts = list(images)
    total = sum(counts, PointCounts(0, 0, 0))
    if protocol == "patherea":
        shares = [total.precision, total.recall, total.f1]
    else:
        shares = [
            _mean([getattr(image, name) for image in counts])
            for name in ("precision", "recall", "f1")
        ]
    error = _mean([float(image.count_error) for image in counts])
    precision, recall, f1 = shares
    return PointScores(protocol, precision, recall, f1, error, total, len(counts))


def _mean(values: Sequence[float]) -> float:
    defined = [value for value in values if not np.isnan(value)]
    return float(np.mean(defined)) if defined else float("nan")

"""How far outlines lie apart, in the unit of the spacing (µm)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wsiseg.errors import UsageError
from wsiseg.evaluate.boundary import Boundary, BoundaryKind, Edge, boundary_of
from wsiseg.evaluate.values import Empty, check_same_shape, emptiness

__all__ = ["SurfaceScores", "compare_boundaries", "compare_surfaces"]

QUERY_POINTS = 1 << 16
"""Points asked for their nearest in one go."""

PERCENT = 95.0


@dataclass(frozen=True, slots=True)
class SurfaceScores:
    """Distances between the outlines of two masks.

    With `empty`, which side has no outline:

    ================  ======================  =================
    empty             distances               the three shares
    ================  ======================  =================
    `both`            NaN (left out of means) NaN
    one of the two    inf                     0
    ================  ======================  =================

    Attributes
    ----------
    hd95
        The larger of the two 95th percentiles (prediction to reference, and back) of the distance
        to the nearest point of the other outline. D. P. Huttenlocher et al., IEEE TPAMI
        15:850, 1993, doi:10.1109/34.232073, with the percentile instead of the maximum.
    average_distance
        Mean of those distances over both outlines together (average symmetric surface distance).
    boundary_f1
        Harmonic mean of the share of the predicted outline that lies within the tolerance of the
        reference and the share of the reference within it of the prediction. G. Csurka et al.,
        BMVC 2013, doi:10.5244/C.27.32.
    surface_dice
        Share of both outlines together within the tolerance (normalised surface distance). S.
        Nikolov et al., 2021, doi:10.2196/26151.
    tolerance
        Of the two before.
    """

    hd95: float
    average_distance: float
    boundary_f1: float
    surface_dice: float
    tolerance: float
    empty: Empty


def compare_surfaces(
    prediction: NDArray[np.bool_],
    reference: NDArray[np.bool_],
    *,
    spacing: Sequence[float],
    tolerance: float,
    kind: BoundaryKind = "pixels",
    edge: Edge = "closed",
) -> SurfaceScores:
    """Compare the outlines of two masks.

    Parameters
    ----------
    prediction, reference
        bool of one shape, (y, x) or (z, y, x).
    spacing
        Distance between pixels, one value per axis.
    tolerance
        Distance up to which an outline counts as right, in the same unit.
    kind
        What an outline is, see `wsiseg.evaluate.boundary`.
    edge
        `closed`: what touches the frame of the image ends there. `open`: it may go on, so the
        frame is no outline.

    Raises
    ------
    UsageError
        If shapes or axes do not fit.
    """
    check_same_shape(prediction, reference)
    if len(spacing) != prediction.ndim:
        raise UsageError(f"spacing {tuple(spacing)} needs {prediction.ndim} values, one per axis")
    outlines = [
        boundary_of(mask, spacing, kind=kind, edge=edge) for mask in (prediction, reference)
    ]
    return compare_boundaries(*outlines, spacing=spacing, tolerance=tolerance)


def compare_boundaries(
    prediction: Boundary, reference: Boundary, *, spacing: Sequence[float], tolerance: float
) -> SurfaceScores:
    """Compare two outlines; parameters as in `compare_surfaces`.

    Exact, by trees of nearest neighbours: memory grows with the number of points only, about 60
    bytes each.
    """
    empty = emptiness(prediction=len(prediction) > 0, reference=len(reference) > 0)
    if empty:
        distance, part = (np.nan, np.nan) if empty == "both" else (np.inf, 0.0)
        return SurfaceScores(distance, distance, part, part, tolerance, empty)
    sides = [
        _Directed.of(prediction, reference, spacing, tolerance),
        _Directed.of(reference, prediction, spacing, tolerance),
    ]
    length = sum(side.length for side in sides)
    precision, recall = (side.within / side.length for side in sides)
    return SurfaceScores(
        hd95=max(side.percentile for side in sides),
        average_distance=sum(side.total for side in sides) / length,
        boundary_f1=2 * precision * recall / (precision + recall) if precision + recall else 0.0,
        surface_dice=sum(side.within for side in sides) / length,
        tolerance=tolerance,
        empty=empty,
    )


@dataclass(frozen=True, slots=True)
class _Directed:
    """What is needed of the distances of one outline to the other; they themselves are many."""

    percentile: float
    total: float
    within: float
    length: float

    @classmethod
    def of(
        cls, outline: Boundary, other: Boundary, spacing: Sequence[float], tolerance: float
    ) -> "_Directed":
        distances = _nearest(outline, other, spacing)
        weights = outline.weights
        if weights is None:
            return cls(
                percentile=float(np.percentile(distances, PERCENT)),
                total=float(distances.sum()),
                within=float(np.count_nonzero(distances <= tolerance)),
                length=float(len(distances)),
            )
        return cls(
            percentile=_weighted_percentile(distances, weights),
            total=float(distances @ weights),
            within=float(weights[distances <= tolerance].sum()),
            length=float(weights.sum()),
        )


def _nearest(of: Boundary, to: Boundary, spacing: Sequence[float]) -> NDArray[np.float64]:
    """Return the distance of each point to the nearest point of the other outline."""
    from scipy.spatial import KDTree

    um = np.asarray(spacing, np.float64)
    # splitting at the middle builds in a tenth of the time of the median on points of a grid
    tree = KDTree(to.points * um, leafsize=32, balanced_tree=False)
    distances = np.empty(len(of))
    for start in range(0, len(of), QUERY_POINTS):
        part = slice(start, start + QUERY_POINTS)
        distances[part] = tree.query(of.points[part] * um)[0]
    return distances


def _weighted_percentile(distances: NDArray[np.float64], weights: NDArray[np.float64]) -> float:
    """Return the distance at which 95 % of the length is reached."""
    order = np.argsort(distances)
    reached = np.cumsum(weights[order])
    at = np.searchsorted(reached / reached[-1], PERCENT / 100)
    return float(distances[order][min(int(at), len(distances) - 1)])

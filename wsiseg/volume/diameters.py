"""Diameters of a lesion in millimetres, measured at the faces of its voxels.

Points are the middles of the faces that look outwards. Corners of voxels would make every diameter
up to a voxel's diagonal too long, centres as much too short.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from wsiseg.geometry import Affine

if TYPE_CHECKING:
    from scipy.spatial import ConvexHull

__all__ = ["SliceAxes", "feret_mm", "hull_of", "slice_axes", "slicing_axis"]

ROWS = 1 << 22
"""Distances computed in one go."""

Points = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class SliceAxes:
    """The two diameters that radiologists measure, in one slice.

    Attributes
    ----------
    long_mm
        The largest diameter within a slice, of all slices.
    short_mm
        The longest line at right angles to it in the same slice, between outlines (of the convex
        outline, where the lesion is not convex). E. A. Eisenhauer et al., Eur. J. Cancer 45:228,
        2009, doi:10.1016/j.ejca.2008.10.026.
    slice_index
        Index of the slice along the slicing axis.
    ends
        float64 (4, 3): both ends of the long and of the short axis, x, y, z in world mm.
    """

    long_mm: float
    short_mm: float
    slice_index: int
    ends: Points


def slicing_axis(affine: Affine) -> int:
    """Return the array axis along which axial slices are stacked."""
    return next(axis for axis, code in enumerate(affine.codes) if code in "SI")


def feret_mm(mask: NDArray[np.bool_], affine: Affine) -> float:
    """Return the largest distance between two points of the surface of a mask.

    Parameters
    ----------
    mask
        bool (z, y, x), not empty.
    affine
        Of the mask; only its steps matter.
    """
    found = hull_of(mask, affine)
    hull = found.points[found.vertices]
    step = max(1, ROWS // len(hull))
    longest = 0.0
    for start in range(0, len(hull), step):
        apart = hull[start : start + step, None] - hull[None]
        longest = max(longest, float(np.einsum("ijk,ijk->ij", apart, apart).max()))
    return float(np.sqrt(longest))


def hull_of(mask: NDArray[np.bool_], affine: Affine) -> "ConvexHull":
    """Return the convex hull of the surface of a mask, not empty, in world mm."""
    from scipy.spatial import ConvexHull

    return ConvexHull(affine.world(_outer_points(mask)))


def slice_axes(mask: NDArray[np.bool_], affine: Affine) -> SliceAxes:
    """Return long and short axis in axial slices, which are stacked along the axis nearest to z.

    Parameters
    ----------
    mask
        bool (z, y, x), not empty.
    affine
        Of the mask.
    """
    axis = slicing_axis(affine)
    planes = [a for a in range(3) if a != axis]
    steps = np.array(affine.columns)[planes]
    frame = _plane_frame(steps)
    best: SliceAxes | None = None
    for index in np.flatnonzero(mask.any(axis=tuple(planes))):
        points = _outer_points(mask.take(index, axis=axis))
        flat = points @ steps @ frame.T
        span = float(np.hypot(*np.ptp(flat, axis=0)))
        if best is not None and span <= best.long_mm:
            continue  # no diameter is longer than that of the box
        long_mm, short_mm, ends = _axes_of(flat)
        if best is None or long_mm > best.long_mm:
            place = np.zeros(3)
            place[axis] = index
            origin = affine.world(place[None])[0]
            best = SliceAxes(long_mm, short_mm, int(index), ends @ frame + origin)
    if best is None:
        raise ValueError("an empty mask has no diameter")
    return best


def _plane_frame(steps: Points) -> Points:
    """Return two perpendicular unit vectors (2, 3) that span a plane."""
    first = steps[0] / np.linalg.norm(steps[0])
    second = steps[1] - (steps[1] @ first) * first
    return np.stack([first, second / np.linalg.norm(second)])


def _axes_of(points: Points) -> tuple[float, float, Points]:
    """Return the largest diameter of points (n, 2), the longest line across it, and their ends."""
    from scipy.spatial import ConvexHull

    hull = points[ConvexHull(points).vertices]
    apart = np.linalg.norm(hull[:, None] - hull[None], axis=2)
    a, b = np.unravel_index(int(apart.argmax()), apart.shape)
    along = (hull[b] - hull[a]) / apart[a, b]
    across = np.array([-along[1], along[0]])
    u, v = (hull - hull[a]) @ along, (hull - hull[a]) @ across
    upper, lower = _chain(u, v), _chain(u, -v)
    # the width is concave between the corners of a convex outline, so it is largest at one
    at = np.unique(u)
    width = np.interp(at, *upper) + np.interp(at, *lower)
    best = int(width.argmax())
    top, bottom = np.interp(at[best], *upper), -np.interp(at[best], *lower)
    ends = np.stack(
        [
            hull[a],
            hull[b],
            hull[a] + at[best] * along + top * across,
            hull[a] + at[best] * along + bottom * across,
        ]
    )
    return float(apart[a, b]), float(width[best]), ends


def _chain(
    u: NDArray[np.float64], v: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the corners of the upper half of a convex outline, from left to right.

    Both ends of the long axis lie at v = 0, so the upper half has v >= 0.
    """
    above = v >= -1e-9
    order = np.lexsort((v[above], u[above]))
    return u[above][order], v[above][order]


def _outer_points(mask: NDArray[np.bool_]) -> Points:
    """Return middles of outer faces (n, axes): the first and the last on every line of voxels."""
    points = []
    for axis in range(mask.ndim):
        lines = np.moveaxis(mask, axis, -1)
        held = np.argwhere(lines.any(axis=-1))
        chosen = lines[tuple(held.T)]
        first = chosen.argmax(axis=1)
        last = mask.shape[axis] - 1 - chosen[:, ::-1].argmax(axis=1)
        for edge in (first - 0.5, last + 0.5):
            points.append(np.insert(held.astype(np.float64), axis, edge, axis=1))
    return np.concatenate(points)

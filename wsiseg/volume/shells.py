"""The surroundings of a lesion: shells of a few millimetres, for the peritumoral region."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wsiseg.errors import UsageError
from wsiseg.geometry import Affine, Box
from wsiseg.volume.arrays import VoxelArray
from wsiseg.volume.features import first_order

__all__ = ["EDGES_MM", "Shell", "distance_mm", "peritumoral_shells"]

EDGES_MM = (0.0, 2.0, 4.0, 6.0, 8.0, 10.0, 12.0)


@dataclass(frozen=True, slots=True)
class Shell:
    """What lies between two distances of a lesion."""

    inner_mm: float
    outer_mm: float
    voxels: int
    volume_ml: float
    intensity: dict[str, float] | None
    """First-order features, see `first_order`; `None` without a scan."""


def peritumoral_shells(
    mask: NDArray[np.bool_],
    box: Box,
    affine: Affine,
    *,
    shape: Sequence[int],
    image: VoxelArray | None = None,
    within: VoxelArray | None = None,
    edges_mm: Sequence[float] = EDGES_MM,
) -> tuple[Shell, ...]:
    """Return the shells around a lesion.

    A voxel belongs to the shell in which the distance of its centre to the surface of the lesion
    falls: above the inner edge, up to the outer one. Shells thinner than voxels may be empty.
    Memory: the box around the lesion, grown by the largest distance.

    Parameters
    ----------
    mask
        bool, the lesion in its own box.
    box
        Where that is in the volume.
    affine
        Of the volume.
    shape
        Voxels of the volume, (z, y, x): shells end at its border.
    image
        The scan, for intensities.
    within
        Labels (z, y, x): only voxels that are not 0 there are taken, such as those of the brain.
    edges_mm
        Ends of the shells, ascending.

    Raises
    ------
    UsageError
        If the edges do not ascend from at least 0.
    """
    edges = [float(edge) for edge in edges_mm]
    if len(edges) < 2 or edges[0] < 0 or any(a >= b for a, b in itertools.pairwise(edges)):
        raise UsageError(f"shells need ascending edges from at least 0 mm, got {tuple(edges_mm)}")
    margin = [int(np.ceil(edges[-1] / step)) + 1 for step in _thickness(affine)]
    around = box.grow(margin).clip(shape)
    grown = np.zeros(around.shape, bool)
    grown[box.relative_to(around).slices()] = mask
    away = distance_mm(grown, affine, farthest=edges[-1] + 1e-6)
    allowed = ~grown
    if within is not None:
        allowed &= np.asarray(within[around.slices()]) != 0
    values = None if image is None else np.asarray(image[around.slices()])
    shells = []
    for inner, outer in itertools.pairwise(edges):
        chosen = allowed & (away > inner) & (away <= outer)
        count = int(np.count_nonzero(chosen))
        known = None if values is None else first_order(values[chosen])
        shells.append(Shell(inner, outer, count, count * affine.voxel_mm3 / 1000, known))
    return tuple(shells)


def distance_mm(
    mask: NDArray[np.bool_], affine: Affine, *, farthest: float = float("inf")
) -> NDArray[np.float32]:
    """Return the distance of every voxel's centre to the surface of the mask, in mm.

    The surface is that of the diameters: the middles of the faces that look outwards. 0 inside;
    infinite above `farthest`. Right for sheared axes, too.
    """
    from scipy.spatial import KDTree

    faces = []
    grown = np.pad(mask, 1)
    for axis in range(3):
        lines = np.moveaxis(grown, axis, 0)
        places = np.argwhere(lines[1:] != lines[:-1]).astype(np.float64)
        places[:, 0] += 0.5  # between two voxels
        faces.append(np.insert(places[:, 1:], axis, places[:, 0], axis=1) - 1)
    tree = KDTree(affine.world(np.concatenate(faces)))
    away = np.zeros(mask.shape, np.float32)
    outside = affine.world(np.argwhere(~mask))
    away[~mask] = tree.query(outside, distance_upper_bound=farthest)[0]
    return away


def _thickness(affine: Affine) -> NDArray[np.float64]:
    """Return the distance between neighbouring planes of voxels, per axis."""
    inverse = np.linalg.inv(np.array(affine.columns).T)
    apart: NDArray[np.float64] = 1 / np.linalg.norm(inverse, axis=1)
    return apart

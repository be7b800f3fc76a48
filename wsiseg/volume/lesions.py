"""Connected parts of a class, each measured in millimetres."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsiseg.geometry import Affine, Box
from wsiseg.volume.arrays import VoxelArray
from wsiseg.volume.diameters import feret_mm, slice_axes
from wsiseg.volume.features import first_order
from wsiseg.volume.mesh import surface_of

__all__ = [
    "CONNECTIVITY",
    "INTENSITIES",
    "NO_PARTS",
    "Lesion",
    "Parts",
    "components",
    "find_parts",
    "measure_lesion",
]

CONNECTIVITY = 26
"""Voxels that share a face, an edge or a corner belong together."""

INTENSITIES = ("mean", "sd", "minimum", "p05", "p25", "median", "p75", "p95", "maximum")


@dataclass(frozen=True, slots=True, kw_only=True)
class Lesion:
    """One connected part of a class."""

    number: int
    """From 1, the largest first."""

    voxels: int
    volume_ml: float
    """Voxels times the volume of one."""

    long_axis_mm: float
    """The largest diameter in an axial slice."""

    short_axis_mm: float
    """The longest line at right angles to it in that slice."""

    feret_mm: float
    """The largest distance between two points of the surface, in any direction."""

    equivalent_diameter_mm: float
    """Of the sphere with this volume."""

    surface_mm2: float
    """Of the mesh of marching cubes."""

    axes_mm: tuple[tuple[float, ...], ...]
    """Both ends of the long and of the short axis, world (x, y, z)."""

    centroid_mm: tuple[float, float, float]
    """Mean of the voxels, world x, y, z (RAS)."""

    centroid_voxel: tuple[float, float, float]
    """The same as index (z, y, x) of the array."""

    left_percent: float
    """Share of the volume on the patient's left of the midline."""

    intensity: dict[str, float] | None
    """`mean`, `sd`, percentiles, in the scan's own unit; `None` without a scan."""

    enlarged: bool | None = None
    """For lymph nodes: whether the short axis is at least 10 mm."""

    station: str | None = None
    """For lymph nodes with a map: the region that holds most of the node."""

    station_percent: float | None = None
    """How much of the node lies in it."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)


def components(mask: NDArray[np.bool_]) -> tuple[NDArray[np.int32], int]:
    """Return the connected parts of a mask, numbered from 1 (26-connectivity), and how many."""
    from scipy import ndimage

    numbers = np.empty(mask.shape, np.int32)
    count = ndimage.label(mask.view(np.uint8), np.ones((3,) * mask.ndim, np.uint8), output=numbers)
    return numbers, int(count)


@dataclass(frozen=True, slots=True, eq=False)
class Parts:
    """The connected parts of a label, the largest first."""

    numbers: NDArray[np.int32]
    """Of the parts, in the box around the label."""

    order: tuple[int, ...]
    """The number of each part."""

    sizes: tuple[int, ...]
    """Voxels of each part."""

    boxes: tuple[Box, ...]
    """Around each part, in the volume."""

    start: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.order)

    def mask(self, index: int) -> NDArray[np.bool_]:
        """Return one part in its own box."""
        inside = self.boxes[index].shift(tuple(-a for a in self.start))
        own: NDArray[np.bool_] = self.numbers[inside.slices()] == self.order[index]
        return own


NO_PARTS = Parts(np.zeros((0, 0, 0), np.int32), (), (), (), (0, 0, 0))


def find_parts(labels: VoxelArray, value: int, box: Box, *, least_voxels: int = 1) -> Parts:
    """Return the connected parts of a label; 5 bytes per voxel of its box are held.

    Parameters
    ----------
    labels
        Integers (z, y, x).
    value
        Which label.
    box
        Around all voxels of the label.
    least_voxels
        Parts with fewer are left out.
    """
    from scipy import ndimage

    numbers, _ = components(np.asarray(labels[box.slices()]) == value)
    sizes = np.bincount(numbers.ravel())
    places = ndimage.find_objects(numbers)
    order = [int(n) for n in np.argsort(-sizes[1:], kind="stable") + 1 if sizes[n] >= least_voxels]
    boxes = []
    for number in order:
        found = places[number - 1]
        own = Box(tuple(s.start for s in found), tuple(s.stop for s in found))
        boxes.append(own.shift(box.start))
    sizes_of = tuple(int(sizes[number]) for number in order)
    return Parts(numbers, tuple(order), sizes_of, tuple(boxes), box.start)


def measure_lesion(
    mask: NDArray[np.bool_],
    box: Box,
    affine: Affine,
    *,
    number: int = 1,
    values: NDArray[np.generic] | None = None,
    midline_mm: float = 0.0,
) -> Lesion:
    """Return the figures of one connected part.

    Parameters
    ----------
    mask
        bool, in its own box.
    box
        Where that is in the volume.
    affine
        Of the volume.
    number
        Of the part.
    values
        Intensities of its voxels (n,).
    midline_mm
        World x that parts left from right.
    """
    here = affine.cropped(box.start)
    indices = np.argwhere(mask)
    centre = indices.mean(axis=0)
    x = here.world(indices)[:, 0]
    left = np.count_nonzero(x < midline_mm) + np.count_nonzero(x == midline_mm) / 2
    volume = len(indices) * affine.voxel_mm3
    axes = slice_axes(mask, here)
    known = None
    if values is not None:
        features = first_order(values)
        known = {name: features[name] for name in INTENSITIES}
    at = here.world(centre[None])[0].tolist()
    return Lesion(
        number=number,
        voxels=len(indices),
        volume_ml=volume / 1000,
        long_axis_mm=axes.long_mm,
        short_axis_mm=axes.short_mm,
        feret_mm=feret_mm(mask, here),
        equivalent_diameter_mm=float((6 * volume / np.pi) ** (1 / 3)),
        surface_mm2=surface_of(mask, here).area_mm2,
        axes_mm=tuple(tuple(point) for point in axes.ends.tolist()),
        centroid_mm=(at[0], at[1], at[2]),
        centroid_voxel=tuple(float(c + s) for c, s in zip(centre, box.start, strict=True)),  # type: ignore[arg-type]  # three
        left_percent=100 * float(left) / len(indices),
        intensity=known,
    )

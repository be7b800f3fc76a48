"""Slices of a scan as people look at them: radiological convention, true proportions."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from wsiseg.geometry import Affine
from wsiseg.volume.arrays import Turned, VoxelArray, slabs

__all__ = ["HU_WINDOW", "Plane", "PlaneName", "ScanView", "grey_window", "widest_slices"]

PlaneName = Literal["axial", "coronal", "sagittal"]
NAMES: tuple[PlaneName, ...] = ("axial", "coronal", "sagittal")
SIDES: dict[PlaneName, tuple[str, str, str, str]] = {
    "axial": ("R", "L", "A", "P"),
    "coronal": ("R", "L", "S", "I"),
    "sagittal": ("A", "P", "S", "I"),
}
"""What lies left, right, above and below in a picture: seen from the feet, the front, the left."""

HU_WINDOW = (-160.0, 240.0)
"""Soft tissue in CT: width 400, centre 40 HU."""

LEAST_AIR = -500.0
"""A scan with values below it is shown as CT where its file does not say what it is."""

PERCENTILES = (1.0, 99.5)
"""Of MR: between them the grey values run from black to white."""

Grey = NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class Plane:
    """One slice, ready to be drawn.

    Parameters
    ----------
    name
        Which way it is cut.
    values
        float32 (h, w), upright.
    labels
        Integers (h, w).
    spacing_mm
        mm per pixel (down, across).
    """

    name: PlaneName
    values: Grey
    labels: NDArray[np.integer]
    spacing_mm: tuple[float, float]

    @property
    def sides(self) -> tuple[str, str, str, str]:
        """Letters of the directions left, right, above and below."""
        return SIDES[self.name]

    def scaled(self, mm_per_pixel: float) -> "Plane":
        """Return the slice with square pixels of a size; labels take the nearest voxel."""
        height, width = self.values.shape
        down, across = self.spacing_mm
        size = (
            max(1, round(width * across / mm_per_pixel)),
            max(1, round(height * down / mm_per_pixel)),
        )
        smaller = size[0] < width and size[1] < height
        values = cv2.resize(
            self.values, size, interpolation=cv2.INTER_AREA if smaller else cv2.INTER_LINEAR
        )
        rows, columns = (
            np.minimum(((np.arange(n) + 0.5) * old / n).astype(np.intp), old - 1)
            for n, old in ((size[1], height), (size[0], width))
        )
        labels = self.labels[np.ix_(rows, columns)]
        return Plane(self.name, np.asarray(values, np.float32), labels, (mm_per_pixel,) * 2)


@dataclass(frozen=True, slots=True)
class ScanView:
    """A scan and its labels, axes turned to superior, anterior, right.

    Parameters
    ----------
    image
        (z, y, x).
    labels
        Integers (z, y, x) on the same voxels.
    affine
        Of both.
    """

    image: VoxelArray
    labels: VoxelArray
    affine: Affine

    @classmethod
    def of(cls, image: VoxelArray, labels: VoxelArray, affine: Affine) -> "ScanView":
        """Return the view of arrays in any orientation."""
        turn = affine.turn_to("RAS")
        return cls(Turned(image, turn), Turned(labels, turn), affine.turned(turn, labels.shape))

    def plane(self, name: PlaneName, index: int) -> Plane:
        """Return a slice by its index along the axis it is cut across."""
        axis = NAMES.index(name)
        cut: list[slice] = [slice(None)] * 3
        cut[axis] = slice(index, index + 1)
        values = np.asarray(self.image[tuple(cut)], np.float32).squeeze(axis)
        labels = np.asarray(self.labels[tuple(cut)]).squeeze(axis)
        down, across = (n for i, n in enumerate(self.affine.spacing_mm) if i != axis)
        # rows run down from superior (anterior), columns from the patient's right (anterior)
        return Plane(
            name,
            np.ascontiguousarray(np.nan_to_num(values[::-1, ::-1])),
            labels[::-1, ::-1],
            (down, across),
        )


def widest_slices(labels: VoxelArray, value: int | None = None) -> tuple[int, int, int]:
    """Return for each axis the slice that holds most of a label; the middle where there is none.

    Parameters
    ----------
    labels
        Integers (z, y, x), read once, slab by slab.
    value
        Which label; `None`: all but 0.
    """
    counts = [np.zeros(n, np.int64) for n in labels.shape]
    for box, values in slabs(labels):
        chosen = values > 0 if value is None else values == value
        counts[0][box.start[0] : box.stop[0]] = chosen.sum(axis=(1, 2))
        counts[1] += chosen.sum(axis=(0, 2))
        counts[2] += chosen.sum(axis=(0, 1))
    found = (int(c.argmax()) if c.any() else len(c) // 2 for c in counts)
    z, y, x = found
    return z, y, x


def grey_window(planes: Sequence[Plane], modality: str | None) -> tuple[float, float]:
    """Return the values that are shown black and white.

    Parameters
    ----------
    planes
        What will be shown.
    modality
        `CT`: the window of soft tissue. `None`: so, too, where values lie below -500; else, and
        for other modalities, percentiles of what is not 0.
    """
    values = np.concatenate([plane.values.ravel() for plane in planes])
    if modality == "CT" or (modality is None and values.min() < LEAST_AIR):
        return HU_WINDOW
    some = values[values != 0]
    if not len(some):
        return 0.0, 1.0
    low, high = np.percentile(some, PERCENTILES).tolist()
    return (low, high) if high > low else (low, low + 1)

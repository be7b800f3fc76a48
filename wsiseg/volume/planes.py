"""Which slices of a scan are looked at, cut from it whatever its axes are."""

from dataclasses import dataclass

import numpy as np

from wsiseg.draw.planes import NAMES, Plane, PlaneName
from wsiseg.geometry import Affine
from wsiseg.volume.arrays import Turned, VoxelArray, slabs

__all__ = ["ScanView", "widest_slices"]


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
        values = np.asarray(self.image[tuple(cut)]).squeeze(axis)
        labels = np.asarray(self.labels[tuple(cut)]).squeeze(axis)
        down, across = (n for i, n in enumerate(self.affine.spacing_mm) if i != axis)
        return Plane.upright(name, values, labels, (down, across))


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

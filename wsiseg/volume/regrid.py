"""A volume on the voxels of another one: for priors, which come on grids of their own."""

import itertools
from dataclasses import replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from wsiseg.geometry import Affine, Box
from wsiseg.source.volumes import Volume, VolumeMetadata

__all__ = ["SAME_MM", "on_grid_of"]

SAME_MM = 1e-2
"""Voxels that lie no farther apart than this are the same."""


def on_grid_of(volume: Volume, other: Volume) -> Volume:
    """Return a volume on the stored voxels of another one; lazily, nothing is copied.

    Where both have the same voxels, in whatever order of axes, none is interpolated. Else whole
    numbers, which are labels and masks, take the nearest voxel, others lie linearly between; 0
    outside.
    """
    like = other.as_stored()
    turned = volume.oriented(like.affine.orientation)
    if turned.shape == like.shape and turned.affine.is_close(like.affine, SAME_MM):
        return turned
    return Volume(_Regridded(volume, like), path=volume.path)


class _Regridded:
    """See `VolumeSource` for the contract."""

    def __init__(self, volume: Volume, like: Volume) -> None:
        self._volume = volume
        self.shape: tuple[int, ...] = like.shape
        self.channels = volume.channels
        self.dtype: np.dtype[Any] = volume.dtype
        self.affine: Affine = like.affine
        self.chunk = like.chunk
        there = np.linalg.inv(np.asarray(volume.affine.matrix)) @ np.asarray(like.affine.matrix)
        self._linear, self._offset = there[:3, :3], there[:3, 3]
        said = {**volume.metadata.properties, "regridded": f"on the voxels of {like.name}"}
        self.metadata: VolumeMetadata = replace(volume.metadata, properties=said)

    def read(self, box: Box) -> NDArray[Any]:
        """Return `(*box.shape, channels)` of a box inside the other volume."""
        from scipy.ndimage import affine_transform

        out = np.zeros((*box.shape, self.channels), self.dtype)
        inner = self._needed(box)
        if not inner.size or not box.size:
            return out
        voxels = self._volume.read(inner)
        offset = self._offset + self._linear @ np.array(box.start) - np.array(inner.start)
        order: Literal[0, 1] = 0 if self.dtype.kind in "iub" else 1
        for channel in range(self.channels):
            out[..., channel] = affine_transform(
                voxels[..., channel],
                self._linear,
                offset,
                output_shape=box.shape,
                order=order,
                mode="grid-constant",
                prefilter=False,
            )
        return out

    def close(self) -> None:
        """Close the volume."""
        self._volume.close()

    def _needed(self, box: Box) -> Box:
        """Return the voxels of the volume that a box lies among."""
        ends = [(a, b - 1) for a, b in zip(box.start, box.stop, strict=True)]
        corners = np.array(list(itertools.product(*ends))) @ self._linear.T + self._offset
        start = np.floor(corners.min(axis=0)).astype(int) - 1
        stop = np.ceil(corners.max(axis=0)).astype(int) + 2
        return Box(tuple(map(int, start)), tuple(map(int, stop))).clip(self._volume.shape)

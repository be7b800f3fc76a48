"""Arrays as volumes: NumPy, Dask, Zarr, or anything that slices like them."""

from typing import Any

import numpy as np

from wsiseg.errors import SourceError, UnsupportedFormatError
from wsiseg.geometry import Affine, Box
from wsiseg.source.array import ArrayLike
from wsiseg.source.volumes.base import Modality, VolumeMetadata, Voxels

__all__ = ["ArrayVolume"]

PLANES = 16
"""Planes of a chunk for arrays that have no chunks of their own."""


class ArrayVolume:
    """An array `(z, y, x)`, or `(z, y, x, 3)` of colour; see `VolumeSource` for the contract.

    Parameters
    ----------
    array
        Integers, booleans or floats; float64 is read as float32.
    affine
        Where the voxels are.
    name
        In messages and outputs.
    modality
        If known.

    Raises
    ------
    UnsupportedFormatError
        If the array has another shape or type.
    """

    def __init__(
        self,
        array: ArrayLike,
        affine: Affine,
        *,
        name: str = "array",
        modality: Modality | None = None,
    ) -> None:
        shape = tuple(int(size) for size in array.shape)
        dtype = np.dtype(str(array.dtype))
        if len(shape) not in {3, 4} or min(shape) < 1 or shape[3:] not in {(), (1,), (3,), (4,)}:
            raise UnsupportedFormatError(
                f"{name}: needed an array (z, y, x), or (z, y, x, 3) of colour, found {shape}; "
                "choose one time point or channel"
            )
        if dtype.kind not in "buif":
            raise UnsupportedFormatError(
                f"{name}: needed integers or floats, found {dtype}; convert the array"
            )
        self._array: ArrayLike | None = array
        self.shape = shape[:3]
        self.channels = shape[3] if len(shape) == 4 else 1
        self.dtype: np.dtype[Any] = np.dtype(np.float32) if dtype.kind == "f" else dtype
        self.affine = affine
        self.chunk = _chunk(array, self.shape)
        self.metadata = VolumeMetadata(name=name, reader="array", modality=modality)

    def read(self, box: Box) -> Voxels:
        """Return the voxels of a box inside the volume, `(*box.shape, channels)`; a copy."""
        array = self._array
        if array is None:
            raise SourceError(f"{self.metadata.name}: the volume is closed; open it again")
        with np.errstate(over="ignore"):  # beyond float32 is infinite
            part = np.array(array[box.slices()], dtype=self.dtype)
        return part.reshape(*box.shape, self.channels)

    def close(self) -> None:
        """Forget the array; reading afterwards raises `SourceError`."""
        self._array = None


def _chunk(array: ArrayLike, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the block an array stores: Dask's largest chunk, Zarr's chunk, or some planes."""
    chunks = getattr(array, "chunksize", None) or getattr(array, "chunks", None)
    chunks = chunks or (PLANES, *shape[1:])
    return tuple(min(int(chunk), size) for chunk, size in zip(chunks[:3], shape, strict=True))

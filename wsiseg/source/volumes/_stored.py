"""Voxels that lie in a file one after the other: NIfTI, NRRD and MetaImage."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from wsiseg.errors import DamagedFileError, SourceError
from wsiseg.geometry import Affine, Box
from wsiseg.source._bytes import ByteReader
from wsiseg.source.volumes.base import VolumeMetadata, Voxels

__all__ = ["Layout", "StoredVolume", "scaled_dtype"]

SLAB_BYTES = 16 << 20
"""Of the planes that are best read together."""


@dataclass(frozen=True, slots=True)
class Layout:
    """How voxels are stored: x fastest, then y and z; the channels of a voxel beside each other."""

    shape: tuple[int, ...]
    """Voxels (z, y, x)."""

    dtype: np.dtype[Any]
    """Of a stored number, with its byte order."""

    channels: int = 1
    slope: float = 1.0
    intercept: float = 0.0
    """A value is `stored * slope + intercept`."""

    @property
    def plane_bytes(self) -> int:
        """Of one slice in the file."""
        return self.shape[1] * self.shape[2] * self.channels * self.dtype.itemsize

    @property
    def nbytes(self) -> int:
        """Of all voxels in the file."""
        return self.shape[0] * self.plane_bytes


class StoredVolume:
    """Voxels at an offset of a file; see `VolumeSource` for the contract.

    They are read by position, never mapped: a file that is cut while it is read would end the
    process otherwise, and pages count as its memory.

    Parameters
    ----------
    content
        The bytes of the voxels, from the first; anything with a `close` is closed.
    layout
        How they are stored.
    affine, metadata
        What the header says.
    path
        Of the file, for errors.
    """

    def __init__(
        self,
        content: ByteReader,
        layout: Layout,
        affine: Affine,
        metadata: VolumeMetadata,
        path: Path,
    ) -> None:
        self._content: ByteReader | None = content
        self._layout = layout
        self._path = path
        self.shape = layout.shape
        self.channels = layout.channels
        self.dtype = scaled_dtype(layout.dtype, layout.slope, layout.intercept)
        planes = max(1, SLAB_BYTES // layout.plane_bytes)
        self.chunk = (min(planes, layout.shape[0]), *layout.shape[1:])
        self.affine = affine
        self.metadata = metadata

    def read(self, box: Box) -> Voxels:
        """Return the voxels of a box inside the volume, `(*box.shape, channels)`.

        Raises
        ------
        DamagedFileError
            If the file ends before them, or cannot be unpacked.
        SourceError
            If the source is closed.
        """
        voxels = np.empty((*box.shape, self.channels), self.dtype)
        if not box.size:
            return voxels
        height = self.shape[1]
        if box.shape[1] == height:
            rows = self._rows(box.start[0] * height, box.shape[:2])
            self._convert(rows, voxels, box.start[2])
            return voxels
        for index, z in enumerate(range(box.start[0], box.stop[0])):
            rows = self._rows(z * height + box.start[1], (1, box.shape[1]))
            self._convert(rows, voxels[index : index + 1], box.start[2])
        return voxels

    def close(self) -> None:
        """Free the file; reading afterwards raises `SourceError`."""
        content, self._content = self._content, None
        close = getattr(content, "close", None)
        if close is not None:
            close()

    def _rows(self, first: int, shape: tuple[int, ...]) -> Voxels:
        """Return whole rows as stored, from row `first` of the file on: `(*shape, x, channel)`."""
        layout, content = self._layout, self._content
        if content is None:
            raise self._closed()
        row_bytes = layout.plane_bytes // layout.shape[1]
        wanted = shape[0] * shape[1] * row_bytes
        try:
            data = content.read(first * row_bytes, wanted)
        except ValueError as error:  # what a file says that is closed meanwhile
            raise self._closed() from error
        except OSError as error:
            if isinstance(error, SourceError):
                raise
            raise DamagedFileError(
                f"{self._path.name}: slice {first // layout.shape[1]} cannot be read: "
                f"{error.strerror or error}; copy the file anew",
                path=self._path,
            ) from error
        if len(data) < wanted:
            raise DamagedFileError(
                f"{self._path.name}: the file ends early: needed {wanted} bytes from slice "
                f"{first // layout.shape[1]} on, found {len(data)}; copy it anew",
                path=self._path,
            )
        stored = np.frombuffer(data, layout.dtype)
        return stored.reshape(*shape, layout.shape[2], layout.channels)

    def _convert(self, rows: Voxels, voxels: Voxels, left: int) -> None:
        """Write stored rows, from column `left` on, as values."""
        layout = self._layout
        part = rows[:, :, left : left + voxels.shape[2]]
        with np.errstate(all="ignore"):  # beyond float32 is infinite, and nan stays nan
            if (layout.slope, layout.intercept) == (1.0, 0.0):
                voxels[:] = part
            else:
                kind = np.int64 if self.dtype.kind in "iu" else np.float64
                values: Voxels = part.astype(kind)
                values *= kind(layout.slope)
                values += kind(layout.intercept)
                voxels[:] = values

    def _closed(self) -> SourceError:
        return SourceError(f"{self._path.name}: the volume is closed; open it again")


def scaled_dtype(
    dtype: np.dtype[Any],
    slope: float = 1.0,
    intercept: float = 0.0,
    limits: tuple[int, int] | None = None,
) -> np.dtype[Any]:
    """Return the type that holds `stored * slope + intercept`.

    Integers whose slope and intercept are whole numbers stay integers, of 16 or 32 bits, where
    these suffice for every value; everything else is float32.

    Parameters
    ----------
    dtype
        Of the stored numbers.
    slope, intercept
        Of the scaling.
    limits
        Least and greatest stored number where that is narrower than the type.
    """
    if dtype.kind == "f":
        return np.dtype(np.float32)
    if (slope, intercept) == (1.0, 0.0):
        return dtype.newbyteorder("=")
    whole = math.isfinite(slope + intercept) and slope.is_integer() and intercept.is_integer()
    if whole and dtype.kind in "iu":
        least, most = limits or (np.iinfo(dtype).min, np.iinfo(dtype).max)
        ends = sorted(int(slope) * end + int(intercept) for end in (int(least), int(most)))
        for kind in (np.int16, np.int32):
            if np.iinfo(kind).min <= ends[0] and ends[1] <= np.iinfo(kind).max:
                return np.dtype(kind)
    return np.dtype(np.float32)

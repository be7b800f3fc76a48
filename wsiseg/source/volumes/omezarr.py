"""OME-Zarr images with a z axis as volumes: the finest resolution.

References
----------
OME-NGFF 0.5: https://ngff.openmicroscopy.org/0.5; RFC-4 (anatomical orientation of axes):
https://ngff.openmicroscopy.org/rfc/4
"""

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from wsiseg.errors import (
    DamagedFileError,
    GridError,
    MissingSpacingError,
    SourceError,
    UnstatedGeometryWarning,
    UnsupportedFormatError,
)
from wsiseg.geometry import Affine, Box
from wsiseg.source._ngff import Multiscale
from wsiseg.source._zarr_store import ZARR_ERRORS, check_array, open_store
from wsiseg.source.omezarr import find_image, open_group
from wsiseg.source.volumes.base import VolumeMetadata, Voxels

__all__ = ["OmeZarrVolume", "is_zarr_volume"]

ASSUMED = {"x": "L", "y": "P", "z": "S"}
"""Where axes grow to that do not say so: programs that write scans as OME-Zarr keep ITK's LPS."""

DIRECTIONS = {"R": (1, 0, 0), "L": (-1, 0, 0), "A": (0, 1, 0), "P": (0, -1, 0), "S": (0, 0, 1),
              "I": (0, 0, -1)}  # fmt: skip


def is_zarr_volume(path: Path) -> bool:
    """Return whether a folder is an OME-Zarr image of several planes."""
    try:
        source = OmeZarrVolume(path, affine=Affine.from_spacing((1, 1, 1)))
    except SourceError:
        return False
    source.close()
    return source.shape[0] > 1


class OmeZarrVolume:
    """An OME-Zarr image as a volume; see `VolumeSource` for the contract.

    Axes are taken by name, in any order; `t` must have one element, `c` 1, 3 or 4.

    Parameters
    ----------
    path
        Folder of the image.
    affine
        In place of what the file says.

    Raises
    ------
    UnsupportedFormatError
        If it is no image with a z axis, or has other axes or types.
    MissingSpacingError
        If scales or units are missing.
    DamagedFileError
        If the metadata cannot be read.

    Warns
    -----
    UnstatedGeometryWarning
        If an axis does not say where in the patient it grows to; LPS is taken.
    """

    def __init__(self, path: Path, *, affine: Affine | None = None) -> None:
        self._name = path.name
        self._closed = False
        self._store = open_store(path, None)
        with self._guard("the metadata"):
            group = open_group(self._store, self._name)
            image, multiscale = find_image(group, self._name, results=True)
            arrays = [_array(image, data.path, self._name) for data in multiscale.datasets]
            finest = max(range(len(arrays)), key=lambda index: math.prod(arrays[index].shape))
            self._open(arrays[finest], multiscale, multiscale.datasets[finest].path)
        orientation = "given"
        if affine is None:
            affine, orientation = _affine(multiscale, finest, self._name)
        self.affine = affine
        self.metadata = VolumeMetadata(
            name=self._name,
            reader="omezarr",
            properties={
                "ome-zarr.axes": multiscale.axis_names,
                "ome-zarr.orientation": orientation,
            },
        )

    def _open(self, array: "zarr.Array[Any]", multiscale: Multiscale, path: str) -> None:
        axes = multiscale.axis_names
        sizes = dict(zip(axes, array.shape, strict=True))
        chunks = dict(zip(axes, array.chunks, strict=True))
        found = ", ".join(f"{axis} = {size}" for axis, size in sizes.items())
        if "z" not in sizes or sizes.get("t", 1) != 1 or sizes.get("c", 1) not in {1, 3, 4}:
            raise UnsupportedFormatError(
                f"{self._name}: needed one volume (z, y, x; t = 1; c = 1, 3 or 4), found {found}; "
                "extract one volume first"
            )
        if array.dtype.kind not in "buif" or min(array.shape) < 1:
            raise UnsupportedFormatError(
                f"{self._name}: needed integers or floats, found {array.dtype}, {found}; convert it"
            )
        block = math.prod(chunks.values()) * array.dtype.itemsize
        limit = check_array(array, path, self._name, block)
        self._store.chunk_limits = {array.path: limit}
        self._array, self._axes = array, axes
        self.shape = (sizes["z"], sizes["y"], sizes["x"])
        self.chunk = tuple(min(chunks[axis], sizes[axis]) for axis in "zyx")
        self.channels = sizes.get("c", 1)
        is_float = array.dtype.kind == "f"
        self.dtype: np.dtype[Any] = (
            np.dtype(np.float32) if is_float else array.dtype.newbyteorder("=")
        )

    def read(self, box: Box) -> Voxels:
        """Return the voxels of a box inside the volume, `(*box.shape, channels)`.

        Raises
        ------
        DamagedFileError
            If a chunk cannot be decoded.
        SourceError
            If the source is closed.
        """
        if self._closed:
            raise self._closed_error()
        if not box.size:
            return np.empty((*box.shape, self.channels), self.dtype)
        cut: dict[str, int | slice] = {"t": 0, **dict(zip("zyx", box.slices(), strict=True))}
        with self._guard(f"slices {box.start[0]} to {box.stop[0] - 1}"):
            index = tuple(cut.get(axis, slice(None)) for axis in self._axes)
            part = np.asarray(self._array[index])
        kept = [axis for axis in self._axes if axis != "t"]
        order = [kept.index(axis) for axis in "zyxc" if axis in kept]
        with np.errstate(over="ignore"):  # beyond float32 is infinite
            voxels = np.array(part.transpose(order), dtype=self.dtype)
        return voxels.reshape(*box.shape, self.channels)

    def close(self) -> None:
        """Free the store; reading afterwards raises `SourceError`."""
        self._closed = True
        self._store.close()

    @contextmanager
    def _guard(self, what: str) -> Iterator[None]:
        """Turn the errors of zarr and its codecs into this project's."""
        try:
            yield
        except SourceError:
            raise
        except ZARR_ERRORS as error:
            if self._closed:
                raise self._closed_error() from error
            raise DamagedFileError(
                f"{self._name}: {what} cannot be decoded: {error}; copy the folder anew",
                path=self._name,
            ) from error

    def _closed_error(self) -> SourceError:
        return SourceError(f"{self._name}: the volume is closed; open it again", path=self._name)


def _array(image: zarr.Group, path: str, name: str) -> "zarr.Array[Any]":
    array = image.get(path)
    if not isinstance(array, zarr.Array):
        raise DamagedFileError(f"{name}: needed an array at {path!r}, found none", path=name)
    return array


def _affine(multiscale: Multiscale, dataset: int, name: str) -> tuple[Affine, str]:
    """Return where the voxels are, and how that was told."""
    place = multiscale.place_mm(dataset)
    if place is None:
        raise MissingSpacingError(
            f"{name}: needed a scale and units of length for z, y and x, found other or none; "
            "write them into the metadata, or pass an affine"
        )
    growth = {**ASSUMED, **multiscale.growth}
    unstated = sorted(set("zyx") - set(multiscale.growth))
    columns, origin = [], np.zeros(3)
    for axis in "zyx":
        step, start = place[axis]
        direction = np.array(DIRECTIONS[growth[axis]], np.float64)
        columns.append(tuple((direction * step).tolist()))
        origin += direction * start
    try:
        affine = Affine.from_columns(columns, tuple(origin.tolist()))
    except (GridError, MissingSpacingError) as error:
        raise MissingSpacingError(
            f"{name}: scales and orientations are not usable: {error}; correct the metadata"
        ) from error
    if not unstated:
        return affine, "stated"
    warnings.warn(
        f"{name}: the axes {', '.join(unstated)} do not say where in the patient they grow to; "
        "taken as ITK writes them: x to the left, y to posterior, z to superior",
        UnstatedGeometryWarning,
        stacklevel=4,
    )
    return affine, f"not stated for {', '.join(unstated)}, taken as LPS"

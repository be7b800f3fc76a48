"""Labels and probabilities as NIfTI, slab by slab, on the grid of the scan."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np

from wsiseg.errors import UsageError, WsisegError, unwritable
from wsiseg.geometry import Affine
from wsiseg.volume.arrays import SLAB_BYTES, Turned, VoxelArray, slabs
from wsiseg.volume.nifti_header import NiftiGeometry, pack_header

__all__ = ["write_nifti"]

SMALLEST = ("u1", "i2", "u2", "i4", "u4")
"""Integers of NIfTI, the smallest first, in the order in which they are tried."""

LEVEL = 3
"""Of compression, isal's best: many times as fast as zlib."""


def write_nifti(
    path: Path | str,
    array: VoxelArray,
    affine: Affine,
    *,
    like: Path | str | None = None,
    stored: Affine | None = None,
    one: int | None = None,
) -> Path:
    """Write labels or probabilities as a NIfTI-1 file, `.nii` or `.nii.gz`.

    The same array gives the same bytes (the gzip header holds no time and no name). The file
    appears under its name when it is whole.

    Parameters
    ----------
    path
        Where to.
    array
        Integers (z, y, x): written in the smallest type that holds them all, which takes a pass
        over the array unless it is uint8 already. Floats (z, y, x) or (z, y, x, c): float32, a
        volume per channel. Read slab by slab along the first axis of the file. uint16 stands for
        shares of `one`, if that is given.
    affine
        Of the array.
    like
        The scan. If it is NIfTI and has this grid, sform, qform, their codes, units and intent
        are kept as they are in its header; the intent of any NIfTI scan is kept.
    stored
        Affine of the scan as stored, where the array was turned (permuted and flipped) against it:
        the array is turned back, exactly.
    one
        What stands for 1 in an array (z, y, x, c) of uint16: readers get the values divided by it.

    Raises
    ------
    UsageError
        If the array is nothing that NIfTI holds, or `stored` is no turn of `affine`.
    DiskFullError
        If there is no room left.
    RunError
        If the file cannot be written.
    """
    path = Path(path)
    if stored is not None:
        array, affine = _turned_back(array, affine, stored)
    dtype = _file_dtype(array) if one is None else np.dtype("<u2")
    known = NiftiGeometry.of_file(Path(like)) if like is not None else None
    geometry = known or NiftiGeometry.of_affine(affine)
    geometry = geometry.for_grid(affine, array.shape[:3])
    header = pack_header(geometry, array.shape, dtype, slope=1.0 if one is None else 1 / one)
    with _whole(path) as file:
        file.write(header)
        for part in _file_parts(array):
            file.write(np.ascontiguousarray(part, dtype).data)
    return path


def _turned_back(array: VoxelArray, affine: Affine, stored: Affine) -> tuple[VoxelArray, Affine]:
    turn = affine.turn_to(stored.orientation)
    turned = affine.turned(turn, array.shape[:3])
    if not turned.is_close(stored, atol_mm=0.01):
        raise UsageError(
            f"an array at {affine.matrix[:3]} is not the grid {stored.matrix[:3]} in another "
            "order; write it without `stored`, or resample it"
        )
    return (array if turn.is_identity else Turned(array, turn)), stored


def _file_dtype(array: VoxelArray) -> np.dtype[Any]:
    dtype = np.dtype(array.dtype)
    axes = len(array.shape)
    if dtype.kind == "f" and axes in (3, 4):
        return np.dtype("<f4")
    if dtype.kind not in "uib" or axes != 3 or not all(array.shape):
        raise UsageError(
            "NIfTI takes integers (z, y, x) or floats (z, y, x[, c]), found "
            f"{array.dtype} {array.shape}"
        )
    if dtype.itemsize == 1 and dtype.kind in "ub":
        return np.dtype("u1")
    low = high = 0
    for _, values in slabs(array):
        low, high = min(low, int(values.min())), max(high, int(values.max()))
    for name in SMALLEST:
        limits = np.iinfo(name)
        if limits.min <= low and high <= limits.max:
            return np.dtype(f"<{name}") if name != "u1" else np.dtype("u1")
    raise UsageError(f"labels run from {low} to {high}, more than 32 bits hold")


def _file_parts(array: VoxelArray) -> Iterator[Any]:
    """Yield the values in the order of the file: channel by channel, slab by slab."""
    if len(array.shape) == 3:
        for _, values in slabs(array):
            yield values
        return
    depth, height, width, channels = array.shape
    thick = max(1, SLAB_BYTES // (height * width * np.dtype(array.dtype).itemsize))
    for channel in range(channels):
        for start in range(0, depth, thick):
            yield array[start : start + thick, :, :, channel]


@contextmanager
def _whole(path: Path) -> Iterator[BinaryIO]:
    """Yield a file to write that becomes `path` when the block ends without an error."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("wb") as raw:
            if path.name.lower().endswith(".gz"):
                with _gzip(raw) as packed:
                    yield packed
            else:
                yield raw
        part.replace(path)
    except OSError as error:
        if isinstance(error, WsisegError):
            raise
        raise unwritable(error, path) from error
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


def _gzip(raw: BinaryIO) -> BinaryIO:
    """Return a file that compresses; no time, no name."""
    from isal import igzip

    return cast("BinaryIO", igzip.IGzipFile("", "wb", LEVEL, raw, mtime=0))

"""Opening what `PyramidWriter` wrote: what heatmaps and label images have in common."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from wsiseg.errors import HeatmapError, UnfinishedHeatmapError, WsisegError
from wsiseg.geometry import Box, Spacing
from wsiseg.machine import HeapTrimmer
from wsiseg.stitch.placement import Placement
from wsiseg.stitch.pyramid import partial_path

if TYPE_CHECKING:
    import zarr

__all__ = ["describe", "open_level_0", "read_codes", "read_placement", "readable"]

KEY = "wsiseg"
"""Our own entry among the attributes of the group."""

FORMAT = 1

Kind = Literal["heatmap", "labels"]


def describe(
    kind: Kind, placement: Placement, names: Sequence[str], extra: Mapping[str, Any]
) -> dict[str, Any]:
    """Return our entry: what OME-NGFF has no words for."""
    return {
        "format": FORMAT,
        "kind": kind,
        "names": list(names),
        "spacing_um": list(placement.spacing.um),
        "downsample": list(placement.downsample),
        "origin": list(placement.origin),
        "attributes": dict(extra),
    }


@contextmanager
def readable(path: Path | str) -> Iterator[None]:
    """Raise `HeatmapError` where the store at `path` turns out to be damaged."""
    from wsiseg.source._zarr_store import ZARR_ERRORS

    try:
        yield
    except WsisegError:
        raise
    except ZARR_ERRORS as error:
        raise HeatmapError(
            f"{path}: cannot be read: {error or type(error).__name__}; run the slide again"
        ) from error


def open_level_0(path: Path, kind: Kind) -> "tuple[zarr.Array[Any], dict[str, Any]]":
    """Return level 0 of a finished store, and our entry.

    Raises
    ------
    UnfinishedHeatmapError
        If it was begun and never finished.
    HeatmapError
        If there is nothing, or something else.
    """
    try:
        with readable(path):
            group, array = _opened(path)
    except HeatmapError as error:
        if not isinstance(error.__cause__, FileNotFoundError):
            raise
        if partial_path(path).exists():
            raise UnfinishedHeatmapError(
                f"{path}: was begun and never finished; run again to complete it"
            ) from error
        raise HeatmapError(f"{path}: no {kind} here, needed an OME-Zarr folder") from error
    if "multiscales" not in group.attrs:
        raise UnfinishedHeatmapError(f"{path}: has no metadata, so it was never finished")
    entry = group.attrs.asdict().get(KEY)
    if not isinstance(entry, dict) or entry.get("kind") != kind or entry.get("format") != FORMAT:
        raise HeatmapError(f"{path}: needed {kind} written by wsiseg, found another OME-Zarr")
    return array, entry


def _opened(path: Path) -> "tuple[zarr.Group, zarr.Array[Any]]":
    import zarr

    group = zarr.open_group(path, mode="r", zarr_format=2)
    array = zarr.open_array(path / "0", mode="r", zarr_format=2)
    if array.dtype != np.uint8 or array.ndim < 2 or 0 in array.shape:
        raise ValueError(f"an array {array.shape} of {array.dtype}")
    return group, array


def read_placement(shape: tuple[int, ...], entry: Mapping[str, Any]) -> Placement:
    """Return where the store lies."""
    return Placement(
        shape=shape,
        spacing=Spacing(tuple(entry["spacing_um"])),
        downsample=tuple(entry["downsample"]),
        origin=tuple(entry["origin"]),
    )


def read_codes(array: "zarr.Array[Any]", box: Box) -> NDArray[np.uint8]:
    """Return uint8 `(*lead, *box.shape)`: the codes in the box, 0 outside the array."""
    lead = array.shape[: array.ndim - len(box.shape)]
    codes = np.zeros((*lead, *box.shape), dtype=np.uint8)
    inside = box.clip(array.shape[len(lead) :])
    if inside.size:
        every = tuple(slice(0, n) for n in lead)
        with readable(str(array.store_path)):
            found = np.asarray(array[every + inside.slices()], dtype=np.uint8)
        codes[every + inside.relative_to(box).slices()] = found
    return codes


class ChunkRows:
    """Rows of a Zarr array (..., y, x), read a row of chunks at a time: each is decoded once."""

    def __init__(self, array: "zarr.Array[Any]") -> None:
        self.shape = array.shape[-2:]
        self._array = array
        self._depth = array.chunks[-2]
        self._top = -1
        self._trim_heap = HeapTrimmer()
        self._band = np.zeros((*array.shape[:-2], 0, self.shape[1]), np.uint8)

    def __getitem__(self, rows: slice) -> NDArray[np.uint8]:
        """Return uint8 (..., rows, x)."""
        first = rows.start - rows.start % self._depth
        parts = [
            self._rows_of(top)[..., max(0, rows.start - top) : rows.stop - top, :]
            for top in range(first, rows.stop, self._depth)
        ]
        return np.concatenate(parts, axis=-2) if len(parts) > 1 else parts[0]

    def _rows_of(self, top: int) -> NDArray[np.uint8]:
        if top != self._top:
            self._band = self._band[..., :0, :].copy()  # gone before the next one comes
            self._trim_heap()
            with readable(str(self._array.store_path)):
                self._band = np.asarray(self._array[..., top : top + self._depth, :])
            self._top = top
        return self._band

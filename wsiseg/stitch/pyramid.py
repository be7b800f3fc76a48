"""Writing a uint8 OME-Zarr pyramid row by row, with bounded memory."""

import contextlib
import errno
import itertools
import math
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Generic, Literal, Self, TypeVar

import numpy as np
import zarr

from wsiseg.errors import DiskFullError, HeatmapError, HeatmapExistsError
from wsiseg.geometry import Box, ceil_div
from wsiseg.stitch.placement import Placement
from wsiseg.stitch.slab import Codes, row_blocks

__all__ = ["LABELS", "PyramidWriter", "partial_path", "writer_bytes"]

CHUNK = {2: 1024, 3: 128}
"""Chunk edge by number of axes in space: 1-2 MB, where compression was fastest."""

LABELS = "labels"
"""Folder of an image's label images, and the attribute that lists them."""

COMPRESSOR: dict[str, Any] = {
    "id": "blosc",
    "cname": "zstd",
    "clevel": 1,
    "shuffle": 2,  # by bits
    "blocksize": 1 << 21,
}
"""One Blosc block per chunk: threads finish blocks in any order, and so would change the bytes.
It is also smaller and up to twice as fast as Blosc's own choice of 128 KiB or so."""

Method = Literal["mean", "mode"]

Store = TypeVar("Store")


def writer_bytes(placement: Placement, channels: int) -> int:
    """Return the most memory a `PyramidWriter` needs: a row of chunks on each level.

    Halving takes another quarter of a row, compression a few chunks.
    """
    edge = CHUNK[len(placement.shape)]
    shapes = [placement.level_shape(level) for level in range(placement.levels)]
    rows = [min(edge, height) * math.prod(rest) * channels for height, *rest in shapes]
    return sum(rows) + rows[0] // 4 + 16 * math.prod(edge for _ in placement.shape)


def partial_path(path: Path) -> Path:
    """Return where a store lies until it is finished. Fixed, so that nothing piles up."""
    return path.with_name(f".{path.name}.partial")


class PyramidWriter(Generic[Store]):
    """A Zarr v2 group that grows row by row and appears under its name when it is finished.

    It is a `Sink` for reducers, and a context manager that removes what it wrote unless `finish`
    was reached. `HeatmapStore.create` and `LabelStore.create` make one.

    Parameters
    ----------
    path
        Folder to make.
    placement
        Shape of level 0, and where it lies.
    channels
        Length of the first axis; `None` for arrays without a channel axis.
    method
        How levels are halved: `mean` of covered pixels (0 is nodata), or `mode`, the most
        frequent value (of equally frequent ones the highest, so that foreground survives).
    attributes
        JSON of the group, written last.
    opened
        Opens the finished store.
    overwrite
        Replace a store that is there, once the new one is finished.

    Raises
    ------
    HeatmapExistsError
        If there is something at `path`, and `overwrite` is not set.
    DiskFullError
        Here or in any other method, if there is no room left.
    """

    def __init__(
        self,
        path: Path,
        placement: Placement,
        *,
        channels: int | None,
        method: Method,
        attributes: Mapping[str, Any],
        opened: Callable[[Path], Store],
        overwrite: bool,
    ) -> None:
        if path.exists() and not overwrite:
            raise HeatmapExistsError(f"{path}: there already; pass overwrite=True to replace it")
        self.path = path
        self.placement = placement
        self._attributes = dict(attributes)
        self._opened = opened
        self._overwrite = overwrite
        self._partial = partial_path(path)
        with self._disk():
            shutil.rmtree(self._partial, ignore_errors=True)
            self._partial.parent.mkdir(parents=True, exist_ok=True)
            self._group = zarr.create_group(self._partial, zarr_format=2)
            self._level = self._create_level(0, channels, method)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.abort()

    def write(self, box: Box, codes: Codes) -> None:
        """Append the next rows: uint8 `box.shape`, or `(*box.shape, channel)` with channels.

        Raises
        ------
        HeatmapError
            If the box does not follow the one before at full width, or shape or dtype differ.
        """
        shape = self.placement.shape
        rows = box.stop[0] - box.start[0]
        start = (self._level.rows, *(0 for _ in shape[1:]))
        if box.start != start or box.stop[1:] != shape[1:] or box.stop[0] > shape[0]:
            raise HeatmapError(
                f"{self.path}: needed rows from {self._level.rows} on at full width, found {box}"
            )
        needed = (rows, *shape[1:], *self._level.channels)
        if codes.shape != needed or codes.dtype != np.uint8:
            raise HeatmapError(
                f"{self.path}: needed uint8 of shape {needed}, found {codes.dtype} {codes.shape}"
            )
        planes = np.moveaxis(codes, -1, 0) if self._level.channels else codes[np.newaxis]
        with self._disk():
            self._level.append(planes)

    def finish(self) -> Store:
        """Complete the levels, write the attributes last, give the folder its name, and open it.

        Raises
        ------
        HeatmapError
            If rows are missing.
        HeatmapExistsError
            If another store has taken the name meanwhile.
        """
        height = self.placement.shape[0]
        if self._level.rows != height:
            raise HeatmapError(
                f"{self.path}: cannot finish: needed {height} rows, found {self._level.rows}"
            )
        with self._disk():
            self._level.finish()
            self._group.attrs.put(self._attributes)
            self._publish()
            if self.path.parent.name == LABELS:
                _list_label(self.path)
        return self._opened(self.path)

    def abort(self) -> None:
        """Remove what was written, unless it is finished; nothing appears under the name."""
        shutil.rmtree(self._partial, ignore_errors=True)

    def _create_level(self, level: int, channels: int | None, method: Method) -> "_LevelWriter":
        shape = self.placement.level_shape(level)
        chunks = tuple(min(CHUNK[len(shape)], n) for n in shape)
        array = self._group.create_array(
            str(level),
            shape=shape if channels is None else (channels, *shape),
            chunks=chunks if channels is None else (1, *chunks),
            dtype="uint8",
            compressors=COMPRESSOR,
            fill_value=0,
            chunk_key_encoding={"name": "v2", "separator": "/"},
        )
        coarsest = level + 1 == self.placement.levels
        below = None if coarsest else self._create_level(level + 1, channels, method)
        return _LevelWriter(array, len(shape), method, below)

    def _publish(self) -> None:
        """Give the finished folder its name; what had it before goes only then."""
        old = self.path.with_name(f".{self.path.name}.old")
        shutil.rmtree(old, ignore_errors=True)
        if self.path.exists():
            if not self._overwrite:
                raise HeatmapExistsError(
                    f"{self.path}: appeared while it was being written; pass overwrite=True to "
                    "replace it"
                )
            self.path.rename(old)
        self._partial.rename(self.path)
        shutil.rmtree(old, ignore_errors=True)

    @contextlib.contextmanager
    def _disk(self) -> Iterator[None]:
        try:
            yield
        except HeatmapError:
            raise
        except OSError as error:
            self.abort()
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise DiskFullError(
                    f"{self.path}: no room left on the device; free some space and run again"
                ) from error
            raise HeatmapError(f"{self.path}: cannot be written: {error}") from error


class _LevelWriter:
    """One level: collects rows until a row of chunks is whole, writes it, and halves it below."""

    def __init__(
        self, array: zarr.Array[Any], axes: int, method: Method, below: "_LevelWriter | None"
    ) -> None:
        self._array = array
        self._below = below
        self._halve = _halve_mean if method == "mean" else _halve_mode
        *self.channels, height = array.shape[: array.ndim - axes + 1]
        self._depth = min(height, CHUNK[axes])
        planes = self.channels or [1]
        self._band = np.zeros((*planes, self._depth, *array.shape[1 - axes :]), dtype=np.uint8)
        self._filled = 0
        self._written = 0

    @property
    def rows(self) -> int:
        """Rows taken so far."""
        return self._written + self._filled

    def append(self, planes: Codes) -> None:
        """Take rows, uint8 `(channel, row, ...)`."""
        taken = 0
        while taken < planes.shape[1]:
            rows = min(planes.shape[1] - taken, self._depth - self._filled)
            self._band[:, self._filled : self._filled + rows] = planes[:, taken : taken + rows]
            taken += rows
            self._filled += rows
            if self._filled == self._depth:
                self._flush()

    def finish(self) -> None:
        """Write the last, shorter row of chunks, here and below."""
        if self._filled:
            self._flush()
        if self._below is not None:
            self._below.finish()

    def _flush(self) -> None:
        band = self._band[:, : self._filled]
        start, self._written, self._filled = self._written, self.rows, 0
        if band.any():  # blank chunks are left out: Zarr reads them as fill value 0
            index = [slice(0, n) for n in self._array.shape]
            index[len(self.channels)] = slice(start, self._written)
            self._array[tuple(index)] = band if self.channels else band[0]
        if self._below is not None:
            # Whole bands have an even depth, so no pair of rows falls apart between two of them.
            for pairs in row_blocks((ceil_div(band.shape[1], 2), *band.shape[2:]), 2 * len(band)):
                self._below.append(self._halved(band[:, 2 * pairs.start : 2 * pairs.stop]))

    def _halved(self, planes: Codes) -> Codes:
        if planes.any():
            return self._halve(planes)
        sizes = (ceil_div(n, 2) for n in planes.shape[1:])
        return np.zeros((len(planes), *sizes), dtype=np.uint8)


def _children(planes: Codes, mode: Literal["constant", "edge"]) -> list[Codes]:
    """Return the pixels under each halved pixel, one array per corner; odd sizes are padded."""
    sizes = planes.shape[1:]
    padding = [(0, 0), *((0, n % 2 if n > 1 else 0) for n in sizes)]
    if any(after for _, after in padding):
        planes = np.pad(planes, padding, mode=mode)
    steps = [range(2) if n > 1 else range(1) for n in sizes]
    return [
        planes[:, *(slice(a, None, len(step)) for a, step in zip(corner, steps, strict=True))]
        for corner in itertools.product(*steps)
    ]


def _halve_mean(planes: Codes) -> Codes:
    """Return the mean of the covered pixels, rounded half up; nodata where none is covered."""
    children = _children(planes, "constant")
    total = np.zeros(children[0].shape, dtype=np.uint16)
    count = np.zeros(children[0].shape, dtype=np.uint8)
    for child in children:
        total += child
        count += child != 0
    np.maximum(count, 1, out=count)
    total += count // 2
    total //= count
    return total.astype(np.uint8)


def _halve_mode(planes: Codes) -> Codes:
    """Return the most frequent value; of equally frequent ones the highest."""
    children = _children(planes, "edge")
    mode = children[0].copy()
    mixed = np.zeros(mode.shape, dtype=np.bool_)
    for child in children[1:]:
        mixed |= child != mode
    if mixed.any():  # few pixels: those on the borders of regions
        mode[mixed] = _vote([child[mixed] for child in children])
    return mode


def _vote(children: list[Codes]) -> Codes:
    votes = [np.ones(child.shape, dtype=np.uint16) for child in children]
    for (a, one), (b, other) in itertools.combinations(enumerate(children), 2):
        equal = one == other
        votes[a] += equal
        votes[b] += equal
    best = np.zeros(children[0].shape, dtype=np.uint16)
    for child, vote in zip(children, votes, strict=True):
        np.maximum(best, (vote << 8) | child, out=best)
    return best.astype(np.uint8)


def _list_label(path: Path) -> None:
    """List the label images of an image, as NGFF asks; sorted, so that order never counts."""
    group = zarr.open_group(path.parent, mode="a", zarr_format=2)
    names = {known.name for known in path.parent.iterdir() if not known.name.startswith(".")}
    group.attrs.put({LABELS: sorted(names)})

"""Writing a uint8 OME-Zarr pyramid, column by column and row by row, with bounded memory."""

import contextlib
import itertools
import math
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Literal, Self, TypeVar

import numpy as np

from wsiseg.errors import HeatmapError, HeatmapExistsError, WsisegError, unwritable
from wsiseg.geometry import Box
from wsiseg.stitch.placement import Placement
from wsiseg.stitch.slab import Codes

if TYPE_CHECKING:
    import zarr

__all__ = ["LABELS", "PyramidWriter", "partial_path", "writer_bytes"]

CHUNK = {2: 512, 3: 128}
"""Chunk edge by number of axes in space: 1-2 MB, where compression was fastest."""

CHUNKS_AT_ONCE = 4
"""Chunks along the last axis that are compressed and written at once."""

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


def writer_bytes(
    placement: Placement, channels: int, *, width: int | None = None, turned: bool = False
) -> int:
    """Return the most memory a `PyramidWriter` needs: a row of chunks.

    Parameters
    ----------
    placement
        Shape of the finest level.
    channels
        Planes per pixel.
    width
        Pixels of the widest column along the last axis; default: the whole width.
    turned
        What is written comes with its axes swapped.

    Notes
    -----
    Compression and halving take some chunks more; coarser levels are made from those on disk.
    """
    edge = CHUNK[len(placement.shape)]
    height, *rest, whole = placement.shape[::-1] if turned else placement.shape
    row = min(edge, height) * math.prod(rest) * (width or whole) * channels
    return row + 16 * math.prod(edge for _ in placement.shape)


def partial_path(path: Path) -> Path:
    """Return where a store lies until it is finished. Fixed, so that nothing piles up."""
    return path.with_name(f".{path.name}.partial")


class PyramidWriter(Generic[Store]):
    """A Zarr v2 group that grows row by row and appears under its name when it is finished.

    The image may be cut along its last axis into columns, which come one after the other, each
    from its first row to its last. Coarser levels are made at the end from what is on disk.

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
    turned
        What is written comes with its axes swapped, as of a walk from left to right: rows are the
        image's columns. On disk the image is as ever.

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
        turned: bool = False,
    ) -> None:
        if path.exists() and not overwrite:
            raise HeatmapExistsError(f"{path}: there already; pass overwrite=True to replace it")
        self.path = path
        self.placement = placement
        self._attributes = dict(attributes)
        self._opened = opened
        self._overwrite = overwrite
        self._turned = turned
        self._shape = placement.shape[::-1] if turned else placement.shape
        self._channels = () if channels is None else (channels,)
        self._halve = _halve_mean if method == "mean" else _halve_mode
        self._written = 0  # pixels of the last axis whose columns are complete
        self._column: _Column | None = None
        self._partial = partial_path(path)
        with self._disk():
            shutil.rmtree(self._partial, ignore_errors=True)
            self._partial.parent.mkdir(parents=True, exist_ok=True)
            import zarr

            self._group = zarr.create_group(self._partial, zarr_format=2)
            self._levels = [self._create_level(i) for i in range(placement.levels)]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.abort()

    def write(self, box: Box, codes: Codes) -> None:
        """Append the next rows of a column: uint8 `box.shape`, or `(*box.shape, channel)`.

        Raises
        ------
        HeatmapError
            If the box does not follow the one before in its column, or begin the next column, or
            shape or dtype differ.
        """
        self._check(box, codes)
        planes = np.moveaxis(codes, -1, 0) if self._channels else codes[np.newaxis]
        with self._disk():
            if self._column is None:
                self._column = _Column(self._levels[0], box, self._channels, turned=self._turned)
            self._column.append(planes)
            if self._column.is_complete:
                self._written = self._column.right
                self._column = None

    def finish(self) -> Store:
        """Make the levels, write the attributes last, give the folder its name, and open it.

        Raises
        ------
        HeatmapError
            If rows or columns are missing.
        HeatmapExistsError
            If another store has taken the name meanwhile.
        """
        *_, width = self._shape
        if self._column is not None or self._written != width:
            row = self._column.next_row if self._column is not None else 0
            raise HeatmapError(
                f"{self.path}: cannot finish: needed {self._shape[0]} rows of "
                f"{width} pixels, found them up to row {row} of the column from {self._written} on"
            )
        with self._disk():
            for finer, coarser in itertools.pairwise(self._levels):
                _fill_level(finer, coarser, len(self.placement.shape), self._halve)
            self._group.attrs.put(self._attributes)
            self._publish()
            if self.path.parent.name == LABELS:
                _list_label(self.path)
        return self._opened(self.path)

    def abort(self) -> None:
        """Remove what was written, unless it is finished; nothing appears under the name."""
        shutil.rmtree(self._partial, ignore_errors=True)

    def _check(self, box: Box, codes: Codes) -> None:
        height, *middle, width = self._shape
        row, left = 0, self._written
        right = box.stop[-1] if left < box.stop[-1] <= width else width
        if self._column is not None:
            row, right = self._column.next_row, self._column.right
        start = (row, *(0 for _ in middle), left)
        if box.start != start or box.stop[1:] != (*middle, right) or box.stop[0] > height:
            raise HeatmapError(
                f"{self.path}: needed rows from {row} on at full width, pixels {left} to {right}, "
                f"found {box}"
            )
        needed = (*box.shape, *self._channels)
        if codes.shape != needed or codes.dtype != np.uint8:
            raise HeatmapError(
                f"{self.path}: needed uint8 of shape {needed}, found {codes.dtype} {codes.shape}"
            )

    def _create_level(self, level: int) -> "zarr.Array[Any]":
        shape = self.placement.level_shape(level)
        chunks = tuple(min(CHUNK[len(shape)], n) for n in shape)
        return self._group.create_array(
            str(level),
            shape=(*self._channels, *shape),
            chunks=(*(1 for _ in self._channels), *chunks),
            dtype="uint8",
            compressors=COMPRESSOR,
            fill_value=0,
            chunk_key_encoding={"name": "v2", "separator": "/"},
        )

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
        except WsisegError:
            raise
        except OSError as error:
            self.abort()
            raise unwritable(error, self.path, HeatmapError) from error


class _Column:
    """Rows of one column of the finest level, collected until a row of chunks is whole."""

    def __init__(
        self, array: "zarr.Array[Any]", first: Box, channels: tuple[int, ...], *, turned: bool
    ) -> None:
        self._array = array
        self._turned = turned
        self._lead = len(channels)
        self._height = array.shape[-1 if turned else self._lead]
        self._left, self.right = first.start[-1], first.stop[-1]
        depth = min(self._height, CHUNK[len(first.shape)])
        self._band = np.zeros((*(channels or (1,)), depth, *first.shape[1:]), dtype=np.uint8)
        self._filled = 0
        self._written = 0

    @property
    def next_row(self) -> int:
        """The first row that has not come yet."""
        return self._written + self._filled

    @property
    def is_complete(self) -> bool:
        return self._written == self._height

    def append(self, planes: Codes) -> None:
        """Take rows, uint8 `(channel, row, ...)`; write those whose chunks are whole."""
        depth, taken = self._band.shape[1], 0
        while taken < planes.shape[1]:
            rows = min(planes.shape[1] - taken, depth - self._filled)
            self._band[:, self._filled : self._filled + rows] = planes[:, taken : taken + rows]
            taken += rows
            self._filled += rows
            if self._filled == depth or self.next_row == self._height:
                self._flush()

    def _flush(self) -> None:
        band = self._band[:, : self._filled]
        start, self._written, self._filled = self._written, self.next_row, 0
        if band.any():  # blank chunks are left out: Zarr reads them as fill value 0
            rows, across = (-1, -2) if self._turned else (self._lead - self._array.ndim, -1)
            index = [slice(0, n) for n in self._array.shape]
            index[rows] = slice(start, self._written)
            planes = band if self._lead else band[0]
            # Zarr copies what it is given: a few chunks at a time, not the whole row.
            step = CHUNKS_AT_ONCE * self._array.chunks[across]
            for low in range(self._left - self._left % step, self.right, step):
                left, right = max(low, self._left), min(low + step, self.right)
                index[across] = slice(left, right)
                part = planes[..., left - self._left : right - self._left]
                self._array[tuple(index)] = part.swapaxes(-1, -2) if self._turned else part


def _fill_level(
    finer: "zarr.Array[Any]",
    coarser: "zarr.Array[Any]",
    axes: int,
    halve: Callable[[Codes], Codes],
) -> None:
    """Halve one level into the next, a chunk at a time; blank ones are left out.

    Chunks have even sides, so no pair of pixels falls apart between two of them.
    """
    lead = coarser.ndim - axes
    steps = [range(0, n, c) for n, c in zip(coarser.shape, coarser.chunks, strict=True)]
    for start in itertools.product(*steps):
        parts = zip(start, coarser.shape, coarser.chunks, strict=True)
        target = tuple(slice(a, min(a + c, n)) for a, n, c in parts)
        source = target[:lead] + tuple(
            slice(2 * one.start, min(2 * one.stop, n)) if n > 1 else one
            for one, n in zip(target[lead:], finer.shape[lead:], strict=True)
        )
        planes = np.asarray(finer[source], dtype=np.uint8)
        if planes.any():
            halved = halve(planes if lead else planes[np.newaxis])
            coarser[target] = halved if lead else halved[0]


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
    import zarr

    group = zarr.open_group(path.parent, mode="a", zarr_format=2)
    names = {known.name for known in path.parent.iterdir() if not known.name.startswith(".")}
    group.attrs.put({LABELS: sorted(names)})

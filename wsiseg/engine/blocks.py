"""Blocks of an image, kept exactly as long as reads to come need them."""

import itertools
import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from wsiseg.geometry import Box

__all__ = ["BlockCache", "BlockUses", "Readable", "block_box", "parts_of", "row_bytes"]


class Readable(Protocol):
    """Anything with pixels on a grid. Safe from many threads."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Pixels per axis."""
        ...

    def read(self, box: Box) -> NDArray[Any]:
        """Return `(*box.shape, channel)`; pixels outside hold the background."""
        ...


def block_box(index: Sequence[int], block: Sequence[int]) -> Box:
    """Return the pixels of the block at `index`; those outside the image count from -1 down."""
    start = tuple(i * n for i, n in zip(index, block, strict=True))
    return Box(start, tuple(a + n for a, n in zip(start, block, strict=True)))


def parts_of(box: Box, block: Sequence[int]) -> Iterator[tuple[tuple[int, ...], Box, Box]]:
    """Yield the blocks that a box touches: index, pixels, and those of them in the box."""
    edges = zip(box.start, box.stop, block, strict=True)
    for index in itertools.product(*(range(a // n, (b - 1) // n + 1) for a, b, n in edges)):
        whole = block_box(index, block)
        yield index, whole, whole.intersect(box)


def row_bytes(width: int, patch: Sequence[int], block: Sequence[int], bytes_per_pixel: int) -> int:
    """Return what a walk in rows of patches keeps of an image `width` pixels wide.

    That is the rows of blocks a row of patches touches, and one more, begun before they are done.
    """
    depth = block[0] * (-(-patch[0] // block[0]) + 2)
    middle = [n * (-(-p // n) + 1) for p, n in zip(patch[1:-1], block[1:-1], strict=True)]
    across = block[-1] * (-(-(width + patch[-1]) // block[-1]) + 1)
    return int(depth * np.prod(middle, dtype=np.int64) * across * bytes_per_pixel)


@dataclass(frozen=True)
class BlockUses:
    """How many reads of a walk need each block of an image."""

    block: tuple[int, ...]
    """Pixels of a block per axis."""

    first: tuple[int, ...]
    """Index of the block that is counted first, per axis; negative where tiles overhang."""

    counts: NDArray[np.int32]
    """Reads per block."""

    @classmethod
    def of_boxes(cls, boxes: Iterable[Box], block: tuple[int, ...]) -> "BlockUses":
        """Count the blocks of the boxes of a walk, in pixels of the image."""
        edges = (edge for box in boxes for edge in (*box.start, *box.stop))  # no list: there may
        spans = np.fromiter(edges, np.int64).reshape(-1, 2, len(block))  # be a million
        if not len(spans):
            return cls(tuple(block), (0,) * len(block), np.zeros((0,) * len(block), np.int32))
        low, high = spans[:, 0] // block, (spans[:, 1] - 1) // block + 1
        first = low.min(axis=0)
        # Each box adds one to a rectangle of blocks: mark its corners, and sum up along each axis.
        counts = np.zeros(high.max(axis=0) - first + 1, np.int32)
        for corner in itertools.product((0, 1), repeat=len(block)):
            place = np.where(corner, high, low) - first
            np.add.at(counts, tuple(place.T), (-1) ** sum(corner))
        for axis in range(len(block)):
            np.cumsum(counts, axis=axis, out=counts)
        inner = counts[tuple(slice(0, -1) for _ in block)]
        return cls(tuple(block), tuple(map(int, first)), inner)

    @classmethod
    def of_walks(cls, walks: Sequence["BlockUses"]) -> "BlockUses":
        """Count the walks, of one image and with blocks of one size, that need each block."""
        some = [uses for uses in walks if uses.counts.size] or walks[:1]
        first = np.min([uses.first for uses in some], axis=0)
        stop = np.max([np.add(uses.first, uses.counts.shape) for uses in some], axis=0)
        counts = np.zeros(stop - first, np.int32)
        for uses in some:
            place = Box.of_shape(uses.counts.shape).shift(tuple(uses.first - first))
            counts[place.slices()] += uses.counts > 0
        return cls(some[0].block, tuple(map(int, first)), counts)

    def count(self, index: Sequence[int]) -> int:
        """Return how many reads need the block at `index`."""
        place = tuple(i - first for i, first in zip(index, self.first, strict=True))
        inside = all(0 <= i < n for i, n in zip(place, self.counts.shape, strict=True))
        return int(self.counts[place]) if inside else 0

    def needed(self, index: Sequence[int]) -> bool:
        """Return whether any read needs the block at `index`."""
        return self.count(index) > 0


class BlockCache:
    """Reads an image through blocks, so that reads which overlap share the work.

    Each block is computed once, also when several threads want it at the same moment, and
    forgotten after the last read that needs it: nothing is computed twice and nothing
    is kept in vain. Blocks at the edge overhang the image, as reads may.

    Parameters
    ----------
    source
        Where blocks come from.
    uses
        The reads of the walk; each is to be done once.
    """

    def __init__(self, source: Readable, uses: BlockUses) -> None:
        self._source = source
        self._block = uses.block
        self._first = uses.first
        self._left = uses.counts.copy()
        self._lock = threading.Lock()
        self._blocks: dict[tuple[int, ...], Future[NDArray[Any]]] = {}

    def read(self, box: Box) -> NDArray[Any]:
        """Return `(*box.shape, channel)`, the same pixels as the source gives."""
        if box.size == 0:
            return self._source.read(box)
        parts = self._parts(box)
        part, pixels = next(parts)
        if part == box:
            return pixels
        out = np.empty((*box.shape, pixels.shape[-1]), pixels.dtype)
        for place, found in itertools.chain([(part, pixels)], parts):
            out[place.relative_to(box).slices()] = found
        return out

    @property
    def kept(self) -> int:
        """Blocks in memory at this moment."""
        return len(self._blocks)

    def _parts(self, box: Box) -> Iterator[tuple[Box, NDArray[Any]]]:
        for index, whole, part in parts_of(box, self._block):
            pixels = self._take(index, whole)
            yield part, pixels[part.relative_to(whole).slices()]

    def _take(self, index: tuple[int, ...], whole: Box) -> NDArray[Any]:
        """Return a block, and count this use of it."""
        place = tuple(i - first for i, first in zip(index, self._first, strict=True))
        with self._lock:
            future = self._blocks.get(index)
            mine = future is None
            if future is None:
                future = self._blocks[index] = Future()
            self._left[place] -= 1
            if self._left[place] == 0:  # whoever is waiting holds the future itself
                del self._blocks[index]
        if mine:
            try:
                future.set_result(self._source.read(whole))
            except BaseException as error:
                future.set_exception(error)
        return future.result()

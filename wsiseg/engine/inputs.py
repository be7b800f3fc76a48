"""What a stage reads: the slide at its spacing, or what an earlier stage gave, on its own grid."""

import itertools
import math
import threading
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from wsiseg.geometry import Box, ceil_div
from wsiseg.resample import linear
from wsiseg.resample.linear import linear_span

__all__ = ["BlockCache", "HeatmapInput", "Readable", "cache_bytes"]


BLOCK = 256
"""Side of a cached block in pixels."""

CACHE_LIMIT = 512_000_000
"""Bytes of blocks kept at most. An image too wide for it would read most blocks several times: its
walk comes back to a block just after the cache has forgotten it."""


def cache_bytes(shape: Sequence[int], patch: Sequence[int], bytes_per_pixel: int) -> int:
    """Return what a `BlockCache` needs so that a walk in rows of patches reads no block twice.

    That is the rows of blocks a row of patches touches, and one more that is read ahead.
    """
    rows = BLOCK * (ceil_div(patch[0], BLOCK) + 2)
    row = math.prod(BLOCK * (ceil_div(n, BLOCK) + 2) for n in shape[1:])
    return min(CACHE_LIMIT, rows * row * bytes_per_pixel)


class Readable(Protocol):
    """Anything with pixels on a grid. Safe from many threads."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Pixels per axis."""
        ...

    def read(self, box: Box) -> NDArray[Any]:
        """Return `(*box.shape, channel)`; pixels outside hold the background."""
        ...


class HeatmapInput:
    """Probabilities of an earlier stage, interpolated to the pixels of another grid.

    Parameters
    ----------
    heatmap
        Gives float32 probabilities; 0 outside and where nothing was computed.
    channels
        Indices of the channels wanted.
    ratio
        Heatmap pixels per pixel of the wanted grid, per axis.
    shape
        Pixels of the wanted grid.
    offset
        Heatmap pixels from the origin of the wanted grid to the heatmap's; default: none.
    """

    def __init__(
        self,
        heatmap: Readable,
        channels: Sequence[int],
        ratio: Sequence[float],
        shape: tuple[int, ...],
        *,
        offset: Sequence[float] | None = None,
    ) -> None:
        self.shape = shape
        self._offset = offset
        self._heatmap = heatmap
        self._channels = list(channels)
        self._ratio = tuple(ratio)

    def read(self, box: Box) -> NDArray[np.float32]:
        """Return float32 `(*box.shape, channel)`."""
        span = linear_span(box, self._ratio, offset=self._offset)
        values = self._heatmap.read(span)[..., self._channels]
        return linear(values, span, box, self._ratio, offset=self._offset)


class BlockCache:
    """Reads through a bounded cache of blocks, so that overlapping patches share the work.

    Each block is computed once, also when several threads want it at the same moment; the blocks
    used longest ago are forgotten first. Blocks at the edge overhang the image, as reads may.

    Parameters
    ----------
    source
        Where blocks come from.
    block
        Side of a block in pixels, along every axis.
    limit_bytes
        Blocks kept, in bytes; see `cache_bytes`.
    """

    def __init__(
        self, source: Readable, *, block: int = BLOCK, limit_bytes: int = CACHE_LIMIT
    ) -> None:
        self.shape = source.shape
        self._source = source
        self._block = block
        self._limit = limit_bytes
        self._kept = 0
        self._lock = threading.Lock()
        self._blocks: OrderedDict[tuple[int, ...], Future[NDArray[Any]]] = OrderedDict()

    def read(self, box: Box) -> NDArray[Any]:
        """Return `(*box.shape, channel)`, the same pixels as the source gives."""
        if box.size == 0:
            return self._source.read(box)
        spans = [
            range(a // self._block, (b - 1) // self._block + 1)
            for a, b in zip(box.start, box.stop, strict=True)
        ]
        first, *others = itertools.product(*spans)
        part, pixels = self._part(first, box)
        if not others:
            return pixels
        out = np.empty((*box.shape, pixels.shape[-1]), pixels.dtype)
        out[part.relative_to(box).slices()] = pixels
        for index in others:
            part, pixels = self._part(index, box)
            out[part.relative_to(box).slices()] = pixels
        return out

    def _part(self, index: tuple[int, ...], wanted: Box) -> tuple[Box, NDArray[Any]]:
        start = tuple(i * self._block for i in index)
        where = Box(start, tuple(a + self._block for a in start))
        part = where.intersect(wanted)
        return part, self._get(index, where)[part.relative_to(where).slices()]

    def _get(self, index: tuple[int, ...], where: Box) -> NDArray[Any]:
        with self._lock:
            future = self._blocks.get(index)
            mine = future is None
            if future is None:
                future = self._blocks[index] = Future()
            else:
                self._blocks.move_to_end(index)
        if not mine:
            return future.result()
        try:
            pixels = self._source.read(where)
        except BaseException as error:
            future.set_exception(error)
            with self._lock:
                self._blocks.pop(index, None)
            raise
        future.set_result(pixels)
        self._keep(pixels.nbytes)
        return pixels

    def _keep(self, nbytes: int) -> None:
        with self._lock:
            self._kept += nbytes
            while self._kept > self._limit and len(self._blocks) > 1:
                oldest = next(iter(self._blocks))
                if not self._blocks[oldest].done():  # under way: its reader still needs the entry
                    break
                self._kept -= self._blocks.pop(oldest).result().nbytes

"""What a stage reads: the slide at its spacing, or what an earlier stage gave, on its own grid."""

import itertools
import threading
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from wsiseg.geometry import Box
from wsiseg.resample import linear
from wsiseg.resample.linear import linear_span

__all__ = ["BlockCache", "HeatmapInput", "Readable"]


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
    used longest ago are forgotten first.

    Parameters
    ----------
    source
        Where blocks come from.
    block
        Side of a block in pixels, along every axis.
    limit_bytes
        Blocks kept, in bytes.
    """

    def __init__(
        self, source: Readable, *, block: int = 512, limit_bytes: int = 96_000_000
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
        inside = box.clip(self.shape)
        if inside.size == 0:
            return self._source.read(box)
        spans = [
            range(a // self._block, (b - 1) // self._block + 1)
            for a, b in zip(inside.start, inside.stop, strict=True)
        ]
        first, *others = itertools.product(*spans)
        part, pixels = self._part(first, inside)
        if part == box:
            return pixels
        out = self._canvas(box, inside, pixels)
        out[part.relative_to(box).slices()] = pixels
        for index in others:
            part, pixels = self._part(index, inside)
            out[part.relative_to(box).slices()] = pixels
        return out

    def _part(self, index: tuple[int, ...], inside: Box) -> tuple[Box, NDArray[Any]]:
        where = self._box(index)
        part = where.intersect(inside)
        return part, self._get(index, where)[part.relative_to(where).slices()]

    def _canvas(self, box: Box, inside: Box, like: NDArray[Any]) -> NDArray[Any]:
        out = np.empty((*box.shape, like.shape[-1]), like.dtype)
        if inside != box:  # one pixel outside tells the background
            outside = Box(tuple(-1 for _ in self.shape), tuple(0 for _ in self.shape))
            out[:] = self._source.read(outside).reshape(-1)
        return out

    def _box(self, index: tuple[int, ...]) -> Box:
        start = tuple(i * self._block for i in index)
        return Box(start, tuple(a + self._block for a in start)).clip(self.shape)

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

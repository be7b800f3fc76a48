"""Reading a damaged slide to its end: what replaces a block that cannot be decoded.

Three things can, in this order: a finer level, reduced as levels are made; a coarser level,
enlarged, which is `degraded`; or nothing, and the block is `nodata`. Whatever it is stands in the
ledger. A damaged block is never white: white is glass.
"""

from collections.abc import Callable, Iterator
from typing import cast

import numpy as np

from wsiseg.errors import DamagedFileError
from wsiseg.geometry import Box, ceil_div
from wsiseg.resample import area, area_span
from wsiseg.resample.linear import linear, linear_span
from wsiseg.source._blocks import block_indices, level_at
from wsiseg.source._cache import BlockCache
from wsiseg.source.base import Pixels, PyramidSource, ReducingSource
from wsiseg.source.ledger import Ledger, State

__all__ = ["NODATA_GREY", "Mender"]

NODATA_GREY = 127
"""What is read where there is nothing: unlike glass, unlike tissue, plain to see in a picture."""

CACHE_BYTES = 32 << 20
"""Replacements kept: neighbouring reads ask for the same block."""

MOST_FINER_PIXELS = 32 << 20
"""Finer pixels decoded to restore one block, at most: a third of a second."""

STRIP_PIXELS = 1 << 20
"""Pixels reduced or enlarged at once."""


class Mender:
    """Reads a source and goes on where a block is damaged.

    Parameters
    ----------
    source
        Any source whose damaged blocks raise `DamagedFileError`.
    degraded
        Let a coarser level stand in; otherwise such blocks are `nodata`.

    Attributes
    ----------
    ledger : Ledger
        The damaged blocks met so far.

    Notes
    -----
    Without damage a read costs what it does without this. A block is replaced as a whole, once, and
    the same for every reader; what its neighbours are is untouched.
    """

    def __init__(self, source: PyramidSource, *, degraded: bool = True) -> None:
        self._source = source
        self._levels = source.levels
        self._name = source.metadata.name
        self._background = source.metadata.background
        self._degraded = degraded
        self._cache = BlockCache(CACHE_BYTES)
        self.ledger = Ledger(source.levels)

    def read(self, level: int, box: Box) -> Pixels:
        """Return the pixels of `box` (level pixels), `(*box.shape, 3)` uint8."""
        level_at(self._levels, level, self._name)

        def read(part: Box) -> Pixels:
            return self._source.read(level, part)

        def mended(index: tuple[int, int], reason: str) -> Pixels:
            return self._mended(level, index, reason)

        return self._read(level, box, (1, 1), read, mended)

    def read_reduced(
        self, level: int, box: Box, ratio: tuple[int, int], *, scale: int = 1
    ) -> Pixels:
        """Return the pixels of `box` of a level reduced by area; see `ReducingSource`."""
        source = cast("ReducingSource", self._source)
        info = level_at(self._levels, level, self._name)

        def read(part: Box) -> Pixels:
            return source.read_reduced(level, part, ratio, scale=scale)

        def mended(index: tuple[int, int], reason: str) -> Pixels:
            pixels = self._mended(level, index, reason)
            whole = _block(index, info.chunk).clip(info.shape)
            start = tuple(a // r for a, r in zip(whole.start, ratio, strict=True))
            stop = tuple(ceil_div(b, r) for b, r in zip(whole.stop, ratio, strict=True))
            return area(pixels, whole, Box(start, stop), ratio, info.shape)

        return self._read(level, box, ratio, read, mended)

    def _read(
        self,
        level: int,
        box: Box,
        ratio: tuple[int, int],
        read: Callable[[Box], Pixels],
        mended: Callable[[tuple[int, int], str], Pixels],
    ) -> Pixels:
        """Return `box` in one piece or, where that fails, block by block."""
        info = self._levels[level]
        start = tuple(a * r for a, r in zip(box.start, ratio, strict=True))
        stop = tuple(b * r for b, r in zip(box.stop, ratio, strict=True))
        if not self.ledger.touches(level, Box(start, stop)):
            try:
                return read(box)
            except DamagedFileError:
                pass
        shape = tuple(ceil_div(n, r) for n, r in zip(info.shape, ratio, strict=True))
        chunk = tuple(ceil_div(n, r) for n, r in zip(info.chunk, ratio, strict=True))
        inside = box.clip(shape)
        pixels = np.empty((*box.shape, 3), np.uint8)
        pixels[:] = self._background
        for index in block_indices(inside, chunk):
            whole = _block(index, chunk).clip(shape)
            part = whole.intersect(inside)
            known = self.ledger.at(level, index)
            place = part.relative_to(box).slices()
            reason = known.reason if known else ""
            if known is None:
                try:
                    pixels[place] = read(part)
                    continue
                except DamagedFileError as error:
                    reason = str(error)
            pixels[place] = mended(index, reason)[part.relative_to(whole).slices()]
        return pixels

    def _mended(self, level: int, index: tuple[int, int], reason: str) -> Pixels:
        """Return what stands for a damaged block, `(y, x, 3)` uint8, and enter it."""

        def make() -> Pixels:
            info = self._levels[level]
            box = _block(index, info.chunk).clip(info.shape)
            for state, other, pixels in self._substitutes(level, box):
                self.ledger.add(level, index, state=state, source_level=other, reason=reason)
                return pixels
            self.ledger.add(level, index, state=State.NODATA, source_level=None, reason=reason)
            return np.full((*box.shape, 3), NODATA_GREY, np.uint8)

        return self._cache.get((level, index), make)

    def _substitutes(self, level: int, box: Box) -> Iterator[tuple[State, int, Pixels]]:
        """Yield what other levels have of a box of a level, the best first."""
        for other in range(level - 1, -1, -1):
            ratio = self._ratio(level, other)
            if box.size * ratio[0] * ratio[1] <= MOST_FINER_PIXELS:
                pixels = self._tried(self._reduced, other, level, box)
                if pixels is not None:
                    yield State.RESTORED, other, pixels
        for other in range(level + 1, len(self._levels) if self._degraded else 0):
            pixels = self._tried(self._enlarged, other, level, box)
            if pixels is not None:
                yield State.DEGRADED, other, pixels

    def _tried(
        self, make: Callable[[int, int, Box], Pixels], other: int, level: int, box: Box
    ) -> Pixels | None:
        try:
            return make(other, level, box)
        except DamagedFileError:
            return None

    def _reduced(self, finer: int, level: int, box: Box) -> Pixels:
        """Return a box of a level as the mean of the pixels of a finer one."""
        ratio, shape = self._ratio(level, finer), self._levels[finer].shape
        out = np.empty((*box.shape, 3), np.uint8)
        for strip in _strips(box, STRIP_PIXELS / (ratio[0] * ratio[1])):
            span = area_span(strip, ratio).clip(shape)
            pixels = self._source.read(finer, span)
            out[strip.relative_to(box).slices()] = area(pixels, span, strip, ratio, shape)
        return out

    def _enlarged(self, coarser: int, level: int, box: Box) -> Pixels:
        """Return a box of a level, interpolated between the pixel centres of a coarser one."""
        ratio, shape = self._ratio(level, coarser), self._levels[coarser].shape
        out = np.empty((*box.shape, 3), np.uint8)
        for strip in _strips(box, STRIP_PIXELS):
            span = linear_span(strip, ratio)
            inside = span.clip(shape)
            edges = [
                (a - b, d - c)
                for a, b, c, d in zip(inside.start, span.start, inside.stop, span.stop, strict=True)
            ]
            pixels = np.pad(self._source.read(coarser, inside), [*edges, (0, 0)], mode="edge")
            values = linear(pixels.astype(np.float32), span, strip, ratio)
            out[strip.relative_to(box).slices()] = np.rint(values)
        return out

    def _ratio(self, level: int, other: int) -> tuple[float, float]:
        """Return pixels of another level per pixel of a level, (y, x)."""
        y, x = (
            mine / theirs
            for mine, theirs in zip(
                self._levels[level].downsample, self._levels[other].downsample, strict=True
            )
        )
        return y, x


def _block(index: tuple[int, int], chunk: tuple[int, ...]) -> Box:
    start = tuple(i * n for i, n in zip(index, chunk, strict=True))
    return Box(start, tuple(a + n for a, n in zip(start, chunk, strict=True)))


def _strips(box: Box, pixels: float) -> Iterator[Box]:
    """Cut a box into ranges of rows of about so many pixels."""
    rows = max(1, int(pixels / max(1, box.shape[1])))
    for top in range(box.start[0], box.stop[0], rows):
        stop = min(top + rows, box.stop[0])
        yield Box((top, box.start[1]), (stop, box.stop[1]))

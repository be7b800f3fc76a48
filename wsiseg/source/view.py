"""An image at any spacing: the right level, reduced by area."""

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from wsiseg.errors import SpacingUnavailableError
from wsiseg.geometry import Box, Spacing
from wsiseg.resample import area, area_span, target_shape
from wsiseg.source._blocks import check_box
from wsiseg.source.base import Pixels, ReducingSource
from wsiseg.source.ledger import State
from wsiseg.source.mending import Mender

if TYPE_CHECKING:
    from wsiseg.source.pyramid import Level, Pyramid

__all__ = ["View", "choose_level"]

NEAREST_WHOLE = 0.02
"""Ratios this close (relative) to a whole number are taken as whole: pixel sizes in slide files are
not more accurate than that, and whole ratios keep blocks aligned. The effective spacing says so."""

STRIP_BYTES = 6_000_000
"""A read is cut into pieces whose level pixels fit in this (as floats they take ten times more)."""


def choose_level(
    spacings: Sequence[Spacing], wanted: Spacing, *, tolerance: float = 0.0, name: str = "slide"
) -> int:
    """Return the index of the coarsest level that is not coarser than `wanted`.

    Parameters
    ----------
    spacings
        One per level, finest first.
    wanted
        Spacing asked for.
    tolerance
        How much coarser than `wanted` (relative) level 0 may be, to be taken as it is.
    name
        Of the slide, for the error.

    Raises
    ------
    SpacingUnavailableError
        If even level 0 is coarser than `wanted` by more than the tolerance: pixels are never made
        up by enlarging.
    """
    limit = max(tolerance, NEAREST_WHOLE) + 1e-9
    if max(spacings[0].ratio_to(wanted)) > 1 + limit:
        found = " x ".join(f"{um:.4g}" for um in spacings[0].um)
        needed = " x ".join(f"{um:.4g}" for um in wanted.um)
        raise SpacingUnavailableError(
            f"{name}: needed pixels of {needed} µm, the finest level has {found} µm; use a model "
            "for coarser pixels, or scan at a higher resolution (wsiseg never enlarges)"
        )
    usable = [
        index
        for index, spacing in enumerate(spacings)
        if max(spacing.ratio_to(wanted)) <= 1 + NEAREST_WHOLE
    ]
    return usable[-1] if usable else 0


class View:
    """A slide seen at one spacing.

    Parameters
    ----------
    pyramid
        The slide.
    spacing
        µm per pixel wanted, (y, x).
    tolerance
        Relative amount by which the slide may be coarser; it is then read as it is.
    exact
        Keep the spacing as asked even where a whole-number ratio is within 2 %.
    scaled
        Let the codec reduce while it decodes, where it can (JPEG by 2, 4 or 8, JPEG 2000 by 2 or 4)
        and the ratio is a multiple of that: faster, but another filter than the mean, so pixels
        differ by a little.

    Attributes
    ----------
    level
        The level that serves it: the coarsest one not coarser than wanted.
    ratio
        Level pixels per view pixel, per axis.
    requested, spacing
        µm per pixel asked for, and what it is in effect.
    downsample
        Level-0 pixels per view pixel, per axis.
    shape
        Pixels per axis; the last one may overhang the slide.
    scaled
        Whether the codec reduces in effect.

    Raises
    ------
    MissingSpacingError
        If the slide does not know its pixel size.
    SpacingUnavailableError
        If the slide is too coarse.
    """

    def __init__(
        self,
        pyramid: "Pyramid",
        spacing: Spacing,
        tolerance: float = 0.0,
        *,
        exact: bool = False,
        scaled: bool = False,
    ) -> None:
        spacings = [level.spacing for level in pyramid.levels]
        index = choose_level(spacings, spacing, tolerance=tolerance, name=pyramid.name)
        self._name = pyramid.name
        self.level: Level = pyramid.levels[index]
        self.background = pyramid.metadata.background
        self.requested = spacing
        self.ratio = tuple(_usable_ratio(r, exact=exact) for r in spacing.ratio_to(spacings[index]))
        self.spacing = spacings[index].times(self.ratio)
        pairs = zip(self.level.downsample, self.ratio, strict=True)
        self.downsample = tuple(d * r for d, r in pairs)
        self.shape = target_shape(self.level.shape, self.ratio)
        self._pyramid = pyramid
        self._blockwise = self._whole_blocks(pyramid)
        self._scale = self._codec_scale() if scaled else 1
        self.scaled = self._scale > 1

    def read(self, box: Box) -> Pixels:
        """Return the pixels of `box` (view pixels), uint8 (*box.shape, 3); background outside.

        Raises
        ------
        DamagedFileError
            If a block cannot be decoded, unless the slide was opened to go on then.
        SourceError
            If `box` is no box of two axes.
        """
        check_box(box, len(self.shape), self._name)
        if all(r == 1 for r in self.ratio):
            return self.level.read(box)
        if self._blockwise is not None:
            reader, ratio = self._blockwise
            return reader.read_reduced(self.level.index, box, ratio, scale=self._scale)
        inside = box.clip(self.shape)
        if inside == box and self._source_bytes(box) <= STRIP_BYTES:
            return self._reduce(box)
        out = np.empty((*box.shape, 3), np.uint8)
        out[:] = self.background
        for piece in self._pieces(inside):
            out[piece.relative_to(box).slices()] = self._reduce(piece)
        return out

    def damaged(self, state: State) -> NDArray[np.float64]:
        """Return the damaged blocks read so far that are in a state, on the level of this view.

        Returns
        -------
        ndarray
            float64 (n, 4): y0, x0, y1, x1 in level-0 pixels. Empty where damage is an error.
        """
        ledger = self._pyramid.ledger
        if ledger is None:
            return np.empty((0, 4))
        return ledger.l0_boxes(self.level.index, state)

    def _reduce(self, box: Box) -> Pixels:
        span = area_span(box, self.ratio).clip(self.level.shape)
        return area(self.level.read(span), span, box, self.ratio, self.level.shape)

    def _whole_blocks(
        self, pyramid: "Pyramid"
    ) -> tuple[ReducingSource | Mender, tuple[int, int]] | None:
        """Return the reader and the whole ratio where it can reduce its blocks one by one."""
        whole, reader = _whole(self.ratio), pyramid.reader
        if whole is None or not isinstance(pyramid.source, ReducingSource):
            return None
        if any(n % r for n, r in zip(self.level.chunk, whole, strict=True)):
            return None
        return (reader, whole) if isinstance(reader, ReducingSource | Mender) else None

    def _codec_scale(self) -> int:
        """Return the strongest reduction of the codec; 1: there is none."""
        if self._blockwise is None:
            return 1
        source, (_, ratio) = self._pyramid.source, self._blockwise
        if not isinstance(source, ReducingSource):
            return 1
        return max(source.codec_scales(self.level.index, ratio), default=1)

    def _source_bytes(self, box: Box) -> float:
        return math.prod(box.shape) * math.prod(self.ratio) * 3

    def _pieces(self, box: Box) -> Iterator[Box]:
        """Cut `box` into strips, then into blocks, whose level pixels fit in `STRIP_BYTES`."""
        if not box.size:
            return
        if self._source_bytes(box) <= STRIP_BYTES:
            yield box
            return
        axis = int(np.argmax(box.shape))
        if box.shape[axis] == 1:
            yield box
            return
        middle = (box.start[axis] + box.stop[axis]) // 2
        cut_stop = tuple(middle if i == axis else n for i, n in enumerate(box.stop))
        cut_start = tuple(middle if i == axis else n for i, n in enumerate(box.start))
        yield from self._pieces(Box(box.start, cut_stop))
        yield from self._pieces(Box(cut_start, box.stop))


def _whole(ratio: Sequence[float]) -> tuple[int, int] | None:
    """Return a ratio of whole numbers as such."""
    y, x = (round(r) for r in ratio)
    return (y, x) if (y, x) == tuple(ratio) else None


def _usable_ratio(ratio: float, *, exact: bool) -> float:
    whole = max(1, round(ratio))
    if ratio < 1 or (not exact and abs(ratio / whole - 1) <= NEAREST_WHOLE):
        return float(whole)
    return ratio

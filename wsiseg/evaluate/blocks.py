"""An image of labels in blocks, each read about once although its neighbours are needed, too."""

import itertools
import math
from collections import OrderedDict
from collections.abc import Iterator, Sequence

import numpy as np

from wsiseg.errors import UsageError
from wsiseg.evaluate.case import ReadLabels
from wsiseg.evaluate.values import LabelArray
from wsiseg.geometry import Box

__all__ = ["BlockReader", "walk"]

STRIP_BLOCKS = 8
"""Blocks side by side before the walk goes on downwards: blocks at the sides of a strip are read
for two strips, those within it once."""

KEPT_BLOCKS = 3 * (STRIP_BLOCKS + 2)
"""Blocks kept: three rows of a strip with its neighbours. Along three axes some are read again."""


def walk(shape: Sequence[int], block_pixels: int) -> Iterator[Box]:
    """Yield boxes that partition an image, in strips along the last axis.

    The strips do not get longer with the image, and so neither do the rows of blocks that must be
    kept for the halo of the next row.
    """
    side = block_side(shape, block_pixels)
    starts = [range(0, n, side) for n in shape]
    for first in range(0, len(starts[-1]), STRIP_BLOCKS):
        strip = starts[-1][first : first + STRIP_BLOCKS]
        for start in itertools.product(*starts[:-1], strip):
            yield Box(start, tuple(min(a + side, n) for a, n in zip(start, shape, strict=True)))


def block_side(shape: Sequence[int], block_pixels: int) -> int:
    """Return the side of square (cubic) blocks of about so many pixels."""
    return max(1, round(math.pow(block_pixels, 1 / len(shape))))


class BlockReader:
    """Reads any box of a label image out of its blocks, the last of which are kept.

    Parameters
    ----------
    read
        Reads a box inside the image.
    shape
        Pixels of the image per axis.
    block_pixels
        As for `walk`.
    name
        What is read, for messages.
    """

    def __init__(
        self, read: ReadLabels, shape: Sequence[int], block_pixels: int, *, name: str
    ) -> None:
        self._read = read
        self._shape = tuple(shape)
        self._side = block_side(shape, block_pixels)
        self._name = name
        self._kept: OrderedDict[tuple[int, ...], LabelArray] = OrderedDict()

    def read(self, box: Box) -> LabelArray:
        """Return uint8 `box.shape`; the box must lie inside the image.

        Raises
        ------
        UsageError
            If the reader returns something else than labels of the box.
        """
        out = np.empty(box.shape, np.uint8)
        spans = [
            range(a // self._side, (b - 1) // self._side + 1)
            for a, b in zip(box.start, box.stop, strict=True)
        ]
        for index in itertools.product(*spans):
            block = self._box(index)
            common = block.intersect(box)
            labels = self._block(index, block)
            out[common.relative_to(box).slices()] = labels[common.relative_to(block).slices()]
        return out

    def _box(self, index: tuple[int, ...]) -> Box:
        start = tuple(i * self._side for i in index)
        return Box(start, tuple(a + self._side for a in start)).clip(self._shape)

    def _block(self, index: tuple[int, ...], box: Box) -> LabelArray:
        labels = self._kept.pop(index, None)
        if labels is None:
            labels = self._read(box)
            if labels.shape != box.shape or labels.dtype != np.uint8:
                raise UsageError(
                    f"{self._name}: needed labels uint8 {box.shape} of {box.start} to {box.stop}, "
                    f"found {labels.dtype} {labels.shape}"
                )
        self._kept[index] = labels
        if len(self._kept) > KEPT_BLOCKS:
            self._kept.popitem(last=False)
        return labels

"""The labels of a slide in small, and where most of them are wrong: what pictures are made of."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from wsiseg.evaluate.values import IGNORE, LabelArray
from wsiseg.geometry import Box, ceil_div

__all__ = ["LARGEST_SIDE", "Sketch"]

LARGEST_SIDE = 800
"""Of a sketch, in pixels."""

CELL = 256
"""Side of the squares among which the worst place is looked for, in pixels."""


@dataclass(slots=True, eq=False)
class Sketch:
    """Every n-th pixel of both label images, and the square with the most wrong pixels.

    Of a volume only one plane is seen.

    Attributes
    ----------
    step
        Pixels of the image per pixel of the sketch.
    prediction, reference
        uint8 (h, w).
    worst
        The square, in the image's pixels; `None` where nothing is wrong.
    wrong
        Wrong pixels in it.
    """

    step: int
    plane: tuple[int, ...]
    """Index of the plane: (z,) of a volume, () of an image."""

    prediction: LabelArray
    reference: LabelArray
    worst: Box | None = field(default=None)
    wrong: int = 0

    @classmethod
    def of_shape(cls, shape: Sequence[int], plane: int | None = None) -> "Sketch":
        """Return the sketch of an image of `shape`, still empty; of a volume, of one plane."""
        step = ceil_div(max(shape[-2:]), LARGEST_SIDE)
        small = tuple(ceil_div(n, step) for n in shape[-2:])
        at = tuple(n // 2 if plane is None else plane for n in shape[:-2])
        return cls(step, at, np.zeros(small, np.uint8), np.full(small, IGNORE, np.uint8))

    def add(self, prediction: LabelArray, reference: LabelArray, box: Box) -> None:
        """Take what is needed of a block."""
        axes = len(self.plane)
        for at, start, stop in zip(self.plane, box.start, box.stop, strict=False):
            if not start <= at < stop:
                return
        flat = tuple(at - start for at, start in zip(self.plane, box.start, strict=False))
        planar = Box(box.start[axes:], box.stop[axes:])
        self._take(prediction[flat], reference[flat], planar)
        self._look_for_worst(prediction[flat], reference[flat], planar)

    def _take(self, prediction: LabelArray, reference: LabelArray, box: Box) -> None:
        first = [ceil_div(a, self.step) for a in box.start]
        to = tuple(
            slice(at, ceil_div(stop, self.step)) for at, stop in zip(first, box.stop, strict=True)
        )
        every = tuple(
            slice(at * self.step - a, None, self.step)
            for at, a in zip(first, box.start, strict=True)
        )
        self.prediction[to] = prediction[every]
        self.reference[to] = reference[every]

    def _look_for_worst(self, prediction: LabelArray, reference: LabelArray, box: Box) -> None:
        wrong = (prediction != reference) & (reference != IGNORE)
        for start in itertools.product(*(range(0, n, CELL) for n in box.shape)):
            square = Box(start, tuple(a + CELL for a in start)).clip(box.shape)
            count = int(np.count_nonzero(wrong[square.slices()]))
            if count > self.wrong:
                self.wrong, self.worst = count, square.shift(box.start)

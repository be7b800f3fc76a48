"""Patches read on the fly from slides, as the engine will read them; nothing is stored.

What a stage sees is laid out by the engine itself (`lay_out`, `connect`), so that training and
running cannot differ in level, spacing or place.
"""

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from wsiseg.annotations.labels import LabelView
from wsiseg.engine.graph import StageInput, StageSetup
from wsiseg.engine.inputs import Input
from wsiseg.engine.stream import prefetch
from wsiseg.geometry import Box
from wsiseg.train.places import Place

__all__ = ["Batch", "LabelledPatches", "SlidePatches", "read_batches"]

BATCHES_AHEAD = 3


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Patches of one size, `n` of them."""

    inputs: tuple[NDArray[Any], ...]
    """One per input of the stage: uint8 (n, y, x, 3) of the slide, float32 of a heatmap; of scans
    float32 (n, z, y, x, channel), normalised."""

    labels: NDArray[np.uint8]
    """Class values (n, *axes) of the first input's pixels; 255 is unknown."""

    places: tuple[Place, ...]


class LabelledPatches(Protocol):
    """A slide or a scan as a stage sees it, with its labels."""

    @property
    def setup(self) -> StageSetup:
        """The stage laid over it."""
        ...

    def read(self, centre: tuple[float, ...]) -> tuple[tuple[NDArray[Any], ...], NDArray[np.uint8]]:
        """Return the patches of all inputs around a point, see `Place.centre`, and the labels."""
        ...

    def unturned(self) -> Self:
        """Return the same with patches of the stage's own size, without a margin for turning."""
        ...


@dataclass(frozen=True, slots=True)
class SlidePatches:
    """One slide as a stage sees it, with its labels.

    Parameters
    ----------
    setup
        The stage laid over the slide.
    inputs
        One per input of the stage; see `wsiseg.engine.connect`.
    labels
        On the pixels of the first input.
    margin
        Patches are this much longer and wider than the stage's, so that turning them brings in
        tissue and no empty corners; a factor >= 1.
    """

    setup: StageSetup
    inputs: tuple[Input, ...]
    labels: LabelView
    margin: float = 1.0

    def unturned(self) -> Self:
        """Return the same with patches of the stage's own size."""
        return replace(self, margin=1.0)

    def read(self, centre: tuple[float, ...]) -> tuple[tuple[NDArray[Any], ...], NDArray[np.uint8]]:
        """Return the patches of all inputs around a point, level-0 pixels (y, x), and the labels.

        Of a stage that sees the whole slide there is one patch, wherever the point is.
        """
        boxes = [self._box(item, centre) for item in self.setup.inputs]
        patches = tuple(
            one.patch(one.source.read(one.span(box)), one.span(box), box)
            for one, box in zip(self.inputs, boxes, strict=True)
        )
        return patches, self.labels.read(boxes[0])

    def _box(self, item: StageInput, centre: tuple[float, ...]) -> Box:
        if self.setup.spec.extent == "whole":
            tile = self.setup.grid.tile((0,) * len(self.setup.grid.shape))
            return item.box_of(tile.read, self.setup.reference)
        shape = [n + 2 * math.ceil(n * (self.margin - 1) / 2) for n in item.spec.patch]
        corners = zip(centre, item.downsample, shape, strict=True)
        start = tuple(round(c / d - n / 2) for c, d, n in corners)
        return Box(start, tuple(a + n for a, n in zip(start, shape, strict=True)))


def read_batches(
    slides: Sequence[LabelledPatches], places: Iterable[Place], *, size: int, workers: int
) -> Iterator[Batch]:
    """Yield batches of `size` places, in order, read by threads ahead of the consumer.

    The number of threads changes nothing but the time.

    Raises
    ------
    DamagedFileError
        If a block of a slide cannot be decoded.
    """

    def read(place: Place) -> tuple[tuple[NDArray[Any], ...], NDArray[np.uint8], Place]:
        return *slides[place.slide].read(place.centre), place

    patches = prefetch(read, places, workers=workers, ahead=BATCHES_AHEAD * size)
    while drawn := list(itertools.islice(patches, size)):
        inputs, labels, chosen = zip(*drawn, strict=True)
        yield Batch(
            tuple(np.stack(one) for one in zip(*inputs, strict=True)), np.stack(labels), chosen
        )

"""Where classes end: the points that a distance between outlines is measured from.

Two definitions, and they give different numbers:

* `pixels`: pixels of the class with a neighbour (across a face) of another class, each counting
  once, at its centre. What MONAI and most tools do. Any number of axes.
* `contour`: corners between pixels that see both sides, weighted by the length (area) of the
  outline there, as marching squares (cubes) draws it. What the package `surface-distance` does (S.
  Nikolov et al., J. Med. Internet Res. 23:e26151, 2021, doi:10.2196/26151). Two or three axes.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from wsiseg.errors import UsageError
from wsiseg.evaluate.values import IGNORE, LabelArray
from wsiseg.geometry import Box
from wsiseg.volume.marching_cubes import cell_areas

__all__ = ["EDGE", "Boundary", "BoundaryKind", "BoundaryTracer", "Edge", "boundary_of", "framed"]

BoundaryKind = Literal["pixels", "contour"]

Edge = Literal["closed", "open"]
"""Whether what touches the frame of the image ends there (as other tools take it), or may go on."""

EDGE: dict[Edge, int] = {"closed": 254, "open": IGNORE}
"""Label outside the image: something else than any class, or what nobody knows."""

DIAGONAL_CODES = (0b0110, 0b1001)


@dataclass(frozen=True, eq=False)
class Boundary:
    """Points of an outline.

    Parameters
    ----------
    points
        int32 (n, axis), pixels; multiplied by the spacing they are places up to a common shift.
    weights
        float64 (n,): how much of the outline each point stands for; `None`: all the same.
    """

    points: NDArray[np.int32]
    weights: NDArray[np.float64] | None = None

    def __len__(self) -> int:
        return len(self.points)


class BoundaryTracer:
    """Outlines of all classes of one label image, block after block.

    The result is that of the whole image at once, whatever the blocks. What is kept grows with
    the length of the outlines: 4 bytes per point and axis, and 1 for its weight.

    Parameters
    ----------
    shape
        Pixels of the whole image, per axis.
    classes
        How many, the background (value 0, which has no outline of its own) counted.
    kind
        `pixels` or `contour`, see above.

    Raises
    ------
    UsageError
        If a contour is wanted along other than two or three axes.
    """

    def __init__(
        self, shape: Sequence[int], classes: int, *, kind: BoundaryKind = "pixels"
    ) -> None:
        if kind == "contour" and len(shape) not in (2, 3):
            raise UsageError(
                f"outlines of kind 'contour' need 2 or 3 axes, found {len(shape)}; take 'pixels'"
            )
        self.shape = tuple(shape)
        self.classes = classes
        self.kind: BoundaryKind = kind
        self._points: list[list[NDArray[np.int32]]] = [[] for _ in range(classes)]
        self._codes: list[list[NDArray[np.uint8]]] = [[] for _ in range(classes)]

    def add(self, labels: LabelArray, box: Box) -> None:
        """Find the outlines within `box`.

        Parameters
        ----------
        labels
            uint8, the labels of `box.grow(1)`; 255 where nobody knows: there is no outline
            towards it, since the class may go on. What stands outside the image: see `framed`.
        box
            Pixels of the image; the boxes of all blocks must partition it.
        """
        if labels.min() == labels.max():
            return  # most blocks of a slide
        add = self._add_pixels if self.kind == "pixels" else self._add_contour
        add(labels, box)

    def _add_pixels(self, labels: LabelArray, box: Box) -> None:
        inner = (slice(1, -1),) * labels.ndim
        own = labels[inner]
        known = labels != IGNORE
        edge = np.zeros(own.shape, bool)
        for axis in range(labels.ndim):
            # along this axis there is one step more than pixels, and none at the sides of others
            across = tuple(slice(None) if i == axis else s for i, s in enumerate(inner))
            lines, certain = (
                np.moveaxis(labels[across], axis, 0),
                np.moveaxis(known[across], axis, 0),
            )
            step = (lines[1:] != lines[:-1]) & certain[1:] & certain[:-1]
            np.moveaxis(edge, axis, 0)[:] |= step[:-1] | step[1:]
        edge &= (own > 0) & (own < self.classes)
        places = np.flatnonzero(edge)
        values = own.reshape(-1)[places]
        for index in np.unique(values):
            found = np.unravel_index(places[values == index], own.shape)
            points = np.stack(found, axis=1) + box.start
            self._points[index].append(points.astype(np.int32))

    def _add_contour(self, labels: LabelArray, box: Box) -> None:
        # corner i of an axis lies before pixel i; the last block has the corner after it, too
        ends = [
            n + (stop == whole)
            for n, stop, whole in zip(box.shape, box.stop, self.shape, strict=True)
        ]
        corners = [
            labels[tuple(slice(d, d + end) for d, end in zip(step, ends, strict=True))]
            for step in itertools.product((0, 1), repeat=len(ends))
        ]
        full = (1 << len(corners)) - 1
        known = np.logical_and.reduce([corner != IGNORE for corner in corners])
        for index in range(1, self.classes):
            if not (labels == index).any():
                continue
            code = np.zeros(known.shape, np.uint8)
            for bit, corner in enumerate(corners):
                code |= (corner == index).astype(np.uint8) << bit
            edge = known & (code > 0) & (code < full)
            self._points[index].append((np.argwhere(edge) + box.start).astype(np.int32))
            self._codes[index].append(code[edge])

    def of_class(self, index: int, spacing: Sequence[float]) -> Boundary:
        """Return the outline of one class; `spacing` is the distance between pixels per axis."""
        none = np.empty((0, len(self.shape)), np.int32)
        points = np.concatenate([none, *self._points[index]])
        if self.kind == "pixels":
            return Boundary(points)
        codes = np.concatenate([np.empty(0, np.uint8), *self._codes[index]])
        if len(self.shape) == 3:
            areas = cell_areas(np.diag(np.asarray(spacing, np.float64)), symmetric=True)
            return Boundary(points, areas[codes])
        return Boundary(points, contour_lengths(spacing)[codes])


def contour_lengths(spacing: Sequence[float]) -> NDArray[np.float64]:
    """Return the length of the outline around a corner, by the code of its four pixels.

    Bits of the code: upper left, upper right, lower left, lower right. One pixel, or three, are
    cut off by the diagonal between the middles of two edges; two neighbours by a straight line.
    """
    height, width = spacing
    diagonal = math.hypot(height / 2, width / 2)
    lengths = np.full(16, diagonal)
    lengths[[0b0000, 0b1111]] = 0.0
    lengths[list(DIAGONAL_CODES)] = 2 * diagonal
    lengths[[0b0011, 0b1100]] = width
    lengths[[0b0101, 0b1010]] = height
    return lengths


def framed(
    read: Callable[[Box], LabelArray], box: Box, shape: Sequence[int], edge: Edge
) -> LabelArray:
    """Return labels of `box`, which may overhang the image: outside stands what `edge` says."""
    inside = box.clip(shape)
    if inside == box:
        return read(box)
    labels = np.full(box.shape, EDGE[edge], np.uint8)
    labels[inside.relative_to(box).slices()] = read(inside)
    return labels


def boundary_of(
    mask: NDArray[np.bool_],
    spacing: Sequence[float],
    *,
    kind: BoundaryKind = "pixels",
    edge: Edge = "closed",
) -> Boundary:
    """Return the outline of a mask, bool with one value of `spacing` per axis."""
    tracer = BoundaryTracer(mask.shape, 2, kind=kind)
    whole = Box.of_shape(mask.shape)
    labels = mask.astype(np.uint8)
    tracer.add(framed(lambda box: labels[box.slices()], whole.grow(1), mask.shape, edge), whole)
    return tracer.of_class(1, spacing)

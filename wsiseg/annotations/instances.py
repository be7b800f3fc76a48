"""The objects of a label mask, touching ones told apart, nuclei inside their cells.

The mask is read in slabs of rows. A connected component is split when all of it is there, so that
its objects are the same wherever slabs end; until then its rows wait.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from wsiseg.annotations.basins import basins, distances, grow
from wsiseg.annotations.rectilinear import Place
from wsiseg.annotations.trace import (
    NO_LAYERS,
    OWN,
    RowsOfPixels,
    TracedPolygons,
    Tracer,
)
from wsiseg.errors import AnnotationError

__all__ = ["MAX_WAITING", "InstanceRule", "Instances", "ended", "trace_instances"]

log = logging.getLogger(__name__)

MAX_WAITING = 1 << 26
"""Pixels of rows that may wait for the end of a component before it is split as far as it came."""

NO_OFFSET = 128
"""Code of an offset of 0; 1 is -1, 255 is 1."""


@dataclass(frozen=True, slots=True)
class InstanceRule:
    """How objects that touch are told apart."""

    split: Literal["none", "distance", "offsets"] = "none"
    """Not at all, at necks of the shape, or by what a network says of each pixel's way to the
    centre of its object."""

    depth: float = 1.0
    """How much deeper the way between two objects must be than the lower one's centre: mask pixels
    for `distance`, a share of the way from centre to edge, 0 to 1, for `offsets`."""

    cell: int | None = None
    nucleus: int | None = None
    """Labels of a cell's body and of its nucleus: each nucleus gets the part of the cells around
    it that is nearest to it on ways within them, and is the nucleus of that cell."""


@dataclass(frozen=True, slots=True)
class Instances:
    """Objects of a mask, and their nuclei."""

    traced: TracedPolygons
    """`values` are labels; a cell has that of its body."""

    nuclei: NDArray[np.object_] | None = None
    """Polygons (n,), `None` for objects without one; `None` where none were asked for."""


def trace_instances(
    labels: RowsOfPixels,
    rule: InstanceRule,
    *,
    offsets: Any = None,  # noqa: ANN401 - rows of codes, with an axis in front
    probability: RowsOfPixels | None = None,
    layers: Mapping[str, RowsOfPixels] = NO_LAYERS,
    block: int = 1024,
    place: Place | None = None,
) -> Instances:
    """Return the objects of all classes of a mask, exactly along pixel edges.

    Parameters
    ----------
    labels
        uint8 (y, x); 0 is background.
    rule
        How objects are told apart.
    offsets
        For `offsets`: rows are uint8 (2, h, x), down and to the right: 1 is -1, the edge above or
        on the left, 128 is the centre, 255 the edge on the other side, 0 no data.
    probability, layers, block, place
        As for `trace_labels`.

    Returns
    -------
    Instances
        One polygon per object, the same whatever `block` is, sorted by first pixel.

    Raises
    ------
    LabelError, AnnotationError
        As `trace_labels`; offsets that are needed and missing.

    Notes
    -----
    Memory grows with objects and with the rows of the largest component that is not yet whole. Of
    one that would need more than 67 million pixels of rows, what is there is split without the
    rest; a warning is logged.
    """
    if rule.split == "offsets" and offsets is None:
        raise AnnotationError("splitting by offsets needs offsets, found none; split by distance")
    averaged = {} if probability is None else {OWN: probability}
    averaged |= layers
    height, width = labels.shape
    splitting = _Splitting(width, rule, list(averaged), place)
    for top in range(0, height, block):
        rows = slice(top, min(top + block, height))
        parts = {name: np.asarray(image[rows]) for name, image in averaged.items()}
        codes = np.asarray(offsets[rows]) if rule.split == "offsets" else None
        splitting.add(np.asarray(labels[rows]), codes, parts, is_last=rows.stop == height)
    return splitting.finish()


class _Splitting:
    """Rows that wait for their components to end, and what was traced of those that have."""

    def __init__(
        self, width: int, rule: InstanceRule, averaged: Sequence[str], place: Place | None
    ) -> None:
        self._width, self._rule = width, rule
        self._labels: NDArray[Any] = np.zeros((0, width), np.uint8)
        self._codes: NDArray[Any] = np.zeros((2, 0, width), np.uint8)
        self._means: dict[str, NDArray[Any]] = {
            name: np.zeros((0, width), np.uint8) for name in averaged
        }
        self._ids: NDArray[np.int32] = np.zeros((0, width), np.int32)
        self._nucleus_ids: NDArray[np.int32] = np.zeros((0, width), np.int32)
        self._values: list[NDArray[np.int64]] = [np.zeros(1, np.int64)]
        self._count = 0
        self._tracer = Tracer(width, place=place)
        self._nucleus_tracer = Tracer(width, place=place)

    def add(
        self,
        labels: NDArray[Any],
        codes: NDArray[Any] | None,
        means: Mapping[str, NDArray[Any]],
        *,
        is_last: bool,
    ) -> None:
        """Take the next rows, and trace those in which all components have ended."""
        self._labels = np.concatenate([self._labels, labels])
        if codes is not None:
            self._codes = np.concatenate([self._codes, codes], axis=1)
        self._means = {name: _below(self._means[name], more) for name, more in means.items()}
        blank = np.zeros(labels.shape, np.int32)
        self._ids = np.concatenate([self._ids, blank])
        self._nucleus_ids = np.concatenate([self._nucleus_ids, blank])
        if not is_last and self._labels.size > MAX_WAITING:
            log.warning("an object of more than %d rows is cut", len(self._labels))
            is_last = True
        first_open = self._split_whole(is_last=is_last)
        self._trace(first_open)

    def finish(self) -> Instances:
        """Return the objects of all rows."""
        traced = self._tracer.finish()
        ids = traced.values
        traced = replace(traced, values=np.concatenate(self._values)[ids])
        if self._rule.nucleus is None:
            return Instances(traced)
        nuclei = self._nucleus_tracer.finish()
        row = np.full(self._count + 1, -1, np.int64)
        row[ids] = np.arange(len(ids))
        column = np.full(len(ids), None, object)
        column[row[nuclei.values]] = nuclei.geometries
        return Instances(traced, column)

    def _split_whole(self, *, is_last: bool) -> int:
        """Give objects to the components that have ended; return the first row with another."""
        first_open = len(self._labels)
        waiting = np.where(self._ids == 0, self._labels, np.uint8(0))
        if self._rule.nucleus is not None and self._rule.cell is not None:
            waiting[waiting == self._rule.nucleus] = self._rule.cell
        for label in np.flatnonzero(np.bincount(waiting.ravel(), minlength=1)[1:]) + 1:
            mask = waiting == label
            if not is_last:
                mask, first = ended(mask)
                first_open = min(first_open, first)
            self._number(mask, int(label))
        return first_open

    def _number(self, mask: NDArray[np.bool_], label: int) -> None:
        rows = np.flatnonzero(mask.any(axis=1))
        if not len(rows):
            return
        part = slice(rows[0], rows[-1] + 1)
        mask = mask[part]
        if self._rule.nucleus is not None and label == self._rule.cell:
            nuclei, count = self._objects(mask & (self._labels[part] == self._rule.nucleus), part)
            found = grow(nuclei, mask)
            bare, more = basins(mask & (found == 0), np.ones(mask.shape, np.uint8), 1)
            np.add(bare, count, out=found, where=bare > 0)
            self._nucleus_ids[part][nuclei > 0] = nuclei[nuclei > 0] + self._count
            count += more
        else:
            found, count = self._objects(mask, part)
        self._ids[part][found > 0] = found[found > 0] + self._count
        self._values.append(np.full(count, label, np.int64))
        self._count += count

    def _objects(self, mask: NDArray[np.bool_], rows: slice) -> tuple[NDArray[np.int32], int]:
        """Return the objects of a mask of whole components, numbered from 1."""
        split = self._rule.split
        if split == "distance":
            return basins(mask, distances(mask), self._rule.depth)
        if split == "offsets":
            away = np.abs(self._codes[:, rows].astype(np.int16) - NO_OFFSET).max(axis=0)
            return basins(mask, -away, self._rule.depth * (NO_OFFSET - 1))
        return basins(mask, np.ones(mask.shape, np.uint8), 1)

    def _trace(self, rows: int) -> None:
        """Trace the first rows, which wait for nothing more, and let them go."""
        if not rows:
            return
        means = {name: image[:rows] for name, image in self._means.items()}
        self._tracer.add(self._ids[:rows], means)
        if self._rule.nucleus is not None:
            self._nucleus_tracer.add(self._nucleus_ids[:rows])
        self._labels, self._codes = self._labels[rows:], self._codes[:, rows:]
        self._ids, self._nucleus_ids = self._ids[rows:], self._nucleus_ids[rows:]
        self._means = {name: image[rows:] for name, image in self._means.items()}


def _below(rows: NDArray[Any], more: NDArray[Any]) -> NDArray[Any]:
    """Return rows with more of them below, of the type of these."""
    return np.concatenate([rows, more]) if len(rows) else more


def ended(mask: NDArray[np.bool_]) -> tuple[NDArray[np.bool_], int]:
    """Return the components that do not reach the last row, and the first row of the others."""
    last = mask[-1]
    if not last.any():
        return mask, len(mask)
    _, found = cv2.connectedComponents(mask.view(np.uint8), connectivity=4, ltype=cv2.CV_32S)
    is_open = np.zeros(found.max() + 1, bool)
    is_open[found[-1][last]] = True
    open_ones = is_open[found]
    return mask & ~open_ones, int(open_ones.any(axis=1).argmax())

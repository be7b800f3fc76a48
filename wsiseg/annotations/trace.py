"""Exact polygons of a label mask: the pixel edges themselves, read in slabs of rows."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import shapely
from numpy.typing import NDArray

from wsiseg.annotations._corners import Corners, find_corners
from wsiseg.annotations._integral import ProbabilityIntegral
from wsiseg.annotations._rings import Outlines, outlines
from wsiseg.errors import AnnotationError, LabelError

__all__ = ["RowsOfPixels", "TracedPolygons", "Tracer", "to_level0", "trace_labels"]

STRIP_PIXELS = 1 << 20
"""Pixels looked at in one go: few calls, and the arrays made from them stay small."""

LARGEST_LABEL = int(np.iinfo(np.int64).max)
NO_LABEL = int(np.iinfo(np.int64).min)
"""Stands for outside the mask where no value is ignored."""


class RowsOfPixels(Protocol):
    """An array (y, x) that can be read in rows: NumPy, Zarr, Dask."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Pixels along y and x."""
        ...

    def __getitem__(self, key: slice, /) -> object:
        """Return some rows."""
        ...


@dataclass(frozen=True, slots=True)
class TracedPolygons:
    """Polygons of a label mask in columns, sorted by their first pixel in row-major order."""

    geometries: NDArray[np.object_]
    """shapely `Polygon` (n,), (x, y) in label-pixel corners, holes kept, without collinear
    vertices; shells counter-clockwise in (x, y), holes clockwise."""

    values: NDArray[np.int64]
    """Label of each polygon (n,)."""

    pixels: NDArray[np.int64]
    """Pixels of each polygon (n,); exactly its area."""

    probability: NDArray[np.float64] | None = None
    """Mean probability over the pixels of each polygon (n,), NaN where none is known; `None` where
    no probability was given."""

    def __len__(self) -> int:
        return len(self.geometries)


def trace_labels(
    labels: RowsOfPixels,
    *,
    ignore: Sequence[int] = (0,),
    probability: RowsOfPixels | None = None,
    block: int = 1024,
) -> TracedPolygons:
    """Return the polygons of all classes of a label mask, exactly along pixel edges.

    Parameters
    ----------
    labels
        Integers (y, x); each value is a class. Read once, `block` rows at a time.
    ignore
        Values without polygons: background, no data.
    probability
        The probability that belongs to each label, (y, x) like `labels`: floating point in 0..1
        (NaN = no data) or uint8 (0 = no data, else 1 + 254 p). Adds `TracedPolygons.probability`.
    block
        Rows per read; for a Zarr array best a multiple of its chunk. Changes memory, never the
        result.

    Raises
    ------
    LabelError
        If `labels` does not hold integers.
    AnnotationError
        If an array is not 2D, the shapes differ, or a probability lies outside 0..1.

    Notes
    -----
    Pixels are 4-connected: two that touch at a corner only are in separate polygons unless other
    pixels join them, and a hole may touch its shell or another hole at a point. Polygons are valid
    in the sense of OGC Simple Features, their areas are the pixel counts, and rasterising them
    gives back the mask bit for bit. Memory grows with the length of the outlines and with `block`
    rows, not with the mask.
    """
    if len(labels.shape) != 2:
        raise AnnotationError(f"tracing needs labels (y, x), found shape {tuple(labels.shape)}")
    if block < 1:
        raise AnnotationError(f"tracing needs at least 1 row per block, found {block}")
    if probability is not None:
        _check_aligned(labels.shape, probability.shape)
    height, width = labels.shape
    tracer = Tracer(width, ignore=ignore)
    for top in range(0, height, block):
        rows = slice(top, min(top + block, height))
        tracer.add(
            np.asarray(labels[rows]), None if probability is None else np.asarray(probability[rows])
        )
    return tracer.finish()


def to_level0(
    geometries: NDArray[np.object_],
    *,
    downsample: Sequence[float],
    origin: Sequence[float] = (0.0, 0.0),
    size: Sequence[int] | None = None,
) -> NDArray[np.object_]:
    """Return polygons in level-0 pixels: `x * downsample + origin` per axis, nothing rounded.

    Parameters
    ----------
    geometries
        Polygons (n,) in label-pixel corners, (x, y).
    downsample
        Level-0 pixels per label pixel, (y, x).
    origin
        Level-0 position of the mask's first corner, (y, x).
    size
        Level-0 pixels of the image, (y, x): coordinates beyond become its edge, since the last
        label pixel may overhang. `None` does not clip.

    Raises
    ------
    AnnotationError
        If a polygon has a pixel outside the image altogether.
    """
    scale, shift = np.array(downsample[::-1], float), np.array(origin[::-1], float)
    moved: NDArray[np.object_] = shapely.transform(geometries, lambda xy: xy * scale + shift)
    if size is None or not len(geometries):
        return moved
    edge = np.array(size[::-1], float)
    left, upper, right, lower = shapely.total_bounds(moved)
    outside = np.array([right, lower]) - scale >= edge
    if min(left, upper) < 0 or outside.any():
        raise AnnotationError(
            f"polygons reach x {left:g} to {right:g}, y {upper:g} to {lower:g}: needed within "
            f"{edge[0]:g} x {edge[1]:g} level-0 pixels but for a part of the last label pixel; "
            "check downsample and origin"
        )
    clipped: NDArray[np.object_] = shapely.transform(moved, lambda xy: np.minimum(xy, edge))
    return clipped


class Tracer:
    """Traces a mask that arrives in slabs of rows, from top to bottom; used once.

    Parameters
    ----------
    width
        Pixels per row.
    ignore
        Values without polygons.
    """

    def __init__(self, width: int, *, ignore: Sequence[int] = (0,)) -> None:
        self._width = width
        self._ignore = tuple(ignore)
        self._above: NDArray[Any] | None = None
        self._background = 0
        self._height = 0
        self._corners: list[Corners] = []
        self._integral: ProbabilityIntegral | None = None
        self._sums: list[NDArray[np.int64]] = []

    def add(self, rows: NDArray[Any], probability: NDArray[Any] | None = None) -> None:
        """Look at the next rows (h, width) of the mask, each slab with a probability or none.

        Raises
        ------
        LabelError, AnnotationError
            As `trace_labels`.
        """
        if rows.ndim != 2 or rows.shape[1] != self._width:
            raise AnnotationError(f"rows need shape (h, {self._width}), found {rows.shape}")
        rows, self._background = _with_one_background(rows, self._ignore)
        if self._above is None:
            self._above = np.full((1, self._width + 2), self._background, rows.dtype)
            self._integral = None if probability is None else ProbabilityIntegral(self._width)
        if rows.dtype != self._above.dtype:
            raise LabelError(f"labels must stay {self._above.dtype}, found {rows.dtype} further on")
        if (probability is None) != (self._integral is None):
            raise AnnotationError("a probability is needed for every slab of rows, or for none")
        if probability is not None:
            _check_aligned(rows.shape, probability.shape)
        step = max(1, STRIP_PIXELS // max(1, self._width))
        for top in range(0, len(rows), step):
            strip = slice(top, top + step)
            lines = None
            if self._integral is not None and probability is not None:
                lines = self._integral.add(probability[strip])
            self._look(rows[strip], self._above, lines)

    def finish(self) -> TracedPolygons:
        """Return the polygons of all rows added."""
        if self._above is not None:
            below = np.full((1, self._width), self._background, self._above.dtype)
            lines = None if self._integral is None else self._integral.last_line()
            self._look(below, self._above, lines)
        corners = Corners.concatenate(self._corners) if self._corners else None
        self._corners.clear()
        if corners is None or not len(corners):
            empty = np.empty(0, np.int64)
            none_known = None if self._integral is None else np.empty(0)
            return TracedPolygons(np.empty(0, object), empty, empty, none_known)
        return self._assemble(corners)

    def _look(
        self, rows: NDArray[Any], above: NDArray[Any], lines: NDArray[np.int64] | None
    ) -> None:
        padded = np.full((len(rows) + 1, self._width + 2), self._background, rows.dtype)
        padded[0] = above
        padded[1:, 1:-1] = rows
        found = find_corners(padded, top=self._height, background=self._background)
        self._corners.append(found)
        if lines is not None:
            self._sums.append(lines[:, found.y - self._height, found.x])
        self._height += len(rows)
        self._above = padded[-1:]

    def _assemble(self, corners: Corners) -> TracedPolygons:
        found = outlines(corners)
        probability = None
        if self._integral is not None:
            sums = np.concatenate(self._sums, axis=1)
            total, known = (_sum_per_polygon(column, found) for column in sums)
            probability = self._integral.mean(total, known)
        return TracedPolygons(
            geometries=_polygons(corners, found),
            values=corners.value[found.tail[found.polygon_starts]].astype(np.int64),
            pixels=_sum_per_polygon(corners.x.astype(np.int64) * corners.y, found),
            probability=probability,
        )


def _check_aligned(labels: tuple[int, ...], probability: tuple[int, ...]) -> None:
    if tuple(labels) != tuple(probability):
        raise AnnotationError(
            f"probability must have one value per label: needed shape {tuple(labels)}, found "
            f"{tuple(probability)}; pick the class's channel first"
        )


def _with_one_background(rows: NDArray[Any], ignore: Sequence[int]) -> tuple[NDArray[Any], int]:
    """Return labels in which one value, returned too, stands for everything without polygons."""
    if rows.dtype == bool:
        rows = rows.view(np.uint8)
    if rows.dtype.kind not in "iu":
        raise LabelError(f"labels must be integers, found {rows.dtype}; threshold or argmax first")
    limits = np.iinfo(rows.dtype)
    ignored = [value for value in ignore if limits.min <= value <= limits.max]
    if rows.dtype == np.uint64 or not ignored:
        if rows.max(initial=0) > LARGEST_LABEL:
            raise LabelError(f"labels must be at most {LARGEST_LABEL}, found {rows.max()}")
        rows = rows.astype(np.int64)
    if not ignored:
        return rows, NO_LABEL
    for value in ignored[1:]:
        rows = np.where(rows == value, rows.dtype.type(ignored[0]), rows)
    return rows, ignored[0]


def _sum_per_polygon(corner_values: NDArray[np.int64], found: Outlines) -> NDArray[np.int64]:
    """Return sums over polygons from the integral image at their corners."""
    sums: NDArray[np.int64] = np.add.reduceat(
        corner_values[found.tail] - corner_values[found.head], found.polygon_starts
    )
    return sums


def _polygons(corners: Corners, found: Outlines) -> NDArray[np.object_]:
    xy = np.empty((2 * len(found.tail), 2))
    for end, corner in enumerate((found.tail, found.head)):
        xy[end::2, 0] = corners.x[corner]
        xy[end::2, 1] = corners.y[corner]
    rings = shapely.linearrings(xy, indices=np.repeat(found.ring, 2))
    polygons: NDArray[np.object_] = shapely.polygons(rings, indices=found.polygon)
    return polygons

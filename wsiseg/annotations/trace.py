"""Exact polygons of a label mask: the pixel edges themselves, read in slabs of rows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Protocol, cast

import numpy as np
import shapely
from numpy.typing import NDArray

from wsiseg.annotations._corners import Corners, find_corners
from wsiseg.annotations._integral import ProbabilityIntegral
from wsiseg.annotations._rings import Outlines, outlines
from wsiseg.annotations.chunks import chunks
from wsiseg.annotations.polygons import Points
from wsiseg.annotations.rectilinear import Place, Rectilinear
from wsiseg.errors import AnnotationError, LabelError

__all__ = ["RowsOfPixels", "ToLevel0", "TracedPolygons", "Tracer", "to_level0", "trace_labels"]

STRIP_PIXELS = 1 << 20
"""Pixels looked at in one go: few calls, and the arrays made from them stay small."""

WAITING_CORNERS = 1 << 16
"""Corners that wait for the rest of their outlines before those that are whole become polygons;
linking them takes some 200 bytes each."""

LARGEST_LABEL = int(np.iinfo(np.int64).max)
NO_LAYERS: Mapping[str, Any] = MappingProxyType({})
NO_LABEL = int(np.iinfo(np.int64).min)
"""Stands for outside the mask where no value is ignored."""


OWN = "probability"
"""Name of the probability among the images that are averaged."""


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

    outlines: Rectilinear
    """(n,), holes kept, without collinear vertices; shells counter-clockwise in (x, y) of
    label-pixel corners, holes clockwise."""

    values: NDArray[np.int64]
    """Label of each polygon (n,)."""

    pixels: NDArray[np.int64]
    """Pixels of each polygon (n,); exactly its area."""

    probability: NDArray[np.float64] | None = None
    """Mean probability over the pixels of each polygon (n,), NaN where none is known; `None` where
    no probability was given."""

    layers: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)
    """The same mean of each layer given, by name."""

    def __len__(self) -> int:
        return len(self.outlines)

    @property
    def geometries(self) -> NDArray[np.object_]:
        """The outlines as shapely `Polygon` (n,), made anew each time."""
        return self.outlines.to_shapely()


def trace_labels(
    labels: RowsOfPixels,
    *,
    ignore: Sequence[int] = (0,),
    probability: RowsOfPixels | None = None,
    layers: Mapping[str, RowsOfPixels] = NO_LAYERS,
    block: int = 1024,
    place: Place | None = None,
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
    layers
        What else is to be averaged over each polygon, by name, like `probability`.
    block
        Rows per read; for a Zarr array best a multiple of its chunk. Changes memory, never the
        result.
    place
        Where vertices come to lie, for instance `ToLevel0`: looked at when outlines are used, since
        corners of pixels take the least memory.

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
    gives back the mask bit for bit. Memory grows with the polygons, the outlines that are not yet
    whole and `block` rows, not with the mask.
    """
    if len(labels.shape) != 2:
        raise AnnotationError(f"tracing needs labels (y, x), found shape {tuple(labels.shape)}")
    if block < 1:
        raise AnnotationError(f"tracing needs at least 1 row per block, found {block}")
    averaged = {} if probability is None else {OWN: probability}
    averaged |= layers
    for name, image in averaged.items():
        _check_aligned(labels.shape, image.shape, name)
    height, width = labels.shape
    tracer = Tracer(width, ignore=ignore, place=place)
    for top in range(0, height, block):
        rows = slice(top, min(top + block, height))
        parts = {name: np.asarray(image[rows]) for name, image in averaged.items()}
        tracer.add(np.asarray(labels[rows]), parts)
    return tracer.finish()


@dataclass(frozen=True, slots=True)
class ToLevel0:
    """Moves vertices to level 0: `x * downsample + origin` per axis, nothing rounded.

    Parameters
    ----------
    downsample
        Level-0 pixels per label pixel, (y, x).
    origin
        Level-0 position of the mask's first corner, (y, x).
    size
        Level-0 pixels of the image, (y, x): coordinates beyond become its edge, since the last
        label pixel may overhang. `None` does not clip.
    """

    downsample: Sequence[float]
    origin: Sequence[float] = (0.0, 0.0)
    size: Sequence[int] | None = None

    def __call__(self, points: Points) -> Points:
        """Return vertices (vertex, 2), (x, y), given in label-pixel corners.

        Raises
        ------
        AnnotationError
            If one lies a pixel or more outside the image.
        """
        scale, shift = (np.array(pair[::-1], float) for pair in (self.downsample, self.origin))
        moved: Points = points * scale + shift
        if self.size is None or not len(moved):
            return moved
        edge = np.array(self.size[::-1], float)
        low, high = moved.min(axis=0), moved.max(axis=0)
        if low.min() < 0 or (high - scale >= edge).any():
            raise AnnotationError(
                f"polygons reach x {low[0]:g} to {high[0]:g}, y {low[1]:g} to {high[1]:g}: needed "
                f"within {edge[0]:g} x {edge[1]:g} level-0 pixels but for a part of the last label "
                "pixel; check downsample and origin"
            )
        clipped: Points = np.minimum(moved, edge)
        return clipped


def to_level0(
    geometries: NDArray[np.object_],
    *,
    downsample: Sequence[float],
    origin: Sequence[float] = (0.0, 0.0),
    size: Sequence[int] | None = None,
) -> NDArray[np.object_]:
    """Return polygons (n,), given in label-pixel corners, in level-0 pixels; see `ToLevel0`.

    Raises
    ------
    AnnotationError
        If a polygon has a pixel outside the image altogether.
    """
    place, moved = ToLevel0(downsample, origin, size), np.empty_like(geometries)
    for chunk in chunks(geometries):
        moved[chunk] = shapely.transform(geometries[chunk], place)
    return moved


class Tracer:
    """Traces a mask that arrives in slabs of rows, from top to bottom; used once.

    Parameters
    ----------
    width
        Pixels per row.
    ignore
        Values without polygons.
    place
        As for `trace_labels`.
    """

    def __init__(
        self, width: int, *, ignore: Sequence[int] = (0,), place: Place | None = None
    ) -> None:
        self._width = width
        self._place = place
        self._ignore = tuple(ignore)
        self._above: NDArray[Any] | None = None
        self._background = 0
        self._height = 0
        self._corners: list[Corners] = []
        self._sums: list[NDArray[np.int64]] = []
        self._waiting, self._enough = 0, WAITING_CORNERS
        self._integrals: dict[str, ProbabilityIntegral] = {}
        self._done: list[_Traced] = []

    def add(self, rows: NDArray[Any], averaged: Mapping[str, NDArray[Any]] = NO_LAYERS) -> None:
        """Look at the next rows (h, width) of the mask, and of what is averaged over its polygons.

        The same names with every slab; `OWN` gives `TracedPolygons.probability`.

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
            self._integrals = {name: ProbabilityIntegral(self._width) for name in averaged}
        if rows.dtype != self._above.dtype:
            raise LabelError(f"labels must stay {self._above.dtype}, found {rows.dtype} further on")
        if averaged.keys() != self._integrals.keys():
            raise AnnotationError(
                f"needed {sorted(self._integrals)} for every slab of rows, found {sorted(averaged)}"
            )
        for name, values in averaged.items():
            _check_aligned(rows.shape, values.shape, name)
        step = max(1, STRIP_PIXELS // max(1, self._width))
        for top in range(0, len(rows), step):
            strip = slice(top, top + step)
            lines = [one.add(averaged[name][strip]) for name, one in self._integrals.items()]
            self._look(rows[strip], self._above, lines)
            if self._waiting >= self._enough:
                self._link(final=False)
                self._enough = max(WAITING_CORNERS, 2 * self._waiting)

    def finish(self) -> TracedPolygons:
        """Return the polygons of all rows added."""
        if self._above is not None:
            self._link(final=True)
        done, self._done = self._done, []
        return _in_order(done, list(self._integrals), self._place)

    def _look(
        self, rows: NDArray[Any], above: NDArray[Any], lines: Sequence[NDArray[np.int64]]
    ) -> None:
        padded = np.full((len(rows) + 1, self._width + 2), self._background, rows.dtype)
        padded[0] = above
        padded[1:, 1:-1] = rows
        self._keep(find_corners(padded, top=self._height, background=self._background), lines)
        self._height += len(rows)
        self._above = padded[-1:]

    def _keep(self, corners: Corners, lines: Sequence[NDArray[np.int64]]) -> None:
        self._corners.append(corners)
        self._waiting += len(corners)
        if lines:
            row, column = corners.y - self._height, corners.x
            self._sums.append(np.concatenate([line[:, row, column] for line in lines]))

    def _link(self, *, final: bool) -> None:
        """Make polygons of the outlines that are whole; keep the corners of the others.

        All outlines are closed along the lattice line below the last row, for now unless `final`:
        a polygon with corners there is still open.
        """
        known = self._waiting
        lines = [one.last_line() for one in self._integrals.values()]
        self._keep(self._closing_corners(), lines)
        corners = Corners.concatenate(self._corners)
        sums = np.concatenate(self._sums, axis=1) if self._sums else None
        self._corners, self._sums, self._waiting = [], [], 0
        if not len(corners):
            return
        found = outlines(corners)
        is_open = np.zeros(found.polygons, bool)
        if not final:
            is_open[found.polygon_of_edge[np.maximum(found.tail, found.head) >= known]] = True
        if not is_open.all():
            self._done.append(self._traced(corners, sums, found.of_polygons(~is_open)))
        unfinished = found.of_polygons(is_open)
        kept = np.sort(np.concatenate([unfinished.tail, unfinished.head]))
        kept = kept[kept < known]
        self._corners, self._waiting = [corners.take(kept)], len(kept)
        if sums is not None:
            self._sums = [sums[:, kept]]

    def _closing_corners(self) -> Corners:
        last = cast("NDArray[Any]", self._above)
        padded = np.concatenate([last, np.full_like(last, self._background)])
        return find_corners(padded, top=self._height, background=self._background)

    def _traced(
        self, corners: Corners, sums: NDArray[np.int64] | None, found: Outlines
    ) -> "_Traced":
        means = {}
        if sums is not None:
            pairs = zip(sums[::2], sums[1::2], strict=True)
            for (name, integral), pair in zip(self._integrals.items(), pairs, strict=True):
                total, known = (_sum_per_polygon(column, found) for column in pair)
                means[name] = integral.mean(total, known)
        starts = found.polygon_starts
        first = np.minimum(found.tail[starts], found.head[starts])
        return _Traced(
            first_pixel=corners.y[first].astype(np.int64) * self._width + corners.x[first],
            outlines=_rectilinear(corners, found),
            values=corners.value[first].astype(np.int64),
            pixels=_sum_per_polygon(corners.x.astype(np.int64) * corners.y, found),
            means=means,
        )


@dataclass(frozen=True, slots=True)
class _Traced:
    """Some polygons in the columns of `TracedPolygons`, and where they belong in its order."""

    first_pixel: NDArray[np.int64]
    outlines: Rectilinear
    values: NDArray[np.int64]
    pixels: NDArray[np.int64]
    means: Mapping[str, NDArray[np.float64]]


def _in_order(parts: list[_Traced], averaged: Sequence[str], place: Place | None) -> TracedPolygons:
    order = np.argsort(_column(parts, "first_pixel"))
    means = {
        name: np.concatenate([np.empty(0), *(part.means[name] for part in parts)])[order]
        for name in averaged
    }
    outlines = Rectilinear.concatenate([part.outlines for part in parts], place)
    return TracedPolygons(
        outlines=outlines.take(order),
        values=_column(parts, "values")[order],
        pixels=_column(parts, "pixels")[order],
        probability=means.pop(OWN, None),
        layers=means,
    )


def _column(parts: list[_Traced], name: str) -> NDArray[np.int64]:
    return np.concatenate([np.empty(0, np.int64), *(getattr(part, name) for part in parts)])


def _check_aligned(labels: tuple[int, ...], found: tuple[int, ...], name: str) -> None:
    if tuple(labels) != tuple(found):
        raise AnnotationError(
            f"{name} must have one value per label: needed shape {tuple(labels)}, found "
            f"{tuple(found)}; pick one channel first"
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


def _rectilinear(corners: Corners, found: Outlines) -> Rectilinear:
    xy = np.stack([corners.x[found.tail], corners.y[found.tail]], axis=1)
    rings = np.flatnonzero(np.diff(found.ring, prepend=-1, append=found.ring[-1] + 1))
    parts = np.flatnonzero(np.diff(found.polygon, prepend=-1, append=found.polygon[-1] + 1))
    smallest = np.min_scalar_type(int(xy.max()))
    return Rectilinear(xy.astype(smallest), rings, parts, np.arange(len(parts) - 1))

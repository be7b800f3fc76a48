"""Polygons to pixels by the pixel-centre rule, exactly, for boxes of a grid of any spacing.

A pixel belongs to a polygon that holds its centre. For each row of centres, the places where edges
cross it are found; between the first and the second, the third and the fourth, ... lies the polygon
(even-odd rule). Edges and rows are half-open (a centre on a left or upper edge belongs, one on a
right or lower edge does not), and an edge is always walked downwards, so that polygons that share
an edge share no pixel and leave none out. Everything is done for all polygons of a box at once.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import shapely
from numpy.typing import NDArray

from wsiseg.geometry import Box

__all__ = ["PolygonRaster", "Raster"]

RUN = 64
"""Neighbouring edges that are skipped together where none can cross a row."""

Indices = NDArray[np.int64]


class Raster(Protocol):
    """A grid of pixels over a slide; a `View` or a `Level` is one."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Pixels (y, x)."""
        ...

    @property
    def downsample(self) -> tuple[float, ...]:
        """Level-0 pixels per pixel, (y, x)."""
        ...


@dataclass(frozen=True, slots=True)
class _Axis:
    """Pixels along one axis; the last one may overhang the slide, and ends where that ends."""

    downsample: float
    count: int
    size: float
    """Level-0 pixels of the slide."""

    def centres(self, indices: Indices) -> NDArray[np.float64]:
        """Return the level-0 position of pixel centres."""
        stop = (indices + 1) * self.downsample
        if self.count * self.downsample > self.size:
            stop = np.where(indices == self.count - 1, self.size, stop)
        return (indices * self.downsample + stop) / 2

    def first_at(self, places: NDArray[np.float64]) -> Indices:
        """Return the first pixel whose centre is at a level-0 position or beyond."""
        first = np.ceil(places / self.downsample - 0.5).astype(np.int64)
        last = self.count - 1
        if self.count * self.downsample > self.size:
            centre = self.centres(np.array([last]))
            first += (first == last) & (places > centre)
        return first


class PolygonRaster:
    """Polygons in layers, made into pixels box by box, from any thread.

    Parameters
    ----------
    geometries
        Valid `Polygon` and `MultiPolygon` (n,) in level-0 pixels (x, y).
    layers
        A number (n,) from 0 to 254 for each; polygons of a layer are united.
    shape
        Level-0 pixels (y, x) of the slide.
    """

    def __init__(
        self, geometries: NDArray[np.object_], layers: Sequence[int], shape: Sequence[int]
    ) -> None:
        order = np.argsort(np.array(layers, np.int64), kind="stable")
        geometries = geometries[order]
        self._layers = np.array(layers, np.int64)[order]
        self._shape = tuple(shape)
        self._tree = shapely.STRtree(geometries)
        self._tree.query(shapely.Point(0, 0))  # the first query completes it: not thread-safe
        self._edges, edge_counts = _edges(geometries)
        self._runs = _Runs.of(self._edges, edge_counts)

    def read(self, raster: Raster, box: Box) -> NDArray[np.uint8]:
        """Return the topmost layer at each pixel of a box.

        Parameters
        ----------
        raster
            The pixels.
        box
            Some of them (y, x), all of them on the slide.

        Returns
        -------
        ndarray
            uint8 `box.shape`: 1 + the highest layer with a polygon that holds the pixel's centre,
            0 where there is none.
        """
        place, top = _topmost(*self._spans(raster, box))
        lengths = np.diff(place, prepend=0, append=box.size)
        return np.repeat(np.concatenate([np.zeros(1, np.uint8), top]), lengths).reshape(box.shape)

    def _spans(self, raster: Raster, box: Box) -> tuple[Indices, Indices, Indices]:
        """Return where runs of pixels inside a polygon start and stop, and its layer.

        Places are counted in row-major order of the box.
        """
        y, x = (
            _Axis(float(d), n, size)
            for d, n, size in zip(raster.downsample, raster.shape, self._shape, strict=True)
        )
        (top, left), (bottom, right) = box.start, box.stop
        near = shapely.box(
            left * x.downsample, top * y.downsample, right * x.downsample, bottom * y.downsample
        )
        polygons = np.sort(self._tree.query(near))
        edges, owner = self._runs.edges_of(polygons, top * y.downsample, bottom * y.downsample)
        first = np.clip(y.first_at(self._edges[1, edges]), top, bottom)
        rows = np.clip(y.first_at(self._edges[2, edges]), top, bottom) - first
        owner, row = np.repeat(owner, rows), _ranges(first, rows)
        x0, y0, _, slope = self._edges
        crossed = np.repeat(edges, rows)
        place = x0[crossed] + (y.centres(row) - y0[crossed]) * slope[crossed]
        column = np.clip(x.first_at(place), left, right) - left  # right of the box: at its end
        # Sorted by polygon, row and column, two crossings at a time are a span.
        height, width = map(int, box.shape)
        for_column, for_row = width.bit_length(), height.bit_length()
        line = (owner << for_row) | (row - top)
        crossings = np.sort((line << for_column) | column).reshape(-1, 2)
        key = crossings[crossings[:, 0] < crossings[:, 1]]
        start, stop = (key & ((1 << for_column) - 1)).T
        line = key[:, 0] >> for_column
        before = (line & ((1 << for_row) - 1)) * width
        return before + start, before + stop, self._layers[polygons[line >> for_row]]


def _topmost(starts: Indices, stops: Indices, layer: Indices) -> tuple[Indices, NDArray[np.uint8]]:
    """Return from which places on which layer is the topmost, plus 1; spans may overlap."""
    present = np.flatnonzero(np.bincount(layer))
    ends = np.concatenate([starts << 1, (stops << 1) | 1])
    key = np.sort((ends << 8) | np.concatenate([layer, layer]))
    layer, place = key & 255, key >> 9
    step = (1 - ((key >> 7) & 2)).astype(np.int32)
    top = np.zeros(len(place), np.uint8)
    for number in present:
        steps = step if len(present) == 1 else np.where(layer == number, step, 0)
        top[np.cumsum(steps) > 0] = number + 1
    return place, top


@dataclass(frozen=True, slots=True)
class _Runs:
    """Edges in runs, and between which heights each run lies."""

    first: Indices
    """Index of the first edge of a run (run + 1,)."""

    low: NDArray[np.float64]
    high: NDArray[np.float64]
    of_polygon: Indices
    """Index of the first run of a polygon (polygon + 1,)."""

    @classmethod
    def of(cls, edges: NDArray[np.float64], edge_counts: Indices) -> "_Runs":
        """Cut the edges (4, n) of polygons, so many each, into runs."""
        runs = -(-edge_counts // RUN)
        within = _ranges(np.zeros_like(runs), runs) * RUN
        starts = np.cumsum(edge_counts) - edge_counts
        first = np.repeat(starts, runs) + within
        if not len(first):
            nothing = np.empty(0)
            return cls(np.zeros(1, np.int64), nothing, nothing, np.zeros(len(runs) + 1, np.int64))
        return cls(
            first=np.append(first, edges.shape[1]),
            low=np.minimum.reduceat(edges[1], first),
            high=np.maximum.reduceat(edges[2], first),
            of_polygon=np.concatenate([[0], np.cumsum(runs)]),
        )

    def edges_of(self, polygons: Indices, low: float, high: float) -> tuple[Indices, Indices]:
        """Return the edges of some polygons that may lie between two heights, and whose.

        The second is the position in `polygons`.
        """
        counts = self.of_polygon[polygons + 1] - self.of_polygon[polygons]
        runs = _ranges(self.of_polygon[polygons], counts)
        owner = np.repeat(np.arange(len(polygons)), counts)
        kept = (self.low[runs] < high) & (self.high[runs] > low)
        runs, owner = runs[kept], owner[kept]
        sizes = self.first[runs + 1] - self.first[runs]
        return _ranges(self.first[runs], sizes), np.repeat(owner, sizes)


def _edges(geometries: NDArray[np.object_]) -> tuple[NDArray[np.float64], Indices]:
    """Return the edges (4, n), and how many each polygon has.

    An edge is x0, y0, y1 and its slope (x1 - x0) / (y1 - y0), with y0 < y1.
    """
    parts, polygon = shapely.get_parts(geometries, return_index=True)
    rings, part = shapely.get_rings(parts, return_index=True)
    points, ring = shapely.get_coordinates(rings, return_index=True)
    start, stop = points[:-1], points[1:]
    is_edge = (ring[:-1] == ring[1:]) & (start[:, 1] != stop[:, 1])
    counts = np.bincount(polygon[part[ring[:-1][is_edge]]], minlength=len(geometries))
    start, stop = start[is_edge], stop[is_edge]
    down = (start[:, 1] < stop[:, 1])[:, None]
    (x0, y0), (x1, y1) = np.where(down, start, stop).T, np.where(down, stop, start).T
    return np.stack([x0, y0, y1, (x1 - x0) / (y1 - y0)]), counts


def _ranges(starts: Indices, counts: Indices) -> Indices:
    """Return `start, start + 1, ...`, `count` of them, one range after the other."""
    stops = np.cumsum(counts)
    total = int(stops[-1]) if len(stops) else 0
    return np.arange(total) + np.repeat(starts - stops + counts, counts)

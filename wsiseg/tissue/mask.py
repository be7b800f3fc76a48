"""The tissue mask, and how much of a box it covers."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from wsiseg.errors import TissueError
from wsiseg.geometry import Spacing
from wsiseg.grid import Grid
from wsiseg.source.base import Pixels

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["TissueMask"]

THUMBNAIL = 320
"""Longest side in a notebook, about."""

ROWS_AT_ONCE = 64
"""Rows of tiles whose tissue is counted together, as floats."""


@dataclass(frozen=True, eq=False)
class TissueMask:
    """Which part of a slide is tissue.

    Parameters
    ----------
    mask
        bool (h, w); pixel (i, j) covers level-0 pixels [i, i + 1) * downsample along y, and x
        alike. Made read-only.
    downsample
        Level-0 pixels per mask pixel, (y, x); any float.
    spacing
        µm per mask pixel, (y, x).
    level0_shape
        Level-0 pixels of the slide, (y, x); the last mask pixels may overhang it. Default: what
        the mask covers, rounded.
    picture
        The slide as the detector saw it, uint8 (h, w, 3), no side longer than 1,600 pixels, for
        overviews; `None` where nothing was looked at.

    Raises
    ------
    TissueError
        If the mask is not a bool image with at least one pixel, or a downsample is not positive.

    Notes
    -----
    Areas are exact: a summed-area table [1]_ is interpolated linearly, which is the integral of
    the mask taken as squares. The table holds 4 bytes per mask pixel.

    References
    ----------
    .. [1] F. C. Crow, Summed-area tables for texture mapping, SIGGRAPH 1984,
       doi:10.1145/800031.808600.
    """

    mask: NDArray[np.bool_]
    downsample: tuple[float, float]
    spacing: Spacing
    level0_shape: tuple[int, int] = (0, 0)
    picture: Pixels | None = None

    def __post_init__(self) -> None:
        if self.mask.ndim != 2 or self.mask.dtype != np.bool_ or not self.mask.size:
            raise TissueError(
                f"a tissue mask needs bool (h, w) with at least one pixel, got {self.mask.dtype} "
                f"{self.mask.shape}"
            )
        if not all(d > 0 for d in self.downsample):
            raise TissueError(f"a tissue mask needs a downsample above 0, got {self.downsample}")
        if self.level0_shape == (0, 0):
            covered = zip(self.mask.shape, self.downsample, strict=True)
            object.__setattr__(self, "level0_shape", tuple(round(n * d) for n, d in covered))
        frozen = self.mask.view()
        frozen.flags.writeable = False
        object.__setattr__(self, "mask", frozen)

    @property
    def share(self) -> float:
        """Share of the slide that is tissue, 0-1."""
        height, width = (
            float(self._on_mask(np.array([n]), axis)[0]) for axis, n in enumerate(self.level0_shape)
        )
        seen = self.mask[: math.ceil(height), : math.ceil(width)]  # the last pixels may overhang
        rows = np.count_nonzero(seen, axis=1) - (seen.shape[1] - width) * seen[:, -1]
        tissue = rows.sum() - (seen.shape[0] - height) * rows[-1]
        return float(tissue / (height * width))

    @property
    def area_mm2(self) -> float:
        """Area of the tissue in mm²."""
        l0_um2 = self.spacing.area_um2 / math.prod(self.downsample)
        return self.share * math.prod(self.level0_shape) * l0_um2 * 1e-6

    def overlay(self) -> Pixels:
        """Return a picture, uint8 (h, w, 3): the slide with its tissue, or tissue dark on white."""
        tissue = np.repeat(self.mask[..., None], 3, axis=-1)
        if self.picture is None:
            return np.where(tissue, np.uint8(90), np.uint8(255))
        height, width = self.picture.shape[:2]
        rows = np.arange(height) * self.mask.shape[0] // height
        columns = np.arange(width) * self.mask.shape[1] // width
        faint = self.picture // 4 + 191
        return np.where(tissue[rows[:, None], columns], self.picture, faint)

    def plot(self) -> "Figure":
        """Return a matplotlib figure: what is no tissue is faint."""
        from wsiseg.draw import plot_image

        pixels = self.overlay()
        um = self.spacing.um[1] * self.mask.shape[1] / pixels.shape[1]
        return plot_image(pixels, um, title=f"tissue: {self.area_mm2:.3g} mm²")

    def __repr__(self) -> str:
        return f"<TissueMask {self.area_mm2:.3g} mm², {self.share:.1%} of the slide>"

    def _repr_html_(self) -> str:
        from wsiseg.draw.notebook import data_image, panel

        pixels = self.overlay()
        step = max(1, max(pixels.shape) // THUMBNAIL)
        picture = data_image(np.ascontiguousarray(pixels[::step, ::step]), "tissue")
        told = f"{self.area_mm2:.3g} mm², {self.share:.1%} of the slide"
        return panel("Tissue", told, picture=picture)

    def fraction(self, l0_boxes: ArrayLike) -> NDArray[np.float32]:
        """Return the share of each box that is tissue.

        Parameters
        ----------
        l0_boxes
            float (n, 4): y0, x0, y1, x1 in level-0 pixels, fractions allowed.

        Returns
        -------
        float32 (n,), 0-1
            Tissue over the part of the box that lies on the slide: a tile that overhangs the edge
            of the slide counts by what it can show. 0 for a box outside, or without area.

        Raises
        ------
        TissueError
            If the boxes are not (n, 4).
        """
        boxes = np.asarray(l0_boxes, np.float64)
        if boxes.ndim != 2 or boxes.shape[1] != 4:
            raise TissueError(f"boxes need shape (n, 4), found {boxes.shape}")
        y0, y1 = self._on_mask(boxes[:, 0], 0), self._on_mask(boxes[:, 2], 0)
        x0, x1 = self._on_mask(boxes[:, 1], 1), self._on_mask(boxes[:, 3], 1)
        table = _integral(self.mask)
        corners = ((y1, x1, 1), (y0, x1, -1), (y1, x0, -1), (y0, x0, 1))
        tissue = np.sum([sign * self._area(table, y, x) for y, x, sign in corners], axis=0)
        return _share(tissue, (y1 - y0) * (x1 - x0))

    def select(
        self, grid: Grid, downsample: tuple[float, ...], min_fraction: float
    ) -> NDArray[np.bool_]:
        """Return which tiles of `grid` to look at.

        Parameters
        ----------
        grid
            Two axes, on an image of this slide.
        downsample
            Level-0 pixels per pixel of that image, (y, x).
        min_fraction
            A tile is taken if at least this share of its write box (its part on the slide) is
            tissue, and some of it is: 0 takes every tile that touches tissue.

        Returns
        -------
        bool, shape `grid.counts`

        Raises
        ------
        TissueError
            If the grid has not two axes, or `min_fraction` is not within 0-1.

        Notes
        -----
        The boxes of a grid are a product of rows and columns, so the table is interpolated once
        per row edge and once per column edge, not per tile.
        """
        if len(grid.shape) != 2 or not 0 <= min_fraction <= 1:
            raise TissueError(
                f"tiles need a grid of two axes and a fraction within 0-1, got {len(grid.shape)} "
                f"axes and {min_fraction}"
            )
        (y0, y1), (x0, x1) = (self._tile_edges(grid, downsample, axis) for axis in (0, 1))
        table = _integral(self.mask)  # not kept: on a large slide it is larger than all else
        selected = np.empty(grid.counts, np.bool_)
        for first in range(0, len(y0), ROWS_AT_ONCE):
            part = slice(first, first + ROWS_AT_ONCE)
            top, bottom = y0[part], y1[part]
            rows = self._interpolated(table, bottom, 0) - self._interpolated(table, top, 0)
            tissue = self._interpolated(rows, x1, 1) - self._interpolated(rows, x0, 1)
            found = _share(tissue, np.multiply.outer(bottom - top, x1 - x0))
            # the tolerance lets a tile that is tissue all over pass min_fraction 1
            selected[part] = (found >= min_fraction - 1e-6) & (tissue > 1e-9)
        return selected

    def _tile_edges(
        self, grid: Grid, downsample: tuple[float, ...], axis: int
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return first and last edge of each row (or column) of write boxes, in mask pixels."""
        first = np.arange(grid.counts[axis]) * grid.stride[axis]
        last = np.minimum(first + grid.stride[axis] + grid.overlap[axis], grid.shape[axis])
        scale = downsample[axis]
        return self._on_mask(first * scale, axis), self._on_mask(last * scale, axis)

    def _on_mask(self, l0_edges: NDArray[np.floating], axis: int) -> NDArray[np.float64]:
        """Return level-0 coordinates in mask pixels, moved to the slide where they are outside."""
        inside = np.clip(l0_edges, 0, self.level0_shape[axis]) / self.downsample[axis]
        on_mask: NDArray[np.float64] = np.clip(inside, 0, self.mask.shape[axis])
        return on_mask

    def _area(
        self, table: NDArray[np.uint32], y: NDArray[np.float64], x: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Return tissue above and left of the points (n,), in mask pixels."""
        i, j = _cell(y, self.mask.shape[0]), _cell(x, self.mask.shape[1])
        v, u = y - i, x - j
        top = table[i, j] * (1 - u) + table[i, j + 1] * u
        bottom = table[i + 1, j] * (1 - u) + table[i + 1, j + 1] * u
        area: NDArray[np.float64] = top * (1 - v) + bottom * v
        return area

    @staticmethod
    def _interpolated(
        table: NDArray[np.uint32] | NDArray[np.float64], at: NDArray[np.float64], axis: int
    ) -> NDArray[np.float64]:
        """Return `table` at fractional positions along one axis."""
        cell = _cell(at, table.shape[axis] - 1)
        weight = np.expand_dims(at - cell, 1 - axis)
        low, high = table.take(cell, axis), table.take(cell + 1, axis)
        out: NDArray[np.float64] = low * (1 - weight) + high * weight
        return out


def _cell(at: NDArray[np.float64], count: int) -> NDArray[np.int64]:
    """Return the pixel that each position lies in; the far edge belongs to the last pixel."""
    return np.minimum(at.astype(np.int64), count - 1)


def _share(tissue: NDArray[np.float64], area: NDArray[np.float64]) -> NDArray[np.float32]:
    share = np.divide(tissue, area, out=np.zeros_like(tissue), where=area > 0)
    return np.clip(share, 0, 1).astype(np.float32)


def _integral(mask: NDArray[np.bool_]) -> NDArray[np.uint32]:
    """Return the pixels set above and left of each pixel corner, (h + 1, w + 1)."""
    table = np.zeros((mask.shape[0] + 1, mask.shape[1] + 1), np.uint32)
    np.cumsum(mask, axis=0, dtype=np.uint32, out=table[1:, 1:])
    np.cumsum(table[1:, 1:], axis=1, out=table[1:, 1:])
    return table

"""Where a stitched array lies on the slide or in the volume."""

import math
from dataclasses import dataclass

from wsiseg.errors import HeatmapError
from wsiseg.geometry import Spacing, ceil_div
from wsiseg.grid import Grid

__all__ = ["Placement"]

SMALLEST_LEVEL = 512


@dataclass(frozen=True, slots=True)
class Placement:
    """Shape of an array and the level-0 pixels under each of its pixels.

    Along each axis pixel `i` covers level-0 pixels
    `[origin + i * downsample, origin + (i + 1) * downsample)`.

    Raises
    ------
    HeatmapError
        If the axes do not agree, or a size or downsample is not positive.
    """

    shape: tuple[int, ...]
    """Pixels per axis, (y, x) or (z, y, x)."""

    spacing: Spacing
    """µm per pixel of this array."""

    downsample: tuple[float, ...]
    """Level-0 pixels per pixel of this array."""

    origin: tuple[float, ...] = ()
    """Level-0 pixels before the first pixel's corner; default: none."""

    def __post_init__(self) -> None:
        if not self.origin:
            object.__setattr__(self, "origin", (0.0,) * len(self.shape))
        lengths = {len(v) for v in (self.shape, self.spacing.um, self.downsample, self.origin)}
        if (
            len(lengths) != 1
            or lengths == {0}
            or min(self.shape) < 1
            or not all(math.isfinite(d) and d > 0 for d in self.downsample)
            or not all(map(math.isfinite, self.origin))
        ):
            raise HeatmapError(
                "needed one size >= 1, spacing, downsample > 0 and origin per axis, found shape "
                f"{self.shape}, spacing {self.spacing.um}, downsample {self.downsample}, origin "
                f"{self.origin}"
            )

    def cells(self, grid: Grid) -> "Placement":
        """Return where the heatmap of a classifier lies: one pixel per tile of a grid over this.

        A cell is as wide as the stride, and lies at the centre of the window its tile decides.
        """
        pairs = zip(self.downsample, self.origin, grid.overlap, strict=True)
        return Placement(
            shape=grid.counts,
            spacing=self.spacing.times(grid.stride),
            downsample=tuple(d * s for d, s in zip(self.downsample, grid.stride, strict=True)),
            origin=tuple(start + d * o / 2 for d, start, o in pairs),
        )

    @property
    def levels(self) -> int:
        """Levels of a pyramid over this array: halved until no axis is longer than 512."""
        return 1 + (ceil_div(max(self.shape), SMALLEST_LEVEL) - 1).bit_length()

    def level_shape(self, level: int) -> tuple[int, ...]:
        """Return the shape after halving `level` times, rounded up."""
        factors = self.level_factors(level)
        return tuple(ceil_div(n, f) for n, f in zip(self.shape, factors, strict=True))

    def level_factors(self, level: int) -> tuple[int, ...]:
        """Return the pixels of this array per pixel after halving; an axis of size 1 stays."""
        return tuple(2**level if n > 1 else 1 for n in self.shape)

    def scale_um(self, level: int) -> tuple[float, ...]:
        """Return µm per pixel after halving `level` times."""
        factors = self.level_factors(level)
        return tuple(u * f for u, f in zip(self.spacing.um, factors, strict=True))

    def translation_um(self, level: int) -> tuple[float, ...]:
        """Return where the centre of the first pixel lies after halving `level` times, in µm.

        Measured from the centre of the first level-0 pixel, as OME-NGFF coordinates are: a pixel
        of `f` level-0 pixels has its centre (f - 1) / 2 of them further.
        """
        factors = self.level_factors(level)
        return tuple(
            (start + (f * d - 1) / 2) * (um / d)
            for start, f, d, um in zip(
                self.origin, factors, self.downsample, self.spacing.um, strict=True
            )
        )

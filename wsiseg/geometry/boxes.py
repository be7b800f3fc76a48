"""Boxes and spacings in pixels.

Array order `(y, x)` or `(z, y, x)` everywhere. In 2D, pixel `i` covers `[i, i + 1)`, so the way
between a level and level 0 is one multiplication by the true downsample, a float per axis.
Spacing is micrometres (µm) per pixel, always.
"""

import math
import operator
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from wsiseg.errors import GridError, MissingSpacingError

__all__ = ["Box", "LevelInfo", "Spacing", "ceil_div"]

FINEST_UM = 0.01
"""Finer than any light microscope samples (diffraction limit about 0.2 µm)."""

COARSEST_UM = 10_000.0
"""1 cm per pixel: a whole slide would be five pixels wide."""

COARSEST_VOXEL_UM = 200_000.0
"""20 cm between slices: farther apart than any two of a scan."""


@dataclass(frozen=True, slots=True, order=True)
class Box:
    """Half-open block in array order; -1 is one pixel outside, not the last one.

    Some dozens are made per tile that is read, so its methods build lists, which are quicker than
    generators.
    """

    start: tuple[int, ...]
    stop: tuple[int, ...]

    def __post_init__(self) -> None:
        start, stop = self.start, self.stop
        if len(start) != len(stop) or any(map(operator.gt, start, stop)):
            raise GridError(f"box needs start <= stop on each axis, got {start}, {stop}")

    @classmethod
    def of_shape(cls, shape: Sequence[int]) -> "Box":
        """Return the box that covers a whole array of `shape`."""
        return cls((0,) * len(shape), tuple(shape))

    @property
    def shape(self) -> tuple[int, ...]:
        """Pixels along each axis."""
        return tuple([b - a for a, b in zip(self.start, self.stop, strict=True)])

    @property
    def size(self) -> int:
        """Number of pixels."""
        return math.prod(self.shape)

    def slices(self) -> tuple[slice, ...]:
        """Return the index that cuts this box out of an array whose origin is 0."""
        return tuple([slice(a, b) for a, b in zip(self.start, self.stop, strict=True)])

    def grow(self, margin: int | Sequence[int]) -> "Box":
        """Return the box with `margin` pixels more on every side (one value, or one per axis)."""
        margins = (margin,) * len(self.start) if isinstance(margin, int) else tuple(margin)
        start = tuple(a - m for a, m in zip(self.start, margins, strict=True))
        return Box(start, tuple(b + m for b, m in zip(self.stop, margins, strict=True)))

    def shift(self, offset: Sequence[int]) -> "Box":
        """Return the box moved by `offset` pixels per axis."""
        start = tuple([a + o for a, o in zip(self.start, offset, strict=True)])
        return Box(start, tuple([b + o for b, o in zip(self.stop, offset, strict=True)]))

    def relative_to(self, origin: "Box") -> "Box":
        """Return this box in the coordinates of `origin`, whose start becomes 0."""
        return self.shift([-a for a in origin.start])

    def intersect(self, other: "Box") -> "Box":
        """Return the common part; empty (zero-sized, inside `self`) where there is none."""
        start = [max(a, b) for a, b in zip(self.start, other.start, strict=True)]
        start = [min(a, b) for a, b in zip(start, self.stop, strict=True)]
        stop = [min(a, b) for a, b in zip(self.stop, other.stop, strict=True)]
        return Box(tuple(start), tuple([max(a, b) for a, b in zip(start, stop, strict=True)]))

    def around(self, other: "Box") -> "Box":
        """Return the smallest box that holds both."""
        start = tuple(min(a, b) for a, b in zip(self.start, other.start, strict=True))
        return Box(start, tuple(max(a, b) for a, b in zip(self.stop, other.stop, strict=True)))

    def clip(self, shape: Sequence[int]) -> "Box":
        """Return the part inside an image of `shape`."""
        return Box.of_shape(shape).intersect(self)


@dataclass(frozen=True, slots=True)
class Spacing:
    """Distance between samples in µm, one value per axis in array order, (y, x) or (z, y, x).

    Raises
    ------
    MissingSpacingError
        If a value is not finite, not positive, or absurd (below 0.01 µm or above 1 cm; between
        voxels above 20 cm).
    """

    um: tuple[float, ...]

    def __post_init__(self) -> None:
        is_volume = len(self.um) == 3
        coarsest = COARSEST_VOXEL_UM if is_volume else COARSEST_UM
        for value in self.um:
            if not (math.isfinite(value) and FINEST_UM <= value <= coarsest):
                remedy = (
                    "correct the file's header" if is_volume else "pass the right one with --mpp"
                )
                raise MissingSpacingError(
                    f"{'voxel' if is_volume else 'pixel'} size {value!r} µm is not usable: needed "
                    f"between {FINEST_UM} and {coarsest:.0f} µm; {remedy}"
                )

    @classmethod
    def from_mpp(cls, mpp_x: float, mpp_y: float | None = None) -> "Spacing":
        """Return the spacing of a slide from µm per pixel along x and y (default: square)."""
        return cls((float(mpp_x if mpp_y is None else mpp_y), float(mpp_x)))

    @classmethod
    def from_mm(cls, mm: Iterable[float]) -> "Spacing":
        """Return the spacing from millimetres per axis in array order."""
        return cls(tuple(float(value) * 1000.0 for value in mm))

    @property
    def area_um2(self) -> float:
        """Area of one pixel (volume of one voxel) in µm² (µm³)."""
        return math.prod(self.um)

    def times(self, factor: float | Sequence[float]) -> "Spacing":
        """Return the spacing of an image downsampled by `factor` (one value, or one per axis)."""
        factors = (factor,) * len(self.um) if isinstance(factor, int | float) else tuple(factor)
        return Spacing(tuple(u * f for u, f in zip(self.um, factors, strict=True)))

    def ratio_to(self, other: "Spacing") -> tuple[float, ...]:
        """Return how many pixels of `other` one pixel of this spacing spans, per axis."""
        return tuple(a / b for a, b in zip(self.um, other.um, strict=True))


@dataclass(frozen=True, slots=True)
class LevelInfo:
    """One resolution of a pyramid; level 0 is the finest."""

    index: int

    shape: tuple[int, ...]
    """Pixels along each axis, (y, x) or (z, y, x); channels not counted."""

    downsample: tuple[float, ...]
    """Level-0 pixels per pixel of this level, per axis; from the file, not assumed 2^n."""

    spacing: Spacing | None
    """µm per pixel per axis; `None` where the file does not say."""

    chunk: tuple[int, ...]
    """The block the file stores (compressed tile, strip, Zarr chunk), per axis."""


def ceil_div(a: int, b: int) -> int:
    """Return `a / b` rounded up, in integers."""
    return -(-a // b)

"""Masks of a slide as labels: files of integers, at any downsample, read where they are needed."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from wsiseg.annotations._majority import majority
from wsiseg.annotations._mask_image import read_mask_image
from wsiseg.annotations._naming import IGNORE, MAX_CLASSES, Naming
from wsiseg.annotations.scanline import Raster
from wsiseg.errors import AnnotationError
from wsiseg.geometry import Box
from wsiseg.source.pyramid import Pyramid

__all__ = ["MaskFile", "MaskLabels", "mask_downsample", "open_mask"]

MAX_VALUES = 1 << 16
UNKNOWN = MAX_CLASSES
"""Marks values of a mask that stand for no class."""

FINER = 4
"""A stored level serves where each pixel wanted covers at least so many of its pixels along each
axis: with 16 of them or more, whatever reduced the level decides hardly anything."""

NEARLY = 1e-6
"""What numbers that should be equal may differ by."""

READ_PIXELS = 1 << 24
"""Mask pixels read at once."""

LOOK_PIXELS = 1 << 26
"""A level of at most so many pixels is looked through for unknown values when a mask is opened."""

SAME_SPACING = 0.02
"""Pixel sizes in files are not more accurate than that: the size in pixels is believed."""

TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


class MaskLevel(Protocol):
    """One resolution of a mask; `read` may be called from any thread."""

    @property
    def shape(self) -> tuple[int, int]:
        """Pixels (y, x)."""
        ...

    def read(self, box: Box) -> NDArray[Any]:
        """Return integers `box.shape` of a box inside."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class MaskFile:
    """A mask and where it lies on the slide."""

    path: Path
    levels: Sequence[MaskLevel]
    """Finest first."""

    downsample: tuple[float, float]
    """Level-0 pixels of the slide per pixel of the finest level, (y, x)."""

    origin: tuple[float, float] = (0.0, 0.0)
    """Level-0 pixels before the first pixel's corner, (y, x)."""

    names: Mapping[int, str] = field(default_factory=dict)
    """Names of values, where the file gives them."""


def open_mask(path: Path, slide: Pyramid, head: bytes) -> MaskFile:
    """Open a mask file; its format is told from the content.

    Raises
    ------
    AnnotationError
        If it is no mask, or its aspect is not that of the slide.
    """
    if path.is_dir():
        return _open_zarr(path, slide)
    levels: Sequence[MaskLevel]
    if head.startswith(TIFF):
        from wsiseg.annotations._mask_tiff import open_mask_tiff

        levels = open_mask_tiff(path)
    else:
        levels = [read_mask_image(path, head)]
    return MaskFile(path, levels, _downsample(path, slide, levels[0].shape))


def mask_downsample(slide: Sequence[int], mask: Sequence[int]) -> tuple[float, float] | None:
    """Return how many level-0 pixels a mask pixel covers, or `None` if the aspects differ.

    Parameters
    ----------
    slide, mask
        Pixels (y, x).

    Notes
    -----
    A mask of a slide of `n` pixels, reduced by a factor `d`, has `n / d` pixels, rounded up or
    down. Where one whole factor explains both axes it is taken (of several, in small masks, the
    power of two): then a last pixel overhangs the slide or a rest is not covered. Otherwise the
    mask is stretched over the slide, `n / m` per axis.
    """
    pairs = list(zip(slide, mask, strict=True))
    lowest = max(n / (m + 1) for n, m in pairs)
    highest = min(n / (m - 1) if m > 1 else math.inf for n, m in pairs)
    if lowest > highest * (1 + NEARLY):
        return None
    nearest = {round(n / m) for n, m in pairs} | {1 << round(math.log2(max(1, lowest)) + 0.5)}
    whole = [d for d in nearest if d and all(m in {n // d, -(-n // d)} for n, m in pairs)]
    if whole:
        factor = float(max(whole, key=lambda d: (d & (d - 1) == 0, -d)))
        return factor, factor
    y, x = (n / m for n, m in pairs)
    return y, x


class MaskLabels:
    """A mask as class values."""

    def __init__(self, file: MaskFile, naming: Naming, shape: Sequence[int]) -> None:
        self._file, self._naming = file, naming
        self._shape = tuple(shape)
        self._values = self._table()
        self._rank = np.zeros(256, np.int64)
        self._rank[list(naming.order)] = np.arange(1, len(naming.order) + 1)
        self._rank[IGNORE] = len(naming.order) + 1
        coarsest = file.levels[-1]
        if math.prod(coarsest.shape) <= LOOK_PIXELS:
            self._read(coarsest, Box.of_shape(coarsest.shape))

    def read(self, raster: Raster, box: Box) -> NDArray[np.uint8]:
        """Return class values, uint8 `box.shape`, of a box on the slide.

        Where pixels are coarser than those of the mask, the class that covers most of each.
        """
        level, downsample = self._level_for(raster)
        edges = [
            self._edges(raster, downsample, level, axis, box.start[axis], box.stop[axis])
            for axis in (0, 1)
        ]
        labels = np.full(box.shape, IGNORE, np.uint8)
        spans = [edge[-1] - edge[0] for edge in edges]
        rows = max(1, int(READ_PIXELS // max(1.0, spans[0] / box.shape[0] * spans[1])))
        for top in range(0, box.shape[0], rows):
            part = slice(top, min(top + rows, box.shape[0]))
            labels[part] = self._reduced(level, edges[0][part.start : part.stop + 1], edges[1])
        return labels

    def _reduced(
        self, level: MaskLevel, rows: NDArray[np.float64], columns: NDArray[np.float64]
    ) -> NDArray[np.uint8]:
        start = tuple(math.floor(edges[0]) for edges in (rows, columns))
        stop = tuple(math.ceil(edges[-1]) for edges in (rows, columns))
        covered = np.outer(np.diff(rows) > 0, np.diff(columns) > 0)
        if not covered.any():
            return np.full(covered.shape, IGNORE, np.uint8)
        found = self._read(level, Box(start, stop))
        reduced = majority(found, rows - start[0], columns - start[1], self._rank)
        return np.where(covered, reduced, np.uint8(IGNORE))

    def _level_for(self, raster: Raster) -> tuple[MaskLevel, tuple[float, ...]]:
        """Return the coarsest level that is fine enough, and its downsample."""
        first = self._file.levels[0]
        chosen: tuple[MaskLevel, tuple[float, ...]] = first, self._file.downsample
        for level in self._file.levels[1:]:
            ratio = mask_downsample(first.shape, level.shape) or (math.inf, math.inf)
            downsample = tuple(d * r for d, r in zip(self._file.downsample, ratio, strict=True))
            pairs = zip(downsample, raster.downsample, strict=True)
            if all(have * FINER <= wanted * (1 + NEARLY) for have, wanted in pairs):
                chosen = level, downsample
        return chosen

    def _edges(
        self,
        raster: Raster,
        downsample: tuple[float, ...],
        level: MaskLevel,
        axis: int,
        start: int,
        stop: int,
    ) -> NDArray[np.float64]:
        """Return where the pixels of a box begin and end along an axis, in pixels of a level."""
        places = np.arange(start, stop + 1) * raster.downsample[axis]
        places = np.minimum(places, self._shape[axis]) - self._file.origin[axis]
        exact = places / downsample[axis]
        whole = np.rint(exact)
        edges: NDArray[np.float64] = np.where(np.abs(exact - whole) < NEARLY, whole, exact)
        return edges.clip(0, level.shape[axis])

    def _read(self, level: MaskLevel, box: Box) -> NDArray[np.uint8]:
        """Return class values of a box of a level."""
        values = level.read(box)
        wide = values.dtype.kind == "i" or values.dtype.itemsize > 2
        if wide and values.size and (values.min() < 0 or values.max() >= MAX_VALUES):
            bad = values.min() if values.min() < 0 else values.max()
            raise AnnotationError(
                f"{self._file.path}: needed class values from 0 to {MAX_VALUES - 1}, found {bad}; "
                "numbers of single objects are no classes, convert them first"
            )
        labels: NDArray[np.uint8] = self._values[values]
        if (labels == UNKNOWN).any():
            unknown = np.unique(values[labels == UNKNOWN])
            shown = ", ".join(
                f"{v} ({self._file.names[v]})" if v in self._file.names else str(v)
                for v in unknown[:8].tolist()
            )
            example = self._file.names.get(int(unknown[0]), str(unknown[0]))
            raise self._naming.unknown(self._file.path, f"values {shown}", example)
        return labels

    def _table(self) -> NDArray[np.uint8]:
        """Return the class value of each value a mask may have."""
        naming, names = self._naming, self._file.names
        table = np.full(MAX_VALUES, UNKNOWN, np.uint8)
        if not names:
            table[: len(naming.classes)] = np.arange(len(naming.classes))
        numbers = {
            int(name)
            for name in {*naming.mapping, *naming.ignore, *naming.within}
            if name.isdecimal() and int(name) < MAX_VALUES
        }
        called = {
            value: (names.get(value, str(value)), str(value))
            for value in sorted({*numbers, *names})
        }
        for value, known in called.items():
            meant = naming.value(*known)
            if meant is not None:
                table[value] = meant
            elif naming.is_region(*known) and table[value] == UNKNOWN:
                table[value] = 0
        if naming.within:
            outside = table != UNKNOWN
            outside[[value for value, known in called.items() if naming.is_region(*known)]] = False
            table[outside] = IGNORE
        return table


def _open_zarr(path: Path, slide: Pyramid) -> MaskFile:
    from wsiseg.annotations._mask_zarr import open_mask_zarr

    mask = open_mask_zarr(path, slide.metadata.spacing)
    shape, downsample, origin = mask.levels[0].shape, mask.downsample, mask.origin
    if downsample is None:
        return MaskFile(path, mask.levels, _downsample(path, slide, shape), names=mask.names)
    whole = mask_downsample(slide.shape, shape)
    if whole is not None and not mask.is_exact and not any(origin):
        apart = max(abs(a / b - 1) for a, b in zip(whole, downsample, strict=True))
        downsample = whole if apart < SAME_SPACING else downsample
    for pixels, d, start, size in zip(shape, downsample, origin, slide.shape, strict=True):
        stop = start + pixels * d
        if start < -d or stop > size + d:
            raise AnnotationError(
                f"{path}: the labels cover level-0 pixels {start:.0f} to {stop:.0f}, {slide.name} "
                f"has {size}; name the right slide"
            )
    return MaskFile(path, mask.levels, downsample, origin, mask.names)


def _downsample(path: Path, slide: Pyramid, shape: tuple[int, int]) -> tuple[float, float]:
    downsample = mask_downsample(slide.shape, shape)
    if downsample is None:
        raise AnnotationError(
            f"{path}: a mask of {shape[1]} x {shape[0]} pixels has another aspect than "
            f"{slide.name}, {slide.shape[1]} x {slide.shape[0]} pixels; name the right slide, or "
            "save the mask of the whole slide"
        )
    return downsample

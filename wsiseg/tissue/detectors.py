"""What is tissue: detectors on one low-resolution picture of the slide."""

from dataclasses import dataclass
from typing import Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from wsiseg.geometry import Spacing
from wsiseg.source.base import Pixels
from wsiseg.tissue.clean import close_gaps, disk, grow, reached_from
from wsiseg.tissue.glass import (
    PADDING_BLACK,
    PADDING_WHITE,
    Floats,
    Glass,
    Mask,
    each_strip,
    find_glass,
    glass_distance,
)

__all__ = ["ColorDetector", "Everything", "SaturationDetector", "TissueDetector", "otsu"]


class TissueDetector(Protocol):
    """Anything that tells tissue from glass.

    A detector sees the whole slide at once. Gaps, holes, specks and pen are not its business:
    `find_tissue` cleans up after it. Others are found by the entry point group
    `wsiseg.tissue_detectors`, whose objects are called without arguments to make one.
    """

    def __call__(self, pixels: Pixels, spacing: Spacing) -> NDArray[np.bool_]:
        """Return where tissue is, bool (h, w).

        Parameters
        ----------
        pixels
            uint8 (h, w, 3), sRGB.
        spacing
            µm per pixel, (y, x); usually 8.
        """
        ...


class Everything:
    """The whole slide."""

    def __call__(self, pixels: Pixels, spacing: Spacing) -> Mask:
        """Return True everywhere, (h, w)."""
        return np.ones(pixels.shape[:2], bool)


@dataclass(frozen=True, slots=True)
class ColorDetector:
    """Distance from the slide's own glass, in colour and texture.

    The threshold follows the noise of the glass, not the share of tissue, so that neither a speck
    nor a full slide moves it. A piece must somewhere be half as far again from glass.
    Where no glass is found, everything but black and white padding is tissue.

    Parameters
    ----------
    least, most
        Limits of the threshold, in units of CIELAB.
    noise_factor
        Threshold over noise of the glass, between those limits.
    line_um
        Colourless lines thinner than this (edges of the coverslip, scratches) are no tissue; at
        least five pixels.
    colourful
        Lines with more colour than this are kept, in units of CIELAB.
    """

    least: float = 2.0
    most: float = 5.0
    noise_factor: float = 4.0
    line_um: float = 80.0
    colourful: float = 6.5

    def __call__(self, pixels: Pixels, spacing: Spacing) -> Mask:
        """Return where tissue is, bool (h, w)."""
        glass = find_glass(pixels)
        if glass is None:
            return ~_padding(pixels)
        limit = self.threshold(glass)
        sure, tissue, coloured = (np.empty(pixels.shape[:2], bool) for _ in range(3))
        for rows, distance, colour in glass_distance(pixels, glass):
            sure[rows] = distance > 1.5 * limit
            tissue[rows] = distance > limit
            coloured[rows] = colour > self.colourful
        return self._without_lines(reached_from(sure, tissue), coloured, spacing)

    def threshold(self, glass: Glass) -> float:
        """Return the distance from `glass` above which a pixel is tissue."""
        return min(max(self.noise_factor * glass.noise, self.least), self.most)

    def _without_lines(self, mask: Mask, coloured: Mask, spacing: Spacing) -> Mask:
        width = max(self.line_um, 5 * max(spacing.um))
        closed = close_gaps(mask, width / 2, spacing).astype(np.uint8)
        solid = np.asarray(cv2.morphologyEx(closed, cv2.MORPH_OPEN, disk(width, spacing)))
        return mask & grow(solid.astype(bool) | (mask & coloured), width / 4, spacing)


@dataclass(frozen=True, slots=True)
class SaturationDetector:
    """HSV saturation above Otsu's threshold [1]_.

    Otsu's threshold is taken only where the histogram has two modes with a valley between them, of
    which the lower is as grey as glass; otherwise the fixed threshold, so that a field of only
    tissue or only glass is not split.

    Parameters
    ----------
    fixed
        Saturation (0-255) of the least stained tissue.
    least, most
        Limits of Otsu's threshold (0-255): alone it loses pale tissue beside dark.

    References
    ----------
    .. [1] N. Otsu, IEEE Trans. Syst. Man Cybern. 9:62-66, 1979, doi:10.1109/TSMC.1979.4310076.
    """

    fixed: float = 20.0
    least: float = 12.0
    most: float = 35.0

    def __call__(self, pixels: Pixels, spacing: Spacing) -> Mask:
        """Return where tissue is, bool (h, w)."""
        smooth = cv2.GaussianBlur(pixels, (9, 9), 1.0, borderType=cv2.BORDER_REFLECT_101)
        saturation = np.asarray(cv2.cvtColor(smooth, cv2.COLOR_RGB2HSV))[..., 1]
        padding = _padding(pixels)
        found = otsu(np.bincount(saturation[~padding], minlength=256))
        limit = self.fixed
        if found.valley < 0.5 and found.low_mean < self.fixed:
            limit = min(max(found.threshold, self.least), self.most)
        return (saturation > limit) & ~padding


@dataclass(frozen=True, slots=True)
class Otsu:
    """Otsu's threshold of a histogram, and whether it parts two modes."""

    threshold: float
    """Values above it form the upper mode."""

    low_mean: float
    """Mean of the values up to the threshold."""

    valley: float
    """Lowest count between the two modes over the count of the lower one, 0-1; 1: no valley."""


def otsu(counts: NDArray[np.integer]) -> Otsu:
    """Return Otsu's threshold of a histogram, integers (n,), of the values 0 to n - 1."""
    values = np.arange(len(counts), dtype=float)
    weight, first = np.cumsum(counts, dtype=float), np.cumsum(counts * values)
    low, high = weight[:-1], weight[-1] - weight[:-1]
    parted = (low > 0) & (high > 0)
    if not parted.any():
        return Otsu(0.0, float(first[-1] / max(weight[-1], 1)), 1.0)
    gap = np.zeros(len(low))
    gap[parted] = first[:-1][parted] / low[parted] - (first[-1] - first[:-1][parted]) / high[parted]
    best = int((low * high * gap**2).argmax())
    smooth = np.convolve(counts, np.ones(5) / 5, "same")
    left, right = int(smooth[: best + 1].argmax()), best + 1 + int(smooth[best + 1 :].argmax())
    valley = smooth[left : right + 1].min() / min(smooth[left], smooth[right])
    return Otsu(float(best), float(first[best] / low[best]), float(valley))


def _padding(pixels: Pixels) -> Mask:
    """Return where no lamp shone: pure black or pure white."""
    out = np.empty(pixels.shape[:2], bool)
    for rows, planes in each_strip(pixels):
        lightness: Floats = planes.smooth[..., 0]
        out[rows] = (lightness < PADDING_BLACK) | (lightness > PADDING_WHITE)
    return out

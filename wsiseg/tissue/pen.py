"""Ink on the coverslip: strokes of green, blue, red and black markers.

Markers are told from stains by hue and by strength of colour, so only what no common stain shows
is called pen: see `INKS`. Where one of these colours fills most of what is not glass *and* has the
texture of tissue, it is taken for a stain (trichrome blue, light green) and left alone.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from wsiseg.geometry import Spacing
from wsiseg.source.base import Pixels
from wsiseg.tissue.clean import components, disk, drop_specks, grow, reached_from
from wsiseg.tissue.glass import Floats, Mask, each_strip

__all__ = ["find_pen"]


@dataclass(frozen=True, slots=True)
class Ink:
    """Colours of one marker: CIELAB hue in degrees (from, to) and least chroma C*.

    The core is sure; the rim belongs to the stroke where it touches the core.
    """

    name: str
    hue: tuple[float, float]
    chroma: float
    rim_hue: tuple[float, float]
    rim_chroma: float


INKS = (
    Ink("green", (140, 225), 14, (120, 240), 5),
    Ink("blue", (245, 295), 32, (235, 300), 8),
    Ink("red", (16, 50), 58, (-5, 55), 38),
)
"""At 8 µm/px, haematoxylin has hue 230-315 but C* below 15 where it stands alone (IHC), eosin
320-355, DAB 45-80 with C* below 48, red blood cells 5-25 with C* below 55."""

BLACK_LIGHTNESS, BLACK_BODY_LIGHTNESS, BLACK_CHROMA = 16.0, 40.0, 14.0
"""Stained tissue at 8 µm/px averages over cells and gaps and stays above L* 25: a black stroke
needs a wide core that is darker; what is grey and touches it is the rest of the stroke."""

WIDTHS_UM = (20.0, 20.0, 60.0, 60.0)
"""Least width of the core of a stroke, for each of `INKS` and black. A marker draws 0.3 mm or
more; red and black need it to be told from blood and pigment."""

MIN_STROKE_UM2 = 10_000.0
RIM_UM = 100.0
"""Strokes lie above the focal plane: their blurred rim reaches this far beyond the core."""

STAIN_DETAIL, STAIN_DETAIL_FILLING, STAIN_SHARE = 1.5, 0.7, 0.5
"""Median difference of L* between a pixel and its surroundings (1 px): ink 0.1-1.5, tissue 1.3-5.
A colour that fills more than this share of the foreground needs the stricter limit."""


def find_pen(pixels: Pixels, spacing: Spacing, foreground: Mask) -> Mask:
    """Return where pen covers the slide, bool (h, w).

    Parameters
    ----------
    pixels
        uint8 (h, w, 3), sRGB.
    spacing
        Of a pixel; made for 4-30 µm.
    foreground
        What is not glass: the share of an ink in it decides between pen and stain.

    Notes
    -----
    Not found: brown and yellow markers, ink so thin that the stain shows through, and black or red
    strokes narrower than 60 µm.
    """
    pen = np.zeros(pixels.shape[:2], bool)
    if not _has_ink(pixels):
        return pen
    inks, detail = _ink_planes(pixels)
    for (core, body, rim), width in zip(inks, WIDTHS_UM, strict=True):
        stroke = _without_stains(_strokes(core, body, width, spacing), foreground, detail)
        if stroke.any():
            near = grow(stroke, RIM_UM, spacing)
            pen |= reached_from(stroke, (rim & near) | stroke)
    return pen


def _strokes(core: Mask, body: Mask, width_um: float, spacing: Spacing) -> Mask:
    """Return the pieces of `body` whose `core` is somewhere as wide as a stroke."""
    if not core.any():
        return core
    wide = np.asarray(cv2.erode(core.astype(np.uint8), disk(width_um, spacing))).astype(bool)
    return drop_specks(reached_from(wide, body), MIN_STROKE_UM2, spacing)


def _without_stains(stroke: Mask, foreground: Mask, detail: Floats) -> Mask:
    """Return the pieces that are smooth as ink is, not detailed as stained tissue is."""
    if not stroke.any():
        return stroke
    fills = stroke.sum() > STAIN_SHARE * foreground.sum()
    limit = STAIN_DETAIL_FILLING if fills else STAIN_DETAIL
    labels, areas = components(stroke, 8)
    inside = np.asarray(cv2.erode(stroke.astype(np.uint8), np.ones((3, 3))), bool)
    known = np.bincount(labels[inside], minlength=len(areas))
    rough = np.bincount(labels[inside & (detail > limit)], minlength=len(areas))
    smooth = 2 * rough < known  # the median is below the limit
    kept: Mask = smooth[labels]
    return kept


def _has_ink(pixels: Pixels) -> bool:
    """Return whether the core of any ink shows: most slides are done with this."""
    return any(
        core.any() for _, planes in each_strip(pixels) for core, _, _ in _inks_of(planes.smooth)
    )


def _ink_planes(pixels: Pixels) -> tuple[NDArray[np.bool_], Floats]:
    """Return (core, body, rim) of each ink, bool (ink, 3, h, w), and the detail, float32 (h, w)."""
    shape = pixels.shape[:2]
    inks = np.empty((len(INKS) + 1, 3, *shape), bool)
    detail = np.empty(shape, np.float32)
    for rows, planes in each_strip(pixels):
        detail[rows] = np.abs(planes.sharp[..., 0] - planes.smooth[..., 0])
        for masks, found in zip(inks, _inks_of(planes.smooth), strict=True):
            for mask, part in zip(masks, found, strict=True):
                mask[rows] = part
    return inks, detail


def _inks_of(lab: Floats) -> Iterator[tuple[Mask, Mask, Mask]]:
    """Yield (core, body, rim) of each of `INKS` and of black; `lab` is float32 (h, w, 3)."""
    lightness, a, b = np.moveaxis(lab, -1, 0)
    chroma, hue = np.hypot(a, b), np.degrees(np.arctan2(b, a)) % 360
    for ink in INKS:
        body = _hue_within(hue, ink.hue) & (chroma > ink.chroma)
        yield body, body, _hue_within(hue, ink.rim_hue) & (chroma > ink.rim_chroma)
    grey = chroma < BLACK_CHROMA
    yield grey & (lightness < BLACK_LIGHTNESS), grey & (lightness < BLACK_BODY_LIGHTNESS), grey


def _hue_within(hue: Floats, limits: tuple[float, float]) -> Mask:
    """Return where `hue`, degrees from 0 to 360, lies between the limits; low may be negative."""
    low, high = limits
    within = (hue >= low) & (hue <= high)
    return within | (hue >= low + 360) if low < 0 else within

"""The slide's own glass: its colour, and how far every pixel is from it.

What glass looks like is known beforehand: bright, nearly neutral and without texture. Which white
or grey it is depends on scanner and slide, and is measured. Nothing is assumed about how much of
the picture is glass: a field that is all tissue has none, an empty slide nothing else.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from wsiseg.geometry import Box
from wsiseg.source.base import Pixels

__all__ = [
    "Floats",
    "Glass",
    "Mask",
    "Planes",
    "each_strip",
    "find_glass",
    "glass_distance",
    "lab_planes",
]

Floats = NDArray[np.float32]
Mask = NDArray[np.bool_]
Rows: TypeAlias = tuple[slice, ...]

GLASS_MIN_LIGHTNESS = 60.0
"""CIELAB L*. Dimmest glass seen: L* 73, the grey ground of Visium fluorescence-ready scans."""

GLASS_MAX_CHROMA = 8.0
"""CIELAB C*. Most tinted glass seen: 5.5; palest tissue that fills a field: 9.4."""

GLASS_MAX_TEXTURE = 0.6
"""Local standard deviation of L*. Glass at 4-30 µm/px has 0.1-0.3, tissue 1.5-10."""

GLASS_MIN_SHARE = 0.001
"""Less glass than this (share of the picture) is a lumen or a smooth cell, not a background."""

TINTED_MAX_CHROMA, TINTED_MAX_TEXTURE, TINTED_MIN_SHARE = 20.0, 0.4, 0.02
"""The same for glass that is not neutral."""

TINTED_MIN_SMOOTH = 0.3
"""Of all pixels of that colour, this share must be smooth."""

PADDING_WHITE = 99.3
"""L* of pixels that no lamp lit: stitching and file padding is pure white."""

PADDING_BLACK = 3.0
"""L* of black padding; stained tissue and pen lets more light through."""

TEXTURE_WEIGHT = 2.0
"""Texture counts this much against chroma: unstained tissue shows by its texture alone."""

STRIP_PIXELS = 1 << 19
"""Of a strip, some 40 bytes each at work: memory does not grow with the picture."""

HALO = 6
"""Rows read beyond a strip: Gaussian (4) and texture window (1) see no seam."""

SAMPLE_PIXELS = 500_000
"""Pixels of a regular grid that tell the glass; some 100 bytes each at work."""


@dataclass(frozen=True, slots=True)
class Glass:
    """What the background of one slide looks like, CIELAB (D65)."""

    lightness: float
    a: float
    b: float
    share: float
    """Of the picture that has this lightness and may be glass."""

    noise: float
    """Median distance of a pixel of glass from the colour of the glass."""


class Planes(NamedTuple):
    """What is measured at every pixel, float32."""

    sharp: Floats
    """(h, w, 3): L* 0-100, a*, b*."""

    smooth: Floats
    """(h, w, 3): the same after a Gaussian of 1 px, which takes away JPEG and camera noise."""

    texture: Floats
    """(h, w): standard deviation of the smoothed L* over 3 x 3 pixels."""


def lab_planes(pixels: Pixels) -> Planes:
    """Return CIELAB (D65) of `pixels`, uint8 (h, w, 3) in sRGB, sharp and smoothed, and texture."""
    scaled = pixels.astype(np.float32) / 255
    sharp: Floats = np.asarray(cv2.cvtColor(scaled, cv2.COLOR_RGB2LAB), np.float32)
    blurred = cv2.GaussianBlur(sharp, (9, 9), 1.0, borderType=cv2.BORDER_REFLECT_101)
    smooth: Floats = np.asarray(blurred, np.float32)
    lightness = smooth[..., 0] - 50  # centred: the difference of squares keeps its digits
    mean = cv2.blur(lightness, (3, 3))
    variance = cv2.blur(lightness * lightness, (3, 3)) - mean * mean
    return Planes(sharp, smooth, np.sqrt(np.maximum(variance, 0)))


def each_strip(pixels: Pixels) -> Iterator[tuple[Rows, Planes]]:
    """Yield (index of the rows, their planes) from top to bottom, in bounded memory."""
    height, width = pixels.shape[:2]
    depth = max(16, STRIP_PIXELS // width)
    for top in range(0, height, depth):
        rows = Box((top, 0), (min(top + depth, height), width))
        grown = rows.grow((HALO, 0)).clip((height, width))
        inner = rows.relative_to(grown).slices()
        planes = lab_planes(pixels[grown.slices()])
        yield rows.slices(), Planes(*(plane[inner] for plane in planes))


def find_glass(pixels: Pixels) -> Glass | None:
    """Return the colour of the glass, or `None` where the picture shows none.

    The glass is the fullest half-unit of lightness among pixels that are bright, nearly neutral
    and without texture. Tinted glass (old mountant, a lamp that is not white) is believed where it
    is smoother, fills more of the picture, and nothing neutral is brighter.
    """
    lab, texture, total = _bright_sample(pixels)
    chroma = np.hypot(lab[:, 1], lab[:, 2])
    smooth = texture < GLASS_MAX_TEXTURE
    neutral = _mode(lab[smooth & (chroma < GLASS_MAX_CHROMA)], GLASS_MIN_SHARE, total)
    smooth = texture < TINTED_MAX_TEXTURE
    tinted = _mode(lab[smooth & (chroma < TINTED_MAX_CHROMA)], TINTED_MIN_SHARE, total)
    if tinted is not None and not _is_smooth(smooth, lab, tinted):
        tinted = None
    if neutral is None or tinted is None:
        return neutral or tinted
    darker = tinted.lightness < neutral.lightness - 2
    return neutral if darker or tinted.share <= neutral.share else tinted


def _is_smooth(smooth: Mask, lab: Floats, glass: Glass) -> bool:
    """Return whether pixels of the colour of `glass` are smooth: those of pale tissue vary."""
    alike = (np.abs(lab - (glass.lightness, glass.a, glass.b)) < 3).all(axis=1)
    return bool(smooth[alike].mean() > TINTED_MIN_SMOOTH)


def _mode(lab: Floats, min_share: float, total: int) -> Glass | None:
    """Return the fullest lightness of a sample, float32 (n, 3) out of `total` pixels.

    Pure white counts only if there is nothing else: it is mostly padding.
    """
    lit = lab[lab[:, 0] < PADDING_WHITE]
    if len(lit) < 0.01 * len(lab):
        lit = lab
    counts, edges = np.histogram(lit[:, 0], bins=np.arange(GLASS_MIN_LIGHTNESS, 101.5, 0.5))
    peak = int(np.convolve(counts, np.ones(3), "same").argmax())
    lightness = float(edges[peak]) + 0.25
    near = lit[np.abs(lit[:, 0] - lightness) < 1]
    if len(near) < max(1, min_share * total):
        return None
    _, a, b = np.median(near, axis=0)
    noise = np.median(np.hypot(near[:, 1] - a, near[:, 2] - b))
    return Glass(lightness, float(a), float(b), len(near) / total, float(noise))


def _bright_sample(pixels: Pixels) -> tuple[Floats, Floats, int]:
    """Return CIELAB (n, 3) and texture (n,) of bright pixels, and the size of the whole sample."""
    height, width = pixels.shape[:2]
    step = max(1, math.ceil(math.sqrt(height * width / SAMPLE_PIXELS)))
    labs, textures, total = [], [], 0
    for _, planes in each_strip(pixels):
        lab, texture = planes.smooth[::step, ::step], planes.texture[::step, ::step]
        bright = lab[..., 0] > GLASS_MIN_LIGHTNESS
        labs.append(lab[bright])
        textures.append(texture[bright])
        total += texture.size
    return np.concatenate(labs), np.concatenate(textures), total


def glass_distance(pixels: Pixels, glass: Glass) -> Iterator[tuple[Rows, Floats, Floats]]:
    """Yield how far every pixel is from glass, and which part of it is colour, strip by strip.

    Yields
    ------
    rows
        Index of the strip in the picture.
    distance, colour : float32 (rows, w)
        In units of CIELAB, colour <= distance except in padding.

    Notes
    -----
    The distance joins two things that glass lacks: colour (a*, b* away from the glass) and
    texture (counted only where it is darker than the glass, so that the glass beside an edge stays
    glass). Lightness alone counts nothing: shadow, vignetting and tinted coverslips are darker
    glass. On the way from the glass to pure white the tint fades, so that padding is glass, too.
    It is measured on smoothed pixels, and limited by the sharp ones: smoothing does not widen the
    tissue.
    """
    for rows, planes in each_strip(pixels):
        hue, darker = _away_from(planes.smooth, glass)
        away = np.hypot(hue, np.minimum(TEXTURE_WEIGHT * planes.texture, darker))
        away = np.minimum(away, np.hypot(*_away_from(planes.sharp, glass)))
        yield rows, np.where(planes.smooth[..., 0] > PADDING_BLACK, away, 0), hue


def _away_from(lab: Floats, glass: Glass) -> tuple[Floats, Floats]:
    """Return how much more coloured, and how much darker than the glass, float32 (h, w) each."""
    lightness = lab[..., 0]
    tint = np.clip((100 - lightness) / max(100 - glass.lightness, 1e-3), 0, 1)
    colour = np.hypot(lab[..., 1] - tint * glass.a, lab[..., 2] - tint * glass.b)
    return colour, np.maximum(glass.lightness - lightness, 0)

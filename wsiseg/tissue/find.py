"""From a slide to its tissue mask."""

import logging
import math
import sys
import warnings
from importlib import metadata
from typing import TYPE_CHECKING

import numpy as np

from wsiseg.errors import EmptyTissueWarning, TissueError
from wsiseg.geometry import Box, Spacing
from wsiseg.options import DETECTORS, TissueOptions
from wsiseg.resample import target_shape
from wsiseg.source.base import Pixels
from wsiseg.tissue.clean import close_gaps, drop_specks, fill_holes
from wsiseg.tissue.detectors import ColorDetector, Everything, SaturationDetector, TissueDetector
from wsiseg.tissue.glass import Mask
from wsiseg.tissue.mask import TissueMask
from wsiseg.tissue.pen import find_pen
from wsiseg.tissue.unseen import doubtful, filled, unseen

if TYPE_CHECKING:
    from wsiseg.source import Pyramid, View

__all__ = ["detect", "detector_named", "find_tissue"]

MAX_PIXELS = 12_000_000
"""27 x 27 mm at 8 µm; more than this is looked at coarser."""

STRIP_ROWS = 256

PICTURE_SIDE = 1600
"""Longest side of the picture that is kept."""

MIN_SPECK_SHARE = 0.05
"""A piece that fills this much of the picture is no speck, however small the picture."""

log = logging.getLogger(__name__)


def find_tissue(pyramid: "Pyramid", options: TissueOptions | None = None) -> TissueMask:
    """Return where the tissue of a slide is.

    Parameters
    ----------
    pyramid
        The slide. Read at `options.spacing_um`, or at its own spacing where that is coarser; a
        picture above 12 million pixels at a coarser spacing.
    options
        What counts as tissue; default `TissueOptions()`.

    Warns
    -----
    EmptyTissueWarning
        If nothing is left.

    Raises
    ------
    TissueError
        If the detector is unknown, or does not return bool (h, w).
    MissingSpacingError
        If the slide does not know its pixel size.
    DamagedFileError
        If a block of the slide cannot be decoded.

    Notes
    -----
    What cannot be read on a slide opened to go on then (`on_damage`) is what lies nearest, up to
    200 µm from it; further off it counts as tissue, since it may be some.
    """
    options = options or TissueOptions()
    view = pyramid.at(_spacing_to_look_at(pyramid, options.spacing_um))
    pixels = _read_all(view)
    lost = unseen(view)
    mask = detect(pixels if lost is None else filled(pixels, lost), view.spacing, options)
    if lost is not None:
        mask = mask | doubtful(lost, view.spacing)
    if not mask.any():
        warnings.warn(
            f"{pyramid.name}: no tissue found by detector {options.detector!r}; look at the "
            "thumbnail, try another detector, or take everything with detector 'none'",
            EmptyTissueWarning,
            stacklevel=_outside(),
        )
    height, width = pyramid.shape
    down_y, down_x = view.downsample
    picture = _shrunk(pixels)
    return TissueMask(mask, (down_y, down_x), view.spacing, (height, width), picture)


def detect(pixels: Pixels, spacing: Spacing, options: TissueOptions | None = None) -> Mask:
    """Return where tissue is on one picture: detect, take pen away, close, fill, drop specks.

    Parameters
    ----------
    pixels
        uint8 (h, w, 3), sRGB.
    spacing
        µm per pixel, (y, x).
    options
        Default `TissueOptions()`.

    Returns
    -------
    bool (h, w)

    Raises
    ------
    TissueError
        If the detector is unknown, or does not return bool (h, w).
    """
    options = options or TissueOptions()
    mask = np.asarray(detector_named(options.detector)(pixels, spacing))
    if mask.shape != pixels.shape[:2] or mask.dtype != np.bool_:
        raise TissueError(
            f"tissue detector {options.detector!r} must return bool {pixels.shape[:2]}, returned "
            f"{mask.dtype} {mask.shape}"
        )
    if options.detector == "none":
        return mask
    pen = find_pen(pixels, spacing, mask) if options.exclude_pen else np.zeros_like(mask)
    mask = close_gaps(mask & ~pen, options.closing_um, spacing) & ~pen
    mask = fill_holes(mask, options.min_hole_um2, spacing)
    picture_um2 = mask.size * spacing.area_um2
    return drop_specks(mask, min(options.min_speck_um2, MIN_SPECK_SHARE * picture_um2), spacing)


def detector_named(name: str) -> TissueDetector:
    """Return the detector of that name: built in, or of the group `wsiseg.tissue_detectors`.

    Raises
    ------
    TissueError
        If there is none.
    """
    builtin: dict[str, type[TissueDetector]] = {
        "auto": ColorDetector,
        "color": ColorDetector,
        "saturation": SaturationDetector,
        "none": Everything,
    }
    if name in builtin:
        return builtin[name]()
    others = metadata.entry_points(group=DETECTORS)
    if name in others.names:
        make = others[name].load()
        detector: TissueDetector = make()
        return detector
    known = ", ".join([*builtin, *sorted(others.names)])
    raise TissueError(f"no tissue detector {name!r}: known are {known}")


def _outside() -> int:
    """Return the `stacklevel` of the line that called into wsiseg, however deep this is."""
    level, frame = 2, sys._getframe(2)
    while frame.f_back is not None and f"{frame.f_globals.get('__name__')}.".startswith("wsiseg."):
        level, frame = level + 1, frame.f_back
    return level


def _spacing_to_look_at(pyramid: "Pyramid", wanted_um: float) -> Spacing:
    """Return the spacing wanted, per axis not finer than the slide's own, and few enough pixels."""
    own = pyramid.spacing.um
    um = [max(wanted_um, finest) for finest in own]
    pixels = np.prod([n * o / u for n, o, u in zip(pyramid.shape, own, um, strict=True)])
    if pixels > MAX_PIXELS:
        least = [u * float(np.sqrt(pixels / MAX_PIXELS)) for u in um]
        # Whole pixels of the level that is read: averages over parts of pixels take more memory.
        level_um = pyramid.at(Spacing(tuple(least))).level.spacing.um
        um = [o * math.ceil(u / o) for o, u in zip(level_um, least, strict=True)]
        log.info(
            "tissue is looked for at %.3g µm: the slide is too large for %g µm", um[0], wanted_um
        )
    return Spacing(tuple(um))


def _read_all(view: "View") -> Pixels:
    """Return the whole view, uint8 (h, w, 3), read in strips: memory stays at the result's."""
    height, width = view.shape
    pixels = np.empty((height, width, 3), np.uint8)
    for top in range(0, height, STRIP_ROWS):
        strip = Box((top, 0), (min(top + STRIP_ROWS, height), width))
        pixels[strip.slices()] = view.read(strip)
    return pixels


def _shrunk(pixels: Pixels) -> Pixels:
    """Return the picture for overviews: reading the slide again would decode it twice."""
    import cv2

    shape = pixels.shape[:2]
    ratio = max(1.0, max(shape) / PICTURE_SIDE)
    if ratio == 1:
        return pixels
    size = target_shape(shape, (ratio, ratio))[::-1]
    # OpenCV's mean over parts of pixels: `area` would load SciPy, some 20 MB.
    return np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), np.uint8)

"""Clean-up of a mask in physical units: gaps, holes, specks."""

import cv2
import numpy as np
from numpy.typing import NDArray

from wsiseg.geometry import Spacing
from wsiseg.tissue.glass import Mask

__all__ = ["close_gaps", "components", "disk", "drop_specks", "fill_holes", "grow", "reached_from"]


def disk(diameter_um: float, spacing: Spacing) -> NDArray[np.uint8]:
    """Return the filled ellipse no wider than `diameter_um` (plus a pixel), uint8, odd sides."""
    radii = [int(diameter_um / 2 / um) for um in spacing.um]
    y, x = np.ogrid[-radii[0] : radii[0] + 1, -radii[1] : radii[1] + 1]
    inside = (y / (radii[0] + 0.5)) ** 2 + (x / (radii[1] + 0.5)) ** 2 <= 1
    return inside.astype(np.uint8)


def close_gaps(mask: Mask, width_um: float, spacing: Spacing) -> Mask:
    """Return the mask with gaps narrower than `width_um` closed; nothing is taken away."""
    kernel = disk(width_um, spacing)
    if kernel.size == 1:
        return mask
    y, x = kernel.shape[0] // 2, kernel.shape[1] // 2
    height, width = mask.shape
    # a border of background: the edge of the image must not act as tissue
    padded = np.pad(mask.astype(np.uint8), ((y, y), (x, x)))
    closed = np.asarray(cv2.morphologyEx(padded, cv2.MORPH_CLOSE, kernel))
    return closed[y : y + height, x : x + width].astype(bool)


def fill_holes(mask: Mask, min_um2: float, spacing: Spacing) -> Mask:
    """Return the mask with holes smaller than `min_um2` filled.

    A hole is background (8-connected) that does not reach the edge of the image.
    """
    labels, areas = components(~mask, 8)
    fill = areas * spacing.area_um2 < min_um2
    edges = [labels[0], labels[-1], labels[:, 0], labels[:, -1]]
    fill[np.unique(np.concatenate(edges))] = False
    fill[0] = True  # the tissue itself
    filled: Mask = fill[labels]
    return filled


def drop_specks(mask: Mask, min_um2: float, spacing: Spacing) -> Mask:
    """Return the mask without pieces (4-connected) smaller than `min_um2`."""
    labels, areas = components(mask, 4)
    keep = areas * spacing.area_um2 >= min_um2
    keep[0] = False
    kept: Mask = keep[labels]
    return kept


def reached_from(seeds: Mask, mask: Mask) -> Mask:
    """Return the pieces (8-connected) of `mask` that hold a pixel of `seeds`."""
    labels, areas = components(mask, 8)
    keep = np.zeros(len(areas), bool)
    keep[labels[seeds & mask]] = True
    keep[0] = False
    kept: Mask = keep[labels]
    return kept


def grow(mask: Mask, margin_um: float, spacing: Spacing) -> Mask:
    """Return the mask with everything that is within `margin_um` of it."""
    kernel = disk(2 * margin_um, spacing)
    return np.asarray(cv2.dilate(mask.astype(np.uint8), kernel)).astype(bool)


def components(mask: Mask, connectivity: int) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Return the pieces of a mask.

    Returns
    -------
    labels : int32 (h, w)
        0 is background.
    areas : int64 (n,)
        Pixels of each label, background included.
    """
    _, labels, stats, _ = cv2.connectedComponentsWithStats(
        mask.astype(np.uint8), connectivity=connectivity
    )
    return np.asarray(labels, np.int32), np.asarray(stats[:, cv2.CC_STAT_AREA], np.int64)

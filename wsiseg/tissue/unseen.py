"""Tissue where the slide cannot be read: as what lies around, or tissue in doubt."""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from wsiseg.geometry import Spacing
from wsiseg.source.base import Pixels
from wsiseg.source.ledger import State
from wsiseg.tissue.glass import Mask

if TYPE_CHECKING:
    from wsiseg.source import View

__all__ = ["doubtful", "filled", "unseen"]

NEAR_UM = 200.0
"""Up to this distance from what can be seen, the nearest pixel stands for one that cannot."""

SNAP = 1e-6
"""Edges this close to a pixel edge are on it: downsamples are floats."""


def unseen(view: "View") -> Mask | None:
    """Return the pixels of a view, all read by now, that hold no data; `None`: there are none."""
    boxes = view.damaged(State.NODATA)
    if not len(boxes):
        return None
    scale = np.tile(view.downsample, 2)
    first, last = np.floor(boxes / scale + SNAP), np.ceil(boxes / scale - SNAP)
    lost = np.zeros(view.shape, np.bool_)
    for (y0, x0, _, _), (_, _, y1, x1) in zip(first.astype(int), last.astype(int), strict=True):
        lost[max(y0, 0) : y1, max(x0, 0) : x1] = True
    return lost


def filled(pixels: Pixels, lost: Mask) -> Pixels:
    """Return a copy of a picture whose lost pixels are their nearest neighbours."""
    if lost.all():
        return pixels
    place = _around(lost)
    _, nearest = _nearest(lost[place])
    out, part = pixels.copy(), pixels[place]
    hidden = lost[place]
    out[place][hidden] = part.reshape(-1, 3)[nearest[hidden]]
    return out


def doubtful(lost: Mask, spacing: Spacing) -> Mask:
    """Return the lost pixels too far from any other to be judged by it."""
    if lost.all():
        return lost
    place = _around(lost)
    distance, _ = _nearest(lost[place])
    out = np.zeros_like(lost)
    out[place] = distance * min(spacing.um) > NEAR_UM
    return out


def _around(lost: Mask) -> tuple[slice, slice]:
    """Return the part of a picture with all lost pixels and their neighbours."""
    edges = []
    for axis in (0, 1):
        (found,) = np.nonzero(lost.any(axis=1 - axis))
        edges.append(slice(max(0, int(found[0]) - 1), int(found[-1]) + 2))
    return edges[0], edges[1]


def _nearest(lost: Mask) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return the distance in pixels to the nearest pixel that is not lost, and its flat index."""
    import cv2

    distance, labels = cv2.distanceTransformWithLabels(
        lost.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_5, labelType=cv2.DIST_LABEL_PIXEL
    )
    kept = np.flatnonzero(~lost)
    where = np.zeros(len(kept) + 1, np.int64)
    where[labels.ravel()[kept]] = kept  # OpenCV numbers the pixels by itself
    return np.asarray(distance, np.float32), where[labels]

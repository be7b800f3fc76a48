"""Where QuPath's image lies in the slide, and polygons moved between the two.

QuPath shows only the bounds box of some vendors' slides; its coordinates then start at the corner
of that box. Which vendors, by reading QuPath's and OpenSlide's sources: MIRAX and Leica SCN.
"""

from dataclasses import dataclass, replace
from typing import cast

import numpy as np
import shapely
from numpy.typing import NDArray

from wsiseg.annotations.base import Annotations, Frame, ImageRef
from wsiseg.annotations.polygons import Points, Polygons, Shapes
from wsiseg.annotations.rectilinear import Rectilinear
from wsiseg.geometry import Box

__all__ = [
    "QuPathFrame",
    "frame_size",
    "moved",
    "offset_to",
    "qupath_frame",
    "to_frame",
]

CROPPED = frozenset({"mirax", "leica"})
"""Vendors whose bounds every QuPath from 0.5 subtracts."""

CROPPED_FROM_0_8 = frozenset({"argos", "generic", "generic-tiff"})
"""OpenSlide 4.0.1, in QuPath 0.8, is the first to declare bounds for these."""

DECIMALS = 6
"""Moved coordinates are rounded to 1e-6 px: exact there and back for such coordinates."""


@dataclass(frozen=True, slots=True)
class QuPathFrame:
    """QuPath's image as a part of level 0."""

    offset: tuple[int, int]
    """(x, y) of its top-left corner in level-0 pixels."""

    width: int
    height: int
    bounds_applied: bool
    """True where QuPath shows the bounds box instead of the whole image."""

    note: str | None = None
    """What differs between QuPath versions or readers, if anything does."""


def qupath_frame(image: ImageRef) -> QuPathFrame:
    """Return which part of the image QuPath shows.

    Parameters
    ----------
    image
        `bounds` counts only when the vendor declares all of it (x, y, width and height).

    Returns
    -------
    QuPathFrame
        In pixels (x, y). Where QuPath versions differ it follows 0.5 to 0.7 and says so in `note`.
    """
    height, width = image.shape
    bounds, vendor = image.bounds, image.vendor.lower()
    whole = QuPathFrame((0, 0), width, height, bounds_applied=False)
    if vendor == "zeiss":
        return replace(
            whole, note="scenes of a CZI file may open as separate images: compare the image size"
        )
    if bounds is None or bounds.size == 0 or bounds == Box.of_shape(image.shape):
        return whole
    if vendor in CROPPED:
        (y, x), (h, w) = bounds.start, bounds.shape
        note = "a slide with several regions opens as one image per region: compare the image size"
        return QuPathFrame(
            (x, y), w, h, bounds_applied=True, note=note if vendor == "leica" else None
        )
    if vendor in CROPPED_FROM_0_8:
        where = f"x={bounds.start[1]}, y={bounds.start[0]}"
        size = f"{bounds.shape[1]} x {bounds.shape[0]}"
        return replace(
            whole,
            note=f"QuPath 0.5 to 0.7 show the whole image, 0.8 only {size} at {where}: "
            "compare the image size",
        )
    return replace(whole, note=f"bounds of vendor {vendor!r} are not applied by QuPath")


def frame_size(image: ImageRef, frame: Frame) -> tuple[int, int]:
    """Return the (width, height) in pixels of the image that a frame refers to."""
    if frame == "level0":
        return image.shape[1], image.shape[0]
    shown = qupath_frame(image)
    return shown.width, shown.height


def to_frame(annotations: Annotations, frame: Frame) -> Annotations:
    """Return the annotations in another frame; nothing is clipped.

    Notes
    -----
    There and back is exact for coordinates of at most six decimals, which whole pixels and
    everything written by wsiseg are; other coordinates move by less than 1e-6 px.
    """
    if annotations.frame == frame:
        return annotations
    offset = offset_to(annotations, frame)
    held, nuclei = annotations.outlines, annotations.nuclei
    geometries = moved(held.to_polygons() if isinstance(held, Rectilinear) else held, offset)
    if nuclei is not None:
        nuclei = cast("NDArray[np.object_]", moved(nuclei, offset))
    return replace(annotations, geometries=geometries, nuclei=nuclei, frame=frame)


def offset_to(annotations: Annotations, frame: Frame) -> tuple[int, int]:
    """Return what to add to the coordinates (x, y) to get those of another frame."""
    if annotations.frame == frame:
        return 0, 0
    x, y = qupath_frame(annotations.image).offset
    return (-x, -y) if frame == "qupath" else (x, y)


def moved(outlines: Shapes, offset: tuple[int, int]) -> Shapes:
    """Return polygons with `offset` (x, y) added to their coordinates."""
    if offset == (0, 0):
        return outlines

    def move(points: Points) -> Points:
        shifted: Points = np.round(points + np.array(offset, np.float64), DECIMALS)
        return shifted

    if isinstance(outlines, Polygons):
        return outlines.with_points(move(outlines.points))
    shapes: NDArray[np.object_] = shapely.transform(outlines, move)
    return shapes

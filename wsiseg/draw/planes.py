"""Slices of a scan as people look at them: radiological convention, true proportions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from wsiseg.draw.canvas import INK, PAPER, Pixels, line_height, text_width, write_text
from wsiseg.draw.overlay import overlay
from wsiseg.draw.palette import Color

__all__ = [
    "HU_WINDOW",
    "NAMES",
    "Plane",
    "PlaneName",
    "draw_plane",
    "grey_window",
    "side_by_side",
]

PlaneName = Literal["axial", "coronal", "sagittal"]
NAMES: tuple[PlaneName, ...] = ("axial", "coronal", "sagittal")
SIDES: dict[PlaneName, tuple[str, str, str, str]] = {
    "axial": ("R", "L", "A", "P"),
    "coronal": ("R", "L", "S", "I"),
    "sagittal": ("A", "P", "S", "I"),
}
"""What lies left, right, above and below in a picture: seen from the feet, the front, the left."""

GAP = 6
GROUND: Color = (0, 0, 0)

HU_WINDOW = (-160.0, 240.0)
"""Soft tissue in CT: width 400, centre 40 HU."""

LEAST_AIR = -500.0
"""A scan with values below it is shown as CT where its file does not say what it is."""

PERCENTILES = (1.0, 99.5)
"""Of MR: between them the grey values run from black to white."""

Grey = NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class Plane:
    """One slice, ready to be drawn.

    Parameters
    ----------
    name
        Which way it is cut.
    values
        float32 (h, w), upright.
    labels
        Integers (h, w).
    spacing_mm
        mm per pixel (down, across).
    """

    name: PlaneName
    values: Grey
    labels: NDArray[np.integer]
    spacing_mm: tuple[float, float]

    @classmethod
    def upright(
        cls,
        name: PlaneName,
        values: NDArray[Any],
        labels: NDArray[np.integer],
        spacing_mm: tuple[float, float],
    ) -> "Plane":
        """Return a slice of a scan whose axes run to superior, anterior, right.

        In the picture rows run down from superior (anterior), columns from the patient's right
        (anterior).
        """
        grey = np.ascontiguousarray(np.nan_to_num(values[::-1, ::-1].astype(np.float32)))
        return cls(name, grey, labels[::-1, ::-1], spacing_mm)

    @property
    def sides(self) -> tuple[str, str, str, str]:
        """Letters of the directions left, right, above and below."""
        return SIDES[self.name]

    def scaled(self, mm_per_pixel: float) -> "Plane":
        """Return the slice with square pixels of a size; labels take the nearest voxel."""
        height, width = self.values.shape
        down, across = self.spacing_mm
        size = (
            max(1, round(width * across / mm_per_pixel)),
            max(1, round(height * down / mm_per_pixel)),
        )
        smaller = size[0] < width and size[1] < height
        values = cv2.resize(
            self.values, size, interpolation=cv2.INTER_AREA if smaller else cv2.INTER_LINEAR
        )
        rows, columns = (
            np.minimum(((np.arange(n) + 0.5) * old / n).astype(np.intp), old - 1)
            for n, old in ((size[1], height), (size[0], width))
        )
        labels = self.labels[np.ix_(rows, columns)]
        return Plane(self.name, np.asarray(values, np.float32), labels, (mm_per_pixel,) * 2)


def grey_window(planes: Sequence[Plane], modality: str | None) -> tuple[float, float]:
    """Return the values that are shown black and white.

    Parameters
    ----------
    planes
        What will be shown.
    modality
        `CT`: the window of soft tissue. `None`: so, too, where values lie below -500; else, and
        for other modalities, percentiles of what is not 0.
    """
    values = np.concatenate([plane.values.ravel() for plane in planes])
    if modality == "CT" or (modality is None and values.min() < LEAST_AIR):
        return HU_WINDOW
    some = values[values != 0]
    if not len(some):
        return 0.0, 1.0
    low, high = np.percentile(some, PERCENTILES).tolist()
    return (low, high) if high > low else (low - 1, low)  # a single value is seen


def draw_plane(
    plane: Plane, window: tuple[float, float], colors: Mapping[int, Color] | None = None
) -> Pixels:
    """Return a slice in grey, its labels in colour, with the directions at its sides.

    Parameters
    ----------
    plane
        Of square pixels; see `Plane.scaled`.
    window
        Values that are black and white.
    colors
        Of label values; those without one are not drawn.

    Returns
    -------
    uint8 (h, w, 3)
    """
    low, high = window
    grey = np.clip((plane.values - low) / (high - low) * 255, 0, 255).astype(np.uint8)
    pixels = np.repeat(grey[..., None], 3, axis=2)
    colors = colors or {}
    values = list(colors)
    table = np.zeros(max([0, *values, int(plane.labels.max())]) + 1, np.int64)
    table[values] = np.arange(1, len(values) + 1)
    return _lettered(overlay(pixels, table[plane.labels], list(colors.values())), plane)


def _lettered(pixels: Pixels, plane: Plane) -> Pixels:
    """Write the directions into the middle of the sides."""
    size, (height, width) = 14, pixels.shape[:2]
    left, right, above, below = plane.sides
    tall = line_height(size)
    places = {
        left: ((height - tall) // 2, 4),
        right: ((height - tall) // 2, width - 4 - text_width(right, size)),
        above: (2, (width - text_width(above, size)) // 2),
        below: (height - tall - 2, (width - text_width(below, size)) // 2),
    }
    if height > 4 * tall and width > 4 * tall:
        for letter, at in places.items():
            write_text(pixels, letter, at, size, color=PAPER, halo=INK)
    return pixels


def side_by_side(pictures: Sequence[Pixels]) -> Pixels:
    """Return pictures (h, w, 3) in a row, centred, on black."""
    height = max(picture.shape[0] for picture in pictures)
    width = sum(picture.shape[1] for picture in pictures) + GAP * (len(pictures) - 1)
    out = np.full((height, width, 3), GROUND, np.uint8)
    left = 0
    for picture in pictures:
        top = (height - picture.shape[0]) // 2
        out[top : top + picture.shape[0], left : left + picture.shape[1]] = picture
        left += picture.shape[1] + GAP
    return out

"""The one picture of a segmented scan: three planes, classes, legend, scale bar."""

import math
from collections.abc import Mapping, Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from wsiseg.draw import Entry, ScaleBar, legend, scale_bar, with_panel
from wsiseg.draw.canvas import INK, PAPER, Pixels
from wsiseg.draw.palette import OKABE_ITO, Color
from wsiseg.draw.planes import NAMES, Plane, draw_plane, grey_window, side_by_side
from wsiseg.errors import UsageError
from wsiseg.geometry import Affine
from wsiseg.volume.arrays import VoxelArray
from wsiseg.volume.lesions import Lesion
from wsiseg.volume.planes import ScanView, widest_slices
from wsiseg.volume.statistics import ScanClass

__all__ = ["LONGEST_SIDE", "class_colors", "lesion_picture", "ml_text", "preview"]

LONGEST_SIDE = 420
"""Pixels of the longest side of any plane."""

MOST_NAMES = 24
"""Classes in the legend; more are counted."""

LESION_SIDE = 360
"""Pixels of the longer side of the picture of a lesion."""

LEAST_VIEW_MM = 30.0
"""Of a picture of a lesion, however small that is."""

ON_GREY: tuple[Color, ...] = tuple(OKABE_ITO[i] for i in (1, 4, 2, 3, 5, 6, 0))
"""The palette without black, the colours that stand out from dark scans first; each further round
is lighter."""


def class_colors(classes: Sequence[ScanClass]) -> dict[int, Color]:
    """Return the colour of each label value: the class's own, or of a palette for any eyes."""
    return {one.value: one.color or _on_grey(index) for index, one in enumerate(classes)}


def _on_grey(index: int) -> Color:
    around, place = divmod(index, len(ON_GREY))
    keep = 0.6**around
    red, green, blue = (round(255 - (255 - value) * keep) for value in ON_GREY[place])
    return red, green, blue


def ml_text(volume: float) -> str:
    """Return a volume in ml with two digits that count."""
    digits = 1 if volume >= 10 else min(3, 1 - math.floor(math.log10(max(volume, 1e-3))))
    return f"{volume:.{digits}f} ml"


def preview(
    image: VoxelArray,
    labels: VoxelArray,
    affine: Affine,
    classes: Sequence[ScanClass],
    *,
    modality: str | None = None,
    notes: Mapping[int, str] | None = None,
    caption: str = "",
) -> Pixels:
    """Return axial, coronal and sagittal slices through the largest extent, with classes over them.

    Each plane is the slice with most labelled voxels; right and left are as radiologists show them
    (the patient's right on the left). All three have one scale, and voxels their true proportions.

    Parameters
    ----------
    image
        The scan (z, y, x); three slices are read.
    labels
        Integers (z, y, x) on the same voxels.
    affine
        Of both.
    classes
        Names and colours of the values; values without a class are not drawn.
    modality
        `CT`, `MR` or `None`, see `grey_window`.
    notes
        Written behind the name of a value in the legend, such as a volume.
    caption
        Below the legend.

    Returns
    -------
    uint8 (h, w, 3)

    Raises
    ------
    UsageError
        If scan and labels have different sizes.
    """
    if tuple(image.shape[:3]) != tuple(labels.shape):
        raise UsageError(f"the scan has {image.shape} voxels, the labels {labels.shape}")
    view = ScanView.of(image, labels, affine)
    stored = widest_slices(labels)
    turn = affine.turn_to("RAS")
    places = [
        labels.shape[axis] - 1 - stored[axis] if flip else stored[axis]
        for axis, flip in zip(turn.order, turn.flips, strict=True)
    ]
    planes = [view.plane(name, at) for name, at in zip(NAMES, places, strict=True)]
    window = grey_window(planes, modality)
    extent = max(
        n * mm
        for plane in planes
        for n, mm in zip(plane.values.shape, plane.spacing_mm, strict=True)
    )
    mm_per_pixel = extent / LONGEST_SIDE
    colors = class_colors(classes)
    drawn = [draw_plane(plane.scaled(mm_per_pixel), window, colors) for plane in planes]
    picture = side_by_side(drawn)
    size = 14
    entries = _entries(planes, classes, colors, notes or {}, size)
    bar = ScaleBar.fitting(1000 * mm_per_pixel, 0.6 * LONGEST_SIDE / 2)
    lines = [Entry(bar.label, bar.pixels, INK, "bar"), *entries]
    if caption:
        lines.append(Entry(caption, 0, INK, "text"))
    return with_panel(picture, legend(lines, picture.shape[1], size))


def lesion_picture(
    image: VoxelArray,
    labels: VoxelArray,
    affine: Affine,
    lesion: Lesion,
    color: Color,
    *,
    value: int,
    modality: str | None = None,
) -> Pixels:
    """Return the axial slice that a lesion's axes were measured in, with both drawn on it.

    Parameters
    ----------
    image, labels, affine
        As for `preview`.
    lesion
        Its figures.
    color
        Of its class.
    value
        Its label.
    modality
        As for `preview`.

    Returns
    -------
    uint8 (h, w, 3), with a scale bar.
    """
    view = ScanView.of(image, labels, affine)
    ends = view.affine.voxel(lesion.axes_mm)
    plane = view.plane("axial", int(np.rint(ends[0, 0])))
    down, across = plane.spacing_mm
    height, width = plane.values.shape
    rows, columns = (height - 0.5 - ends[:, 1]) * down, (width - 0.5 - ends[:, 2]) * across
    half = max(0.7 * lesion.long_axis_mm, LEAST_VIEW_MM / 2)
    spans = [
        (max(0, int((middle - half) / mm)), min(n, int((middle + half) / mm) + 1))
        for middle, mm, n in ((rows.mean(), down, height), (columns.mean(), across, width))
    ]
    window = grey_window([plane], modality)
    cut = Plane(
        "axial",
        plane.values[slice(*spans[0]), slice(*spans[1])],
        np.where(plane.labels == value, value, 0)[slice(*spans[0]), slice(*spans[1])],
        plane.spacing_mm,
    )
    mm = max(n * s for n, s in zip(cut.values.shape, cut.spacing_mm, strict=True)) / LESION_SIDE
    pixels = draw_plane(cut.scaled(mm), window, {value: color})
    at = np.stack([columns - spans[1][0] * across, rows - spans[0][0] * down], axis=1) / mm - 0.5
    _draw_axes(pixels, np.rint(at).astype(int))
    return scale_bar(pixels, 1000 * mm)


def _draw_axes(pixels: Pixels, ends: NDArray[np.int_]) -> None:
    """Draw both axes (4, 2), x and y: white with a dark edge, seen on any ground."""
    for tone, wide in ((INK, 4), (PAPER, 2)):
        for start, stop in (ends[:2], ends[2:]):
            first, last = (tuple(int(n) for n in point) for point in (start, stop))
            cv2.line(pixels, first, last, tone, wide, cv2.LINE_AA)


def _entries(
    planes: Sequence[Plane],
    classes: Sequence[ScanClass],
    colors: Mapping[int, Color],
    notes: Mapping[int, str],
    size: int,
) -> list[Entry]:
    """Return the legend: classes that are seen, or have a note."""
    seen: NDArray[np.integer] = np.unique(np.concatenate([p.labels.ravel() for p in planes]))
    shown = [one for one in classes if one.value in seen or one.value in notes]
    entries = [
        Entry(
            f"{one.name}  {notes.get(one.value, '')}".strip(), 2 * size, colors[one.value], "area"
        )
        for one in shown[:MOST_NAMES]
    ]
    if len(shown) > MOST_NAMES:
        entries.append(Entry(f"and {len(shown) - MOST_NAMES} more classes", 0, INK, "text"))
    return entries

"""What a notebook shows of an open scan: its three middle planes, and a table of its figures."""

from html import escape
from typing import TYPE_CHECKING

import numpy as np

from wsiseg.draw.notebook import data_image, panel, text_table
from wsiseg.draw.planes import NAMES, Plane, draw_plane, grey_window, side_by_side
from wsiseg.errors import SourceError, UsageError
from wsiseg.geometry import Box

if TYPE_CHECKING:
    from collections.abc import Sequence

    from wsiseg.draw.canvas import Pixels
    from wsiseg.source.volumes.volume import Volume

__all__ = ["middle_planes", "volume_html"]

NOTEBOOK_SIDE = 192
"""Pixels of the longest side of any plane in a notebook."""


def middle_planes(
    volume: "Volume", side: int, at: "Sequence[float] | None" = None
) -> tuple["Pixels", float]:
    """Return the axial, coronal and sagittal slice through a place, and mm per pixel.

    Parameters
    ----------
    volume
        An open scan; three slices are read.
    side
        Pixels of the longest side of any plane.
    at
        mm (x, y, z): to the patient's right, anterior, superior; `None`: the middle.

    Returns
    -------
    pixels, mm_per_pixel
        uint8 (h, w, 3) with one scale for all three planes, and that scale.

    Raises
    ------
    UsageError
        If the place is outside of the scan.
    """
    turned = volume.oriented("RAS")
    planes = [_plane(turned, axis, index) for axis, index in enumerate(_indices(turned, at))]
    extent = max(
        n * mm
        for plane in planes
        for n, mm in zip(plane.values.shape, plane.spacing_mm, strict=True)
    )
    window = grey_window(planes, volume.metadata.modality)
    drawn = [draw_plane(plane.scaled(extent / side), window) for plane in planes]
    return side_by_side(drawn), extent / side


def _indices(turned: "Volume", at: "Sequence[float] | None") -> list[int]:
    if at is None:
        return [n // 2 for n in turned.shape]
    place = turned.affine.voxel(np.asarray([at], float))[0]
    indices = [round(float(value)) for value in place]
    if not all(0 <= index < n for index, n in zip(indices, turned.shape, strict=True)):
        raise UsageError(
            f"{turned.name}: ({', '.join(f'{mm:g}' for mm in at)}) mm is outside of the scan; "
            "needed x to the right, y to anterior, z to superior, within it"
        )
    return indices


def _plane(turned: "Volume", axis: int, index: int) -> Plane:
    start, stop = [0, 0, 0], list(turned.shape)
    start[axis], stop[axis] = index, index + 1
    values = turned.read(Box(tuple(start), tuple(stop)))[..., 0].squeeze(axis)
    down, across = (mm for i, mm in enumerate(turned.affine.spacing_mm) if i != axis)
    nothing = np.zeros(values.shape, np.uint8)
    return Plane.upright(NAMES[axis], values, nothing, (down, across))


def volume_html(volume: "Volume") -> str:
    """Return HTML that shows a scan, complete in itself, about 30 kB.

    Where its voxels cannot be read the table is shown with the reason.
    """
    z, y, x = volume.shape
    rows = [
        ("voxels (x, y, z)", f"{x} x {y} x {z}"),
        ("mm", " x ".join(f"{mm:.4g}" for mm in reversed(volume.affine.spacing_mm))),
        ("orientation", volume.affine.orientation),
        ("values", f"{volume.dtype}" + (f", {volume.channels} channels" * (volume.channels > 1))),
        ("modality", volume.metadata.modality or "not stated"),
    ]
    try:
        pixels, _ = middle_planes(volume, NOTEBOOK_SIDE)
    except SourceError as error:
        picture = f"<em>no picture: {escape(str(error))}</em>"
    else:
        picture = data_image(pixels, f"Three planes of {volume.name}")
    return panel(volume.name, "", text_table(rows, words=True), picture=picture)

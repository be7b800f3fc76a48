"""The one picture of a slide: thumbnail, tissue outline, classes, scale bar and legend."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from wsiseg.draw.canvas import INK, PAPER, Pixels, checked
from wsiseg.draw.legend import Entry, legend, with_panel
from wsiseg.draw.overlay import FILL, Shapes, fill, outline
from wsiseg.draw.palette import Color, class_color
from wsiseg.draw.scale_bar import ScaleBar

__all__ = ["DrawnClass", "overview"]

SMALLEST_SIDE = 480
"""Pictures whose longer side is shorter are enlarged by a whole factor."""

NARROWEST = 320
"""Of the panel below the picture, so that a legend fits."""

TISSUE_LINE: Color = (20, 20, 20)


@dataclass(frozen=True, eq=False)
class DrawnClass:
    """One class on a picture.

    Parameters
    ----------
    name
        For the legend.
    color
        RGB 0-255; `None`: one of a palette for any colour vision.
    shapes
        Polygons in pixels of the picture, (x, y), pixel corners: shapely geometries, or arrays
        (n, 2).
    note
        Written behind the name, such as an area.
    """

    name: str
    color: Color | None = None
    shapes: Shapes = field(default=())
    note: str = ""


def overview(
    pixels: Pixels,
    um_per_pixel: float,
    *,
    tissue: Shapes = (),
    classes: Sequence[DrawnClass] = (),
    tissue_note: str = "",
    caption: str = "",
) -> Pixels:
    """Return the picture with everything drawn on it, and a panel with scale bar and legend below.

    Parameters
    ----------
    pixels
        Thumbnail, uint8 (h, w, 3).
    um_per_pixel
        Of the thumbnail, along x.
    tissue
        Polygons in pixels of the thumbnail: outlined, not filled.
    classes
        Filled and outlined in this order; each has its line in the legend.
    tissue_note
        Written behind "Tissue" in the legend, such as an area.
    caption
        Written below the legend, such as the names of slide and model.

    Returns
    -------
    uint8 (h, w, 3)
        Nothing is written over the slide: texts stand in the panel, on white. Thumbnails with a
        longer side below 480 pixels are enlarged by a whole factor.

    Raises
    ------
    AnnotationError
        If these are not pixels, the pixel size is not positive, or a shape is no polygon.
    """
    tissue = list(tissue)
    zoom = max(1, -(-SMALLEST_SIDE // max(checked(pixels).shape[:2])))
    picture = pixels.repeat(zoom, axis=0).repeat(zoom, axis=1)
    thick = max(1, round(max(picture.shape[:2]) / 800))
    colors = [c.color or class_color(i) for i, c in enumerate(classes)]
    for known, color in zip(classes, colors, strict=True):
        shapes = _zoomed(known.shapes, zoom)
        picture = outline(fill(picture, shapes, color, opacity=FILL), shapes, color, width=thick)
    if tissue:
        shapes = _zoomed(tissue, zoom)
        picture = outline(picture, shapes, TISSUE_LINE, width=thick, casing=PAPER)
    width = max(NARROWEST, picture.shape[1])
    size = int(np.clip(width / 64, 12, 22))
    bar = ScaleBar.fitting(um_per_pixel / zoom, max(0.25 * picture.shape[1], 60))
    entries = [Entry(bar.label, bar.pixels, INK, "bar")]
    if tissue or tissue_note:
        entries.append(Entry(f"Tissue  {tissue_note}".strip(), 2 * size, TISSUE_LINE, "line"))
    for known, color in zip(classes, colors, strict=True):
        text = f"{known.name}  {known.note}".strip()
        entries.append(Entry(text, 2 * size, color, "area"))
    if caption:
        entries.append(Entry(caption, 0, INK, "text"))
    return with_panel(picture, legend(entries, width, size))


def _zoomed(shapes: Shapes, zoom: int) -> Shapes:
    """Return polygons in pixels of the enlarged picture."""
    if zoom == 1:
        return list(shapes) if isinstance(shapes, Iterator) else shapes
    import shapely

    return [
        shape * zoom
        if isinstance(shape, np.ndarray)
        else shapely.transform(shape, lambda points: points * zoom)
        for shape in shapes
    ]

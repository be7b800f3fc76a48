"""Colour over pixels: label images, polygons and their outlines."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from wsiseg.draw.canvas import Pixels, checked
from wsiseg.draw.palette import Color, class_color
from wsiseg.errors import AnnotationError, LabelError

__all__ = ["Rings", "Shapes", "fill", "outline", "overlay"]

Rings = list[NDArray[np.float64]]
"""Outer ring and holes of one polygon, each (n, 2), x and y, in pixel corners."""

Shapes = Iterable[Any]
"""Polygons: shapely geometries, or arrays (n, 2) of x, y for polygons without holes. Gone through
again for each line and filling, so that it may make them as it goes."""

SUBPIXEL_BITS = 4
"""OpenCV takes vertices as integers with this many binary places."""

DRAWN_AT_ONCE = 4096
"""Rings, or shapes: there may be hundreds of thousands."""

BLENDED_ROWS = 128
"""Rows coloured at once: the softened pixels of thousands of outlines take 60 bytes each."""

FILL = 0.35
"""Opacity at which the stain below can still be judged."""


def overlay(
    pixels: Pixels,
    labels: NDArray[np.bool_] | NDArray[np.integer],
    colors: Sequence[Color] | None = None,
    *,
    opacity: float = FILL,
    outlined: bool = True,
) -> Pixels:
    """Return a copy with the classes of a label image laid over it.

    Parameters
    ----------
    pixels
        uint8 (h, w, 3).
    labels
        bool or integer (h, w): 0 is left alone, k gets `colors[k - 1]`; True is 1.
    colors
        RGB 0-255 per class; default: a palette for any colour vision.
    opacity
        Of the fill, 0-1.
    outlined
        Draw the inner edge of each region in full colour.

    Returns
    -------
    uint8 (h, w, 3)

    Raises
    ------
    AnnotationError
        If these are not pixels, or the labels have another shape.
    LabelError
        If a label has no colour.
    """
    out = checked(pixels).copy()
    if labels.shape != out.shape[:2]:
        raise AnnotationError(f"labels of {labels.shape} do not fit pixels of {out.shape[:2]}")
    indices = labels.astype(np.int64)
    low, high = int(indices.min()), int(indices.max())
    if low < 0 or (colors is not None and high > len(colors)):
        known = "0 and above" if colors is None else f"0 to {len(colors)}"
        raise LabelError(f"labels run from {low} to {high}, colours are known for {known}")
    table = np.array([(0, 0, 0), *(colors or [class_color(i) for i in range(high)])], np.float32)
    chosen = indices > 0
    tint = table[indices[chosen]]
    out[chosen] = np.rint(out[chosen] * (1 - opacity) + tint * opacity).astype(np.uint8)
    if outlined:
        edge = chosen & _differs_from_neighbour(indices)
        out[edge] = table[indices[edge]].astype(np.uint8)
    return out


def fill(pixels: Pixels, shapes: Shapes, color: Color, *, opacity: float = FILL) -> Pixels:
    """Return a copy with polygons filled, holes left open.

    Parameters
    ----------
    pixels
        uint8 (h, w, 3).
    shapes
        Polygons in pixels (x, y), pixel corners; shapely geometries or arrays (n, 2).
    color
        RGB 0-255.
    opacity
        0-1; overlapping polygons of one call do not add up.

    Raises
    ------
    AnnotationError
        If these are not pixels, or a shape is no polygon.
    """
    out = checked(pixels).copy()
    cover = np.zeros(out.shape[:2], np.uint8)
    for rings in polygon_rings(shapes):
        cv2.fillPoly(cover, [_fixed_point(r) for r in rings], 255, cv2.LINE_AA, SUBPIXEL_BITS)
    return _blended(out, cover, color, opacity)


def outline(
    pixels: Pixels,
    shapes: Shapes,
    color: Color,
    *,
    width: int = 2,
    casing: Color | None = None,
) -> Pixels:
    """Return a copy with polygons outlined, holes included.

    Parameters
    ----------
    pixels, shapes, color
        As for `fill`.
    width
        Of the line, in pixels.
    casing
        Colour of a thin line on either side, so that the outline shows on any background.
    """
    out = checked(pixels).copy()
    shapes = list(shapes) if isinstance(shapes, Iterator) else shapes
    layers = [(casing, width + 2)] if casing is not None else []
    for tone, wide in [*layers, (color, width)]:
        cover = np.zeros(out.shape[:2], np.uint8)
        rings = (ring for rings in polygon_rings(shapes) for ring in rings)
        while lines := [_fixed_point(ring) for ring in islice(rings, DRAWN_AT_ONCE)]:
            cv2.polylines(cover, lines, True, 255, wide, cv2.LINE_AA, SUBPIXEL_BITS)
        out = _blended(out, cover, tone, 1.0)
    return out


def polygon_rings(shapes: Shapes) -> Iterator[Rings]:
    """Yield the rings of each polygon; the parts of multi-part geometries one by one.

    Raises
    ------
    AnnotationError
        If a shape is neither a polygon nor an array (n, 2).
    """
    todo = iter(shapes)
    while part := list(islice(todo, DRAWN_AT_ONCE)):
        yield from _rings_of(part)


def _rings_of(shapes: list[Any]) -> Iterator[Rings]:
    if all(isinstance(shape, np.ndarray) for shape in shapes):
        for ring in shapes:
            if ring.ndim != 2 or ring.shape[1] != 2:
                raise AnnotationError(f"a ring needs shape (n, 2), found {ring.shape}")
            yield [ring.astype(np.float64)]
        return
    import shapely

    if not all(isinstance(shape, shapely.Polygon | shapely.MultiPolygon) for shape in shapes):
        found = sorted({type(shape).__name__ for shape in shapes})
        raise AnnotationError(f"polygons or arrays (n, 2) are needed to draw, found {found}")
    for polygon in shapely.get_parts(np.array(shapes, object)):
        yield [shapely.get_coordinates(ring) for ring in shapely.get_rings(polygon)]


def _fixed_point(ring: NDArray[np.float64]) -> NDArray[np.int32]:
    """Return vertices as OpenCV wants them: relative to pixel centres, with binary places."""
    fixed: NDArray[np.int32] = np.rint((ring - 0.5) * 2**SUBPIXEL_BITS).astype(np.int32)
    return fixed


def _blended(pixels: Pixels, cover: Pixels, color: Color, opacity: float) -> Pixels:
    x, y, width, height = cv2.boundingRect(cover)
    part, cover = pixels[y : y + height, x : x + width], cover[y : y + height, x : x + width]
    if not part.size:
        return pixels
    greys = np.arange(256, dtype=np.uint8)[:, None].repeat(3, axis=1)
    table = _mixed(greys, np.full(256, opacity), color)  # what each value becomes inside
    for top in range(0, height, BLENDED_ROWS):
        rows = slice(top, top + BLENDED_ROWS)
        _blend_rows(part[rows], cover[rows], color, opacity, table)
    return pixels


def _blend_rows(
    part: Pixels, cover: Pixels, color: Color, opacity: float, table: NDArray[np.uint8]
) -> None:
    edge = ((cover > 0) & (cover < 255)).nonzero()
    softened = _mixed(part[edge], cover[edge] / 255 * opacity, color)
    cv2.copyTo(cv2.LUT(part, table[:, None]), (cover == 255).view(np.uint8), part)
    part[edge] = softened


def _mixed(pixels: Pixels, weight: NDArray[np.float64], color: Color) -> Pixels:
    """Return pixels (n, 3) mixed with a colour, which has the given weights 0-1 (n,)."""
    mixed = pixels * (1 - weight[:, None]) + np.array(color) * weight[:, None]
    return np.rint(mixed).astype(np.uint8)


def _differs_from_neighbour(labels: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return which pixels have another label above, below, left or right."""
    edge = np.zeros(labels.shape, bool)
    down, across = labels[1:] != labels[:-1], labels[:, 1:] != labels[:, :-1]
    edge[1:] |= down
    edge[:-1] |= down
    edge[:, 1:] |= across
    edge[:, :-1] |= across
    return edge

"""Outlines of objects as tiles: as smooth with a million of them as with ten.

A tile draws the outlines of objects that are large enough to be seen as such, the largest first up
to a number, and the others as dots. Lines are drawn with soft edges; a byte holds class and
strength, and the table of colours makes line colours and opacities of them.
"""

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from wsiseg.view.objects import STEPS, ObjectIndex, Rows
from wsiseg.view.png import Palette
from wsiseg.view.tiles import TILE

__all__ = ["OVERSAMPLED", "draw_tile", "outline_grid", "outline_palette"]

OVERSAMPLED = 4
"""Tiles go down to a quarter of a level-0 pixel, so that lines stay fine when pixels are large."""

LEAST_PX = 2.5
"""Objects smaller than this, in pixels of the tile, are dots."""

FINE_PX = 48
"""Smaller objects get fine lines: thick ones would fill them."""

FINE_SCALE = 1 / 12
"""Tile pixels per level-0 pixel below which all lines are fine: outlines lie close by then."""

DOT = 150
"""Strength of a dot, of 255."""

MOST_OUTLINES = 5000
"""In one tile; there are 52 pixels for each of them then."""

MARGIN = 4
"""Pixels drawn beyond the tile, so that lines go on across its edge."""

SHIFT = 4
"""Binary places of a pixel that lines are drawn with."""

STRENGTHS = 15
CODES = 255

Codes = NDArray[np.uint8]


def outline_grid(shape: Sequence[int]) -> tuple[tuple[int, int], int]:
    """Return the size (y, x) of the finest level of outlines, and how many levels there are.

    Parameters
    ----------
    shape
        Level-0 pixels (y, x) of the slide.
    """
    height, width = (n * OVERSAMPLED for n in shape[:2])
    levels = 1 + max(0, (max(height, width) - 1) // TILE).bit_length()
    return (height, width), levels


def draw_tile(index: ObjectIndex, shape: Sequence[int], level: int, row: int, column: int) -> Codes:
    """Return the codes (y, x) of a tile; level 0 is the coarsest.

    Raises
    ------
    IndexError
        If there is no such tile.
    """
    (height, width), levels = outline_grid(shape)
    if not 0 <= level < levels:
        raise IndexError(level)
    scale = OVERSAMPLED / 2 ** (levels - 1 - level)  # tile pixels per level-0 pixel
    rows, columns = (-(-n >> levels - 1 - level) for n in (height, width))
    if not (0 <= row * TILE < rows and 0 <= column * TILE < columns):
        raise IndexError(row, column)
    left, top = column * TILE - MARGIN, row * TILE - MARGIN
    side = TILE + 2 * MARGIN
    box = (left / scale, top / scale, (left + side) / scale, (top + side) / scale)
    found = index.inside(box)
    strengths = _strengths(len(index.classes))
    codes = np.zeros((side, side), np.uint8)
    strongest = np.zeros((side, side), np.uint8)
    for number in np.unique(index.class_index[found]).tolist():
        own = found[index.class_index[found] == number]
        drawn = np.rint(_draw(index, own, scale, (left, top), side) * (strengths / 255))
        slot = (number + 1) % _slots(len(index.classes))
        above = drawn > strongest
        strongest[above] = drawn[above]
        codes[above] = drawn[above] + slot * strengths
    inner = codes[MARGIN:-MARGIN, MARGIN:-MARGIN]
    return inner[: min(TILE, rows - row * TILE), : min(TILE, columns - column * TILE)]


def outline_palette(
    colors: Sequence[tuple[int, int, int]], hidden: frozenset[int] = frozenset()
) -> Palette:
    """Return the colours of codes for classes 0, 1, ...; objects without class are dark grey."""
    strengths, slots = _strengths(len(colors)), _slots(len(colors))
    palette = np.zeros((256, 4), np.uint8)
    for number, color in enumerate([(64, 64, 64), *colors][:slots]):
        first = 1 + number * strengths
        palette[first : first + strengths, :3] = color
        if number - 1 not in hidden:
            steps = np.arange(1, strengths + 1)
            palette[first : first + strengths, 3] = steps * 255 // strengths
    return palette


def _slots(classes: int) -> int:
    """Return how many colours there are; with more classes than that, some share one."""
    return min(classes + 1, CODES)


def _strengths(classes: int) -> int:
    return max(1, min(STRENGTHS, CODES // _slots(classes)))


def _draw(
    index: ObjectIndex, rows: Rows, scale: float, corner: tuple[int, int], side: int
) -> Codes:
    """Return how strongly (0 to 255) objects of one class cover each pixel."""
    bounds = index.bounds[rows]
    sizes = np.maximum(bounds[:, 2] - bounds[:, 0], bounds[:, 3] - bounds[:, 1]) * scale
    large = sizes >= LEAST_PX
    if np.count_nonzero(large) > MOST_OUTLINES:
        large &= sizes > np.partition(sizes, -MOST_OUTLINES)[-MOST_OUTLINES]
    canvas = np.zeros((side, side), np.uint8)
    dots = (bounds[~large, :2] + bounds[~large, 2:]) / 2 * scale - corner
    dots = dots[((dots >= 0) & (dots < side)).all(axis=1)].astype(np.int64)
    canvas[dots[:, 1], dots[:, 0]] = DOT
    is_thick = (sizes >= FINE_PX) & (scale >= FINE_SCALE)
    for chosen, width in ((large & ~is_thick, 1), (large & is_thick, 2)):
        lines = _lines(index, rows[chosen], scale, corner)
        cv2.polylines(canvas, lines, True, 255, width, cv2.LINE_AA, SHIFT)
    return canvas


def _lines(
    index: ObjectIndex, rows: Rows, scale: float, corner: tuple[int, int]
) -> list[NDArray[np.int32]]:
    """Return the rings of objects in pixels of the tile, without vertices that cannot be seen."""
    taken = index.outlines.take(rows)
    points = np.asarray(taken.points) * (scale / STEPS) - corner
    cells = np.floor(points * 2)
    kept = np.ones(len(cells), np.bool_)
    kept[1:] = (cells[1:] != cells[:-1]).any(axis=1)
    kept[taken.rings[:-1]] = True
    fixed = np.rint(points * 2**SHIFT).astype(np.int32)
    before = np.concatenate([[0], np.cumsum(kept)])
    return np.split(fixed[kept], before[taken.rings[1:-1]]) if len(rows) else []

"""The panel below a picture: scale bar and legend, on white."""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from wsiseg.draw.canvas import PAPER, Pixels, line_height, shortened, text_width, write_text
from wsiseg.draw.overlay import FILL
from wsiseg.draw.palette import Color

__all__ = ["Entry", "legend", "with_panel"]


@dataclass(frozen=True, slots=True)
class Entry:
    """One thing in the panel: a swatch (or the scale bar) with its text."""

    text: str
    swatch: int
    """Width in pixels."""

    color: Color
    kind: str
    """`bar`, `line`, `area`, or `text`, which has a row of its own."""


def with_panel(picture: Pixels, panel: Pixels) -> Pixels:
    """Return the picture, centred above the panel."""
    height, width = picture.shape[:2]
    out = np.full((height + panel.shape[0], panel.shape[1], 3), PAPER, np.uint8)
    left = (panel.shape[1] - width) // 2
    out[:height, left : left + width] = picture
    out[height:] = panel
    return out


def legend(entries: Sequence[Entry], width: int, size: int) -> Pixels:
    """Return the entries from left to right, in as many rows as they need, on white."""
    row, gap = line_height(size) + size // 2, size
    inner = width - 2 * gap
    places, x, y = [], 0, 0
    for entry in entries:
        text = shortened(entry.text, size, inner - entry.swatch - gap // 2)
        wide = entry.swatch + gap // 2 + text_width(text, size)
        if x and (x + wide > inner or entry.kind == "text"):
            x, y = 0, y + row
        places.append((entry, text, x + gap, y + gap // 2))
        x += wide + 2 * gap
    panel = np.full((y + row + gap, width, 3), PAPER, np.uint8)
    for entry, text, left, top in places:
        _draw_swatch(panel, entry, left, top, size)
        at = top + size // 4, left + entry.swatch + gap // 2
        write_text(panel, text, at, size)
    return panel


def _draw_swatch(panel: Pixels, entry: Entry, left: int, top: int, size: int) -> None:
    """Draw what stands before the text: the bar, a piece of line, or a filled box."""
    right = left + entry.swatch
    middle = top + (line_height(size) + size // 2) // 2
    half = size // 2
    if entry.kind == "bar":
        panel[middle - 1 : middle + 2, left:right] = entry.color
        for x in (left, right - 2):
            panel[middle - half // 2 - 1 : middle + half // 2 + 2, max(x, left) : x + 2] = (
                entry.color
            )
    elif entry.kind == "line":
        panel[middle - 1 : middle + 1, left:right] = entry.color
    elif entry.kind == "area":
        box = panel[middle - half : middle + half, left:right]
        box[:] = np.rint(box * (1 - FILL) + np.array(entry.color) * FILL).astype(np.uint8)
        cv2.rectangle(panel, (left, middle - half), (right - 1, middle + half - 1), entry.color, 2)

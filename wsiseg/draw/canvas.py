"""Text on pixels, and pixels into a file."""

from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from wsiseg.draw.palette import Color
from wsiseg.errors import AnnotationError, RunError
from wsiseg.files import write_whole

__all__ = ["Pixels", "checked", "line_height", "save_png", "shortened", "text_width", "write_text"]

Pixels: TypeAlias = NDArray[np.uint8]

INK: Color = (26, 26, 26)
PAPER: Color = (255, 255, 255)

PNG_SETTINGS = (
    cv2.IMWRITE_PNG_COMPRESSION,
    2,
    cv2.IMWRITE_PNG_STRATEGY,
    cv2.IMWRITE_PNG_STRATEGY_RLE,
)
"""For slides and overlays smaller and quicker than zlib's usual search for repetitions."""


def checked(pixels: Pixels) -> Pixels:
    """Return `pixels` as they are, or say what is wrong with them."""
    array = np.asarray(pixels)
    if array.ndim != 3 or array.shape[2] != 3 or array.dtype != np.uint8 or not array.size:
        raise AnnotationError(
            f"a picture needs uint8 (h, w, 3) with at least one pixel, got {array.dtype} "
            f"{array.shape}"
        )
    return array


def write_text(
    pixels: Pixels,
    text: str,
    at: tuple[int, int],
    size: int,
    *,
    color: Color = INK,
    halo: Color | None = None,
) -> None:
    """Write one line of text into `pixels`, its line box starting at `at` (y, x).

    `halo` draws an edge around the letters, so that they can be read on any background.
    """
    image = Image.fromarray(pixels)
    edge = 0 if halo is None else max(1, size // 7)
    ImageDraw.Draw(image).text(
        (at[1], at[0]), text, fill=color, font=_font(size), stroke_width=edge, stroke_fill=halo
    )
    pixels[:] = np.asarray(image)


def text_width(text: str, size: int) -> int:
    """Return the width of one line of text in pixels."""
    return int(_font(size).getlength(text) + 0.999)


def line_height(size: int) -> int:
    """Return the height of a line of text in pixels, letters with descenders included."""
    return int(_font(size).getbbox("Ågµ|")[3] + 0.999)


def shortened(text: str, size: int, width: int) -> str:
    """Return `text`, cut and ended with an ellipsis if it is wider than `width` pixels."""
    if text_width(text, size) <= width:
        return text
    while text and text_width(text + "…", size) > width:
        text = text[:-1]
    return text.rstrip() + "…"


def save_png(path: str | Path, pixels: Pixels) -> None:
    """Write `pixels`, uint8 (h, w, 3), as PNG.

    The same pixels give the same bytes: no times, no metadata. The file appears under its name
    when it is complete.

    Raises
    ------
    AnnotationError
        If these are not pixels.
    DiskFullError
        If there is no room left.
    RunError
        If the file cannot be written.
    """
    _, encoded = cv2.imencode(".png", checked(pixels)[..., ::-1], PNG_SETTINGS)
    write_whole(Path(path), encoded.tobytes())


@cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    """Return DejaVu Sans out of matplotlib's data: Pillow's own font lacks µ, ² and accents."""
    package = find_spec("matplotlib")  # finds the folder, loads nothing
    for folder in (package and package.submodule_search_locations) or ():
        path = Path(folder, "mpl-data", "fonts", "ttf", "DejaVuSans.ttf")
        if path.is_file():
            return ImageFont.truetype(str(path), size)
    raise RunError(
        "text cannot be drawn: the font DejaVu Sans, part of matplotlib, is missing; reinstall "
        "matplotlib"
    )

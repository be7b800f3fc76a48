"""Small pictures for the list of slides."""

import numpy as np

from wsiseg.errors import WsisegError
from wsiseg.view.results import Shown
from wsiseg.view.tiles import encode

__all__ = ["SIZE", "thumbnail"]

SIZE = 256
"""Longest side in pixels."""

PICTURES = ("overview.png", "preview.png")
"""What a result holds, for slides that are gone and for scans."""


def thumbnail(shown: Shown) -> bytes:
    """Return a JPEG of the slide, or of the picture in its result.

    Raises
    ------
    LookupError
        If there is neither.
    """
    if not shown.is_volume:
        try:
            return shown.tiles.thumbnail(SIZE)
        except WsisegError:
            pass  # the picture was made when the slide was there
    import cv2

    for name in PICTURES:
        path = shown.result.folder / name
        pixels = cv2.imread(str(path), cv2.IMREAD_COLOR_RGB) if path.is_file() else None
        if pixels is not None:
            scale = SIZE / max(pixels.shape[:2])
            small = cv2.resize(pixels, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
            return encode(np.asarray(small, np.uint8))
    raise LookupError(shown.name)

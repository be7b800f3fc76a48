"""Where pixels come from: slides, images and arrays, behind one protocol."""

from wsiseg.source.base import (
    CompressedTile,
    CompressedTileSource,
    Pixels,
    PyramidSource,
    SlideMetadata,
)
from wsiseg.source.open import READERS, as_pyramid, open
from wsiseg.source.pyramid import Level, Pyramid
from wsiseg.source.view import View, choose_level

__all__ = [
    "READERS",
    "CompressedTile",
    "CompressedTileSource",
    "Level",
    "Pixels",
    "Pyramid",
    "PyramidSource",
    "SlideMetadata",
    "View",
    "as_pyramid",
    "choose_level",
    "open",
]

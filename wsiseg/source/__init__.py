"""Where pixels come from: slides, images and arrays, behind one protocol."""

from wsiseg.source.base import (
    CompressedTile,
    CompressedTileSource,
    Pixels,
    PyramidSource,
    SlideMetadata,
)
from wsiseg.source.ledger import DamagedBlock, Ledger, State
from wsiseg.source.open import READERS, as_pyramid, open
from wsiseg.source.pyramid import Level, OnDamage, Pyramid
from wsiseg.source.view import View, choose_level

__all__ = [
    "READERS",
    "CompressedTile",
    "CompressedTileSource",
    "DamagedBlock",
    "Ledger",
    "Level",
    "OnDamage",
    "Pixels",
    "Pyramid",
    "PyramidSource",
    "SlideMetadata",
    "State",
    "View",
    "as_pyramid",
    "choose_level",
    "open",
]

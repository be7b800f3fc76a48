"""Where pixels and voxels come from: slides and scans, files and arrays, behind two protocols."""

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
from wsiseg.source.volumes import (
    VOLUME_READERS,
    Volume,
    VolumeMetadata,
    VolumeSource,
    Voxels,
    is_volume,
    open_recorded,
    open_volume,
)

__all__ = [
    "READERS",
    "VOLUME_READERS",
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
    "Volume",
    "VolumeMetadata",
    "VolumeSource",
    "Voxels",
    "as_pyramid",
    "choose_level",
    "is_volume",
    "open",
    "open_recorded",
    "open_volume",
]

"""Scans of CT and MR: one protocol, `VolumeSource`, and a reader for each format."""

from wsiseg.source.volumes.base import VolumeMetadata, VolumeSource, Voxels
from wsiseg.source.volumes.open import VOLUME_READERS, is_volume, open_recorded, open_volume
from wsiseg.source.volumes.volume import Volume

__all__ = [
    "VOLUME_READERS",
    "Volume",
    "VolumeMetadata",
    "VolumeSource",
    "Voxels",
    "is_volume",
    "open_recorded",
    "open_volume",
]

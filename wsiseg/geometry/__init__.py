"""Where pixels and voxels are. Pure arithmetic: no pixels, no files."""

from wsiseg.geometry.affine import Affine
from wsiseg.geometry.boxes import COARSEST_UM, FINEST_UM, Box, LevelInfo, Spacing, ceil_div
from wsiseg.geometry.orientation import Reorientation

__all__ = [
    "COARSEST_UM",
    "FINEST_UM",
    "Affine",
    "Box",
    "LevelInfo",
    "Reorientation",
    "Spacing",
    "ceil_div",
]

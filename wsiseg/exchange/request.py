"""What an export can be told, and what it tells."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

from wsiseg.annotations.geojson import MAX_BYTES, MAX_OBJECTS
from wsiseg.errors import UsageError
from wsiseg.options import Frame

__all__ = ["MAX_BYTES", "MAX_OBJECTS", "ExportReport", "ExportRequest", "Kind"]

Kind = Literal["result", "annotations", "detections", "tiles", "cells", "points", "peaks"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportRequest:
    """What to make of a result; each format takes what concerns it."""

    kind: Kind = "result"
    """What the objects become in QuPath: what they are in the result, or all of one kind. `tiles`
    and `peaks` are those of the heatmap."""

    frame: Frame = "qupath"
    """Pixels of the image QuPath shows, or of the whole level 0."""

    compress: bool = False
    """Write `.geojson.gz`."""

    locked: bool = False
    named: bool = False
    """Call objects `Tumor 1`, `Tumor 2`, ... where they have no name."""

    parents: bool = False
    """Make the pieces of tissue the parents of what lies in them."""

    min_area_um2: float = 0.0
    """Objects with a smaller area are left out."""

    simplify_um: float = 0.0
    """Tolerance of simplification; 0 keeps the outlines."""

    max_vertices: int = 0
    """An outline with more is simplified by itself until it has no more; 0 for any number."""

    limits: tuple[int, int] = (MAX_OBJECTS, MAX_BYTES)
    """(objects, uncompressed bytes) of one GeoJSON file."""

    heatmap: str = "heatmap"
    """Which heatmap tiles are made of."""

    tile_um: float = 0.0
    """Side of a tile. 0: a heatmap's cells as they are if wider than 8 µm, else about 64 µm."""

    least_peak: float = 0.5
    """Least probability of a peak."""

    ngff: str = "0.4"
    """Version of OME-Zarr: 0.4 or 0.5."""

    license: str = ""
    """Of the data of an RO-Crate: a URL, or an SPDX name such as `CC-BY-4.0`."""

    overwrite: bool = False

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise UsageError(f"kind {self.kind!r}: needed one of {', '.join(get_args(Kind))}")
        if self.frame not in get_args(Frame):
            raise UsageError(f"frame {self.frame!r}: needed one of {', '.join(get_args(Frame))}")
        if self.ngff not in {"0.4", "0.5"}:
            raise UsageError(f"OME-Zarr version {self.ngff!r}: needed 0.4 or 0.5")
        for name in ("min_area_um2", "simplify_um", "tile_um"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise UsageError(f"{name} {value}: needed a finite number of at least 0")
        if not 0 < self.least_peak <= 1:
            raise UsageError(f"least_peak {self.least_peak}: needed above 0, at most 1")
        if self.max_vertices and self.max_vertices < 4:
            raise UsageError(
                f"max_vertices {self.max_vertices}: needed at least 4, or 0 for any number"
            )
        if min(self.limits) < 1:
            raise UsageError(f"limits {self.limits}: needed at least one object and one byte")


@dataclass(frozen=True, slots=True)
class ExportReport:
    """What was written."""

    files: tuple[Path, ...]
    objects: int = 0
    notes: Mapping[str, int] = field(default_factory=dict)
    """What could not be written as it was -> how often."""

"""What people see and what they draw: polygons with a class, as files and as pixels.

Written so that QuPath opens them in the right place; read from any usual program. What reads files
is loaded on first use: a segmentation only writes.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from wsiseg.annotations.base import AnnotationClass, Annotations, ImageRef
from wsiseg.annotations.frames import QuPathFrame, qupath_frame, to_frame
from wsiseg.annotations.geojson import WriteReport, write_annotations, write_geojson
from wsiseg.annotations.polygons import Polygons

if TYPE_CHECKING:
    from wsiseg.annotations.class_map import ClassMap
    from wsiseg.annotations.columns import FoundObjects
    from wsiseg.annotations.drawing import Areas, Points
    from wsiseg.annotations.geoparquet import to_geopandas, write_geoparquet
    from wsiseg.annotations.labels import IGNORE, Labels, LabelView, open_labels
    from wsiseg.annotations.read_drawing import read_areas, read_points
    from wsiseg.annotations.read_objects import read_objects
    from wsiseg.annotations.readback import read_geojson
    from wsiseg.annotations.repair import Change, FixReport, fix_geojson
    from wsiseg.annotations.verify import Finding, LoadedObjects, VerifyReport, verify_geojson

_LATER = {
    "class_map": ("ClassMap",),
    "drawing": ("Areas", "Points"),
    "geoparquet": ("to_geopandas", "write_geoparquet"),
    "labels": ("IGNORE", "Labels", "LabelView", "open_labels"),
    "columns": ("FoundObjects",),
    "read_drawing": ("read_areas", "read_points"),
    "read_objects": ("read_objects",),
    "readback": ("read_geojson",),
    "repair": ("Change", "FixReport", "fix_geojson"),
    "verify": ("Finding", "LoadedObjects", "VerifyReport", "verify_geojson"),
}
_HOMES = {name: module for module, names in _LATER.items() for name in names}

__all__ = [
    "IGNORE",
    "AnnotationClass",
    "Annotations",
    "Areas",
    "Change",
    "ClassMap",
    "Finding",
    "FixReport",
    "FoundObjects",
    "ImageRef",
    "LabelView",
    "Labels",
    "LoadedObjects",
    "Points",
    "Polygons",
    "QuPathFrame",
    "VerifyReport",
    "WriteReport",
    "fix_geojson",
    "open_labels",
    "qupath_frame",
    "read_areas",
    "read_geojson",
    "read_objects",
    "read_points",
    "to_frame",
    "to_geopandas",
    "verify_geojson",
    "write_annotations",
    "write_geojson",
    "write_geoparquet",
]


def __getattr__(name: str) -> Any:  # noqa: ANN401 - any public object
    if name not in _HOMES:
        raise AttributeError(f"module 'wsiseg.annotations' has no attribute {name!r}")
    value = getattr(import_module(f"wsiseg.annotations.{_HOMES[name]}"), name)
    globals()[name] = value
    return value

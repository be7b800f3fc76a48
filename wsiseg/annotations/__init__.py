"""What people see: polygons with a class, written so that QuPath opens them in the right place."""

from wsiseg.annotations.base import AnnotationClass, Annotations, ImageRef
from wsiseg.annotations.frames import QuPathFrame, qupath_frame, to_frame
from wsiseg.annotations.geojson import WriteReport, write_annotations, write_geojson
from wsiseg.annotations.geoparquet import to_geopandas, write_geoparquet
from wsiseg.annotations.readback import read_geojson
from wsiseg.annotations.verify import Finding, LoadedObjects, VerifyReport, verify_geojson

__all__ = [
    "AnnotationClass",
    "Annotations",
    "Finding",
    "ImageRef",
    "LoadedObjects",
    "QuPathFrame",
    "VerifyReport",
    "WriteReport",
    "qupath_frame",
    "read_geojson",
    "to_frame",
    "to_geopandas",
    "verify_geojson",
    "write_annotations",
    "write_geojson",
    "write_geoparquet",
]

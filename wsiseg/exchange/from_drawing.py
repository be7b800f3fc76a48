"""XML of ASAP and Aperio ImageScope as objects, colours kept."""

from pathlib import Path

import numpy as np
import shapely
from numpy.typing import NDArray

from wsiseg.annotations import ImageRef
from wsiseg.annotations.columns import Columns, Found, FoundObjects, clean_name
from wsiseg.annotations.drawing import UNCLASSIFIED
from wsiseg.annotations.read_drawing import READERS, DrawingFormat

__all__ = ["from_drawing", "parts_of"]


def from_drawing(path: Path, image: ImageRef, format: DrawingFormat) -> FoundObjects:
    """Read the areas and points of an XML file; they are in pixels of the whole level 0."""
    drawing = READERS[format](path)
    columns = Columns()
    areas, points = drawing.areas(), drawing.points()

    def found(name: str) -> Found:
        known = None if name == UNCLASSIFIED else clean_name(name)
        return Found(class_name=known, color=drawing.colors.get(name))

    for name, geometry in zip(areas.names, areas.geometries, strict=True):
        columns.add_area(found(name), parts_of(geometry))
    for name, (y, x) in zip(points.names, points.yx.tolist(), strict=True):
        columns.add_points(found(name), np.array([[x, y]]))
    columns.left_out.update({k: n for k, n in areas.left_out.items() if n and k != "points"})
    return columns.finish(image, "level0")


def parts_of(geometry: shapely.Geometry) -> list[list[NDArray[np.float64]]]:
    """Return the polygons of a geometry as closed rings, shell first."""
    parts = []
    for part in shapely.get_parts(shapely.get_parts(geometry)):
        if part.geom_type == "Polygon" and not part.is_empty:
            parts.append([shapely.get_coordinates(ring) for ring in shapely.get_rings(part)])
    return parts

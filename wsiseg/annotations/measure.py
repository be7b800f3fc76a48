"""How large polygons are.

Polygons of a mask also bring exact figures along: `TracedPolygons.pixels`, and the mean probability
over exactly their pixels in `TracedPolygons.probability`.
"""

import math
from collections.abc import Sequence

import numpy as np
import shapely
from numpy.typing import NDArray

from wsiseg.annotations.chunks import in_shapely
from wsiseg.annotations.rectilinear import Held

__all__ = ["AREA", "PROBABILITY", "area_mm2", "area_um2"]

AREA = "wsiseg: Area mm^2"
PROBABILITY = "wsiseg: Mean probability"


def area_um2(geometries: Held, *, pixel: Sequence[float]) -> NDArray[np.float64]:
    """Return areas (n,) in µm², holes not counted.

    Parameters
    ----------
    geometries
        Polygons (n,) in pixels.
    pixel
        Sides of one of these pixels in µm, (y, x): the level-0 spacing for level-0 polygons.
    """
    areas = np.empty(len(geometries))
    for chunk, shapes in in_shapely(geometries):
        areas[chunk] = shapely.area(shapes)
    return areas * math.prod(pixel)


def area_mm2(geometries: Held, *, pixel: Sequence[float]) -> NDArray[np.float64]:
    """Return areas (n,) in mm² of polygons in pixels of `pixel` µm, (y, x)."""
    return area_um2(geometries, pixel=pixel) / 1e6

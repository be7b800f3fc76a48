"""Many polygons in parts, so that what is copied of them stays small."""

from collections.abc import Iterator

import numpy as np
import shapely

from wsiseg.annotations.polygons import Polygons, Shapes

__all__ = ["chunks"]

CHUNK_OBJECTS = 5_000
CHUNK_VERTICES = 1 << 16
"""Vertices worked on at once, unless one polygon has more: bounds what is copied of them."""


def chunks(geometries: Shapes) -> Iterator[slice]:
    """Yield slices of polygons (n,) that together hold few enough objects and vertices."""
    if isinstance(geometries, Polygons):
        vertices = geometries.spans
    else:
        vertices = np.concatenate([[0], np.cumsum(shapely.get_num_coordinates(geometries))])
    start = 0
    while start < len(geometries):
        stop = int(np.searchsorted(vertices, vertices[start] + CHUNK_VERTICES, side="right")) - 1
        stop = min(max(stop, start + 1), start + CHUNK_OBJECTS)
        yield slice(start, min(stop, len(geometries)))
        start = stop

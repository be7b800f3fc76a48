"""Many polygons in parts, so that what is copied of them stays small."""

from collections.abc import Iterator

import numpy as np
import shapely
from numpy.typing import NDArray

from wsiseg.annotations.polygons import offsets_of
from wsiseg.annotations.rectilinear import Held

__all__ = ["chunks", "in_shapely"]

CHUNK_OBJECTS = 5_000
CHUNK_VERTICES = 1 << 16
"""Vertices worked on at once, unless one polygon has more: bounds what is copied of them."""


def chunks(geometries: Held) -> Iterator[slice]:
    """Yield slices of polygons (n,) that together hold few enough objects and vertices."""
    if isinstance(geometries, np.ndarray):
        vertices = offsets_of(shapely.get_num_coordinates(geometries))
    else:
        vertices = geometries.spans
    start = 0
    while start < len(geometries):
        stop = int(np.searchsorted(vertices, vertices[start] + CHUNK_VERTICES, side="right")) - 1
        stop = min(max(stop, start + 1), start + CHUNK_OBJECTS)
        yield slice(start, min(stop, len(geometries)))
        start = stop


def in_shapely(geometries: Held) -> Iterator[tuple[slice, NDArray[np.object_]]]:
    """Yield `chunks` with their polygons as shapely objects, made for the moment of columns."""
    for chunk in chunks(geometries):
        held = geometries[chunk]
        yield chunk, held if isinstance(held, np.ndarray) else held.to_shapely()

"""Objects as every writer takes them: valid, inside the image, each with its id."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wsiseg.annotations._prepare import Preparation
from wsiseg.annotations.base import Annotations, Frame

__all__ = ["PreparedPolygons", "prepared_polygons"]


@dataclass(frozen=True, slots=True)
class PreparedPolygons:
    """Some objects of an `Annotations`."""

    rows: NDArray[np.int64]
    """(n,) their rows in the `Annotations`."""

    geometries: NDArray[np.object_]
    """(n,) shapely `Polygon` or `MultiPolygon`, valid, rounded to 0.01 px."""

    ids: NDArray[np.bytes_]
    """(n,) UUIDs, as in GeoJSON."""


def prepared_polygons(
    annotations: Annotations, frame: Frame, notes: Counter[str] | None = None
) -> Iterator[PreparedPolygons]:
    """Yield polygons chunk by chunk, the same objects as GeoJSON would have.

    Parameters
    ----------
    annotations
        Polygons in either frame.
    frame
        The frame of the result.
    notes
        Takes the reasons for which objects were left out.
    """
    preparation = Preparation(annotations, frame)
    for chunk in preparation:
        yield PreparedPolygons(chunk.rows, chunk.outlines.to_shapely(), chunk.ids)
    if notes is not None:
        notes.update(preparation.dropped)

"""The nuclei of cells: outlines beside the outline, as QuPath takes them."""

import numpy as np
import shapely
from numpy.typing import NDArray

from wsiseg.annotations._coordinates import coordinates
from wsiseg.annotations._prepare import Preparation
from wsiseg.annotations.base import Annotations, Frame

__all__ = ["nucleus_members"]


def nucleus_members(annotations: Annotations, rows: NDArray[np.int64], frame: Frame) -> list[bytes]:
    """Return the member `nucleusGeometry` of some cells; empty for those without a nucleus.

    A nucleus is rounded, repaired and clipped as an outline is; QuPath takes nuclei of cells alone.
    """
    members = [b""] * len(rows)
    if annotations.nuclei is None or annotations.object_type != "cell":
        return members
    nuclei = annotations.nuclei[rows]
    there = np.flatnonzero(~(shapely.is_missing(nuclei) | shapely.is_empty(nuclei)))
    if not len(there):
        return members
    alone = Annotations(
        nuclei[there],
        np.zeros(len(there), np.int64) - 1,
        (),
        annotations.image,
        frame=annotations.frame,
        ids=np.full(len(there), b"-", "S36"),
    )
    for prepared in Preparation(alone, frame):
        several = np.diff(prepared.outlines.objects) > 1
        kinds = np.where(several, b"MultiPolygon", b"Polygon").tolist()
        places = zip(prepared.rows, kinds, coordinates(prepared.outlines), strict=True)
        for row, kind, place in places:
            text = b',"nucleusGeometry":{"type":"%b","coordinates":%b}' % (kind, place)
            members[there[row]] = text
    return members

"""Points as QuPath can take them: rounded, inside the image, with an id that stays."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import cast

import numpy as np
import shapely
from numpy.typing import NDArray

from wsiseg.annotations._grid import round_points
from wsiseg.annotations._ids import Namer, chosen_ids
from wsiseg.annotations.base import Annotations, Frame
from wsiseg.annotations.frames import frame_size, moved, offset_to
from wsiseg.annotations.polygons import Polygons

__all__ = ["PointPreparation", "PreparedPoints"]

CHUNK = 5_000


@dataclass(frozen=True, slots=True)
class PreparedPoints:
    """Some points of an `Annotations`, ready to be written."""

    rows: NDArray[np.int64]
    """(n,) their rows in the `Annotations`."""

    outlines: NDArray[np.object_]
    """(n,) `Point` or `MultiPoint`, rounded to 0.01 px."""

    ids: NDArray[np.bytes_]
    """(n,) UUIDs."""


@dataclass
class PointPreparation:
    """Goes through points chunk by chunk and counts those outside the image.

    Parameters
    ----------
    annotations
        Points in either frame.
    frame
        The frame of the result.
    seen
        See `Namer`.
    """

    annotations: Annotations
    frame: Frame
    seen: set[int] | None = None
    repaired: int = 0
    clipped: int = 0
    dropped: Counter[str] = field(default_factory=Counter)

    def __iter__(self) -> Iterator[PreparedPoints]:
        offset = offset_to(self.annotations, self.frame)
        width, height = frame_size(self.annotations.image, self.frame)
        namer = Namer(self.annotations, self.frame, self.seen)
        held = cast("NDArray[np.object_]", self.annotations.outlines)
        for start in range(0, len(held), CHUNK):
            part = cast("NDArray[np.object_]", moved(held[start : start + CHUNK], offset))
            x0, y0, x1, y1 = shapely.bounds(part).T
            inside = (x0 >= 0) & (y0 >= 0) & (x1 <= width) & (y1 <= height)  # not NaN
            if not inside.all():
                self.dropped["outside the image"] += int(np.count_nonzero(~inside))
            kept = shapely.transform(part[inside], round_points)
            rows = start + np.flatnonzero(inside)
            ends = np.concatenate([[0], np.cumsum(shapely.get_num_coordinates(kept))])
            columns = Polygons.of_outlines(shapely.get_coordinates(kept), ends)
            yield PreparedPoints(rows, kept, chosen_ids(self.annotations, rows, columns, namer))

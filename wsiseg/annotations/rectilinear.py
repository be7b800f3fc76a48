"""Outlines along pixel edges in the fewest bytes: what is traced waits so until it is written."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from wsiseg.annotations.polygons import Offsets, Points, Polygons, Shapes, offsets_of, spread

__all__ = ["Held", "Place", "Rectilinear", "in_columns"]

Place = Callable[[Points], Points]
"""Moves vertices (vertex, 2), each by itself."""


@dataclass(frozen=True, slots=True)
class Rectilinear:
    """Polygons whose edges run along x and y in turn, made into `Polygons` a part at a time.

    A horizontal edge ends at the x at which the next one begins, so one corner of each is enough:
    2 bytes per vertex of a mask up to 65,535 pixels a side, where `Polygons` take 16.
    """

    corners: NDArray[np.unsignedinteger]
    """(edge, 2) as (x, y): where each horizontal edge begins, in pixel corners of the mask."""

    rings: Offsets
    """(ring + 1,) offsets into `corners`."""

    parts: Offsets
    """(polygon + 1,) offsets into `rings`; the first ring of a polygon is its shell."""

    rows: NDArray[np.int64]
    """(n,) which of these polygons are meant, in their order."""

    place: Place | None = None
    """Where vertices come to lie; `None`: they stay in pixels of the mask."""

    @classmethod
    def concatenate(cls, several: Sequence["Rectilinear"], place: Place | None) -> "Rectilinear":
        """Return all polygons held by all, one after the other."""
        if not several:
            none = np.zeros(1, np.int64)
            return cls(np.empty((0, 2), np.uint8), none, none, none[:0], place)
        rings, parts = (
            offsets_of(np.concatenate([np.diff(getattr(one, name)) for one in several]))
            for name in ("rings", "parts")
        )
        corners = np.concatenate([one.corners for one in several])
        return cls(corners, rings, parts, np.arange(len(parts) - 1), place)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, rows: slice) -> Polygons:
        """Return some consecutive polygons."""
        return replace(self, rows=self.rows[rows]).to_polygons()

    def take(self, rows: NDArray[np.int64]) -> "Rectilinear":
        """Return the polygons of some rows (m,); nothing is copied but their numbers."""
        return replace(self, rows=self.rows[rows])

    def to_polygons(self) -> Polygons:
        """Return all of them as columns of vertices."""
        of_rings, parts = spread(self.parts, self.rows)
        of_edges, rings = spread(self.rings, of_rings)
        corners, edges = self.corners[of_edges], np.arange(len(of_edges))
        following = edges + 1
        following[rings[1:] - 1] = rings[:-1]
        at = 2 * edges + np.repeat(np.arange(len(of_rings)), np.diff(rings))
        starts = 2 * rings + np.arange(len(rings))  # each ring before has a vertex that closes it
        points = np.empty((starts[-1], 2))
        points[at] = corners
        points[at + 1, 0] = corners[following, 0]
        points[at + 1, 1] = corners[:, 1]
        points[starts[1:] - 1] = points[starts[:-1]]
        placed = points if self.place is None else self.place(points)
        return Polygons(placed, starts, parts, np.arange(len(parts)))

    def to_shapely(self) -> NDArray[np.object_]:
        """Return an object array (n,) of `Polygon`."""
        return self.to_polygons().to_shapely()

    @property
    def spans(self) -> Offsets:
        """(n + 1,) offsets of each polygon into the vertices of all."""
        first, last = self.parts[self.rows], self.parts[self.rows + 1]
        return offsets_of(2 * (self.rings[last] - self.rings[first]) + last - first)


Held = Shapes | Rectilinear
"""Polygons (n,) as shapely objects, or in either kind of columns."""


def in_columns(held: Held) -> Polygons:
    """Return polygons, however they are held, as columns of vertices."""
    if isinstance(held, Polygons):
        return held
    return held.to_polygons() if isinstance(held, Rectilinear) else Polygons.of(held)

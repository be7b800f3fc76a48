"""Corners to polygons: link them along lines, follow the rings, give each hole to its shell.

On a lattice line the corners of one class alternate between the left and the right end of its
horizontal edges; in a column, between the upper and the lower end of its vertical edges. So two
stable sorts link all corners, and the rings are the cycles of a permutation of the edges.

Where two pixels of one polygon touch at a point, its outline passes the point twice: the pixels
across join the regions outside, so there is one ring between them. There the two passes exchange
their ways on, which cuts the ring in two simple ones (a hole that touches its shell or another
hole), as OGC Simple Features (ISO 19125-1, 6.1.11) asks. Pixels of two polygons are on two rings.
"""

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from wsiseg.annotations._corners import Corners

if TYPE_CHECKING:
    from scipy.sparse import csr_array

__all__ = ["Outlines", "outlines"]

Indices = NDArray[np.int32]

FEW_EDGES = 1 << 18
"""Up to so many, a loop takes less time (0.1 s) than the import of SciPy's graphs (0.4 s)."""

MANY_EDGES = 1 << 20
"""So many, in all calls together, are worth that import."""

LOOPED_EDGES = 1 << 10
"""Up to so many, a loop is as quick as SciPy that is there already."""

GRAPHS = "scipy.sparse.csgraph"


@dataclass(frozen=True, slots=True)
class Outlines:
    """Rings of polygons, open (the first corner is not repeated), two corners per edge."""

    tail: NDArray[np.intp]
    """Corner (index) where each horizontal edge starts, ring after ring."""

    head: NDArray[np.intp]
    """Corner where each horizontal edge ends; the next one starts above or below it."""

    ring: NDArray[np.intp]
    """Ring of each horizontal edge, ascending from 0."""

    polygon: NDArray[np.intp]
    """Polygon of each ring, ascending from 0; the first ring of a polygon is its shell."""

    @property
    def polygons(self) -> int:
        """How many there are."""
        return int(self.polygon[-1]) + 1

    @property
    def polygon_of_edge(self) -> NDArray[np.intp]:
        """Polygon of each horizontal edge, ascending from 0."""
        return self.polygon[self.ring]

    @property
    def polygon_starts(self) -> NDArray[np.intp]:
        """Index of the first edge of each polygon."""
        return np.flatnonzero(np.diff(self.polygon_of_edge, prepend=-1))

    def of_polygons(self, wanted: NDArray[np.bool_]) -> "Outlines":
        """Return the outlines of some polygons, `wanted` (n,), which are numbered anew."""
        edges = wanted[self.polygon_of_edge]
        rings = wanted[self.polygon]
        return Outlines(
            self.tail[edges],
            self.head[edges],
            (np.cumsum(rings) - 1)[self.ring[edges]],
            (np.cumsum(wanted) - 1)[self.polygon[rings]],
        )


def outlines(corners: Corners) -> Outlines:
    """Link corners (at least one polygon's) to rings and rings to polygons, in canonical order.

    Polygons are sorted by their first pixel in row-major order, holes by theirs.
    """
    order = np.argsort(corners.value, kind="stable")  # by class, then y, then x
    corners = corners.take(order)
    group = _group(corners.value)
    meeting = _meeting(corners, group)
    by_column = _column_order(corners, group, meeting)
    vertical = _other_ends(by_column)

    tail: NDArray[np.int32] = np.arange(0, len(corners), 2, dtype=np.int32)
    tail += ~corners.starts_edge[::2]
    twin: NDArray[np.int32] = np.arange(len(corners), dtype=np.int32)
    successor = _successors(vertical, tail, twin)
    ring = _cycles(successor)
    pinched = meeting[ring[meeting >> 1] == ring[(meeting + 1) >> 1]]
    if len(pinched):
        twin = _swapping(len(corners), pinched)
        successor = _successors(vertical, tail, twin)
        ring = _cycles(successor)

    start = _first_of(ring)
    first_corner = order[2 * start]
    owner = _owners(corners, group, by_column, ring, start)
    rank = np.lexsort((first_corner, first_corner[owner]))
    edges = _walk(successor, start[rank])
    polygon = np.cumsum(owner[rank] == rank) - 1
    position = np.empty(len(rank), np.intp)
    position[rank] = np.arange(len(rank))
    tail = tail[edges]
    return Outlines(order[tail], order[tail ^ 1], position[ring[edges]], polygon)


class _Looped:
    """What loops have gone through in this process."""

    edges = 0


def _suit_a_loop(edges: int) -> bool:
    """Tell whether a loop takes less time than SciPy, its import counted where it is to come."""
    if edges > FEW_EDGES:
        return False
    if GRAPHS in sys.modules:
        return edges <= LOOPED_EDGES
    _Looped.edges += edges
    return _Looped.edges <= MANY_EDGES


def _group(value: NDArray[Any]) -> NDArray[np.int64]:
    """Return 0, 1, 2, ... for the runs of equal values of a sorted array."""
    group = np.zeros(len(value), np.int64)
    np.cumsum(value[1:] != value[:-1], out=group[1:])
    return group


def _meeting(corners: Corners, group: NDArray[np.int64]) -> NDArray[np.intp]:
    """Return the first of each two corners of one class at one point; the other one follows."""
    same = corners.x[1:] == corners.x[:-1]
    same &= corners.y[1:] == corners.y[:-1]
    same &= group[1:] == group[:-1]
    return np.flatnonzero(same)


def _column_order(corners: Corners, group: NDArray[np.int64], meeting: NDArray[np.intp]) -> Indices:
    """Return the corners by class, x, y; where two meet, the one that points up comes first."""
    width = int(corners.x.max()) + 1
    down_first = meeting[corners.points_down[meeting]]
    upright = _swapping(len(corners), down_first)
    by_column: Indices = upright[_stable_order(group * width + corners.x)]
    return by_column


def _stable_order(key: NDArray[np.int64]) -> NDArray[np.int32 | np.int64]:
    """Return the order that sorts integers >= 0 and keeps equal ones as they come.

    Where the keys lie densely it is a counting sort, namely that of SciPy when it turns a sparse
    matrix from rows to columns: nine times as fast as NumPy's stable sort.
    """
    n, keys = len(key), int(key.max()) + 1
    few = min(FEW_EDGES, LOOPED_EDGES) if GRAPHS in sys.modules else FEW_EDGES
    if n <= few or keys > 4 * n + 2**16:
        return np.argsort(key, kind="stable")
    from scipy.sparse import csr_array

    nothing, row_starts = np.zeros(n, np.int8), np.arange(n + 1, dtype=np.int32)
    by_row = csr_array((nothing, key.astype(np.int32), row_starts), shape=(n, keys))
    order: NDArray[np.int32 | np.int64] = by_row.tocsc().indices
    return order


def _swapping(n: int, first: NDArray[np.intp]) -> Indices:
    """Return 0..n-1 with each element of `first` and the one after it exchanged."""
    index = np.arange(n, dtype=np.int32)
    index[first], index[first + 1] = first + 1, first
    return index


def _other_ends(by_column: Indices) -> Indices:
    """Return for each corner the one at the other end of its vertical edge."""
    other = np.empty_like(by_column)
    other[by_column[0::2]] = by_column[1::2]
    other[by_column[1::2]] = by_column[0::2]
    return other


def _successors(vertical: Indices, tail: Indices, twin: Indices) -> Indices:
    """Return for each horizontal edge (corner index // 2) the next one of its ring."""
    successor: Indices = twin[vertical[twin[tail ^ 1]]] >> 1
    return successor


def _graph(successor: Indices) -> "csr_array[np.float64]":
    from scipy.sparse import csr_array

    n = len(successor)
    links = (np.ones(n), successor, np.arange(n + 1, dtype=np.int32))
    return csr_array(links, shape=(n, n))


def _cycles(successor: Indices) -> Indices:
    """Return the number of the cycle that each element of a permutation is in."""
    if _suit_a_loop(len(successor)):
        return _few_cycles(successor)
    from scipy.sparse.csgraph import connected_components

    cycles: Indices = connected_components(_graph(successor), directed=False)[1]
    return cycles


def _few_cycles(successor: Indices) -> Indices:
    following = successor.tolist()
    cycle, cycles = [-1] * len(following), 0
    for first in range(len(following)):
        if cycle[first] >= 0:
            continue
        edge = first
        while cycle[edge] < 0:
            cycle[edge] = cycles
            edge = following[edge]
        cycles += 1
    return np.array(cycle, np.int32)


def _first_of(ring: Indices) -> NDArray[np.intp]:
    """Return the first edge of each ring: the leftmost of its uppermost ones."""
    first = np.empty(int(ring.max()) + 1, np.intp)
    first[ring[::-1]] = np.arange(len(ring) - 1, -1, -1)  # the last write stays: the lowest index
    return first


def _owners(
    corners: Corners,
    group: NDArray[np.int64],
    by_column: Indices,
    ring: Indices,
    start: NDArray[np.intp],
) -> NDArray[np.intp]:
    """Return for each ring its shell (for a shell: itself).

    A shell runs below its uppermost edge, a hole above. The pixels left of a hole's first pixel
    belong to its polygon, up to a vertical edge of the shell, or of a hole that begins earlier.
    """
    owner = np.arange(len(start))
    holes = np.flatnonzero(~corners.starts_edge[2 * start])
    if not len(holes):
        return owner
    height, width = int(corners.y.max()) + 1, int(corners.x.max()) + 1
    column = (group * width + corners.x)[by_column] * height + corners.y[by_column]
    at = 2 * start[holes]
    wanted = (group[at] * width + corners.run_start[at]) * height + corners.y[at]
    upper = by_column[np.searchsorted(column, wanted, side="right") - 1]
    owner[holes] = ring[upper >> 1]
    while (further := owner[owner] != owner).any():
        owner[further] = owner[owner[further]]
    return owner


def _walk(successor: Indices, starts: NDArray[np.intp]) -> Indices:
    """Return all edges in the order of their rings, each ring from its given start."""
    if _suit_a_loop(len(successor)):
        return _few_walked(successor, starts)
    from scipy.sparse.csgraph import breadth_first_order

    before = np.empty_like(successor)
    before[successor] = np.arange(len(successor), dtype=np.int32)
    last = before[starts]
    path = successor.copy()  # the rings, opened and joined to one path, are one search from its end
    path[last[:-1]] = starts[1:]
    edges: Indices = breadth_first_order(
        _graph(path), starts[0], directed=True, return_predecessors=False
    )
    return edges


def _few_walked(successor: Indices, starts: NDArray[np.intp]) -> Indices:
    following, edges = successor.tolist(), []
    for start in starts.tolist():
        edges.append(start)
        while (edge := following[edges[-1]]) != start:
            edges.append(edge)
    return np.array(edges, np.int32)

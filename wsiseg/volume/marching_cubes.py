"""The surface between voxels: what marching cubes draws in a cell of eight voxel centres.

The tables are made here instead of being typed: on each face of a cell, the middles of the edges
that the surface crosses are joined; the pieces make closed loops, and loops are cut into triangles.
A face with two voxels in opposite corners may be joined in two ways. It is decided by the face
alone, so that both cells beside it agree, and the surface of any mask closes.

W. E. Lorensen, H. E. Cline, SIGGRAPH 1987, doi:10.1145/37401.37422; the faces: A. Van Gelder, J.
Wilhelms, ACM Trans. Graph. 13:337, 1994, doi:10.1145/195826.195828.
"""

import itertools
from functools import cache

import numpy as np
from numpy.typing import NDArray

__all__ = ["CORNERS", "EDGES", "MIDDLES", "TRIANGLES", "cell_areas", "cell_codes", "cell_volumes"]

CORNERS = tuple(itertools.product((0, 1), repeat=3))
"""Places of the voxel centres in a cell, array order; corner k is bit k of a cell's code."""

EDGES = tuple(
    (a, b)
    for a, b in itertools.combinations(range(8), 2)
    if sum(x != y for x, y in zip(CORNERS[a], CORNERS[b], strict=True)) == 1
)
"""The two corners of each of the twelve edges; the surface crosses an edge in its middle."""

Loop = tuple[int, ...]
Triangle = tuple[int, int, int]


def _faces() -> tuple[tuple[int, int, int, int], ...]:
    """Return the corners of each face, going round it so that it is seen from outside."""
    faces = []
    for axis, side in itertools.product(range(3), (0, 1)):
        first, second = (axis + 1) % 3, (axis + 2) % 3
        around = []
        for u, v in ((0, 0), (1, 0), (1, 1), (0, 1)):
            place = [0, 0, 0]
            place[axis], place[first], place[second] = side, u, v
            around.append(CORNERS.index((place[0], place[1], place[2])))
        faces.append(tuple(around if side else around[::-1]))
    return tuple(faces)  # type: ignore[arg-type]  # four each


FACES = _faces()


def _loops(code: int) -> list[Loop]:
    """Return the closed lines that the surface draws on the sides of a cell, as edges.

    In array coordinates (z, y, x), a right-handed frame here, the mask lies to the left of each
    step seen from outside the cell.
    """
    step: dict[int, int] = {}
    for face in FACES:
        inside = [bool(code >> corner & 1) for corner in face]
        for i in range(4):
            if inside[i] or not inside[(i + 1) % 4]:
                continue
            # enters the mask at side i: joined with where the mask ends next, so that opposite
            # corners of a face stay apart
            j = next(j % 4 for j in range(i + 1, i + 5) if not inside[(j + 1) % 4])
            step[_edge(face[i], face[(i + 1) % 4])] = _edge(face[j], face[(j + 1) % 4])
    loops = []
    while step:
        start = min(step)
        loop = [start]
        while (following := step.pop(loop[-1])) != start:
            loop.append(following)
        loops.append(tuple(loop))
    return loops


def _edge(a: int, b: int) -> int:
    return EDGES.index((min(a, b), max(a, b)))


def _triangles(loop: Loop) -> tuple[Triangle, ...]:
    """Return a loop cut into triangles: of all ways, the first of those with the largest area.

    Measured in a cell with equal sides. It is a rule that treats all directions alike, and what
    the tables of others come to, whose measures of surfaces are to be compared with ours.
    """
    return max(_ways(loop), key=lambda ways: round(sum(map(_unit_area, ways)), 9))


def _ways(loop: Loop) -> list[tuple[Triangle, ...]]:
    """Return every way to cut a loop into triangles."""
    if len(loop) < 3:
        return [()]
    return [
        ((loop[0], loop[k], loop[-1]), *before, *after)
        for k in range(1, len(loop) - 1)
        for before in _ways(loop[: k + 1])
        for after in _ways(loop[k:])
    ]


def _unit_area(triangle: Triangle) -> float:
    a, b, c = (MIDDLES[edge] for edge in triangle)
    return float(np.linalg.norm(np.cross(b - a, c - a))) / 2


MIDDLES: NDArray[np.float64] = np.array(
    [(np.array(CORNERS[a]) + np.array(CORNERS[b])) / 2 for a, b in EDGES]
)
"""Where the surface crosses each edge (12, 3), in steps of the cell."""

TRIANGLES: tuple[tuple[Triangle, ...], ...] = tuple(
    tuple(triangle for loop in _loops(code) for triangle in _triangles(loop)) for code in range(256)
)
"""Per code of a cell its triangles, as edges; seen from outside the mask they turn leftwards in
array coordinates (z, y, x)."""


@cache
def _normals() -> tuple[NDArray[np.intp], NDArray[np.float64], NDArray[np.float64]]:
    """Return code, area vector and centre of every triangle, in steps of the cell."""
    codes = np.repeat(np.arange(256), [len(triangles) for triangles in TRIANGLES])
    corners = MIDDLES[np.array([t for triangles in TRIANGLES for t in triangles])]
    first, second = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    return codes, np.cross(first, second) / 2, corners.mean(axis=1)


def cell_codes(mask: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Return the code of every cell between the voxels of a mask.

    Parameters
    ----------
    mask
        bool (z, y, x). What lies beside it is not looked at: pad it to close the surface.

    Returns
    -------
    uint8 (z - 1, y - 1, x - 1)
        Bit k is set where the voxel at `CORNERS[k]` of the cell is in the mask.
    """
    shape = tuple(n - 1 for n in mask.shape)
    codes = np.zeros(shape, np.uint8)
    for bit, corner in enumerate(CORNERS):
        part = mask[tuple(slice(c, c + n) for c, n in zip(corner, shape, strict=True))]
        codes |= part.view(np.uint8) << np.uint8(bit)
    return codes


def cell_areas(steps: NDArray[np.float64], *, symmetric: bool = False) -> NDArray[np.float64]:
    """Return the area of the surface in a cell, by its code (256,).

    Parameters
    ----------
    steps
        float64 (3, 3): column k is the step from voxel to voxel along array axis k, in world units
        (a diagonal matrix of the spacing, or the upper left of an affine).
    symmetric
        Take cells with more than four voxels inside like those with the others inside. Mask and
        rest then have the same surface, as in the package `surface-distance`; but it has gaps.
    """
    codes, vectors, _ = _normals()
    # area vectors transform with the cofactors of the matrix
    cofactors = np.linalg.det(steps) * np.linalg.inv(steps).T
    areas = _by_code(codes, np.linalg.norm(vectors @ cofactors.T, axis=1))
    if symmetric:
        many = np.array([code.bit_count() > 4 for code in range(256)])
        areas[many] = areas[::-1][many]
    return areas


def cell_volumes() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return how a cell adds to the volume under the surface, by its code (256,) each, in voxels.

    Summed over cells, the second plus the first times the place of the cell along the first axis
    is the volume that the closed surface holds (by the divergence theorem).
    """
    codes, vectors, centres = _normals()
    along = vectors[:, 0]
    return _by_code(codes, along), _by_code(codes, along * centres[:, 0])


def _by_code(codes: NDArray[np.intp], values: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.bincount(codes, values, minlength=256).astype(np.float64)

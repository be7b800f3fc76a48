"""The surface of a label as triangles in world millimetres: area, volume, and files of meshes."""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from wsiseg.errors import UsageError
from wsiseg.geometry import Affine, Box
from wsiseg.volume.arrays import SLAB_BYTES, VoxelArray
from wsiseg.volume.marching_cubes import MIDDLES, TRIANGLES, cell_areas, cell_codes, cell_volumes

__all__ = ["Mesh", "MeshFormat", "Surface", "mesh_bytes", "surface_mesh", "surface_of"]

MeshFormat = Literal["stl", "ply", "obj"]

HEAD = "surface of a label in mm; x to the right, y to anterior, z to superior (RAS)"


@dataclass(frozen=True, slots=True)
class Surface:
    """Area and volume of a mesh, without the mesh."""

    area_mm2: float
    volume_mm3: float
    """Held by the mesh; a little less than the sum of the voxels, since corners are cut off."""


@dataclass(frozen=True, slots=True, eq=False)
class Mesh:
    """A closed surface.

    Parameters
    ----------
    vertices
        float32 (n, 3): x, y, z in mm, RAS+.
    triangles
        int32 (m, 3): rows of `vertices`, counter-clockwise seen from outside.
    """

    vertices: NDArray[np.float32]
    triangles: NDArray[np.int32]


def surface_of(mask: NDArray[np.bool_], affine: Affine) -> Surface:
    """Return area and volume of the surface of a mask, as marching cubes draws it.

    Parameters
    ----------
    mask
        bool (z, y, x); outside there is nothing.
    affine
        Of the mask; only its steps matter.

    Notes
    -----
    As the mesh of the Image Biomarker Standardisation Initiative (A. Zwanenburg et al., Radiology
    295:328, 2020, doi:10.1148/radiol.2020191145), level 0.5. Steps of voxels make the area of
    smooth bodies some per cent too large, whatever the size of the voxels.
    """
    codes = np.zeros(256)
    weighted = np.zeros(256)
    for first, part in _cell_slabs(mask, Box.of_shape(mask.shape), 1):
        for offset, plane in enumerate(part):
            counts = np.bincount(plane.ravel(), minlength=256)
            codes += counts
            weighted += counts * float(first + offset)
    slope, fixed = cell_volumes()
    area = float(codes @ cell_areas(np.array(affine.columns).T))
    return Surface(area, float(weighted @ slope + codes @ fixed) * affine.voxel_mm3)


def surface_mesh(labels: VoxelArray, affine: Affine, value: int, *, box: Box | None = None) -> Mesh:
    """Return the closed surface of one label.

    Memory grows with the surface, not with the volume.

    Parameters
    ----------
    labels
        Integers (z, y, x).
    affine
        Of the labels.
    value
        Which label.
    box
        Around all of it, where that is known; else the whole array is looked at.

    Raises
    ------
    UsageError
        If no voxel has this label.
    """
    box = box or Box.of_shape(labels.shape)
    shape = tuple(2 * n + 3 for n in labels.shape)  # places of edges' middles, in half voxels
    pieces = [
        _edge_places(part, first, box, shape) for first, part in _cell_slabs(labels, box, value)
    ]
    places = np.concatenate([np.empty((0, 3), np.int64), *pieces])
    if not len(places):
        raise UsageError(f"no voxel has label {value}, so it has no surface")
    distinct, corner = np.unique(places, return_inverse=True)
    halves = np.stack(np.unravel_index(distinct, shape), axis=1)
    vertices = affine.world(halves / 2 - 1)
    triangles = corner.reshape(-1, 3)
    triangles = triangles[np.lexsort(triangles.T)]  # the same order, whatever the slabs were
    if np.linalg.det(np.array(affine.columns)) < 0:  # a mirror turns triangles round
        triangles = triangles[:, ::-1]
    return Mesh(vertices.astype(np.float32), np.ascontiguousarray(triangles, np.int32))


def _cell_slabs(
    labels: VoxelArray, box: Box, value: int
) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """Yield codes of the cells around a box, slab by slab, each with the place of its first one.

    Cell i along an axis lies between the voxels i and i + 1, so that the first has place -1.
    """
    thick = max(1, SLAB_BYTES // (8 * max(1, box.shape[1] * box.shape[2])))
    plane = tuple(slice(a, b) for a, b in zip(box.start[1:], box.stop[1:], strict=True))
    for start in range(box.start[0] - 1, box.stop[0], thick):
        stop = min(start + thick, box.stop[0])  # cells start to stop need voxels up to stop
        mask = np.zeros((stop - start + 1, *(n + 2 for n in box.shape[1:])), bool)
        low, high = max(start, box.start[0]), min(stop + 1, box.stop[0])
        own = np.asarray(labels[(slice(low, high), *plane)]) == value
        mask[low - start : high - start, 1:-1, 1:-1] = own
        yield start, cell_codes(mask)


def _edge_places(
    codes: NDArray[np.uint8], first: int, box: Box, shape: tuple[int, ...]
) -> NDArray[np.int64]:
    """Return the corners of all triangles (m, 3) as numbers of places in half voxels."""
    corner = (first, box.start[1] - 1, box.start[2] - 1)
    found = np.flatnonzero((codes > 0) & (codes < 255))
    of_cell = codes.ravel()[found]
    triangles = []
    for code in np.unique(of_cell):
        cells = np.unravel_index(found[of_cell == code], codes.shape)
        edges = np.rint(2 * MIDDLES[np.array(TRIANGLES[code])]).astype(np.int64)  # (t, 3, axis)
        at = np.zeros((len(cells[0]), *edges.shape[:2]), np.int64)
        for axis in range(3):
            half = 2 * (cells[axis] + corner[axis] + 1)
            at = at * shape[axis] + half[:, None, None] + edges[..., axis]
        triangles.append(at.reshape(-1, 3))
    return np.concatenate([np.empty((0, 3), np.int64), *triangles])


def mesh_bytes(mesh: Mesh, kind: MeshFormat) -> bytes:
    """Return the mesh as a file: binary STL, binary PLY, or OBJ. The same mesh, the same bytes.

    Raises
    ------
    UsageError
        If there is no such format.
    """
    if kind == "stl":
        return _stl(mesh)
    if kind == "ply":
        return _ply(mesh)
    if kind == "obj":
        lines = [f"# {HEAD}"]
        lines += [f"v {x:.6g} {y:.6g} {z:.6g}" for x, y, z in mesh.vertices.tolist()]
        lines += [f"f {a} {b} {c}" for a, b, c in (mesh.triangles + 1).tolist()]
        return ("\n".join(lines) + "\n").encode()
    raise UsageError(f"mesh format {kind!r}: needed one of {', '.join(get_args(MeshFormat))}")


def _stl(mesh: Mesh) -> bytes:
    corners = mesh.vertices[mesh.triangles]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    lengths = np.linalg.norm(normals, axis=1, keepdims=True)
    facets = np.zeros(len(corners), [("values", "<f4", (4, 3)), ("attribute", "<u2")])
    facets["values"][:, 0] = normals / np.maximum(lengths, 1e-30)
    facets["values"][:, 1:] = corners
    return HEAD.encode().ljust(80) + struct.pack("<I", len(corners)) + facets.tobytes()


def _ply(mesh: Mesh) -> bytes:
    head = (
        f"ply\nformat binary_little_endian 1.0\ncomment {HEAD}\n"
        f"element vertex {len(mesh.vertices)}\nproperty float x\nproperty float y\n"
        f"property float z\nelement face {len(mesh.triangles)}\n"
        "property list uchar int vertex_indices\nend_header\n"
    )
    faces = np.zeros(len(mesh.triangles), [("count", "u1"), ("corners", "<i4", 3)])
    faces["count"], faces["corners"] = 3, mesh.triangles
    return head.encode() + mesh.vertices.astype("<f4").tobytes() + faces.tobytes()

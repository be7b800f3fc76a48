"""Surfaces close, face outwards, and lie where the voxels are."""

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from phantoms import SPACINGS, ellipsoid, tilted
from skimage.measure import marching_cubes, mesh_surface_area
from surface_distance import lookup_tables

from wsiseg.errors import UsageError
from wsiseg.geometry import Affine, Box
from wsiseg.volume import mesh as mesh_module
from wsiseg.volume.marching_cubes import CORNERS, cell_areas
from wsiseg.volume.mesh import mesh_bytes, surface_mesh, surface_of


def measured(mesh):
    """Return area and volume of triangles."""
    corners = mesh.vertices.astype(float)[mesh.triangles]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]) / 2
    volume = np.einsum("ij,ij->", corners.mean(axis=1), normals) / 3
    return np.linalg.norm(normals, axis=1).sum(), volume


def is_closed(mesh):
    """Return whether each directed side of a triangle is met by its reverse."""
    t = mesh.triangles
    sides = np.concatenate([t[:, [0, 1]], t[:, [1, 2]], t[:, [2, 0]]])
    there, back = (np.unique(s, axis=0, return_counts=True) for s in (sides, sides[:, ::-1]))
    return np.array_equal(there[0], back[0]) and np.array_equal(there[1], back[1])


@given(seed=st.integers(0, 10**6), share=st.floats(0.05, 0.95), mirrored=st.booleans())
def test_any_mask_has_a_closed_surface_facing_outwards(seed, share, mirrored):
    mask = np.random.default_rng(seed).random((4, 5, 3)) < share
    mask[1, 1, 1] = True
    affine = tilted((2.0, 0.7, 1.1), degrees=25, shear=0.2, mirrored=mirrored)
    mesh = surface_mesh(mask, affine, 1)
    assert is_closed(mesh)
    area, volume = measured(mesh)
    known = surface_of(mask, affine)
    assert area == pytest.approx(known.area_mm2, rel=1e-4)
    assert volume == pytest.approx(known.volume_mm3, rel=1e-3)
    assert 0 < volume < mask.sum() * affine.voxel_mm3


@pytest.mark.parametrize("spacing", SPACINGS)
def test_spheres(spacing):
    affine = tilted(spacing, degrees=15)
    mask = ellipsoid(affine, (10, 10, 10))
    mesh = surface_mesh(mask, affine, 1)
    assert is_closed(mesh)
    sides = {tuple(sorted(s)) for t in mesh.triangles for s in (t[:2], t[1:], t[::2])}
    assert len(mesh.vertices) - len(sides) + len(mesh.triangles) == 2  # no handles
    away = np.linalg.norm(mesh.vertices - affine.world(np.argwhere(mask)).mean(axis=0), axis=1)
    assert np.abs(away - 10).max() < np.linalg.norm(spacing) / 2 + 0.2
    assert 1 < surface_of(mask, affine).area_mm2 / (400 * np.pi) < 1.25  # steps of voxels


def test_area_equals_skimage():
    mask = ellipsoid(Affine.from_spacing((1, 1, 1)), (12, 9, 7))
    vertices, faces, _, _ = marching_cubes(np.pad(mask, 1).astype(float), 0.5, spacing=(2, 1, 1))
    found = surface_of(mask, Affine.from_spacing((2, 1, 1))).area_mm2
    assert found == pytest.approx(mesh_surface_area(vertices, faces), rel=1e-6)


@pytest.mark.parametrize("spacing", [(1, 1, 1), (1.3, 0.7, 2.1), (5, 0.9, 0.9)])
def test_areas_of_cells_equal_those_of_surface_distance(spacing):
    weights = lookup_tables.ENCODE_NEIGHBOURHOOD_3D_KERNEL
    theirs = lookup_tables.create_table_neighbour_code_to_surface_area(spacing)
    code = [sum(int(weights[c]) for k, c in enumerate(CORNERS) if i >> k & 1) for i in range(256)]
    found = cell_areas(np.diag(np.array(spacing, float)), symmetric=True)
    np.testing.assert_allclose(found, theirs[code], atol=1e-9)


def test_slabs_and_boxes_change_nothing(monkeypatch):
    labels = np.zeros((12, 9, 10), np.uint8)
    labels[2:9, 1:7, 3:9] = np.random.default_rng(0).integers(0, 3, (7, 6, 6))
    affine = tilted((2.0, 1.0, 1.0), degrees=10)
    whole = surface_mesh(labels, affine, 2)
    monkeypatch.setattr(mesh_module, "SLAB_BYTES", 600)
    parts = surface_mesh(labels, affine, 2, box=Box((2, 1, 3), (9, 7, 9)))
    assert is_closed(parts)
    np.testing.assert_array_equal(parts.vertices, whole.vertices)
    assert mesh_bytes(parts, "stl") == mesh_bytes(surface_mesh(labels, affine, 2), "stl")


def test_files_hold_the_mesh():
    affine = tilted((2.0, 1.0, 1.0), degrees=10)
    mesh = surface_mesh(ellipsoid(affine, (5, 4, 6)), affine, 1)
    stl = mesh_bytes(mesh, "stl")
    facets = np.frombuffer(stl[84:], [("v", "<f4", (4, 3)), ("a", "<u2")])["v"]
    np.testing.assert_array_equal(facets[:, 1:], mesh.vertices[mesh.triangles])
    ply = mesh_bytes(mesh, "ply")
    head, _, body = ply.partition(b"end_header\n")
    assert f"element vertex {len(mesh.vertices)}".encode() in head
    points = np.frombuffer(body[: 12 * len(mesh.vertices)], "<f4").reshape(-1, 3)
    np.testing.assert_array_equal(points, mesh.vertices)
    lines = mesh_bytes(mesh, "obj").decode().splitlines()
    read = np.loadtxt(io.StringIO("\n".join(x[2:] for x in lines if x[0] == "v")))
    np.testing.assert_allclose(read, mesh.vertices, rtol=1e-5)
    with pytest.raises(UsageError, match="needed one of stl"):
        mesh_bytes(mesh, "vtk")


def test_nothing_has_no_surface():
    with pytest.raises(UsageError, match="label 3"):
        surface_mesh(np.zeros((3, 3, 3), np.uint8), Affine.from_spacing((1, 1, 1)), 3)

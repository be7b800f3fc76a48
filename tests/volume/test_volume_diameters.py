"""Diameters in millimetres, whatever the shape of the voxels."""

import itertools

import numpy as np
import pytest
import shapely
from phantoms import SPACINGS, ellipsoid, tilted
from scipy.spatial.distance import pdist

from wsiseg.geometry import Affine
from wsiseg.volume.diameters import feret_mm, slice_axes


def within(found, wanted, spacing):
    """Return whether a length is right to one voxel's diagonal or 3 %."""
    return abs(found - wanted) <= max(np.linalg.norm(spacing), 0.03 * wanted)


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("radii", [(10, 10, 10), (14, 8, 6), (6, 9, 12), (5, 25, 8)])
@pytest.mark.parametrize("degrees", [0.0, 12.0])
def test_bodies_of_known_size(spacing, radii, degrees):
    affine = tilted(spacing, degrees=degrees)
    mask = ellipsoid(affine, radii)
    axes = slice_axes(mask, affine)
    assert within(feret_mm(mask, affine), 2 * max(radii), spacing)
    if not degrees:  # the slices are axial: the widest section is an ellipse of x and y
        plane = spacing[1:]
        assert within(axes.long_mm, 2 * max(radii[:2]), plane)
        assert within(axes.short_mm, 2 * min(radii[:2]), plane)


@pytest.mark.parametrize("spacing", SPACINGS)
def test_a_sphere_is_as_wide_at_any_angle(spacing):
    """Where others multiply a length by the volume of a voxel: 92.6 mm at (0.9, 0.9, 5)."""
    for degrees in (0, 20, 40):
        affine = tilted(spacing, degrees=degrees, mirrored=True)
        axes = slice_axes(ellipsoid(affine, (10, 10, 10)), affine)
        assert within(axes.long_mm, 20, spacing)
        assert within(axes.short_mm, 20, spacing)


def test_sheared_slices_are_measured_as_they_lie():
    affine = tilted((3.0, 1.0, 1.0), shear=0.3)
    mask = ellipsoid(affine, (12, 9, 10))
    assert within(feret_mm(mask, affine), 24, (3, 1, 1))
    assert within(slice_axes(mask, affine).long_mm, 24, (1, 1))


@pytest.mark.parametrize("seed", range(20))
def test_equals_all_pairs_of_points(seed):
    """Against every pair of faces' middles, and every line across the long axis."""
    rng = np.random.default_rng(seed)
    affine = tilted(tuple(rng.uniform(0.5, 4, 3)))
    mask = rng.random((4, 6, 7)) < 0.2
    mask[2, 3, 4] = True
    steps = 0.5 * np.array(
        [s for s in itertools.product((-1, 0, 1), repeat=3) if np.abs(s).sum() == 1]
    )
    points = affine.world((np.argwhere(mask)[:, None] + steps).reshape(-1, 3))
    assert feret_mm(mask, affine) == pytest.approx(pdist(points).max())
    longest = 0.0
    for z in np.flatnonzero(mask.any(axis=(1, 2))):
        flat = (np.argwhere(mask[z])[:, None] + steps[steps[:, 0] == 0][:, 1:]).reshape(-1, 2)
        world = affine.world(np.insert(flat, 0, z, axis=1))
        longest = max(longest, pdist(world).max())
    axes = slice_axes(mask, affine)
    assert axes.long_mm == pytest.approx(longest)
    long, short = axes.ends[1] - axes.ends[0], axes.ends[3] - axes.ends[2]
    assert np.linalg.norm(long) == pytest.approx(axes.long_mm)
    assert np.linalg.norm(short) == pytest.approx(axes.short_mm)
    assert abs(long @ short) < 1e-6


@pytest.mark.parametrize("seed", range(10))
def test_short_axis_is_the_longest_line_across(seed):
    """Against the convex outline cut by many lines at right angles to the long axis."""
    rng = np.random.default_rng(seed)
    spacing = (1.0, *rng.uniform(0.5, 2, 2))
    affine = Affine.from_spacing(spacing)
    mask = rng.random((1, 7, 9)) < 0.3
    mask[0, 3, 4] = True
    axes = slice_axes(mask, affine)
    steps = np.array([(0, 0.5), (0, -0.5), (0.5, 0), (-0.5, 0)])
    faces = (np.argwhere(mask[0])[:, None] + steps).reshape(-1, 2) * spacing[1:]
    hull = shapely.MultiPoint(faces[:, ::-1]).convex_hull
    start, stop = axes.ends[0, :2], axes.ends[1, :2]
    along = (stop - start) / axes.long_mm
    across = 50 * np.array([-along[1], along[0]])
    middles = start + np.linspace(0, axes.long_mm, 4001)[:, None] * along
    lines = shapely.linestrings(np.stack([middles - across, middles + across], axis=1))
    longest = shapely.length(shapely.intersection(lines, hull)).max()
    assert axes.short_mm == pytest.approx(longest, abs=2e-3)
    assert axes.short_mm >= longest - 1e-9


def test_one_voxel_has_its_own_size():
    affine = Affine.from_spacing((5.0, 0.9, 0.7))
    mask = np.ones((1, 1, 1), bool)
    assert feret_mm(mask, affine) == pytest.approx(5.0)
    assert slice_axes(mask, affine).long_mm == pytest.approx(0.9)
    assert slice_axes(mask, affine).short_mm == pytest.approx(0.7)


def test_axial_slices_are_found_in_any_array():
    affine = Affine.from_spacing((1.0, 1.0, 1.0))
    mask = ellipsoid(affine, (12, 5, 20))
    for letters in ("RAS", "SAR", "PIL", "ALS"):
        turn = affine.turn_to(letters)
        axes = slice_axes(turn.apply(mask), affine.turned(turn, mask.shape))
        assert axes.long_mm == pytest.approx(slice_axes(mask, affine).long_mm)
        assert axes.short_mm == pytest.approx(slice_axes(mask, affine).short_mm)

"""Where voxels are: against nibabel, and the same for each of the 48 ways to store one anatomy."""

import itertools

import nibabel
import numpy as np
import pytest

from wsiseg.errors import GridError, MissingSpacingError
from wsiseg.geometry import Affine, Reorientation

RNG = np.random.default_rng(7)
TURNS = [
    Reorientation(order, flips)
    for order in itertools.permutations(range(3))
    for flips in itertools.product((False, True), repeat=3)
]
SHAPE = (7, 5, 6)


def rotation(angle_x: float, angle_y: float, angle_z: float) -> np.ndarray:
    found = np.eye(3)
    for axis, angle in enumerate((angle_x, angle_y, angle_z)):
        a, b = (axis + 1) % 3, (axis + 2) % 3
        turn = np.eye(3)
        turn[a, a] = turn[b, b] = np.cos(angle)
        turn[a, b], turn[b, a] = -np.sin(angle), np.sin(angle)
        found = turn @ found
    return found


def nifti_matrix(kind: str) -> np.ndarray:
    steps = np.diag([0.8, 0.9, 2.5])
    if kind == "oblique":
        steps = rotation(0.3, -0.2, 0.25) @ steps
    if kind == "sheared":
        steps = rotation(0.05, 0.1, -0.1) @ steps @ np.array([[1, 0, 0], [0, 1, 0.35], [0, 0, 1]])
    if kind == "half way":
        steps = rotation(0.0, 0.0, np.pi / 4) @ steps
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = steps, (-31.5, 12.25, 100.0)
    return matrix


def close(one: Affine, other: Affine) -> bool:
    return np.allclose(one.matrix, other.matrix, atol=1e-9)


def test_the_48_ways_are_all_different():
    assert len(set(TURNS)) == 48


@pytest.mark.parametrize("kind", ["upright", "oblique", "sheared", "half way"])
def test_all_48_encodings_read_the_same_and_come_back(kind: str):
    anatomy = RNG.integers(-1000, 3000, SHAPE).astype(np.int16)
    affine = Affine.from_nifti(nifti_matrix(kind))
    first = affine.turn_to("RAS")
    wanted, wanted_affine = first.apply(anatomy), affine.turned(first, SHAPE)
    assert wanted_affine.orientation == "RAS"
    for turn in TURNS:
        stored, at = turn.apply(anatomy), affine.turned(turn, SHAPE)
        to_ras = at.turn_to("RAS")
        assert np.array_equal(to_ras.apply(stored), wanted)
        turned = at.turned(to_ras, stored.shape)
        assert close(turned, wanted_affine)
        back = to_ras.inverse()
        assert np.array_equal(back.apply(to_ras.apply(stored)), stored)
        assert close(turned.turned(back, wanted.shape), at)


@pytest.mark.parametrize("kind", ["upright", "oblique", "sheared"])
def test_orientation_is_what_nibabel_calls_it(kind: str):
    affine = Affine.from_nifti(nifti_matrix(kind))
    for turn in TURNS:
        turned = affine.turned(turn, SHAPE)
        assert turned.orientation == "".join(nibabel.aff2axcodes(turned.to_nifti()))


@pytest.mark.parametrize("letters", ["RAS", "LPS", "PIR", "SLA"])
def test_turning_is_what_nibabel_does(letters: str):
    matrix = nifti_matrix("oblique")
    data = RNG.integers(0, 99, SHAPE[::-1]).astype(np.int16)  # (i, j, k)
    image = nibabel.Nifti1Image(data, matrix)
    way = nibabel.orientations.ornt_transform(
        nibabel.io_orientation(matrix), nibabel.orientations.axcodes2ornt(letters)
    )
    theirs = image.as_reoriented(way)
    affine = Affine.from_nifti(matrix)
    turn = affine.turn_to(letters)
    assert np.array_equal(turn.apply(data.T), np.asarray(theirs.dataobj).T)
    assert np.allclose(affine.turned(turn, SHAPE).to_nifti(), theirs.affine, atol=1e-9)


def test_one_turn_after_the_other_is_one_turn():
    array = np.arange(np.prod(SHAPE)).reshape(SHAPE)
    for one, other in itertools.product(TURNS[::5], TURNS[::7]):
        both = one.then(other)
        assert np.array_equal(both.apply(array), other.apply(one.apply(array)))


def test_world_and_back():
    affine = Affine.from_nifti(nifti_matrix("sheared"))
    points = RNG.uniform(-5, 50, (20, 3))
    assert np.allclose(affine.voxel(affine.world(points)), points)
    index = np.array([[3, 1, 2]])  # z, y, x
    assert np.allclose(affine.world(index)[0], (nifti_matrix("sheared") @ [2, 1, 3, 1])[:3])


def test_spacing_volume_and_letters_of_an_upright_scan():
    affine = Affine.from_spacing((5.0, 0.5, 0.75), origin=(1.0, 2.0, 3.0))
    assert affine.spacing.um == (5000.0, 500.0, 750.0)
    assert affine.voxel_mm3 == pytest.approx(5.0 * 0.5 * 0.75)
    assert affine.codes == ("S", "A", "R")
    assert affine.orientation == "RAS"
    assert affine.origin == (1.0, 2.0, 3.0)


def test_lps_is_ras_with_two_axes_turned():
    matrix = nifti_matrix("oblique")
    affine = Affine.from_nifti(matrix)
    assert np.allclose(affine.to_lps(), np.diag([-1, -1, 1, 1]) @ matrix)
    assert close(Affine.from_lps(affine.to_lps()), affine)


def test_resampling_keeps_the_outer_faces():
    affine = Affine.from_nifti(nifti_matrix("sheared"))
    shape, factors = np.array(SHAPE), np.array([2.0, 0.5, 3.0])
    coarse = affine.resampled(factors)
    assert np.allclose(coarse.world([[-0.5] * 3]), affine.world([[-0.5] * 3]))
    assert np.allclose(coarse.world([shape / factors - 0.5]), affine.world([shape - 0.5]))
    assert np.allclose(coarse.spacing_mm, np.array(affine.spacing_mm) * factors)


def test_cropping_moves_the_origin():
    affine = Affine.from_nifti(nifti_matrix("oblique"))
    assert np.allclose(affine.cropped((2, 1, 3)).origin, affine.world([[2, 1, 3]])[0])
    assert np.allclose(affine.cropped((-2, 0, 0)).origin, affine.world([[-2, 0, 0]])[0])


@pytest.mark.parametrize(
    "matrix",
    [
        np.eye(3),
        np.diag([1.0, 1.0, 1.0, 2.0]),
        np.diag([1.0, 1.0, 0.0, 1.0]),
        np.diag([1.0, np.nan, 1.0, 1.0]),
        np.array([[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]),
    ],
    ids=["3 x 3", "last row", "no depth", "nan", "in one plane"],
)
def test_what_is_no_affine_is_refused(matrix: np.ndarray):
    with pytest.raises((GridError, MissingSpacingError)):
        Affine.from_nifti(matrix)


@pytest.mark.parametrize("letters", ["", "RA", "RASS", "RLS", "XYZ", "RRS"])
def test_what_is_no_orientation_is_refused(letters: str):
    with pytest.raises(GridError, match="three letters"):
        Affine.from_spacing((1, 1, 1)).turn_to(letters)


def test_a_planted_swap_of_left_and_right_would_be_found():
    affine = Affine.from_nifti(nifti_matrix("oblique"))
    mirrored = Affine.from_nifti(np.diag([-1, 1, 1, 1]) @ nifti_matrix("oblique"))
    assert affine.turn_to("RAS") != mirrored.turn_to("RAS")

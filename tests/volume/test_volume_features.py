"""First-order and shape features equal the reference values of the IBSI's digital phantom."""

import numpy as np
import pytest

from wsiseg.errors import UsageError
from wsiseg.geometry import Affine
from wsiseg.volume.features import first_order, shape_features

PHANTOM = np.array(
    [
        [[1, 4, 4, 1, 1], [1, 4, 6, 1, 1], [4, 1, 6, 4, 1], [4, 4, 6, 4, 1]],
        [[1, 4, 4, 1, 1], [1, 1, 6, 1, 1], [0, 1, 3, 1, 1], [4, 4, 6, 1, 1]],
        [[1, 4, 4, 0, 0], [1, 1, 1, 1, 1], [1, 1, 0, 1, 1], [1, 1, 6, 1, 1]],
        [[1, 4, 4, 0, 0], [1, 1, 1, 1, 1], [1, 1, 1, 1, 1], [1, 1, 6, 1, 1]],
    ],
    float,
)
"""Voxels of 2 mm; 0 is outside the region."""

SHAPE = {
    "volume_mm3": 556,
    "voxel_volume_mm3": 592,
    "surface_mm2": 388,
    "surface_to_volume_per_mm": 0.698,
    "compactness_1": 0.0411,
    "compactness_2": 0.599,
    "spherical_disproportion": 1.19,
    "sphericity": 0.843,
    "asphericity": 0.186,
    "centre_of_mass_shift_mm": 0.672,
    "maximum_3d_diameter_mm": 13.1,
    "major_axis_mm": 11.4,
    "minor_axis_mm": 9.31,
    "least_axis_mm": 8.54,
    "elongation": 0.816,
    "flatness": 0.749,
    "solidity": 0.961,
}
INTENSITY = {
    "mean": 2.15,
    "variance": 3.05,
    "skewness": 1.08,
    "kurtosis": -0.355,
    "median": 1,
    "minimum": 1,
    "p10": 1,
    "p90": 4,
    "maximum": 6,
    "interquartile_range": 3,
    "range": 5,
    "mean_absolute_deviation": 1.55,
    "robust_mean_absolute_deviation": 1.11,
    "median_absolute_deviation": 1.15,
    "coefficient_of_variation": 0.812,
    "quartile_coefficient_of_dispersion": 0.6,
    "energy": 567,
    "root_mean_square": 2.77,
}
"""Benchmark values of the initiative, three digits as published."""


@pytest.fixture(scope="module")
def shape():
    return shape_features(PHANTOM > 0, Affine.from_spacing((2, 2, 2)), values=PHANTOM)


@pytest.mark.parametrize("name", SHAPE)
def test_shape(shape, name):
    assert shape[name] == pytest.approx(SHAPE[name], rel=4e-3)


@pytest.mark.parametrize("name", INTENSITY)
def test_intensity(name):
    found = first_order(PHANTOM[PHANTOM > 0])
    assert found[name] == pytest.approx(INTENSITY[name], rel=5e-3)


def test_turning_the_array_changes_nothing(shape):
    affine = Affine.from_spacing((2, 2, 2))
    turn = affine.turn_to("PSL")
    turned = turn.apply(PHANTOM)
    again = shape_features(turned > 0, affine.turned(turn, PHANTOM.shape), values=turned)
    assert again == pytest.approx(shape)


def test_nothing_gives_nan_and_one_value_no_spread():
    assert all(np.isnan(value) for value in first_order(np.array([np.nan, np.inf])).values())
    same = first_order(np.full(9, 7.0))
    assert (same["sd"], same["skewness"], same["kurtosis"]) == (0, 0, 0)
    with pytest.raises(UsageError, match="empty mask"):
        shape_features(np.zeros((2, 2, 2), bool), Affine.from_spacing((1, 1, 1)))


def test_one_voxel_has_a_shape():
    found = shape_features(np.ones((1, 1, 1), bool), Affine.from_spacing((1, 1, 1)))
    assert found["volume_mm3"] == pytest.approx(1 / 6)  # an octahedron
    assert found["surface_mm2"] == pytest.approx(np.sqrt(3))
    assert found["solidity"] == pytest.approx(1)

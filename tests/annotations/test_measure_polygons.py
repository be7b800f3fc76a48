import numpy as np
import pytest

from wsiseg.annotations.measure import area_mm2, area_um2
from wsiseg.annotations.trace import to_level0, trace_labels


def test_areas_are_pixel_counts_times_pixel_area():
    mask = np.random.default_rng(0).integers(0, 3, (30, 40)).astype(np.uint8)
    traced = trace_labels(mask)
    level0 = to_level0(traced.geometries, downsample=(4.0, 16.0))
    areas = area_um2(level0, pixel=(0.25, 0.5))
    np.testing.assert_array_equal(areas, traced.pixels * (4 * 0.25) * (16 * 0.5))
    assert area_mm2(level0, pixel=(0.25, 0.5)).sum() == pytest.approx(
        np.count_nonzero(mask) * 8e-6, rel=1e-12
    )


def test_holes_are_not_counted():
    traced = trace_labels(np.array([[1, 1, 1], [1, 0, 1], [1, 1, 1]], np.uint8))
    assert area_um2(traced.geometries, pixel=(2.0, 2.0)).tolist() == [32.0]

"""Splines along one axis, against SciPy and MONAI's `Spacing`."""

import numpy as np
import pytest
import torch
from scipy import ndimage

from wsiseg.resample import AxisMap, along_axis, bracket


def row(n):
    return np.random.default_rng(n).normal(size=(n, 5))


@pytest.mark.parametrize("order", [0, 1, 3])
@pytest.mark.parametrize(("source", "target"), [(20, 33), (33, 20), (7, 8), (40, 9), (5, 50)])
def test_outer_faces_kept_as_scipy_does(source, target, order):
    values = row(source)
    zoom = (target / source, 1)
    wanted = ndimage.zoom(values, zoom, order=order, mode="nearest", grid_mode=True)
    found = along_axis(values, 0, AxisMap.extent(source, target), order=order)
    if order == 0:  # halves are rounded to either side
        halves = np.isclose(AxisMap.extent(source, target).centre(np.arange(target)) % 1, 0.5)
        found, wanted = found[~halves], wanted[~halves]
    np.testing.assert_allclose(found, wanted, atol=1e-10)


@pytest.mark.parametrize(("size", "mm", "wanted_mm"), [(21, 1.0, 1.5), (21, 2.0, 0.7), (9, 3, 2)])
def test_first_centre_kept_as_monai_does(size, mm, wanted_mm):
    from monai.data import MetaTensor
    from monai.transforms import Spacing

    values = row(size).astype(np.float32)
    given = MetaTensor(
        torch.from_numpy(values)[None, :, :, None],
        torch.diag(torch.tensor([mm, 1.0, 1.0, 1.0], dtype=torch.float64)),
    )
    wanted = Spacing((wanted_mm, 1.0, 1.0), mode="bilinear")(given)[0, :, :, 0].numpy()
    step = wanted_mm / mm
    index = AxisMap.centres(size, len(wanted), step)
    assert len(wanted) == round((size - 1) / step + 1)
    np.testing.assert_allclose(along_axis(values, 0, index, order=1), wanted, atol=1e-5)


@pytest.mark.parametrize("order", [0, 1])
@pytest.mark.parametrize(("source", "target"), [(20, 33), (33, 20), (24, 24)])
def test_a_part_is_that_part_of_the_whole(source, target, order):
    index = AxisMap.extent(source, target)
    low, high, share = bracket(index, 0, target, order=order)
    for start, stop in ((0, 9), (6, 15), (15, target)):
        first, last = int(low[start]), int(high[stop - 1]) + 1
        part = index.part((first, last), (start, stop))
        mine = bracket(part, 0, part.target, order=order)
        assert np.array_equal(mine[0] + first, low[start:stop])
        assert np.array_equal(mine[1] + first, high[start:stop])
        assert np.array_equal(mine[2], share[start:stop])  # to the last bit


def test_a_way_and_back():
    index = AxisMap.centres(20, 13, 1.6)
    there = index.centre(np.arange(13))
    np.testing.assert_allclose(index.inverse.centre(there), np.arange(13), atol=1e-9)

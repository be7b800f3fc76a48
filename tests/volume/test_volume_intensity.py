"""Intensity steps against NumPy on the whole array, and against MONAI's transforms."""

import numpy as np
import pytest
from pydantic import TypeAdapter

from wsiseg.model.card import Step
from wsiseg.volume.intensity import measured_steps

STEP = TypeAdapter(Step)


def values(channels=2):
    made = np.random.default_rng(0).normal(30, 80, size=(12, 9, 8, channels)).astype(np.float32)
    made[np.random.default_rng(1).random(made.shape) < 0.3] = 0
    return made


def changed(given, *steps):
    """Return what steps make of values that come in three slabs."""
    read = [STEP.validate_python(step) for step in steps]
    found = given.copy()
    for step in measured_steps(read, given.shape[-1], lambda: np.array_split(given.copy(), 3)):
        found = step(found)
    return found


@pytest.mark.parametrize("region", ["all", "nonzero"])
@pytest.mark.parametrize(("low", "high"), [(0.5, 99.5), (1, 80), (0, 100)])
def test_percentiles_are_those_of_numpy(low, high, region):
    given = values()
    found = changed(given, {"name": "percentile_clip", "low": low, "high": high, "region": region})
    for channel in range(2):
        mine = given[..., channel]
        some = mine[mine != 0] if region == "nonzero" else mine
        limits = np.percentile(some.astype(np.float64), [low, high])
        wanted = np.clip(mine, *limits)
        if region == "nonzero":
            wanted[mine == 0] = 0
        np.testing.assert_allclose(found[..., channel], wanted, rtol=1e-6)


@pytest.mark.parametrize("nonzero", [False, True])
def test_zscore_is_that_of_monai(nonzero):
    from monai.transforms import NormalizeIntensity

    given = values()
    found = changed(given, {"name": "zscore", "region": "nonzero" if nonzero else "all"})
    wanted = NormalizeIntensity(nonzero=nonzero, channel_wise=True)(np.moveaxis(given, -1, 0))
    np.testing.assert_allclose(np.moveaxis(found, -1, 0), wanted, atol=2e-5)


@pytest.mark.parametrize("clip", [False, True])
def test_windows_are_those_of_monai(clip):
    from monai.transforms import ScaleIntensity, ScaleIntensityRange

    given = values(1)
    step = {"name": "window", "low": -57, "high": 164, "to": [-1, 2], "clip": clip}
    wanted = ScaleIntensityRange(-57, 164, -1, 2, clip=clip)(given)
    np.testing.assert_allclose(changed(given, step), wanted, atol=1e-5)
    wanted = ScaleIntensity(0, 1)(given)
    np.testing.assert_allclose(changed(given, {"name": "rescale", "to": [0, 1]}), wanted, atol=1e-5)


def test_a_step_measures_what_the_ones_before_gave():
    given = values(1)
    steps = {"name": "clip", "low": -20, "high": 60}, {"name": "zscore", "region": "all"}
    clipped = np.clip(given, -20, 60).astype(np.float64)
    wanted = (clipped - clipped.mean()) / clipped.std()
    np.testing.assert_allclose(changed(given, *steps), wanted, atol=1e-5)


def test_a_constant_channel_becomes_zero():
    given = np.full((4, 4, 4, 1), 7, np.float32)
    assert np.abs(changed(given, {"name": "zscore", "region": "all"})).max() < 1e-6

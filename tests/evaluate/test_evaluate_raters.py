"""Several raters: the closed form equals the integral, consensus equals counting by hand."""

import math

import numpy as np
import pytest
from random_masks import label_pair
from scipy import integrate, stats

from wsiseg.errors import UsageError
from wsiseg.evaluate import CalibrationBins, Raters, crps_normal


@pytest.mark.parametrize("seed", range(50))
def test_crps_equals_the_integral_of_its_definition(seed):
    rng = np.random.default_rng(seed)
    value, mean, std = rng.uniform(-20, 20), rng.uniform(-5, 5), rng.uniform(0.1, 4)

    def squared(x):
        return (stats.norm.cdf(x, mean, std) - (x >= value)) ** 2

    low, high = min(value, mean) - 12 * std, max(value, mean) + 12 * std
    expected = integrate.quad(squared, low, high, points=[value, mean], limit=400)[0]
    assert crps_normal(value, mean, std) == pytest.approx(expected, abs=1e-4)


def test_crps_where_all_agree_is_a_distance():
    assert crps_normal(7.0, 4.0, 0.0) == 3.0
    assert crps_normal(7.0, 4.0, 1e-9) == pytest.approx(3.0)


def drawn(seed, *, raters=3, ignored=0.0):
    """Return (prediction, labels of each rater, probabilities)."""
    rng = np.random.default_rng(seed)
    opinions = []
    for index in range(raters):
        prediction, reference = label_pair(seed, classes=3)
        moved = np.roll(reference, index, axis=0)
        opinions.append(np.where(rng.random(moved.shape) < ignored, 255, moved).astype(np.uint8))
    raw = rng.random((*prediction.shape, 3)) + 3 * np.eye(3)[prediction]
    return prediction, opinions, (raw / raw.sum(axis=-1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize("seed", range(50))
def test_scores_equal_their_definitions(seed):
    prediction, opinions, probabilities = drawn(seed, ignored=0.02)
    raters = Raters(3, 3, pixel_volume=0.25)
    for rows in (slice(0, 17), slice(17, None)):
        blocks = [one[rows] for one in opinions]
        raters.add(prediction[rows], blocks, probabilities[rows])
    known = np.all([one != 255 for one in opinions], axis=0)
    for index in range(3):
        found = raters.of_class(index)
        says = np.array([one[known] == index for one in opinions])
        agreed = says.all(axis=0) | ~says.any(axis=0)
        guess, truth = (prediction[known] == index)[agreed], says[0][agreed]
        dice = 2 * (guess & truth).sum() / (guess.sum() + truth.sum())
        assert found.consensus.dice == pytest.approx(dice, abs=1e-4)
        chance = probabilities[known][:, index]
        sure = (1 - chance[~says.any(axis=0)].mean() + chance[says.all(axis=0)].mean()) / 2
        assert found.confidence == pytest.approx(sure, abs=1e-4)
        volumes = says.sum(axis=1) * 0.25
        assert found.rater_volumes == pytest.approx(volumes)
        assert found.volume == pytest.approx(chance.sum() * 0.25, rel=1e-6)
        expected = crps_normal(found.volume, volumes.mean(), volumes.std())
        assert found.crps == pytest.approx(expected, rel=1e-6)
    for one, found in zip(opinions, raters.calibrations(), strict=True):
        alone = CalibrationBins(3)
        alone.add(probabilities[known], one[known])
        assert found.ece == pytest.approx(alone.scores().ece, abs=1e-9)


def test_without_probabilities_volumes_come_from_labels():
    prediction, opinions, _ = drawn(1)
    raters = Raters(3, 3, pixel_volume=2.0)
    raters.add(prediction, opinions)
    found = raters.of_class(1)
    assert found.volume == 2.0 * (prediction == 1).sum()
    assert math.isnan(found.confidence)


def test_empty_cases():
    none = np.zeros((4, 4), np.uint8)
    raters = Raters(2, 2, pixel_volume=1.0)
    raters.add(none, [none, none])
    found = raters.of_class(1)
    assert found.consensus.empty == "both"
    assert math.isnan(found.consensus.dice)
    assert found.crps == 0
    raters.add(none, [none + 1, none + 1], np.stack([none + 1.0, none], axis=-1))
    assert raters.of_class(1).consensus.dice == 0


def test_bad_input_is_refused():
    with pytest.raises(UsageError, match="at least two raters, found 1"):
        Raters(1, 2, pixel_volume=1)
    none = np.zeros((4, 4), np.uint8)
    with pytest.raises(UsageError, match="labels of 2 raters, found 3"):
        Raters(2, 2, pixel_volume=1).add(none, [none] * 3)

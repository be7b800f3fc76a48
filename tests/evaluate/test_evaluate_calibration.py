"""Calibration equals torchmetrics and scikit-learn's formulas; scalings find what was planted."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import log_softmax, softmax
from torch.nn.functional import cross_entropy
from torchmetrics.functional.classification import multiclass_calibration_error

from wsiseg.errors import LabelError, UsageError
from wsiseg.evaluate import CalibrationBins, fit_temperature, fit_vector
from wsiseg.evaluate.calibration import with_background


def sample(seed, *, count=3000, classes=3, sure=2.0):
    """Return (logits, labels): labels drawn from softmax(logits / sure)."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 2, (count, classes))
    chances = softmax(logits / sure, axis=1)
    labels = (rng.random((count, 1)) > np.cumsum(chances, axis=1)).sum(axis=1)
    return logits, labels.clip(0, classes - 1).astype(np.uint8)


@pytest.mark.parametrize("seed", range(50))
def test_errors_equal_torchmetrics_and_torch(seed):
    classes = 2 + seed % 4
    logits, labels = sample(seed, classes=classes)
    probabilities = softmax(logits, axis=1).astype(np.float32)
    bins = CalibrationBins(classes)
    bins.add(probabilities, labels)
    found = bins.scores()
    tensors = torch.tensor(probabilities), torch.tensor(labels.astype(np.int64))
    for name, norm in (("ece", "l1"), ("mce", "max")):
        expected = multiclass_calibration_error(*tensors, classes, n_bins=50, norm=norm)
        assert getattr(found, name) == pytest.approx(float(expected), abs=1e-4)
    nll = cross_entropy(torch.tensor(logits), tensors[1])
    assert found.nll == pytest.approx(float(nll), abs=1e-4)
    truth = np.eye(classes)[labels]
    assert found.brier == pytest.approx(((probabilities - truth) ** 2).sum(axis=1).mean(), abs=1e-4)
    assert found.pixels == len(labels) == sum(b.pixels for b in found.bins)


def test_two_pixels_by_hand():
    bins = CalibrationBins(2, bins=10)
    bins.add(np.array([[0.25, 0.75], [0.05, 0.95]], np.float32), np.array([1, 0], np.uint8))
    found = bins.scores()
    assert found.ece == pytest.approx((0.25 + 0.95) / 2)
    assert found.mce == pytest.approx(0.95)
    assert found.brier == pytest.approx((2 * 0.25**2 + 2 * 0.95**2) / 2)
    assert found.nll == pytest.approx(-(math.log(0.75) + math.log(0.05)) / 2)
    seventh, last = found.bins[7], found.bins[9]
    assert (seventh.low, seventh.high) == pytest.approx((0.7, 0.8))
    assert (seventh.accuracy, last.accuracy) == (1, 0)


def test_the_first_of_equal_probabilities_is_the_prediction():
    bins = CalibrationBins(3, bins=10)
    bins.add(np.array([[0.2, 0.4, 0.4], [0.4, 0.2, 0.4]], np.float32), np.array([1, 0], np.uint8))
    assert bins.scores().bins[4].accuracy == 1


def test_a_sure_mistake_costs_much_and_not_infinity():
    bins = CalibrationBins(2)
    bins.add(np.array([[1.0, 0.0]], np.float32), np.array([1], np.uint8))
    assert bins.scores().nll == pytest.approx(-math.log(1e-12))
    assert bins.scores().bins[-1].pixels == 1


@given(cut=st.integers(0, 3000), seed=st.integers(0, 3))
def test_blocks_do_not_matter(cut, seed):
    logits, labels = sample(seed)
    probabilities = softmax(logits, axis=1).astype(np.float32)
    whole, parts, rest = (CalibrationBins(3) for _ in range(3))
    whole.add(probabilities, labels)
    parts.add(probabilities[:cut], labels[:cut])
    rest.add(probabilities[cut:], labels[cut:])
    parts += rest
    np.testing.assert_array_equal(parts.pixels, whole.pixels)
    assert parts.scores().ece == pytest.approx(whole.scores().ece, abs=1e-12)
    assert parts.scores().brier == pytest.approx(whole.scores().brier, abs=1e-12)


def test_unknown_pixels_and_pixels_without_answer_do_not_count():
    probabilities = np.zeros((1, 3, 2), np.float32)
    probabilities[0, 0] = 0.2, 0.8
    probabilities[0, 1] = 0.9, 0.1
    bins = CalibrationBins(2)
    bins.add(probabilities, np.array([[1, 255, 0]], np.uint8))  # the last one has no answer
    assert bins.scores().pixels == 1
    assert bins.scores().brier == pytest.approx(0.08)
    assert math.isnan(CalibrationBins(2).scores().ece)
    assert math.isnan(CalibrationBins(2).scores().mce)


def test_background_is_what_is_left():
    np.testing.assert_allclose(with_background(np.array([[0.2, 0.3]])), [[0.5, 0.2, 0.3]])
    assert with_background(np.array([[1.01]]))[0, 0] == 0


@pytest.mark.parametrize("seed", range(10))
def test_temperature_finds_what_was_planted(seed):
    sure = float(np.random.default_rng(seed).uniform(0.5, 4))
    logits, labels = sample(seed, count=40_000, sure=sure)
    assert fit_temperature(logits, labels) == pytest.approx(sure, rel=0.05)


@pytest.mark.parametrize("seed", range(10))
def test_temperature_equals_a_fit_with_torch(seed):
    logits, labels = sample(seed, sure=2.5)
    values, truth = torch.tensor(logits), torch.tensor(labels.astype(np.int64))
    scale = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([scale], max_iter=200, tolerance_grad=1e-12, tolerance_change=0)

    def closure():
        optimizer.zero_grad()
        loss = cross_entropy(values / scale.exp(), truth)
        loss.backward()
        return loss

    optimizer.step(closure)
    assert fit_temperature(logits, labels) == pytest.approx(scale.exp().item(), abs=1e-4)


def vector_loss(logits, labels, weights, biases):
    chances = log_softmax(logits * weights + biases, axis=1)
    return -chances[np.arange(len(labels)), labels].mean()


@pytest.mark.parametrize("seed", range(10))
def test_vector_is_the_best_near_and_far(seed):
    rng = np.random.default_rng(seed)
    planted = rng.uniform(0.5, 2, 3), rng.uniform(-1, 1, 3)
    logits, labels = sample(seed, count=20_000, sure=1.0)
    distorted = (logits - planted[1]) / planted[0]
    weights, biases = fit_vector(distorted, labels)
    assert biases.sum() == pytest.approx(0, abs=1e-9)
    best = vector_loss(distorted, labels, weights, biases)
    assert best <= vector_loss(distorted, labels, *planted)
    for _ in range(20):
        other = weights + rng.normal(0, 0.02, 3), biases + rng.normal(0, 0.02, 3)
        assert best <= vector_loss(distorted, labels, *other)
    np.testing.assert_allclose(weights, planted[0], rtol=0.15)
    temperature = fit_temperature(distorted, labels)
    assert best <= vector_loss(distorted, labels, np.full(3, 1 / temperature), np.zeros(3))


def test_data_without_a_mistake_stays_finite():
    logits = np.array([[4.0, 0.0], [0.0, 4.0]])
    labels = np.array([0, 1])
    assert fit_temperature(logits, labels) == 0.02
    assert fit_temperature(logits, 1 - labels) == 50.0
    weights, biases = fit_vector(logits, labels)
    assert np.isfinite(weights).all()
    assert np.isfinite(biases).all()
    assert fit_temperature(np.vstack([logits, [[0, 9]]]), np.array([0, 1, 255])) < 0.03


def test_bad_input_is_refused():
    with pytest.raises(UsageError, match=r"do not fit labels of \(4,\) and 3 classes"):
        CalibrationBins(3).add(np.zeros((4, 2), np.float32), np.zeros(4, np.uint8))
    with pytest.raises(LabelError, match="label 3"):
        CalibrationBins(2).add(np.ones((1, 2), np.float32), np.array([3], np.uint8))
    with pytest.raises(UsageError, match="cannot be added"):
        bins = CalibrationBins(3)
        bins += CalibrationBins(2)
    for fit in (fit_temperature, fit_vector):
        with pytest.raises(UsageError, match=r"raw values \(n, class >= 2\)"):
            fit(np.zeros((4, 1)), np.zeros(4, int))
        with pytest.raises(UsageError, match="some not finite"):
            fit(np.array([[np.nan, 1]]), np.array([0]))
        with pytest.raises(UsageError, match="found 0 pixels"):
            fit(np.zeros((2, 2)), np.array([255, 255]))
        with pytest.raises(LabelError, match="label 5"):
            fit(np.zeros((2, 2)), np.array([0, 5]))

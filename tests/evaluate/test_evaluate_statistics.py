"""Bootstrap equals SciPy's with the same chance; patients are drawn whole; Tukey is SciPy's."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from wsiseg.errors import UsageError
from wsiseg.evaluate import bootstrap, compare_designs


@pytest.mark.parametrize("method", ["percentile", "bca"])
@pytest.mark.parametrize("seed", range(25))
def test_intervals_equal_scipy(seed, method):
    rng = np.random.default_rng(seed)
    values = rng.beta(5, 1 + seed % 3, rng.integers(4, 30))
    found = bootstrap(values, method=method, resamples=500, seed=seed)
    expected = stats.bootstrap(
        (values,),
        np.mean,
        n_resamples=500,
        method={"bca": "BCa"}.get(method, method),
        rng=np.random.default_rng(seed),
    ).confidence_interval
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-4)
    assert found.value == pytest.approx(values.mean())


def test_another_statistic_of_rows():
    rows = np.array([[3.0, 4.0], [1.0, 4.0], [8.0, 8.0], [0.0, 2.0]])  # common and whole pixels

    def pooled(table):
        return float(table[:, 0].sum() / table[:, 1].sum())

    found = bootstrap(rows, statistic=pooled, resamples=300)
    assert found.value == pytest.approx(12 / 18)
    assert 0 <= found.low <= found.value <= found.high <= 1


def test_patients_are_drawn_whole():
    values, patients = [0.0] * 10 + [1.0] * 10, ["a"] * 10 + ["b"] * 10
    by_patient = bootstrap(values, groups=patients, resamples=400)
    assert (by_patient.low, by_patient.high) == (0, 1)  # a quarter of the draws is a patient twice
    assert (by_patient.count, by_patient.groups) == (20, 2)
    by_slide = bootstrap(values, resamples=400)
    assert 0.2 < by_slide.low < by_slide.high < 0.8


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12), st.integers(0, 3))
def test_the_same_seed_gives_the_same_interval_around_the_mean(values, seed):
    found = bootstrap(values, resamples=50, seed=seed)
    assert repr(found) == repr(bootstrap(values, resamples=50, seed=seed))
    if len(values) > 1:
        assert min(values) - 1e-9 <= found.low <= found.high <= max(values) + 1e-9


def test_undefined_values_are_left_out():
    found = bootstrap([0.5, math.nan, 0.7, math.inf], resamples=50)
    assert (found.value, found.count) == (pytest.approx(0.6), 2)
    one = bootstrap([0.5, math.nan])
    assert one.value == 0.5
    assert math.isnan(one.low)
    assert math.isnan(bootstrap([]).value)
    equal = bootstrap([0.5, 0.5, 0.5], method="bca", resamples=50)
    assert (equal.low, equal.high) == (0.5, 0.5)


def test_tukey_finds_the_design_that_differs():
    rng = np.random.default_rng(0)
    samples = {
        "I": rng.normal(0.8, 0.02, 12),
        "II": rng.normal(0.8, 0.02, 9),
        "III": [*rng.normal(0.9, 0.02, 12), math.nan],
    }
    found = {(pair.first, pair.second): pair for pair in compare_designs(samples)}
    assert list(found) == [("I", "II"), ("I", "III"), ("II", "III")]
    assert found["I", "II"].p_value > 0.05 > found["I", "III"].p_value
    pooled = math.sqrt(
        sum(np.nanvar(v, ddof=1) * (np.isfinite(v).sum() - 1) for v in samples.values()) / 30
    )
    pair = found["I", "II"]
    studentised = abs(pair.difference) / (pooled * math.sqrt((1 / 12 + 1 / 9) / 2))
    assert pair.p_value == pytest.approx(stats.studentized_range.sf(studentised, 3, 30), abs=1e-4)
    assert pair.low < pair.difference < pair.high


def test_bad_input_is_refused():
    with pytest.raises(UsageError, match="found 1 groups"):
        bootstrap([1.0, 2.0], groups=["a"])
    with pytest.raises(UsageError, match=r"found 1$"):
        compare_designs({"I": [1.0, 2.0]})
    with pytest.raises(UsageError, match=r"too few values: \{'II': 1\}"):
        compare_designs({"I": [1.0, 2.0], "II": [1.0, math.nan]})

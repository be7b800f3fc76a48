"""Points: the largest matching, found by trying all; and the older protocol beside it."""

import itertools
import math

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from wsiseg.errors import UsageError
from wsiseg.evaluate import PointCounts, match_points, pool_points


def most_pairs_by_trying(prediction, reference, tolerance):
    """Try every way to give the points of the shorter side partners."""
    few, many = sorted((prediction, reference), key=len)
    near = np.linalg.norm(few[:, None] - many[None], axis=2) <= tolerance
    ways = itertools.permutations(range(len(many)), len(few))
    return max(sum(near[i, j] for i, j in enumerate(way)) for way in ways)


@pytest.mark.parametrize("seed", range(50))
def test_patherea_is_the_largest_matching(seed):
    rng = np.random.default_rng(seed)
    prediction, reference = rng.uniform(0, 10, (6, 2)), rng.uniform(0, 10, (rng.integers(1, 7), 2))
    found = match_points(prediction, reference, tolerance=2.5)
    pairs = most_pairs_by_trying(prediction, reference, 2.5)
    assert found == PointCounts(pairs, len(prediction) - pairs, len(reference) - pairs)


@pytest.mark.parametrize("seed", range(50))
def test_hungarian_assigns_first_and_asks_for_the_distance_after(seed):
    rng = np.random.default_rng(seed)
    prediction, reference = rng.uniform(0, 30, (40, 2)), rng.uniform(0, 30, (35, 2))
    distances = np.linalg.norm(prediction[:, None] - reference[None], axis=2)
    pairs = int((distances[linear_sum_assignment(distances)] <= 3.0).sum())
    found = match_points(prediction, reference, tolerance=3.0, protocol="hungarian")
    assert found == PointCounts(pairs, 40 - pairs, 35 - pairs)
    assert match_points(prediction, reference, tolerance=3.0).true_positives >= pairs


def test_the_older_protocol_loses_pairs_that_were_possible():
    # (0, 1) lies on a point of the reference, and so takes it from (1.9, 0.9), whose only one it is
    reference = np.array([[0.0, 0.0], [0.0, 1.0]])
    prediction = np.array([[0.0, 1.0], [1.9, 0.9]])
    both = [
        match_points(prediction, reference, tolerance=1.95, protocol=protocol).true_positives
        for protocol in ("patherea", "hungarian")
    ]
    assert both == [2, 1]


def test_a_pair_exactly_at_the_tolerance_counts():
    for protocol in ("patherea", "hungarian"):
        at = match_points(
            np.array([[0.0, 3.0]]), np.array([[4.0, 0.0]]), tolerance=5.0, protocol=protocol
        )
        assert at.true_positives == 1


def test_pooling_and_means_differ():
    images = [PointCounts(8, 0, 2), PointCounts(0, 0, 0), PointCounts(0, 5, 0)]
    pooled = pool_points(images, "patherea")
    assert pooled.f1 == pytest.approx(16 / (16 + 5 + 2))
    assert (pooled.precision, pooled.recall) == (8 / 13, 8 / 10)
    assert pooled.count_mae == pytest.approx((2 + 0 + 5) / 3)
    older = pool_points(images, "hungarian")
    assert older.f1 == pytest.approx((16 / 18 + 0) / 2)  # the empty image has no F1
    assert (older.precision, older.recall) == (0.5, 0.8)
    assert older.counts == pooled.counts == PointCounts(8, 5, 2)


def test_empty_cases():
    none, some = np.empty((0, 2)), np.zeros((3, 2))
    assert math.isnan(match_points(none, none, tolerance=1).f1)
    missed = match_points(none, some, tolerance=1)
    assert (missed.f1, missed.recall, missed.false_negatives) == (0, 0, 3)
    assert math.isnan(missed.precision)
    invented = match_points(some, none, tolerance=1)
    assert (invented.f1, invented.precision) == (0, 0)
    assert math.isnan(invented.recall)
    assert math.isnan(pool_points([], "patherea").f1)
    assert math.isnan(pool_points([], "hungarian").count_mae)


def test_bad_input_is_refused():
    with pytest.raises(UsageError, match=r"points need shape \(n, axis\), found \(4,\)"):
        match_points(np.zeros(4), np.zeros((4, 2)), tolerance=1)
    many = np.zeros((10_000, 2))
    with pytest.raises(UsageError, match="take 'patherea', or smaller images"):
        match_points(many, many, tolerance=1, protocol="hungarian")

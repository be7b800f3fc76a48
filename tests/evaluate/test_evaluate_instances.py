"""PQ equals panoptica; AJI and AJI+ equal their definitions written out with loops."""

import itertools
import math

import numpy as np
import panoptica
import pytest
import shapely
from random_masks import object_pair
from scipy.optimize import linear_sum_assignment

from wsiseg.annotations.trace import trace_labels
from wsiseg.errors import UsageError
from wsiseg.evaluate import InstanceOverlap, compare_labels, compare_polygons


@pytest.mark.parametrize("seed", range(50))
def test_panoptic_quality_equals_panoptica(seed):
    prediction, reference = object_pair(seed)
    matcher = panoptica.NaiveThresholdMatching(matching_threshold=0.5, strict_threshold=True)
    evaluator = panoptica.Panoptica_Evaluator(
        expected_input=panoptica.InputType.UNMATCHED_INSTANCE,
        instance_matcher=matcher,
        instance_metrics=[panoptica.Metric.IOU],
        global_metrics=[],
    )
    sides = [side.astype(np.uint16) for side in (prediction, reference)]
    expected = evaluator.evaluate(*sides, verbose=False)["ungrouped"]
    found = compare_labels(prediction, reference)
    assert (found.true_positives, found.false_positives) == (expected.tp, expected.fp)
    assert found.false_negatives == expected.fn
    ours = [found.pq, found.dq, found.sq]
    np.testing.assert_allclose(ours, [expected.pq, expected.rq, expected.sq], atol=1e-4)
    assert found.f1 == found.dq


def jaccard_by_loops(prediction, reference, *, unique):
    """AJI (each object of the reference picks its best) or AJI+ (best one-to-one pairs)."""
    truths = [reference == n for n in np.unique(reference)[1:]]
    guesses = [prediction == n for n in np.unique(prediction)[1:]]
    iou = np.array([[(t & g).sum() / (t | g).sum() for g in guesses] for t in truths])
    if unique:
        chosen = [(i, j) for i, j in zip(*linear_sum_assignment(-iou), strict=True) if iou[i, j]]
    else:
        chosen = [(i, int(row.argmax())) for i, row in enumerate(iou) if row.max() > 0]
    common = sum((truths[i] & guesses[j]).sum() for i, j in chosen)
    whole = sum((truths[i] | guesses[j]).sum() for i, j in chosen)
    whole += sum(t.sum() for i, t in enumerate(truths) if i not in {i for i, _ in chosen})
    whole += sum(g.sum() for j, g in enumerate(guesses) if j not in {j for _, j in chosen})
    return common / whole


@pytest.mark.parametrize("seed", range(50))
def test_aggregated_jaccard_equals_its_definition(seed):
    prediction, reference = object_pair(seed)
    found = compare_labels(prediction, reference)
    for unique, value in ((False, found.aji), (True, found.aji_plus)):
        expected = jaccard_by_loops(prediction, reference, unique=unique)
        assert value == pytest.approx(expected, abs=1e-4)


def test_two_objects_by_hand():
    reference = np.array([[1, 1, 1, 1, 0, 2, 2, 0]])
    prediction = np.array([[7, 7, 7, 0, 0, 0, 9, 9]])
    found = compare_labels(prediction, reference)
    assert found.aji == found.aji_plus == pytest.approx((3 + 1) / (4 + 3))
    assert (found.true_positives, found.false_positives, found.false_negatives) == (1, 1, 1)
    assert found.sq == pytest.approx(0.75)
    assert found.pq == pytest.approx(0.75 * 0.5)


def test_iou_of_exactly_one_half_is_no_match():
    found = compare_labels(np.array([1, 1, 0]), np.array([1, 1, 1]))
    assert found.true_positives == 1
    found = compare_labels(np.array([1, 0]), np.array([1, 1]))
    assert (found.true_positives, found.pq) == (0, 0)


@pytest.mark.parametrize("seed", range(5))
def test_blocks_and_merging_do_not_matter(seed):
    prediction, reference = object_pair(seed)
    parts = InstanceOverlap()
    for rows, columns in itertools.product(range(0, 60, 11), range(0, 70, 13)):
        block = slice(rows, rows + 11), slice(columns, columns + 13)
        parts.add(prediction[block], reference[block], merge=20)
    assert parts.scores() == compare_labels(prediction, reference)


def test_large_numbers_of_objects_are_kept_apart():
    big = np.array([2**32 - 1, 2**31, 1, 0])
    found = compare_labels(big, big)
    assert (found.true_positives, found.pq, found.aji) == (3, 1, 1)
    with pytest.raises(UsageError, match="from 0 to 4294967295"):
        compare_labels(big + 1, big)


@pytest.mark.parametrize("seed", range(10))
def test_polygons_say_the_same_as_labels(seed):
    prediction, reference = object_pair(seed)
    polygons = []
    for side in (prediction, reference):
        traced = trace_labels(side)
        own = {n: traced.geometries[traced.values == n] for n in np.unique(traced.values)}
        polygons.append(np.array([shapely.union_all(parts) for parts in own.values()], object))
    found, expected = compare_polygons(*polygons), compare_labels(prediction, reference)
    for name in ("aji", "aji_plus", "pq", "dq", "sq"):
        assert getattr(found, name) == pytest.approx(getattr(expected, name), abs=1e-9)


def test_empty_cases():
    none, some = np.zeros((4, 4), int), np.eye(4, dtype=int)
    both = compare_labels(none, none)
    assert both.empty == "both"
    assert all(math.isnan(v) for v in (both.aji, both.aji_plus, both.pq, both.f1, both.sq))
    for sides, empty in (((none, some), "prediction"), ((some, none), "reference")):
        one = compare_labels(*sides)
        assert one.empty == empty
        assert one.aji == one.aji_plus == one.pq == one.f1 == 0
        assert math.isnan(one.sq)
    assert math.isnan(compare_polygons([], []).pq)
    assert compare_polygons([shapely.box(0, 0, 1, 1)], []).pq == 0
    touching = compare_polygons([shapely.box(0, 0, 1, 1)], [shapely.box(1, 0, 2, 1)])
    assert touching.aji == 0


def test_polygons_that_cross_themselves_are_refused():
    bow = shapely.Polygon([(0, 0), (2, 2), (2, 0), (0, 2)])
    with pytest.raises(UsageError, match="polygon 0 of the reference is not valid"):
        compare_polygons([shapely.box(0, 0, 1, 1)], [bow])

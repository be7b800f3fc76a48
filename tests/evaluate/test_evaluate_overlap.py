"""Overlap equals torchmetrics and MONAI, in any blocks; empty cases are as they are said to be."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from monai.metrics import compute_dice, compute_iou
from random_masks import label_pair, mask_pair
from torchmetrics.functional.classification import (
    multiclass_f1_score,
    multiclass_jaccard_index,
    multiclass_precision,
    multiclass_recall,
)

from wsiseg.errors import LabelError, UsageError
from wsiseg.evaluate import Confusion, Overlap, compare_masks


@pytest.mark.parametrize("seed", range(50))
def test_masks_equal_monai(seed):
    prediction, reference, _ = mask_pair(seed, axes=2 + seed % 2)
    found = compare_masks(prediction, reference)
    tensors = [torch.tensor(side[None, None]).float() for side in (prediction, reference)]
    assert found.dice == pytest.approx(float(compute_dice(*tensors)), abs=1e-4)
    assert found.iou == pytest.approx(float(compute_iou(*tensors)), abs=1e-4)


@pytest.mark.parametrize("seed", range(50))
def test_classes_equal_torchmetrics_with_ignored_pixels(seed):
    prediction, reference = label_pair(seed, ignored=0.2)
    confusion = Confusion(4)
    confusion.add(prediction, reference)
    found = [confusion.of_class(index) for index in range(4)]
    sides = [torch.tensor(side.astype(np.int64)) for side in (prediction, reference)]
    expected = {
        "dice": multiclass_f1_score,
        "iou": multiclass_jaccard_index,
        "precision": multiclass_precision,
        "recall": multiclass_recall,
    }
    for name, oracle in expected.items():
        values = oracle(*sides, num_classes=4, average="none", ignore_index=255)
        ours = np.nan_to_num([getattr(one, name) for one in found])  # torchmetrics says 0 for 0 / 0
        np.testing.assert_allclose(ours, values.numpy(), atol=1e-4)
    assert confusion.ignored == np.count_nonzero(reference == 255)
    known = reference != 255
    assert confusion.accuracy == pytest.approx((prediction == reference)[known].mean())


@given(cut=st.tuples(st.integers(0, 40), st.integers(0, 50)), seed=st.integers(0, 5))
def test_blocks_do_not_matter(cut, seed):
    prediction, reference = label_pair(seed, ignored=0.1)
    whole, parts = Confusion(4), Confusion(4)
    whole.add(prediction, reference)
    for rows in (slice(None, cut[0]), slice(cut[0], None)):
        for columns in (slice(None, cut[1]), slice(cut[1], None)):
            parts.add(prediction[rows, columns], reference[rows, columns])
    np.testing.assert_array_equal(parts.counts, whole.counts)
    assert parts.ignored == whole.ignored


@pytest.mark.parametrize(
    ("counts", "empty", "dice", "iou", "precision", "recall"),
    [
        ((0, 0, 0), "both", math.nan, math.nan, math.nan, math.nan),
        ((0, 0, 7), "prediction", 0, 0, math.nan, 0),
        ((0, 7, 0), "reference", 0, 0, 0, math.nan),
        ((0, 3, 4), "", 0, 0, 0, 0),
        ((6, 2, 1), "", 12 / 15, 6 / 9, 6 / 8, 6 / 7),
    ],
)
def test_empty_cases(counts, empty, dice, iou, precision, recall):
    found = Overlap(*counts)
    assert found.empty == empty
    shares = [found.dice, found.iou, found.precision, found.recall]
    np.testing.assert_array_equal(shares, [dice, iou, precision, recall])


def test_no_answer_counts_as_background():
    confusion = Confusion(2)
    confusion.add(np.array([[255, 255, 1]], np.uint8), np.array([[1, 0, 255]], np.uint8))
    np.testing.assert_array_equal(confusion.counts, [[1, 0], [1, 0]])
    assert confusion.ignored == 1


@pytest.mark.parametrize("side", ["prediction", "reference"])
def test_unknown_labels_are_named(side):
    labels = {"prediction": np.zeros((3, 3), np.uint8), "reference": np.zeros((3, 3), np.uint8)}
    labels[side][1, 1] = 4
    with pytest.raises(LabelError, match=f"the {side} holds label 4, classes go from 0 to 3"):
        Confusion(4).add(**labels)


def test_other_shapes_are_refused():
    with pytest.raises(UsageError, match=r"prediction of \(3, 3\) cannot be compared"):
        compare_masks(np.zeros((3, 3), bool), np.zeros((3, 4), bool))

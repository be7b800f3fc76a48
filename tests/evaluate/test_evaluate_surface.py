"""Distances of outlines equal MONAI and surface-distance; blocks change nothing."""

import math
import warnings

import numpy as np
import pytest
import surface_distance
import torch
from hypothesis import given
from hypothesis import strategies as st
from monai.metrics import (
    compute_average_surface_distance,
    compute_hausdorff_distance,
    compute_surface_dice,
)
from random_masks import label_pair, mask_pair
from scipy import ndimage

from wsiseg.errors import UsageError
from wsiseg.evaluate import BoundaryTracer, boundary_of, compare_surfaces
from wsiseg.evaluate.blocks import walk
from wsiseg.evaluate.boundary import framed
from wsiseg.geometry import Box

TOLERANCE = 2.0


@pytest.mark.filterwarnings("ignore::FutureWarning")  # MONAI warns of its own argument
@pytest.mark.parametrize("axes", [2, 3])
@pytest.mark.parametrize("seed", range(50))
def test_pixels_equal_monai(seed, axes):
    prediction, reference, spacing = mask_pair(seed, axes=axes)
    found = compare_surfaces(prediction, reference, spacing=spacing, tolerance=TOLERANCE)
    sides = [torch.tensor(side[None, None]).float() for side in (prediction, reference)]
    asked = {"include_background": True, "spacing": spacing}
    expected = [
        compute_hausdorff_distance(*sides, percentile=95, **asked),
        compute_average_surface_distance(*sides, symmetric=True, **asked),
        compute_surface_dice(*sides, [TOLERANCE], **asked),
    ]
    ours = [found.hd95, found.average_distance, found.surface_dice]
    np.testing.assert_allclose(ours, [float(value) for value in expected], atol=1e-4)


@pytest.mark.parametrize("seed", range(50))
def test_boundary_f1_equals_distances_from_a_distance_transform(seed):
    prediction, reference, spacing = mask_pair(seed, axes=2 + seed % 2)
    found = compare_surfaces(prediction, reference, spacing=spacing, tolerance=TOLERANCE)
    edges = [side & ~ndimage.binary_erosion(side) for side in (prediction, reference)]
    away = [ndimage.distance_transform_edt(~edge, sampling=spacing) for edge in edges]
    precision = (away[1][edges[0]] <= TOLERANCE).mean()
    recall = (away[0][edges[1]] <= TOLERANCE).mean()
    expected = 2 * precision * recall / (precision + recall)
    assert found.boundary_f1 == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("seed", range(50))
def test_contour_equals_surface_distance(seed):
    prediction, reference, spacing = mask_pair(seed)
    asked = {"spacing": spacing, "tolerance": TOLERANCE, "kind": "contour"}
    found = compare_surfaces(prediction, reference, **asked)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # it calls SciPy by old names
        measured = surface_distance.compute_surface_distances(reference, prediction, spacing)
    recall, precision = surface_distance.compute_surface_overlap_at_tolerance(measured, TOLERANCE)
    means = surface_distance.compute_average_surface_distance(measured)
    lengths = [measured[f"surfel_areas_{side}"].sum() for side in ("gt", "pred")]
    expected = {
        "hd95": surface_distance.compute_robust_hausdorff(measured, 95),
        "average_distance": np.average(means, weights=lengths),
        "boundary_f1": 2 * precision * recall / (precision + recall),
        "surface_dice": surface_distance.compute_surface_dice_at_tolerance(measured, TOLERANCE),
    }
    for name, value in expected.items():
        assert getattr(found, name) == pytest.approx(value, abs=1e-4), name


@given(
    seed=st.integers(0, 30),
    block=st.integers(4, 3000),
    kind=st.sampled_from(["pixels", "contour"]),
    edge=st.sampled_from(["closed", "open"]),
)
def test_blocks_do_not_matter(seed, block, kind, edge):
    labels, _ = label_pair(seed, ignored=0)
    labels[:, 20:23] = 255 if seed % 2 else labels[:, 20:23]

    def traced(boxes):
        tracer = BoundaryTracer(labels.shape, 4, kind=kind)
        for box in boxes:
            around = framed(lambda b: labels[b.slices()], box.grow(1), labels.shape, edge)
            tracer.add(around, box)
        return [tracer.of_class(index, (1.0, 2.0)) for index in range(1, 4)]

    whole = traced([Box.of_shape(labels.shape)])
    for one, parts in zip(whole, traced(walk(labels.shape, block)), strict=True):
        order = np.lexsort(parts.points.T[::-1])
        np.testing.assert_array_equal(parts.points[order], one.points)
        if kind == "contour":
            np.testing.assert_array_equal(parts.weights[order], one.weights)


def test_blocks_of_a_volume_do_not_matter():
    mask, _, _ = mask_pair(7, axes=3)
    labels = mask.astype(np.uint8)
    tracer = BoundaryTracer(mask.shape, 2)
    for box in walk(mask.shape, 64):
        around = framed(lambda b: labels[b.slices()], box.grow(1), mask.shape, "closed")
        tracer.add(around, box)
    found = np.zeros(mask.shape, bool)
    found[tuple(tracer.of_class(1, (1, 1, 1)).points.T)] = True
    np.testing.assert_array_equal(found, mask & ~ndimage.binary_erosion(mask))


def test_a_shifted_square_is_as_far_as_it_was_moved():
    reference, prediction = np.zeros((40, 40), bool), np.zeros((40, 40), bool)
    reference[10:20, 10:20] = True
    prediction[10:20, 14:24] = True
    found = compare_surfaces(prediction, reference, spacing=(1.0, 0.5), tolerance=2.0)
    assert found.hd95 == pytest.approx(2.0)  # 4 pixels of 0.5 µm
    assert found.boundary_f1 == 1.0
    tight = compare_surfaces(prediction, reference, spacing=(1.0, 0.5), tolerance=1.9)
    assert tight.boundary_f1 < 1.0


def test_contour_of_a_square_is_as_long_as_marching_squares_makes_it():
    mask = np.zeros((9, 9), bool)
    mask[2:6, 3:7] = True
    outline = boundary_of(mask, (2.0, 1.0), kind="contour")
    corner = math.hypot(1.0, 0.5)
    assert outline.weights.sum() == pytest.approx(2 * 3 * 2.0 + 2 * 3 * 1.0 + 4 * corner)


def test_open_frame_and_unknown_pixels_are_no_outline():
    mask = np.ones((6, 6), bool)
    assert len(boundary_of(mask, (1, 1), edge="closed")) == 20
    assert len(boundary_of(mask, (1, 1), edge="open")) == 0
    assert len(boundary_of(mask, (1, 1), kind="contour", edge="open")) == 0
    labels = np.full((8, 8), 255, np.uint8)
    labels[2:6, 2:6] = 1
    for kind in ("pixels", "contour"):
        tracer = BoundaryTracer((6, 6), 2, kind=kind)
        tracer.add(labels, Box((0, 0), (6, 6)))
        assert len(tracer.of_class(1, (1, 1))) == 0


@pytest.mark.parametrize("kind", ["pixels", "contour"])
def test_empty_cases(kind):
    some, none = np.zeros((8, 8), bool), np.zeros((8, 8), bool)
    some[2:5, 2:5] = True
    asked = {"spacing": (1, 1), "tolerance": 1, "kind": kind}
    both = compare_surfaces(none, none, **asked)
    assert both.empty == "both"
    assert all(math.isnan(v) for v in (both.hd95, both.average_distance, both.boundary_f1))
    for prediction, reference, empty in ((none, some, "prediction"), (some, none, "reference")):
        one = compare_surfaces(prediction, reference, **asked)
        assert one.empty == empty
        assert one.hd95 == one.average_distance == math.inf
        assert one.boundary_f1 == one.surface_dice == 0
    far = compare_surfaces(some, np.roll(some, 3, axis=0), spacing=(9, 9), tolerance=1, kind=kind)
    assert 0 <= far.boundary_f1 < 1


def test_bad_input_is_refused():
    volume = np.zeros((3, 3, 3), bool)
    line = np.zeros(3, bool)
    with pytest.raises(UsageError, match="'contour' need 2 or 3 axes"):
        compare_surfaces(line, line, spacing=(1,), tolerance=1, kind="contour")
    with pytest.raises(UsageError, match="needs 3 values"):
        compare_surfaces(volume, volume, spacing=(1, 1), tolerance=1)

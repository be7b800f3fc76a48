"""A slide in blocks gives what the whole arrays give; readers are asked as promised."""

import math
import tracemalloc

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from random_masks import label_pair, mask_pair
from scipy import ndimage

from wsiseg.errors import LabelError, UsageError
from wsiseg.evaluate import (
    Case,
    EvaluationOptions,
    Masks,
    Objects,
    PointSet,
    compare_surfaces,
    evaluate_slide,
)
from wsiseg.evaluate.blocks import walk
from wsiseg.evaluate.case import Pair
from wsiseg.geometry import Box, Spacing

CLASSES = ("background", "Tumor", "Stroma", "Necrosis")
UM = Spacing((0.5, 0.75))


def reader(array):
    def read(box):
        assert box.clip(array.shape[: len(box.shape)]) == box, "asked outside the image"
        return array[box.slices()]

    return read


def masks_of(prediction, reference, **more):
    spacing = more.pop("spacing", UM)
    return Masks(
        shape=reference.shape,
        spacing=spacing,
        prediction=reader(prediction),
        reference=reader(reference),
        **more,
    )


def small_blocks(**more):
    return EvaluationOptions(block_pixels=4096, tolerance_um=2.0, **more)


def large_pair(seed, **more):
    return label_pair(seed, shape=(150, 140), **more)


@pytest.mark.parametrize("seed", range(5))
def test_figures_are_those_of_the_whole_arrays(seed):
    prediction, reference = large_pair(seed)
    case = Case(name="a", masks=masks_of(prediction, reference))
    found = evaluate_slide(case, CLASSES, options=small_blocks())
    for index, scores in enumerate(found.classes, start=1):
        assert scores.name == CLASSES[index]
        guess, truth = prediction == index, reference == index
        figures = scores.figures()
        dice = 2 * (guess & truth).sum() / (guess.sum() + truth.sum())
        assert figures["dice"] == pytest.approx(dice)
        assert figures["reference_um2"] == pytest.approx(truth.sum() * 0.5 * 0.75)
        surface = compare_surfaces(guess, truth, spacing=UM.um, tolerance=2.0)
        assert figures["hd95_um"] == pytest.approx(surface.hd95)
        assert figures["boundary_f1"] == pytest.approx(surface.boundary_f1)
        assert figures["average_distance_um"] == pytest.approx(surface.average_distance)
    assert found.mean()["dice"] == pytest.approx(
        np.mean([scores.overlap.dice for scores in found.classes])
    )


@settings(max_examples=15)
@given(
    seed=st.integers(0, 20),
    block=st.integers(4096, 40_000),
    edge=st.sampled_from(["closed", "open"]),
    kind=st.sampled_from(["pixels", "contour"]),
)
def test_blocks_do_not_matter(seed, block, edge, kind):
    prediction, reference = large_pair(seed, ignored=0.1)
    case = Case(name="a", masks=masks_of(prediction, reference))

    def figures(pixels):
        options = EvaluationOptions(block_pixels=pixels, edge=edge, boundary=kind, tolerance_um=2)
        return [
            scores.figures() for scores in evaluate_slide(case, CLASSES, options=options).classes
        ]

    for parts, whole in zip(figures(block), figures(1 << 20), strict=True):
        assert parts == pytest.approx(whole, nan_ok=True)


def test_a_volume_is_compared_along_three_axes():
    prediction, reference, spacing = mask_pair(3, axes=3)
    sides = prediction.astype(np.uint8), reference.astype(np.uint8)
    case = Case(name="ct", masks=masks_of(*sides, spacing=Spacing(spacing)))
    found = evaluate_slide(case, ("background", "liver"), options=small_blocks())
    expected = compare_surfaces(prediction, reference, spacing=spacing, tolerance=2.0)
    assert found.classes[0].surface.hd95 == pytest.approx(expected.hd95)
    assert found.sketch.reference.shape == reference.shape[1:]


def test_each_block_is_read_about_once():
    shape = (1000, 2500)
    asked = {}

    def read(box):
        asked[box] = asked.get(box, 0) + 1
        return np.zeros(box.shape, np.uint8)

    masks = Masks(shape=shape, spacing=UM, prediction=read, reference=reader(np.zeros(shape, "u1")))
    evaluate_slide(
        Case(name="a", masks=masks), CLASSES, options=EvaluationOptions(block_pixels=10_000)
    )
    assert sum(asked.values()) <= 1.3 * 10 * 25
    assert {box.shape for box in asked} == {(100, 100)}


def test_memory_does_not_grow_with_the_slide():
    def peak(shape):
        def read(box):  # one square, whatever the size of the slide
            inside = [(np.arange(a, b) >= 300) & (np.arange(a, b) < 700) for a, b in sides(box)]
            return np.outer(*inside).astype(np.uint8)

        masks = Masks(shape=shape, spacing=UM, prediction=read, reference=read)
        tracemalloc.start()
        options = EvaluationOptions(block_pixels=1 << 16)
        evaluate_slide(Case(name="a", masks=masks), CLASSES, options=options)
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    def sides(box):
        return zip(box.start, box.stop, strict=True)

    small = peak((1600, 1600))
    assert peak((1600, 16_000)) < 1.1 * small
    assert small < 16_000_000


def test_walk_partitions_the_image():
    seen = np.zeros((37, 210), int)
    for box in walk(seen.shape, 100):
        seen[box.slices()] += 1
    assert (seen == 1).all()


def test_what_nobody_knows_is_no_mistake_and_no_outline():
    reference = np.zeros((80, 80), np.uint8)
    reference[20:60, 20:60] = 1
    prediction = reference.copy()
    prediction[:, 40:] = 2  # wrong, but nobody knows there
    reference[:, 40:] = 255
    case = Case(name="a", masks=masks_of(prediction, reference))
    tumor, stroma, _ = evaluate_slide(case, CLASSES, options=small_blocks()).classes
    assert (tumor.overlap.dice, tumor.surface.hd95, tumor.surface.boundary_f1) == (1, 0, 1)
    assert (stroma.empty, stroma.surface.empty) == ("both", "both")
    assert math.isnan(stroma.figures()["dice"])


def test_no_answer_is_background():
    reference = np.ones((20, 20), np.uint8)
    prediction = np.full((20, 20), 255, np.uint8)
    case = Case(name="a", masks=masks_of(prediction, reference))
    tumor = evaluate_slide(case, CLASSES[:2], options=small_blocks()).classes[0]
    assert (tumor.empty, tumor.overlap.recall, tumor.surface.hd95) == ("prediction", 0, math.inf)


def test_probabilities_and_raters():
    prediction, reference = large_pair(2, ignored=0.1)
    probabilities = np.eye(4, dtype=np.float32)[prediction] * 0.7 + 0.075
    raters = reference, np.roll(reference, 3, axis=0), np.roll(reference, -3, axis=1)
    masks = masks_of(
        prediction,
        reference,
        probabilities=reader(probabilities),
        raters=tuple(reader(one) for one in raters),
    )
    found = evaluate_slide(Case(name="a", masks=masks), CLASSES, options=small_blocks())
    known = reference != 255
    right = (prediction == reference)[known].mean()
    assert found.calibration.scores().ece == pytest.approx(abs(right - 0.775), abs=1e-6)
    assert len(found.rater_calibrations) == 3
    figures = found.classes[0].figures()
    everybody = np.all([one != 255 for one in raters], axis=0)
    drawn = [(one[everybody] == 1).sum() * 0.375 for one in raters]
    assert found.classes[0].raters.rater_volumes == pytest.approx(drawn)
    assert 0 < figures["consensus_dice"] <= 1
    assert figures["crps_um2"] > 0


def test_objects_and_points():
    boxes = [shapely.box(10 * i, 0, 10 * i + 6, 6) for i in range(4)]
    truth = Objects(np.array(boxes, object), np.array([1, 1, 2, 2]))
    guess = Objects(np.array([boxes[0], boxes[3]], object), np.array([1, 1]))
    places = np.array([[0.0, 0], [30, 0], [60, 0]])
    points = Pair(PointSet(places + 3, np.array([1, 1, 2])), PointSet(places, np.array([1, 2, 2])))
    options = EvaluationOptions(point_tolerance_um=5, point_protocols=("patherea", "hungarian"))
    case = Case(name="a", objects=Pair(guess, truth), points=points)
    tumor, stroma = evaluate_slide(case, CLASSES[:3], options=options).classes
    assert (tumor.objects.true_positives, tumor.objects.false_positives) == (1, 1)
    assert stroma.figures()["pq"] == 0
    assert tumor.figures()["points_patherea_f1"] == pytest.approx(2 / 3)
    assert stroma.figures()["points_hungarian_f1"] == pytest.approx(2 / 3)
    assert "dice" not in tumor.figures()


def test_the_sketch_is_every_nth_pixel_and_knows_the_worst_place():
    rng = np.random.default_rng(0)
    reference = ndimage.zoom(rng.integers(0, 3, (17, 21)).astype(np.uint8), 100, order=0)
    prediction = reference.copy()
    prediction[1024:1280, 512:768] = 3
    case = Case(name="a", masks=masks_of(prediction, reference))
    sketch = evaluate_slide(case, CLASSES, options=EvaluationOptions(surfaces=False)).sketch
    assert sketch.step == 3
    np.testing.assert_array_equal(sketch.reference, reference[::3, ::3])
    np.testing.assert_array_equal(sketch.prediction, prediction[::3, ::3])
    assert (sketch.worst, sketch.wrong) == (Box((1024, 512), (1280, 768)), 256 * 256)


def test_bad_input_is_refused():
    good = np.zeros((30, 30), np.uint8)
    with pytest.raises(UsageError, match="a: nothing to compare"):
        evaluate_slide(Case(name="a"), CLASSES)
    for classes in (("background",), ("background", "Tumor", "Tumor")):
        with pytest.raises(UsageError, match="different classes"):
            evaluate_slide(Case(name="a", masks=masks_of(good, good)), classes)
    with pytest.raises(UsageError, match=r"a, prediction: needed labels uint8 \(30, 30\)"):
        evaluate_slide(Case(name="a", masks=masks_of(good.astype(int), good)), CLASSES)
    with pytest.raises(LabelError, match="the prediction holds label 9"):
        evaluate_slide(Case(name="a", masks=masks_of(good + 9, good)), CLASSES)
    with pytest.raises(UsageError, match="a size >= 1 and a spacing per axis"):
        Masks(shape=(3, 3, 3), spacing=UM, prediction=reader(good), reference=reader(good))
    with pytest.raises(UsageError, match="two or more, or none"):
        masks_of(good, good, raters=(reader(good),))
    for wrong in ({"tolerance_um": -1}, {"bins": 0}, {"confidence": 1}, {"block_pixels": 1}):
        with pytest.raises(UsageError, match="need"):
            EvaluationOptions(**wrong)

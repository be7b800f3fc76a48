"""Scans: files in, figures in mm and ml out, equal to those of other packages."""

import json
import warnings

import nibabel
import numpy as np
import panoptica
import pytest
import surface_distance
import torch
from monai.metrics import (
    compute_average_surface_distance,
    compute_hausdorff_distance,
    compute_surface_dice,
)
from random_masks import blobs, mask_pair
from scipy import integrate, ndimage, stats
from typer.testing import CliRunner
from wsiseg_cli.main import app

from wsiseg.errors import LabelError, UsageError
from wsiseg.evaluate import (
    compare_surfaces,
    crps_normal,
    evaluate_scans,
    find_pairs,
    scan_options,
)
from wsiseg.geometry import Affine
from wsiseg.source import open_volume
from wsiseg.volume.nifti import write_nifti

TOLERANCE = 1.5


@pytest.mark.parametrize("seed", range(50))
def test_surfaces_equal_surface_distance(seed):
    """50 pairs of random masks with voxels of any shape; distances to 1e-4 mm."""
    prediction, reference, spacing = mask_pair(seed, axes=3)
    found = compare_surfaces(
        prediction, reference, spacing=spacing, tolerance=TOLERANCE, kind="contour"
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # it calls SciPy by old names
        measured = surface_distance.compute_surface_distances(reference, prediction, spacing)
    means = surface_distance.compute_average_surface_distance(measured)
    areas = [measured[f"surfel_areas_{side}"].sum() for side in ("gt", "pred")]
    expected = {
        "hd95": surface_distance.compute_robust_hausdorff(measured, 95),
        "average_distance": np.average(means, weights=areas),
        "surface_dice": surface_distance.compute_surface_dice_at_tolerance(measured, TOLERANCE),
    }
    for name, value in expected.items():
        assert getattr(found, name) == pytest.approx(value, abs=1e-4), name


def write_pair(tmp_path, prediction, reference, spacing=(2.5, 0.8, 1.1), *, name="a"):
    """Write two label volumes; the prediction has other axes. Return the two folders."""
    affine = Affine.from_spacing(spacing, origin=(5, -7, 100))
    turn = affine.turn_to("PIR")
    turned = affine.turned(turn, prediction.shape)
    write_nifti(tmp_path / "labels" / f"{name}.nii.gz", reference, affine)
    write_nifti(tmp_path / "found" / f"{name}.nii.gz", turn.apply(prediction), turned)
    return tmp_path / "labels", tmp_path / "found"


def two_classes(seed, shape=(12, 30, 34)):
    rng = np.random.default_rng(seed)
    reference = blobs(rng, shape, share=0.25).astype(np.uint8)
    reference[blobs(rng, shape, share=0.1)] = 3
    prediction = np.roll(reference, 1, axis=2)
    prediction[blobs(rng, shape, share=0.03)] = 1
    return prediction, reference


@pytest.mark.filterwarnings("ignore::FutureWarning")  # MONAI warns of its own argument
@pytest.mark.parametrize("seed", range(6))
def test_files_give_the_figures_of_monai_in_mm(tmp_path, seed):
    prediction, reference = two_classes(seed)
    spacing = (2.5, 0.8, 1.1)
    folders = write_pair(tmp_path, prediction, reference, spacing)
    options = scan_options(tolerance_mm=TOLERANCE)
    evaluation = evaluate_scans(find_pairs(*folders), options=options)
    assert evaluation.classes == ("background", "label 1", "label 3")
    (scan,) = evaluation.slides
    for scores, value in zip(scan.classes, (1, 3), strict=True):
        sides = [torch.tensor((s == value)[None, None]).float() for s in (prediction, reference)]
        asked = {"include_background": True, "spacing": spacing}
        figures = scores.figures()
        for name, expected in (
            ("hd95_mm", compute_hausdorff_distance(*sides, percentile=95, **asked)),
            (
                "average_distance_mm",
                compute_average_surface_distance(*sides, symmetric=True, **asked),
            ),
            ("surface_dice", compute_surface_dice(*sides, [TOLERANCE], **asked)),
        ):
            assert figures[name] == pytest.approx(float(expected), abs=1e-4), name
        a, b = prediction == value, reference == value
        assert figures["dice"] == pytest.approx(2 * (a & b).sum() / (a.sum() + b.sum()), abs=1e-9)
        assert figures["reference_ml"] == pytest.approx(b.sum() * np.prod(spacing) / 1000)


def cc3d_is_there():
    try:
        import cc3d  # noqa: F401
    except ImportError:
        return False
    return True


@pytest.mark.filterwarnings("ignore")  # panoptica warns of many things
@pytest.mark.parametrize("seed", range(8))
def test_lesions_equal_panoptica(tmp_path, seed):
    prediction, reference = two_classes(seed)
    evaluation = evaluate_scans(find_pairs(*write_pair(tmp_path, prediction, reference)))
    backend = panoptica.utils.constants.CCABackend.cc3d if cc3d_is_there() else None
    (scan,) = evaluation.slides
    for scores, value in zip(scan.classes, (1, 3), strict=True):
        sides = [(s == value).astype(np.uint8) for s in (prediction, reference)]
        kind = panoptica.InputType.SEMANTIC
        options = {
            "instance_approximator": panoptica.ConnectedComponentsInstanceApproximator(backend)
        }
        if backend is None:  # its other backend has another connectivity
            sides = [ndimage.label(s, np.ones((3, 3, 3)))[0].astype(np.uint16) for s in sides]
            kind, options = panoptica.InputType.UNMATCHED_INSTANCE, {}
        evaluator = panoptica.Panoptica_Evaluator(
            expected_input=kind,
            instance_matcher=panoptica.NaiveThresholdMatching(
                matching_threshold=0.5, strict_threshold=True
            ),
            instance_metrics=[panoptica.Metric.IOU],
            global_metrics=[],
            **options,
        )
        theirs = evaluator.evaluate(*sides, verbose=False)["ungrouped"]
        found = scores.objects
        assert (found.true_positives, found.false_positives, found.false_negatives) == (
            theirs.tp,
            theirs.fp,
            theirs.fn,
        )
        figures = scores.figures()
        assert figures["lesion_f1"] == pytest.approx(theirs.rq, abs=1e-9)
        assert figures["lesion_recall"] == pytest.approx(theirs.tp / (theirs.tp + theirs.fn))
        if theirs.tp:
            assert figures["sq"] == pytest.approx(theirs.sq, abs=1e-6)


@pytest.mark.parametrize("seed", range(20))
def test_crps_equals_the_integral_to_a_millionth(seed):
    rng = np.random.default_rng(seed)
    value, mean, std = rng.uniform(-8, 8), rng.uniform(-5, 5), rng.uniform(0.1, 4)
    low, high = min(value, mean) - 12 * std, max(value, mean) + 12 * std
    below = integrate.quad(lambda x: stats.norm.cdf(x, mean, std) ** 2, low, value, limit=400)[0]
    above = integrate.quad(lambda x: stats.norm.sf(x, mean, std) ** 2, value, high, limit=400)[0]
    assert crps_normal(value, mean, std) == pytest.approx(below + above, abs=1e-6)


def test_probabilities_are_calibrated_and_raters_told_apart(tmp_path):
    prediction, reference = two_classes(1)
    reference[reference == 3] = prediction[prediction == 3] = 0
    folders = write_pair(tmp_path, prediction, reference)
    rng = np.random.default_rng(0)
    chance = rng.random(reference.shape).astype(np.float32)
    affine = Affine.from_spacing((2.5, 0.8, 1.1), origin=(5, -7, 100))
    write_nifti(folders[1] / "a_probabilities.nii.gz", chance[..., None], affine)
    for name, step in (("b", 1), ("c", 2)):
        write_nifti(tmp_path / name / "a.nii.gz", np.roll(reference, step, axis=1), affine)
    pairs = find_pairs(*folders, raters=[tmp_path / "b", tmp_path / "c"])
    evaluation = evaluate_scans(pairs, classes=["background", "lesion"])
    sure, right = np.maximum(chance, 1 - chance), (chance > 0.5) == (reference == 1)
    place = np.minimum((sure.astype(np.float64) * 50).astype(int), 49)
    gaps = [
        abs(right[place == b].sum() - sure[place == b].sum(dtype=np.float64)) for b in range(50)
    ]
    assert evaluation.calibration().ece == pytest.approx(sum(gaps) / sure.size, abs=1e-6)
    (scores,) = evaluation.slides[0].classes
    voxel = 2.5 * 0.8 * 1.1 / 1000
    drawn = reference.sum() * voxel  # all three have the same volume
    assert scores.figures()["crps_ml"] == pytest.approx(
        abs(chance.sum(dtype=np.float64) * voxel - drawn), rel=1e-5
    )


def test_empty_sides_are_defined(tmp_path):
    empty, full = np.zeros((5, 6, 7), np.uint8), np.zeros((5, 6, 7), np.uint8)
    full[1:3, 2:4, 2:5] = 1
    for name, sides in {
        "both": (empty, empty),
        "found": (full, empty),
        "lost": (empty, full),
    }.items():
        folders = write_pair(tmp_path, *sides, name=name)
    evaluation = evaluate_scans(find_pairs(*folders))
    found = {scan.name: scan.classes[0].figures() for scan in evaluation.slides}
    assert np.isnan(found["both"]["dice"])
    assert np.isnan(found["both"]["hd95_mm"])
    assert found["lost"]["dice"] == found["found"]["dice"] == 0
    assert found["lost"]["hd95_mm"] == found["found"]["hd95_mm"] == np.inf
    assert (found["lost"]["lesion_recall"], found["found"]["lesion_precision"]) == (0, 0)
    assert np.isnan(found["lost"]["lesion_precision"])
    alone = evaluate_scans(find_pairs(folders[0] / "both.nii.gz", folders[1] / "both.nii.gz"))
    assert alone.classes == ("background", "label 1")


def test_what_does_not_fit_is_refused(tmp_path):
    prediction, reference = two_classes(0)
    labels, found = write_pair(tmp_path, prediction, reference)
    affine = Affine.from_spacing((2.5, 0.8, 1.1), origin=(5, -7, 101))
    write_nifti(tmp_path / "moved" / "a.nii.gz", prediction, affine)
    with pytest.raises(UsageError, match="needed the same voxels"):
        evaluate_scans(find_pairs(labels, tmp_path / "moved"))
    with pytest.raises(UsageError, match="no labels of a"):
        find_pairs(labels, tmp_path)
    with pytest.raises(UsageError, match="no label volume"):
        find_pairs(tmp_path / "nothing", found)
    with pytest.raises(LabelError, match="holds label 3"):
        evaluate_scans(find_pairs(labels, found), classes=["background", "one"])
    write_nifti(tmp_path / "soft" / "a.nii.gz", prediction * np.float32(0.3), affine)
    with pytest.raises(LabelError, match="whole numbers"):
        evaluate_scans(find_pairs(labels, tmp_path / "soft"))


def test_the_command(tmp_path):
    prediction, reference = two_classes(2)
    labels, found = write_pair(tmp_path, prediction, reference)
    (found / "a").mkdir()
    (found / "a.nii.gz").rename(found / "a" / "labels.nii.gz")  # as `segment` writes it
    out = tmp_path / "report"
    names = "background,tumour,two,node"
    asked = ["evaluate", str(labels), str(found), "--out", str(out), "--classes", names]
    done = CliRunner().invoke(app, asked)
    assert done.exit_code == 0, done.output
    assert "tumour: dice" in done.output
    assert "tumour: hd95_mm" in done.output
    told = json.loads((out / "evaluation.json").read_bytes())
    assert told["slides"][0]["classes"]["node"]["lesion_f1"] is not None
    page = (out / "evaluation.html").read_text()
    assert "Evaluation of 1 scan" in page
    assert "HD95, mm" in page
    assert "26-connectivity" in page
    assert "µm" not in page.split("Points match")[0]
    assert "hd95_mm" in (out / "evaluation.csv").read_text().splitlines()[0]


def test_spines_of_panoptica(data_dir):
    """A real pair, with the Dice of nibabel's arrays."""
    folder = data_dir / "volumes" / "panoptica" / "examples" / "spine_seg" / "semantic"
    evaluation = evaluate_scans(find_pairs(folder / "ref.nii.gz", folder / "pred.nii.gz"))
    sides = [np.asarray(nibabel.load(folder / f"{n}.nii.gz").dataobj) for n in ("pred", "ref")]
    for scores in evaluation.slides[0].classes:
        value = int(scores.name.removeprefix("label "))
        a, b = (side == value for side in sides)
        assert scores.overlap.dice == pytest.approx(2 * (a & b).sum() / (a.sum() + b.sum()))


def test_real_cords(data_dir):
    """Two programs' outlines of a spinal cord, stored with axes PSR."""
    folder = data_dir / "volumes" / "sct_testing_data" / "t2"
    pair = find_pairs(folder / "t2_seg-manual.nii.gz", folder / "t2_seg-deepseg_sc-2d.nii.gz")
    figures = evaluate_scans(pair).slides[0].classes[0].figures()
    with open_volume(folder / "t2_seg-manual.nii.gz") as volume:
        assert volume.affine.orientation == "PSR"
    assert figures["dice"] > 0.9
    assert figures["hd95_mm"] < 2
    assert figures["lesion_f1"] == 1

"""A scan from file to labels: on its own grid, the same whatever its axes, by the one command."""

import json

import nibabel as nib
import numpy as np
import pytest
from typer.testing import CliRunner
from wsiseg_cli.main import app

from wsiseg.errors import ModelError, UsageError
from wsiseg.geometry import Affine
from wsiseg.model import load_model
from wsiseg.options import RunOptions
from wsiseg.scans import plan_of_scan, segment_scan
from wsiseg.source import open_volume
from wsiseg.testing.scan_models import LEVELS, make_scan_model

SHAPE = (24, 30, 36)
SPACING_MM = (3.0, 1.5, 1.0)


def blob(shape=SHAPE, spacing=SPACING_MM):
    """Return a bright ball that fades, off the centre so that no flip is the same."""
    places = [
        (np.arange(n) - n * share) * mm
        for n, share, mm in zip(shape, (0.4, 0.55, 0.6), spacing, strict=True)
    ]
    z, y, x = np.meshgrid(*places, indexing="ij", sparse=True)
    return np.exp(-(z * z + y * y + x * x) / 200).astype(np.float32)


def expected_labels(values):
    return (values > LEVELS[0]).astype(int) + (values > LEVELS[1])


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return load_model(make_scan_model(tmp_path_factory.mktemp("model") / "m"))


@pytest.fixture
def scan_file(tmp_path):
    affine = Affine.from_spacing(SPACING_MM, (5.0, -7.0, 11.0)).to_nifti()
    image = nib.Nifti1Image(blob().transpose(2, 1, 0), affine)
    image.set_qform(affine, 1)
    image.set_sform(affine, 4)
    nib.save(image, tmp_path / "scan.nii.gz")
    return tmp_path / "scan.nii.gz"


def test_labels_as_stored_where_nothing_is_resampled(tmp_path):
    package = make_scan_model(tmp_path / "m", spacing_mm=None)
    values = blob()
    scan = open_volume(values, affine=Affine.from_spacing(SPACING_MM))
    result = segment_scan(scan, package)
    assert np.array_equal(result.labels, expected_labels(values))


def test_files_lie_on_the_scan(scan_file, model, tmp_path):
    result = segment_scan(scan_file, model)
    folder = result.write(tmp_path / "out")
    found, scan = nib.load(folder / "labels.nii.gz"), nib.load(scan_file)
    assert np.array_equal(found.affine, scan.affine)
    assert found.header["sform_code"] == 4
    assert found.shape == scan.shape
    assert found.get_data_dtype() == np.uint8
    labels = np.asarray(found.dataobj).transpose(2, 1, 0)
    assert np.array_equal(labels, result.labels)
    wanted = expected_labels(blob())
    for k in (1, 2):
        mine, theirs = labels >= k, wanted >= k
        assert 2 * (mine & theirs).sum() / (mine.sum() + theirs.sum()) > 0.95
    record = json.loads((folder / "run.json").read_text())
    assert record["plan"]["stages"][0]["memory"] == "slab"
    ml = np.bincount(labels.ravel(), minlength=3) * np.prod(SPACING_MM) / 1000
    assert record["summary"]["bright_ml"] == pytest.approx(ml[2], abs=1e-6)


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 0, 2)])
def test_the_same_whatever_the_axes(model, order):
    """The file's order and direction of axes do not change where labels lie."""
    values, affine = blob(), Affine.from_spacing(SPACING_MM)
    straight = segment_scan(open_volume(values, affine=affine), model).labels
    for flips in ((0, 2), (1,)):
        turned, columns = values.transpose(order), [affine.columns[axis] for axis in order]
        origin = np.array(affine.origin)
        for axis in flips:
            origin = origin + (turned.shape[axis] - 1) * np.array(columns[axis])
            columns[axis] = tuple(-value for value in columns[axis])
        turned = np.ascontiguousarray(np.flip(turned, flips))
        scan = open_volume(turned, affine=Affine.from_columns(columns, origin.tolist()))
        found = np.flip(segment_scan(scan, model).labels, flips)
        assert np.array_equal(found, straight.transpose(order))


def test_batches_and_threads_change_nothing(model):
    scan = open_volume(blob(), affine=Affine.from_spacing(SPACING_MM))
    results = [
        segment_scan(scan, model, options=RunOptions(batch_size=batch, threads=threads)).labels
        for batch, threads in ((1, 1), (3, 1), (1, 2))
    ]
    assert all(np.array_equal(one, results[0]) for one in results[1:])


def test_transposed_networks_see_other_axes(tmp_path):
    package = make_scan_model(
        tmp_path / "m",
        patch=(32, 32, 16),
        spacing_mm=(1.0, 1.5, 3.0),
        card={"scan": {"orientation": "RAS", "transpose": [2, 1, 0]}},
    )
    values = blob()
    result = segment_scan(open_volume(values, affine=Affine.from_spacing(SPACING_MM)), package)
    assert result.scan.whole == SHAPE[::-1]
    assert np.array_equal(result.labels, expected_labels(values))


def test_crop_to_nonzero_leaves_the_rest_background(tmp_path):
    package = make_scan_model(
        tmp_path / "m", spacing_mm=None, card={"scan": {"crop": {"to": "nonzero"}}}
    )
    values = np.zeros(SHAPE, np.float32)
    values[5:20, 4:28, 7:30] = 0.1 + blob()[5:20, 4:28, 7:30]
    result = segment_scan(open_volume(values, affine=Affine.from_spacing(SPACING_MM)), package)
    assert (result.scan.box.start, result.scan.box.stop) == ((5, 4, 7), (20, 28, 30))
    assert np.array_equal(result.labels, expected_labels(np.clip(values, 0, 1)))


def test_windows_outside_of_the_body_are_left_out(tmp_path):
    """What is in the body does not change, and outside of it there is nothing."""
    shape, spacing = (40, 60, 120), (2.0, 1.5, 1.5)
    values = np.zeros(shape, np.float32)
    values[4:36, 10:50, 70:114] = 0.5 + blob((32, 40, 44)) / 2
    values[4:14, 10:14, 30:71] = 0.6  # an arm, so that the box holds much air
    scan = open_volume(values, affine=Affine.from_spacing(spacing))
    crop = {"to": "body", "threshold": 0.4, "margin_mm": 0.0}
    results = {}
    for skip in (False, True):
        given = {"scan": {"crop": crop | {"skip_windows": skip}}}
        package = make_scan_model(
            tmp_path / f"m{skip}", patch=(8, 16, 16), spacing_mm=(2.5, 2.0, 2.0), card=given
        )
        results[skip] = segment_scan(scan, package)
    whole, part = results[False], results[True]
    assert part.plan.stages[0].windows < 0.8 * whole.plan.stages[0].windows
    assert np.array_equal(part.labels, whole.labels)


def test_folds_and_mirrors_are_one_mean(tmp_path):
    package = make_scan_model(tmp_path / "m", spacing_mm=None)
    card = json.loads((package / "model.json").read_text())
    (stage,) = card["stages"]
    stage["folds"] = [stage["weights"]]
    stage["mirror_axes"] = [0, 2]
    (package / "model.json").write_text(json.dumps(card))
    values = blob()
    result = segment_scan(open_volume(values, affine=Affine.from_spacing(SPACING_MM)), package)
    assert result.plan.stages[0].folds == 2
    assert result.plan.stages[0].views == 4
    assert np.array_equal(result.labels, expected_labels(values))


def test_whole_and_slab_views(tmp_path):
    for extent, patch in (("whole", (24, 32, 32)), ("slab", (8, 32, 32))):
        package = make_scan_model(
            tmp_path / extent,
            patch=patch,
            spacing_mm=None,
            stage={"extent": extent, "windows": None},
            output={"blend": "crop"},
        )
        values = blob()
        scan = open_volume(values, affine=Affine.from_spacing(SPACING_MM))
        result = segment_scan(scan, package)
        assert result.plan.stages[0].windows == (1 if extent == "whole" else 3)
        wanted = expected_labels(values)
        assert (result.labels != wanted).mean() < 0.01


def test_refusals(model, tmp_path):
    two = open_volume(np.zeros((*SHAPE, 3), np.uint8), affine=Affine.from_spacing(SPACING_MM))
    with pytest.raises(UsageError, match="channels"):
        segment_scan(two, model)
    scan = open_volume(blob(), affine=Affine.from_spacing(SPACING_MM))
    with pytest.raises(ModelError, match="slides"):
        plan_of_scan(scan, "breast-tumour-demo")


def test_command_over_a_folder(scan_file, tmp_path):
    package = make_scan_model(tmp_path / "m")
    out = tmp_path / "out"
    command = ["segment", str(tmp_path), "--model", str(package), "--out", str(out)]
    first = CliRunner().invoke(app, command)
    assert first.exit_code == 0, first.output
    assert (out / "scan" / "labels.nii.gz").is_file()
    assert "bright_ml" in (out / "summary.csv").read_text()
    again = CliRunner().invoke(app, command)
    assert "1 before" in again.output
    planned = CliRunner().invoke(app, [*command[:4], "--plan"])
    assert planned.exit_code == 0
    assert "windows of 16 x 32 x 32 voxels" in planned.output


def test_a_folder_of_scans_needs_no_model(scan_file, tmp_path):
    """The demonstration is chosen by what is in the folder, as it is for a file."""
    (tmp_path / "notes.txt").write_text("no scan")
    out = tmp_path / "out"
    done = CliRunner().invoke(app, ["segment", str(tmp_path), "--out", str(out)])
    assert done.exit_code == 0, done.output
    assert (out / "scan" / "labels.nii.gz").is_file()
    (tmp_path / "empty").mkdir()
    nothing = CliRunner().invoke(app, ["segment", str(tmp_path / "empty"), "--out", str(out)])
    assert isinstance(nothing.exception, UsageError)
    assert "no slides in" in str(nothing.exception)


def test_bundled_model_finds_the_cord(data_dir, tmp_path):
    """On a scan it learned from: that package, preparation and export fit together."""
    folder = data_dir / "volumes" / "sct_testing_data" / "t2"
    out = tmp_path / "out"
    done = CliRunner().invoke(app, ["segment", str(folder / "t2.nii.gz"), "--out", str(out)])
    assert done.exit_code == 0, done.output
    found = np.asarray(nib.load(out / "t2" / "labels.nii.gz").dataobj) == 1
    truth = np.asarray(nib.load(folder / "t2_seg-manual.nii.gz").dataobj) > 0
    assert 2 * (found & truth).sum() / (found.sum() + truth.sum()) > 0.9

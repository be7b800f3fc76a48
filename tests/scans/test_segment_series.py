"""`wsiseg segment` on DICOM series: defects fail by name, and the options that accept them."""

import csv
import shutil

import nibabel as nib
import numpy as np
import pytest
from typer.testing import CliRunner
from wsiseg_cli.main import app

from wsiseg.geometry import Affine
from wsiseg.testing.scan_models import make_scan_model
from wsiseg.testing.scans import SERIES, write_series

pytest.importorskip("pydicom")

VOXELS = np.zeros((10, 20, 24), np.int16)
VOXELS[3:7, 5:12, 6:15] = 1
STRAIGHT = Affine.from_spacing((3.0, 1.5, 1.5))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model") / "m"
    return make_scan_model(folder, spacing_mm=None)


def run(*arguments):
    return CliRunner().invoke(app, ["segment", *map(str, arguments), "--quiet"])


def leaning():
    matrix = STRAIGHT.to_nifti()
    matrix[1, 2] = 0.9
    return Affine.from_nifti(matrix)


def error_of(out):
    with (out / "failures.csv").open() as table:
        return next(csv.DictReader(table))


def test_a_tilted_series_needs_its_option(tmp_path, model):
    write_series(tmp_path / "ct", VOXELS, leaning())
    out = tmp_path / "out"
    assert run(tmp_path / "ct", "-m", model, "-o", out).exit_code == 1
    assert "gantry tilt" in " ".join(error_of(out).values())
    done = run(tmp_path / "ct", "-m", model, "-o", out, "--tilt", "shear")
    assert done.exit_code == 0, done.output
    labels = nib.load(out / "ct" / "labels.nii.gz")
    stored = Affine.from_nifti(labels.affine)
    turn = stored.turn_to("RAS")
    assert stored.turned(turn, labels.shape[::-1]).is_close(leaning(), 1e-4)
    assert np.array_equal(turn.apply(np.asarray(labels.dataobj).T) > 0, VOXELS > 0)


def test_gaps_and_series_by_option(tmp_path, model):
    write_series(tmp_path / "ct", VOXELS, STRAIGHT, edit=lambda _, index: index != 5)
    for path in write_series(tmp_path / "b", VOXELS, STRAIGHT, series="1.2.5"):
        shutil.move(path, tmp_path / "ct" / f"b-{path.name}")
    out, given = tmp_path / "out", (tmp_path / "ct", "-m", model, "-o", tmp_path / "out")
    assert run(*given).exit_code == 1
    assert "--series" in " ".join(error_of(out).values())
    assert run(*given, "--series", SERIES).exit_code == 1
    assert "1 missing" in " ".join(error_of(out).values())
    done = run(*given, "--series", SERIES, "--allow-gap")
    assert done.exit_code == 0, done.output
    assert nib.load(out / "ct" / "labels.nii.gz").shape == (24, 20, 10)

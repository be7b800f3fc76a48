"""What stands beside the labels of a scan, and what becomes of it: export, evaluation."""

import csv
import io
import json

import nibabel as nib
import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner
from wsiseg_cli.main import app

from wsiseg.exchange import FinishedScan, export_result
from wsiseg.geometry import Affine
from wsiseg.scans import segment_scan
from wsiseg.testing.scan_models import make_scan_model


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Return the folder of a segmented ball, and the result."""
    folder = tmp_path_factory.mktemp("files")
    affine = Affine.from_spacing((3.0, 1.5, 1.0), (5.0, -7.0, 11.0))
    z, y, x = np.indices((20, 28, 30)).astype(np.float32)
    values = np.exp(-((3 * z - 30) ** 2 + (1.5 * y - 20) ** 2 + (x - 15) ** 2) / 200)
    image = nib.Nifti1Image(values.astype(np.float32).T, affine.to_nifti())
    nib.save(image, folder / "scan.nii.gz")
    result = segment_scan(folder / "scan.nii.gz", make_scan_model(folder / "model"))
    return result.write(folder / "out"), result


def test_figures_and_a_picture_stand_beside_the_labels(written):
    folder, result = written
    names = {path.name for path in folder.iterdir()}
    assert names >= {"labels.nii.gz", "statistics.json", "statistics.csv", "preview.png"}
    told = json.loads((folder / "statistics.json").read_bytes())
    ml = {one["name"]: one["volume_ml"] for one in told["classes"]}
    assert ml == pytest.approx(result.volumes_ml())
    rows = list(csv.DictReader(io.StringIO((folder / "statistics.csv").read_text())))
    assert {row["class"] for row in rows} == set(ml)
    with Image.open(folder / "preview.png") as picture:
        assert min(picture.size) > 200
    assert told["about"]["scan"] == "scan.nii.gz"


def test_the_same_run_gives_the_same_files(written, tmp_path):
    folder, result = written
    again = result.write(tmp_path)
    for name in ("labels.nii.gz", "statistics.json", "statistics.csv", "preview.png"):
        assert (again / name).read_bytes() == (folder / name).read_bytes(), name


def test_results_are_exported_and_evaluated(written, tmp_path):
    folder, result = written
    scan = FinishedScan(folder)
    assert [(one.value, one.name) for one in scan.classes] == [
        (one.value, one.name) for one in result.classes
    ]
    assert export_result(folder, "stl", tmp_path / "e").objects == len(scan.classes)
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "scan.nii.gz").write_bytes((folder / "labels.nii.gz").read_bytes())
    asked = ["evaluate", str(tmp_path / "labels"), str(folder.parent), "--out", str(tmp_path / "r")]
    done = CliRunner().invoke(app, asked)
    assert done.exit_code == 0, done.output
    assert "dice 1.0000" in done.output


def test_the_report_of_a_scan(written):
    folder, result = written
    for asked in (folder, folder.parent):
        done = CliRunner().invoke(app, ["report", str(asked)])
        assert done.exit_code == 0, done.output
        assert str(folder / "report.html") in done.output.replace("\n", "")
    page = (folder / "report.html").read_text()
    text = (folder / "report.txt").read_text()
    for one in result.classes:
        assert one.name in page
        assert one.name.upper() in text
    assert result.model.card.name in page
    assert (folder / "report.csv").read_bytes()

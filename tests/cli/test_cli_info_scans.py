"""`wsiseg info` on scans: what it prints, and how it exits."""

import json
import shutil
from pathlib import Path

import nibabel
import numpy as np
import pytest
from typer.testing import CliRunner
from wsiseg_cli.main import app

from wsiseg.geometry import Affine
from wsiseg.testing.scans import write_series
from wsiseg.testing.slides import make_svs, tissue_disc

VOXELS = np.arange(6 * 7 * 8, dtype=np.int16).reshape(6, 7, 8)
AFFINE = Affine.from_spacing((2.0, 0.8, 0.7))


def run(*arguments):
    return CliRunner().invoke(app, ["info", *map(str, arguments)])


@pytest.fixture
def scan(tmp_path: Path) -> Path:
    path = tmp_path / "scans" / "scan.nii.gz"
    path.parent.mkdir()
    nibabel.Nifti1Image(VOXELS.T, AFFINE.to_nifti()).to_filename(path)
    return path


def test_a_volume(scan: Path):
    done = run(scan)
    assert done.exit_code == 0, done.output
    for words in ("8 x 7 x 6", "0.7 x 0.8 x 2", "RAS", "int16", "nifti"):
        assert words in done.stdout
    record = json.loads(run(scan, "--json").stdout)
    assert record["shape"] == [8, 7, 6]
    assert record["spacing_mm"] == pytest.approx([0.7, 0.8, 2.0])
    assert record["orientation"] == "RAS"
    assert record["problems"] == []


def test_a_folder_of_scans_and_slides(scan: Path):
    pixels, _ = tissue_disc((300, 400))
    make_svs(scan.parent / "slide.svs", pixels, levels=(1,), mpp=0.5)
    (scan.parent / "preview.png").write_bytes(b"not looked at")
    write_series(scan.parent / "series", VOXELS, AFFINE)
    (scan.parent / "preview.png").unlink()
    done = run(scan.parent, "--json")
    assert done.exit_code == 0, done.output
    names = [json.loads(line)["name"] for line in done.stdout.splitlines()]
    assert names == ["scan.nii.gz", "series", "slide.svs"]


def test_globs_name_scans(scan: Path):
    done = run(f"{scan.parent}/*.nii.gz", "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["name"] == "scan.nii.gz"


def test_a_dicom_folder_lists_its_series_and_their_defects(tmp_path: Path):
    pytest.importorskip("pydicom")
    write_series(tmp_path / "ct", VOXELS, AFFINE)
    assert run(tmp_path / "ct").exit_code == 0
    lean = write_series(
        tmp_path / "b", VOXELS, AFFINE, series="1.2.5", edit=lambda _, index: index != 3
    )
    for path in lean:
        shutil.move(path, tmp_path / "ct" / f"b-{path.name}")
    done = run(tmp_path / "ct")
    assert done.exit_code == 1
    assert "MissingSlicesError" in done.stdout
    assert "--allow-gap" in done.stdout
    assert done.stdout.count("CT Image Storage") == 2
    for secret in ("Nobody", "Hospital", "typed"):
        assert secret not in done.stdout
    assert run(tmp_path / "ct", "--allow-gap").exit_code == 0
    assert run(tmp_path / "ct", "--series", "1.2.5").exit_code == 1
    records = [json.loads(line) for line in run(tmp_path / "ct", "--json").stdout.splitlines()]
    assert [len(one["problems"]) for one in records] == [0, 1]


def test_a_damaged_scan_fails_in_one_line(scan: Path):
    scan.write_bytes(scan.read_bytes()[:40])
    done = run(scan)
    assert done.exit_code == 1
    assert len(done.stderr.strip().splitlines()) == 1


def test_a_tilt_needs_its_option(tmp_path: Path):
    pytest.importorskip("pydicom")
    matrix = AFFINE.to_lps()
    matrix[1, 2] = 0.6
    write_series(tmp_path / "ct", VOXELS, Affine.from_lps(matrix))
    assert "gantry tilt" in run(tmp_path / "ct").stdout
    assert run(tmp_path / "ct", "--tilt", "shear").exit_code == 0
    assert run(tmp_path / "ct", "--tilt", "guess").exit_code == 2

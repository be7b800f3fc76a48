"""The run on a scan repeated from its record: the same bytes, with channels, priors and blocks."""

import json

import nibabel as nib
import numpy as np
import pytest

from wsiseg.errors import RunError
from wsiseg.geometry import Affine
from wsiseg.model import load_model
from wsiseg.options import RunOptions
from wsiseg.run.replay import replay
from wsiseg.scans import segment_scan
from wsiseg.testing.scan_models import make_scan_model

SHAPE = (20, 36, 40)


def save(path, array, spacing=(2.0, 2.0, 2.0)):
    affine = Affine.from_spacing(spacing).to_nifti()
    nib.save(nib.Nifti1Image(array.transpose(2, 1, 0), affine), path)
    return path


def image(seed, shape=SHAPE):
    return np.random.default_rng(seed).random(shape, dtype=np.float32)


@pytest.fixture
def place(tmp_path):
    """A scan, its model, and a run in blocks with probabilities."""
    package = make_scan_model(tmp_path / "model", patch=(8, 16, 16), spacing_mm=(1.7, 2.0, 2.3))
    scan = save(tmp_path / "scan.nii.gz", image(1))
    result = segment_scan(
        scan,
        load_model(package),
        options=RunOptions(memory_plan="blocks", batch_size=3),
        probabilities=["bright"],
    )
    result.write(tmp_path / "out", name="scan")
    return tmp_path


def test_a_scan_is_repeated_to_the_byte(place):
    report = replay(place / "out" / "scan", place / "again")
    assert report.is_identical
    assert report.circumstances == ()
    assert set(report.same) == {
        "labels.nii.gz",
        "preview.png",
        "probabilities.nii.gz",
        "statistics.csv",
        "statistics.json",
    }
    then, now = (
        json.loads((place / name / "scan" / "run.json").read_bytes()) for name in ("out", "again")
    )
    assert then["plan"]["stages"][0]["blocks"] > 1
    assert then["plan"]["stages"][0]["pace"]["batch_size"] == 3
    for key in ("pace", "memory", "blocks"):
        assert now["plan"]["stages"][0][key] == then["plan"]["stages"][0][key]


def test_what_differs_is_said(place):
    labels = place / "out" / "scan" / "labels.nii.gz"
    labels.write_bytes(labels.read_bytes() + b"\0")
    report = replay(place / "out" / "scan", place / "again")
    assert [one.name for one in report.differences] == ["labels.nii.gz"]


def test_another_scan_is_refused_and_a_moved_one_named(place):
    (place / "scan.nii.gz").rename(place / "moved.nii.gz")
    with pytest.raises(RunError, match="is not there; needed the scan of the run: give --slide"):
        replay(place / "out" / "scan", place / "again")
    other = save(place / "other.nii.gz", image(2))
    with pytest.raises(RunError, match="is not the scan of the run"):
        replay(place / "out" / "scan", place / "again", slide=other)
    report = replay(place / "out" / "scan", place / "again", slide=place / "moved.nii.gz")
    assert "labels.nii.gz" in report.same
    assert report.circumstances == ("name of the slide: scan.nii.gz then, moved.nii.gz now",)


def test_channels_and_priors_are_read_again(tmp_path):
    package = make_scan_model(
        tmp_path / "model", patch=(8, 16, 16), spacing_mm=None, reads={"channels": ["value"]}
    )
    card = json.loads((package / "model.json").read_text())
    (stage,) = card["stages"]
    other = {**stage["inputs"][0], "channels": ["lungs"]}
    output = {**stage["output"], "name": "more"}
    card["stages"] = [stage, {**stage, "name": "more", "inputs": [other], "output": output}]
    (package / "model.json").write_text(json.dumps(card))
    with np.load(package / "check.npz") as arrays:
        check = dict(arrays)
    check |= {name.replace("bright.", "more."): value for name, value in check.items()}
    np.savez(package / "check.npz", **check)
    scan = save(tmp_path / "scan.nii.gz", image(1))
    prior = save(tmp_path / "lungs.nii.gz", image(2, (16, 30, 44)), (3.0, 2.5, 2.0))
    result = segment_scan(scan, load_model(package), priors={"lungs": prior})
    assert result.labels.any()
    result.write(tmp_path / "out", name="scan")
    report = replay(tmp_path / "out" / "scan", tmp_path / "again")
    assert report.is_identical, report.differences

"""Scans of several channels, and priors: by number, by name, in a table, on other grids."""

import json

import nibabel as nib
import numpy as np
import pytest
import torch
from typer.testing import CliRunner
from wsiseg_cli.main import app

import wsiseg
from wsiseg.errors import UsageError
from wsiseg.geometry import Affine, Box
from wsiseg.model import networks, write_package
from wsiseg.options import RunOptions, SegmentOptions
from wsiseg.run import SlideJob, list_slides, scan_of_channels
from wsiseg.source import open_recorded, open_volume
from wsiseg.testing.scan_models import CARD, make_scan_model
from wsiseg.volume.regrid import on_grid_of

SHAPE = (12, 16, 20)
RUN = RunOptions(backend="torch", threads=1)


def save(path, array, spacing=(2.0, 2.0, 2.0), origin=(0.0, 0.0, 0.0)):
    affine = Affine.from_spacing(spacing, origin).to_nifti()
    nib.save(nib.Nifti1Image(array.transpose(2, 1, 0), affine), path)
    return path


def image(seed):
    return np.random.default_rng(seed).random(SHAPE, dtype=np.float32)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Return the package of a network with random weights that reads T1 and mask."""
    stage = {
        "name": "mask",
        "kind": "segmenter",
        "windows": {"plan": "monai", "overlap": 0.5},
        "inputs": [{"from": "scan", "channels": ["T1", "mask"], "patch": [8, 16, 16], "steps": []}],
        "output": {"name": "mask", "blend": "gaussian-monai", "stitched": "raw"},
        "weights": {
            "architecture": "wsiseg.unet3d",
            "arguments": {"widths": [4], "bottleneck": 4},
        },
    }
    torch.manual_seed(0)
    arguments = stage["weights"]["arguments"]
    network = networks.build("wsiseg.unet3d", channels=(2,), classes=3, arguments=arguments)
    values = np.random.default_rng(0).random((1, 8, 16, 16, 2), dtype=np.float32)
    folder = tmp_path_factory.mktemp("model") / "two"
    write_package(
        folder,
        card=CARD | {"name": "two", "stages": [stage]},
        networks={"mask": network},
        check_inputs={"mask": (values,)},
    )
    return folder


@pytest.fixture
def files(tmp_path):
    folder = tmp_path / "scans"
    folder.mkdir()
    return [save(folder / f"case_{k:04}.nii.gz", image(k)) for k in range(2)]


@pytest.fixture
def expected(files, model):
    result = wsiseg.segment([open_volume(f) for f in files], model, options=options())
    return result.labels


def options():
    return SegmentOptions(run=RUN)


def run_cli(model, out, *args, backend="torch"):
    told = ["--model", str(model), "--out", str(out), "--backend", backend, "--threads", "1"]
    done = CliRunner().invoke(app, ["segment", *map(str, args), *told, "--quiet"])
    assert done.exit_code == 0, (done.output, done.exception)
    return {path.parent.name: stored(path) for path in out.rglob("labels.nii.gz")}


def stored(path):
    return np.asarray(nib.load(path).dataobj).transpose(2, 1, 0)


def test_files_numbered_as_nnunet_does_are_one_scan(files, model, expected, tmp_path):
    found = run_cli(model, tmp_path / "out", files[0].parent)
    assert list(found) == ["case"]
    assert np.array_equal(found["case"], expected)
    record = json.loads((tmp_path / "out/case/run.json").read_text())
    assert [one["name"] for one in record["channels"]] == ["case_0001.nii.gz"]


def test_channels_by_name(files, model, expected, tmp_path):
    args = ["--channel", f"mask={files[1]}", "--channel", f"t1={files[0]}"]
    assert np.array_equal(run_cli(model, tmp_path / "a", *args)["case_0000"], expected)
    by_name = {"mask": files[1], "T1": files[0]}
    assert np.array_equal(wsiseg.segment(by_name, model, options=options()).labels, expected)


def test_a_table_has_channels_in_one_cell(files, model, expected, tmp_path):
    (tmp_path / "t.csv").write_text("scan\nscans/case_0000.nii.gz;scans/case_0001.nii.gz\n")
    found = run_cli(model, tmp_path / "out", tmp_path / "t.csv")
    assert np.array_equal(found["case_0000"], expected)


def test_a_missing_channel_is_named(files):
    files[1].unlink()
    with pytest.raises(UsageError, match=r"needed 2 channels, .* found no case_0001\.nii\.gz"):
        list_slides([str(files[0])], volumes=True, channels=2)
    assert list_slides([str(files[0])], volumes=True)[0].output == "case_0000"


def test_names_of_channels_are_checked():
    names = ("T1", "FLAIR", "mask")
    job = scan_of_channels(names, {"flair": "f.nii"}, {"MASK": "m.nii"}, "t.nii")
    assert job == SlideJob("t.nii", "t", more=("f.nii",), priors=(("mask", "m.nii"),))
    for channels, priors, text in (
        ({"x": "a"}, {}, "channel 'x': the model has none of that name"),
        ({"T1": "a"}, {"t1": "b"}, "given twice"),
        ({"T1": "a"}, {}, "needed T1, FLAIR, mask, found T1"),
        ({"FLAIR": "a", "mask": "b"}, {"T1": "c"}, "is the model's first channel"),
    ):
        with pytest.raises(UsageError, match=text):
            scan_of_channels(names, channels, priors)


def test_a_prior_may_lie_on_another_grid(files, model, tmp_path):
    coarse = np.zeros((5, 7, 8), np.uint8)
    coarse[1:4, 2:5, 3:6] = 1
    prior = save(tmp_path / "mask.nii.gz", coarse, (5.0, 5.0, 5.0), (1.0, 1.0, 1.0))
    # Voxel i of the scan lies at 2 i mm, voxel j of the prior at 1 + 5 j mm.
    nearest = [np.rint((2 * np.arange(n) - 1) / 5).astype(int) for n in SHAPE]
    seen = [(at >= 0) & (at < n) for at, n in zip(nearest, coarse.shape, strict=True)]
    inside = np.ix_(*seen)
    fine = np.zeros(SHAPE, np.uint8)
    kept = [at[known] for at, known in zip(nearest, seen, strict=True)]
    fine[inside] = coarse[np.ix_(*kept)]
    regridded = on_grid_of(open_volume(prior), open_volume(files[0]))
    assert np.array_equal(regridded.read(Box.of_shape(SHAPE))[..., 0], fine)
    part = Box((3, 5, 2), (9, 11, 15))
    assert np.array_equal(regridded.read(part)[..., 0], fine[part.slices()])

    same = save(tmp_path / "fine.nii.gz", fine.astype(np.float32))
    wanted = wsiseg.segment([open_volume(files[0]), open_volume(same)], model, options=options())
    found = run_cli(model, tmp_path / "out", files[0], "--prior", f"mask={prior}")
    assert np.array_equal(found["case_0000"], wanted.labels)
    assert len(np.unique(wanted.labels)) > 1


def test_floats_of_a_prior_lie_linearly_between():
    z, y, x = np.indices((6, 6, 6), np.float32)
    ramp = open_volume(x + 10 * y + 100 * z, affine=Affine.from_spacing((2.0, 2.0, 2.0)))
    like = open_volume(np.zeros((5, 5, 5), np.uint8), affine=Affine.from_spacing((1.0, 1.5, 2.0)))
    found = on_grid_of(ramp, like).read(Box.of_shape((5, 5, 5)))[..., 0]
    z, y, x = np.indices((5, 5, 5), np.float32)
    assert np.allclose(found, x + 10 * 0.75 * y + 100 * 0.5 * z, atol=1e-4)


def test_a_prior_with_other_axes_is_not_interpolated(files):
    values = np.arange(np.prod(SHAPE), dtype=np.int16).reshape(SHAPE)
    other = open_volume(values, affine=open_volume(files[0]).affine).oriented("PSR")
    found = on_grid_of(other, open_volume(files[0]))
    assert np.array_equal(found.read(Box.of_shape(SHAPE))[..., 0], values)


def test_python_takes_a_path_an_open_volume_and_no_model(data_dir):
    scan = data_dir / "volumes/sct_testing_data/t1/t1w.nii.gz"
    plan = wsiseg.plan(scan)
    assert plan.model.startswith("spinal-cord-demo")
    with wsiseg.open_volume(scan) as volume:
        assert wsiseg.plan(volume).shape == plan.shape


def test_slides_and_scans_do_not_go_to_each_others_models(files, tmp_path):
    with pytest.raises(UsageError, match="is a model for slides, found a scan"):
        wsiseg.segment(open_volume(files[0]), "breast-tumour-demo")
    slide = wsiseg.open(np.zeros((64, 64, 3), np.uint8), mpp=1.0)
    with pytest.raises(UsageError, match="is a slide, brightness-model is a model for volumes"):
        wsiseg.segment(slide, make_scan_model(tmp_path / "m"))


def test_a_tilted_series_is_opened_again_as_it_was(data_dir, tmp_path):
    series = data_dir / "volumes/dicom2nifti/failing/gantrytilting/001"
    model = make_scan_model(tmp_path / "m", spacing_mm=None, full=1000.0)
    found = run_cli(model, tmp_path / "out", series, "--tilt", "shear", backend="auto")
    assert list(found) == ["001"]
    record = json.loads((tmp_path / "out/001/run.json").read_text())
    assert record["scan"]["opened"] == {"tilt": "shear"}
    again = open_recorded(series, record["scan"])
    assert again.shape == found["001"].shape
    done = CliRunner().invoke(app, ["report", str(tmp_path / "out/001")])
    assert done.exit_code == 0, done.output
    assert (tmp_path / "out/001/report.html").exists()

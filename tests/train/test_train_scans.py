"""Training on scans: what is read is what a run reads, labels stay in place, and it learns."""

import importlib.util
import json
import re
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from typer.testing import CliRunner
from wsiseg_cli.main import app

from wsiseg.errors import LabelError, TrainingError, UsageError
from wsiseg.geometry import Affine, Box
from wsiseg.options import RunOptions
from wsiseg.scans import segment_scan
from wsiseg.source import open_volume
from wsiseg.train.config import read_config
from wsiseg.train.dataset import LabelRules, read_dataset
from wsiseg.train.estimate import plan_training
from wsiseg.train.scan_augment import ScanAugmentOptions, augment_scans
from wsiseg.train.scan_labels import ScanLabels, ValueTable
from wsiseg.train.train import train
from wsiseg.volume.layout import input_grid
from wsiseg.volume.scan import Scan

CARD = """
dataset = "dataset.toml"
[card]
name = "cord"
version = "1"
classes = [{name="background"}, {name="cord", color=[255,170,0]}]
[[card.stages]]
name = "cord"
kind = "segmenter"
windows = {plan="monai", overlap=0.5}
output = {name="mask", blend="gaussian-monai", stitched="raw"}
weights = {architecture="wsiseg.unet3d", arguments={widths=[6,12], bottleneck=16, residual=true}}
[[card.stages.inputs]]
from = "scan"
channels = ["MR"]
spacing_um = [2000,2000,2000]
patch = [24,24,24]
steps = [{name="percentile_window", low=1.0, high=99.0}]
[card.provenance]
license = "x"
intended_use = "y"
limits = "Tests."
"""
FIT = """
[stages.cord.fit]
rounds = {rounds}
steps = {steps}
batch = 2
learning_rate = 0.01
[stages.cord.sampling]
validation = 2
margin = 1.2
"""


def write_config(folder: Path, *entries: str, rounds=1, steps=1, head="") -> Path:
    names = 'classes = ["background", "cord"]\n'
    (folder / "dataset.toml").write_text(names + head + "\n".join(entries))
    (folder / "config.toml").write_text(CARD + FIT.format(rounds=rounds, steps=steps))
    return folder / "config.toml"


def entry(scan: Path, labels: Path, split: str) -> str:
    said = {"scan": str(scan), "labels": str(labels), "split": split}
    return "[[scans]]\n" + "".join(f"{k} = {json.dumps(v)}\n" for k, v in said.items())


def save(path: Path, array, spacing=(2.0, 2.0, 2.0), axes=None) -> Path:
    image = nib.Nifti1Image(array.transpose(2, 1, 0), Affine.from_spacing(spacing).to_nifti())
    if axes is not None:
        turn = nib.orientations.axcodes2ornt(axes)
        image = image.as_reoriented(
            nib.orientations.ornt_transform(nib.orientations.axcodes2ornt("RAS"), turn)
        )
    nib.save(image, path)
    return path


def made(folder: Path, *, seed=0, shape=(26, 28, 30), name="a") -> tuple[Path, Path]:
    """Write a scan with a bright tube and its labels."""
    rng = np.random.default_rng(seed)
    _, y, x = np.indices(shape)
    tube = (y - shape[1] / 2) ** 2 + (x - shape[2] / 3) ** 2 < 20
    values = (100 * tube + rng.normal(50, 10, shape)).astype(np.float32)
    scan = save(folder / f"{name}.nii.gz", values)
    return scan, save(folder / f"{name}-labels.nii.gz", tube.astype(np.uint8))


def dice(found, truth):
    return 2 * (found & truth).sum() / (found.sum() + truth.sum())


def test_a_network_learns_the_spinal_cord_and_finds_it_in_another_scan(data_dir, tmp_path):
    data = data_dir / "volumes/sct_testing_data/t2"
    held_out, truth = data / "t2_fake_lesion.nii.gz", data / "t2_fake_lesion_sc_seg.nii.gz"
    config = write_config(
        tmp_path,
        entry(data / "t2.nii.gz", data / "t2_seg-manual.nii.gz", "train"),
        entry(held_out, truth, "test"),
        rounds=2,
        steps=25,
    )
    report = train(config, tmp_path / "models", threads=1)
    names = {path.name for path in report.package.iterdir()}
    assert {"model.json", "cord.safetensors", "cord.onnx", "check.npz"} <= names
    assert (report.folder / "worst/worst.csv").read_text().startswith("scan,x_mm,y_mm,z_mm,loss")

    args = ["segment", str(held_out), "--model", str(report.package), "--out", str(tmp_path / "o")]
    done = CliRunner().invoke(app, [*args, "--quiet", "--threads", "1"])
    assert done.exit_code == 0, done.output
    found = np.asarray(nib.load(tmp_path / "o/t2_fake_lesion/labels.nii.gz").dataobj) == 1
    wanted = np.asarray(nib.load(truth).dataobj) > 0
    chance = dice(np.ones_like(wanted), wanted)
    assert chance < 0.06
    assert dice(found, wanted) > 5 * chance


def test_training_goes_on_to_the_same_weights(tmp_path):
    config = write_config(tmp_path, entry(*made(tmp_path), "train"), rounds=2, steps=2)
    whole = train(config, tmp_path / "whole", threads=1).package

    class Stop(Exception):  # noqa: N818
        pass

    def stop(_name, report):
        if report.round == 0:
            raise Stop

    with pytest.raises(Stop):
        train(config, tmp_path / "cut", threads=1, told=stop)
    cut = train(config, tmp_path / "cut", threads=1).package
    assert (cut / "cord.safetensors").read_bytes() == (whole / "cord.safetensors").read_bytes()


PAGE = Path(__file__).parents[2] / "docs/training-volumes.md"


def test_the_files_of_the_page_are_read(tmp_path):
    dataset, config = re.findall(r"```toml\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    (tmp_path / "dataset.toml").write_text(dataset)
    (tmp_path / "config.toml").write_text(config)
    made(tmp_path)
    found = read_config(tmp_path / "config.toml")
    assert found.recipes["liver"].scan_augment.mirror_axes == (0, 1)
    assert found.recipes["liver"].sampling.levels == ("site", "scan", "class")
    assert found.card.scan.crop.margin_mm == 10


def test_the_recipe_of_the_bundled_model_is_read(data_dir, tmp_path):
    bench = Path(__file__).parents[2] / "benchmarks/demo_volume"
    spec = importlib.util.spec_from_file_location("demo_volume", bench / "train.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    config = read_config(module.write_dataset(data_dir / "volumes/sct_testing_data", tmp_path))
    assert config.card.name == "spinal-cord-demo"
    assert [e.split for e in config.dataset.slides] == ["train", "train", "test"]


def test_scans_of_a_data_set_are_compared_with_their_labels(tmp_path):
    scan, labels = made(tmp_path)
    write_config(tmp_path, entry(scan, labels, "test"))
    out = tmp_path / "out"
    args = ["evaluate", str(tmp_path / "dataset.toml"), str(out), "--out", str(tmp_path / "e")]
    missing = CliRunner().invoke(app, args)
    assert missing.exit_code != 0
    (out / "a").mkdir(parents=True)
    shutil.copy(labels, out / "a/labels.nii.gz")
    done = CliRunner().invoke(app, args)
    assert done.exit_code == 0, done.output
    assert "cord: dice 1.0000" in done.output
    refused = CliRunner().invoke(app, [*args, "--spacing", "2"])
    assert isinstance(refused.exception, UsageError)
    assert str(refused.exception).startswith("--spacing: not for data sets of scans")


def test_a_plan_counts_places_of_each_class(tmp_path):
    config = write_config(tmp_path, entry(*made(tmp_path), "train"))
    (stage,) = plan_training(config, threads=1).stages
    assert stage.places["0 a.nii.gz > background"] > stage.places["0 a.nii.gz > cord"] > 0


def test_several_channels_are_read_in_the_order_of_the_card(tmp_path):
    scan, labels = made(tmp_path)
    other, _ = made(tmp_path, seed=1, name="b")
    rows = f'[[scans]]\nscan = ["a.nii.gz", "b.nii.gz"]\nlabels = "{labels.name}"\nsplit = "train"'
    config = write_config(tmp_path, rows)
    config.write_text(config.read_text().replace('["MR"]', '["T1", "T2"]'))
    package = train(config, tmp_path / "models", threads=1).package
    result = segment_scan([scan, other], package, options=RunOptions(threads=1))
    assert result.labels.shape == (26, 28, 30)


@pytest.mark.parametrize("axes", ["RAS", "LPS", "PSR"])
def test_labels_may_be_stored_with_other_axes(tmp_path, axes):
    values = np.zeros((6, 8, 10), np.uint8)
    values[1:3, 2:7, 3:9] = 1
    scan = Scan.of([open_volume(save(tmp_path / "s.nii", values.astype(np.float32)))], scan_spec())
    labels = open_volume(save(tmp_path / "l.nii", values, axes=axes))
    assert np.array_equal(on_grid(labels, scan, tmp_path).values, values)


def test_labels_stay_in_place_on_a_coarser_grid(tmp_path):
    values = np.zeros((24, 30, 36), np.uint8)
    values[6:18, 9:21, 12:27] = 1
    image = save(tmp_path / "s.nii", values.astype(np.float32), (1.0, 1.0, 1.0))
    scan = Scan.of([open_volume(image)], scan_spec())
    labels = open_volume(save(tmp_path / "l.nii", values, (1.0, 1.0, 1.0)))
    found = on_grid(labels, scan, tmp_path, mm=3.0).values == 1
    middle = np.argwhere(found).mean(axis=0) * 3 + 1
    assert np.allclose(middle, np.argwhere(values).mean(axis=0), atol=0.51)
    assert found.sum() * 27 == pytest.approx(values.sum(), rel=0.05)


def scan_spec():
    from wsiseg.model.scan_card import ScanSpec

    return ScanSpec()


def on_grid(labels, scan, folder, *, mm=None, rules=LabelRules()):  # noqa: B008 - frozen
    from wsiseg.geometry import Spacing

    wanted = None if mm is None else Spacing((1000 * mm,) * 3)
    grid = input_grid(scan.shape, scan.affine.spacing, wanted, None)
    table = ValueTable(("background", "cord"), rules, "data set")
    return ScanLabels(labels, scan, grid, table=table, classes=2, folder=folder)


def test_values_get_their_meaning_from_the_rules(tmp_path):
    values = np.array([[[0, 7, 9], [7, 0, 9]]], np.int16)
    scan = Scan.of([open_volume(save(tmp_path / "s.nii", values.astype(np.float32)))], scan_spec())
    labels = open_volume(save(tmp_path / "l.nii", values))
    found = on_grid(labels, scan, tmp_path, rules=LabelRules({"7": "cord"}, ("9",))).values
    assert found.tolist() == [[[0, 1, 255], [1, 0, 255]]]
    with pytest.raises(LabelError, match="holds 7, known are \\[0, 1\\]; name its class"):
        on_grid(labels, scan, tmp_path)
    with pytest.raises(LabelError, match="'x' is no value of a label volume"):
        on_grid(labels, scan, tmp_path, rules=LabelRules({"x": "cord"}))


def test_labels_of_another_scan_are_refused(tmp_path):
    scan, _ = made(tmp_path)
    _, other = made(tmp_path, shape=(26, 28, 32), name="b")
    config = write_config(tmp_path, entry(scan, other, "train"))
    with pytest.raises(LabelError, match="needed labels on the scan's own voxels"):
        train(config, tmp_path / "models", threads=1)


def test_a_card_for_slides_learns_from_no_scan(tmp_path):
    config = write_config(tmp_path, entry(*made(tmp_path), "train"))
    config.write_text(config.read_text().replace('version = "1"', 'version = "1"\naxes = "yx"'))
    with pytest.raises(TrainingError, match=r"axes 'yx' learns from slides, .* has scans"):
        read_config(config)


def test_slides_and_scans_do_not_mix(tmp_path):
    scan, labels = made(tmp_path)
    both = entry(scan, labels, "train") + entry(scan, labels, "val").replace("scan", "slide")
    write_config(tmp_path, both)
    with pytest.raises(TrainingError, match="has slides and scans"):
        read_dataset(tmp_path / "dataset.toml")
    write_config(tmp_path, entry(scan, labels, "train") + "mpp = 0.5\n")
    with pytest.raises(TrainingError, match="mpp is not for a scan"):
        read_dataset(tmp_path / "dataset.toml")


def test_a_table_of_scans(tmp_path):
    made(tmp_path), made(tmp_path, seed=1, name="b")
    rows = "scan,labels,split,site\na.nii.gz;b.nii.gz,a-labels.nii.gz,train,X\n"
    (tmp_path / "scans.csv").write_text(rows)
    dataset = read_dataset(tmp_path / "scans.csv", classes=["background", "cord"])
    (only,) = dataset.slides
    assert dataset.volumes
    assert (only.patient, [p.name for p in only.more]) == ("a", ["b.nii.gz"])
    assert only.columns == {"site": "X"}


SIZE = (12, 16, 16)


def patches(count=3):
    rng = np.random.default_rng(0)
    labels = torch.from_numpy((rng.random((count, *SIZE)) > 0.5).astype(np.int64))
    return (labels[:, None].float(),), labels


def augmented(options, *, seed=0, size=SIZE, given=None):
    images, labels = given or patches()
    return augment_scans(
        images,
        labels,
        options,
        spacing_mm=(3.0, 1.0, 1.0),
        generator=torch.Generator().manual_seed(seed),
        size=size,
    )


def test_no_augmentation_changes_nothing():
    (image,), labels = augmented(ScanAugmentOptions.off())
    (given,), known = patches()
    assert torch.equal(image, given)
    assert torch.equal(labels, known)


@pytest.mark.parametrize("what", ["mirror", "turn"])
def test_image_and_labels_turn_together(what):
    options = ScanAugmentOptions.off().__class__(
        **dict.fromkeys(("mirror", "turn", "affine", "intensity", "gamma", "noise"), 0.0)
        | {what: 1.0}
    )
    (image,), labels = augmented(options)
    assert torch.equal(image[:, 0].long(), labels)
    assert not torch.equal(labels, patches()[1])


def test_an_affine_map_moves_both_and_knows_nothing_of_what_lies_outside():
    z, y, x = (torch.arange(n, dtype=torch.float32) for n in SIZE)
    ball = (3 * (z - 5.5))[:, None, None] ** 2 + (y - 7.5)[:, None] ** 2 + (x - 7.5) ** 2 < 36
    given = ((ball[None, None].float(),), ball[None].long())
    off = dict.fromkeys(("mirror", "turn", "intensity", "gamma", "noise"), 0.0)
    options = ScanAugmentOptions(**off, affine=1.0, rotation_degrees=30, scale=0, shift_mm=0)
    (image,), labels = augmented(options, given=given)
    known = labels != 255
    assert 0 < (~known).sum() < known.sum()
    # A ball in mm stays where it is, though voxels are three times as long as wide.
    assert dice((labels == 1).numpy(), ball[None].numpy()) > 0.93
    assert ((image[:, 0] > 0.5) == (labels == 1))[known].float().mean() > 0.97


def test_a_shift_goes_the_same_way_for_both():
    given = patches(1)
    off = dict.fromkeys(("mirror", "turn", "intensity", "gamma", "noise"), 0.0)
    options = ScanAugmentOptions(**off, affine=1.0, rotation_degrees=0, scale=0, shift_mm=4)
    (image,), labels = augmented(options, given=given, seed=3, size=(8, 8, 8))
    known = labels != 255
    assert known.all()
    # Noise is half lost between voxels; moved another way, half of it would agree.
    assert ((image[:, 0] > 0.5) == (labels == 1)).float().mean() > 0.8


def test_intensity_changes_the_image_alone_and_is_the_same_for_a_seed():
    off = dict.fromkeys(("mirror", "turn", "affine"), 0.0)
    on = dict.fromkeys(("intensity", "gamma", "noise", "contrast"), 1.0)
    options = ScanAugmentOptions(**off, **on)
    (image,), labels = augmented(options, seed=1)
    (again,), _ = augmented(options, seed=1)
    (other,), _ = augmented(options, seed=2)
    assert torch.equal(labels, patches()[1])
    assert torch.equal(image, again)
    assert not torch.equal(image, other)
    assert torch.isfinite(image).all()


def test_options_that_make_no_sense_are_refused():
    with pytest.raises(TrainingError, match=r"mirror: needed a chance in 0\.\.1, found 2"):
        ScanAugmentOptions(mirror=2)
    with pytest.raises(TrainingError, match="mirror_axes: needed axes of 0, 1 and 2"):
        ScanAugmentOptions(mirror_axes=(3,))


def test_patches_are_what_a_run_reads(tmp_path):
    from contextlib import ExitStack

    from wsiseg.train.lesson import Resources
    from wsiseg.train.scans import open_scans, scan_lesson

    config = read_config(write_config(tmp_path, entry(*made(tmp_path), "train")))
    scans = open_scans(config.dataset, config.dataset.of("train"), config.card)
    with ExitStack() as stack:
        lesson = scan_lesson(
            config,
            config.card.stages[0],
            scans,
            (),
            resources=Resources(torch.device("cpu"), 1),
            folder=tmp_path,
            stack=stack,
        )
        seen = lesson.slides[0].unturned()
        (values,), labels = seen.read((0.0, 14.0, 30.0))  # at the border: moved into the scan
        box = Box((0, 2, 6), (24, 26, 30))
        assert np.array_equal(values, seen.inputs[0].read(box))
        assert np.array_equal(labels, seen.labels.read(box))
        assert labels.max() == 1
        grown, _ = lesson.slides[0].read((12.0, 14.0, 15.0))
        assert grown[0].shape == (30, 30, 30, 1)

"""Training stage by stage: heatmaps out of fold, what the card says, what is used again."""

import json
import shutil
from dataclasses import replace
from itertools import islice, pairwise

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from small_training import (
    REFINE,
    SEGMENTER,
    STAGES,
    fit_of,
    slide_entry,
    two_slides,
    whole,
    write_config,
    write_dataset,
    write_slide,
)

import wsiseg
from wsiseg.annotations.class_map import ClassMap
from wsiseg.engine.graph import lay_out
from wsiseg.errors import TrainingError
from wsiseg.geometry import Box, Spacing
from wsiseg.options import SegmentOptions
from wsiseg.stitch import Placement
from wsiseg.train import stages
from wsiseg.train.blocks import Blocks, BlockwiseHeatmap, outside_block
from wsiseg.train.config import read_config
from wsiseg.train.lesson import Resources, find_leaves, open_slides
from wsiseg.train.places import PlaceSampler
from wsiseg.train.train import train

RESOURCES = Resources(torch.device("cpu"), 1)
QUICK = (fit_of("patches", rounds=1, steps=1), fit_of("refine", rounds=1, steps=1))


@pytest.fixture(autouse=True, scope="module")
def own_home(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WSISEG_HOME", str(tmp_path_factory.mktemp("home")))
        yield


def trained(config, folder):
    return stages.train_stages(config, folder, resources=RESOURCES, told=lambda *_: None)


@pytest.fixture(scope="module")
def by_blocks(tmp_path_factory):
    """One patient, two stages, a validation slide: config, report."""
    folder = tmp_path_factory.mktemp("blocks")
    two_slides(folder)
    config = read_config(write_config(folder, STAGES, REFINE, fit_of("patches"), fit_of("refine")))
    return config, train(config, folder / "out", device="cpu", threads=1)


# Blocks


@pytest.mark.parametrize("shape", [(192, 224), (224, 192), (799, 800), (300, 300), (97, 411)])
@pytest.mark.parametrize("count", [2, 3, 5])
def test_blocks_partition_the_longer_side(shape, count):
    blocks = Blocks(shape, count)
    size = max(shape)
    assert shape[blocks.axis] == size
    spans = [blocks.span(k) for k in range(count)]
    assert spans[0][0] == 0
    assert spans[-1][1] == size
    assert all(a[1] == b[0] for a, b in pairwise(spans))
    places = np.linspace(-3, size + 3, 500)
    for place, owner in zip(places, blocks.of(places), strict=True):
        start, stop = spans[owner]
        assert start <= np.clip(place, 0, size - 1e-9) < stop or place >= size


@pytest.mark.parametrize("stage", [STAGES, SEGMENTER], ids=["classifier", "segmenter"])
@pytest.mark.parametrize(("shape", "margin"), [((399, 400), 1.0), ((512, 300), 1.25)])
def test_no_patch_of_a_block_is_centred_within_its_guard_band(tmp_path, stage, shape, margin):
    """Patches drawn, margin included, are apart from those that the cells of the block see."""
    write_slide(tmp_path, "a", seed=1, shape=shape)
    write_dataset(tmp_path, slide_entry("a", "train"))
    config = read_config(write_config(tmp_path, stage))
    (slide,) = open_slides(config.dataset, config.dataset.slides, config.tissue)
    (setup,) = lay_out(config.card, slide.pyramid)
    patch, axis = 32 * setup.reference.downsample[0], int(shape[1] > shape[0])
    for block in range(3):
        leaves = find_leaves(
            [slide], [setup], ("class",),
            allowed=lambda s, c, k=block: outside_block(s, c, block=k, count=3, margin=margin),
        )  # fmt: skip
        start, stop = max(shape) * block / 3, max(shape) * (block + 1) / 3
        for place in islice(PlaceSampler(leaves, seed=0), 400):
            centre = place.centre[axis]
            gap = max(start - centre, centre - stop)  # to the block
            assert gap >= patch * margin
            assert gap - patch * margin / 2 >= patch / 2  # ends where patches of the block end


def test_outside_block_leaves_no_more_out_than_it_must():
    cells = ClassMap(np.zeros((40, 100), np.uint8), (8.0, 8.0), Spacing((8.0, 8.0)), (320, 800))
    setup = FakeSetup(patch=32, downsample=2.0)
    free = outside_block(setup, cells, block=1, count=4, margin=1.0)[0]
    assert np.flatnonzero(~free).tolist() == list(range(17, 58))  # 200 - 64 px to 400 + 64 px


class FakeSetup:
    """What `outside_block` needs to know of a stage."""

    def __init__(self, patch, downsample):
        self.reference = self
        self.spec = self
        self.patch, self.downsample = (patch, patch), (downsample, downsample)


class Constant:
    """A heatmap that is its own number everywhere inside."""

    def __init__(self, value, placement):
        self.value, self.channels, self.placement = value, ("Tumor",), placement
        self.shape, self.downsample = placement.shape, placement.downsample

    def read(self, box):
        values = np.zeros((*box.shape, 1), np.float32)
        inside = box.clip(self.shape)
        values[inside.relative_to(box).slices()] = self.value
        return values


@pytest.mark.parametrize("shape", [(799, 800), (800, 799), (160, 480)])
@pytest.mark.parametrize("cell", [1.0, 16.0])
def test_a_blockwise_heatmap_reads_each_block_from_its_part(shape, cell):
    placement = Placement(
        tuple(-(-n // int(cell)) for n in shape), Spacing((cell, cell)), (cell, cell)
    )
    parts = [Constant(k + 1, placement) for k in range(3)]
    heatmap = BlockwiseHeatmap(parts, shape)
    box = Box((-2, -3), (placement.shape[0] + 1, placement.shape[1] + 4))
    values = heatmap.read(box)[..., 0]
    axis = int(shape[1] > shape[0])
    for index in np.ndindex(*placement.shape):
        if sum(index) % 97:
            continue
        centre = (index[axis] + 0.5) * cell
        owner = min(2, int(centre // (max(shape) / 3)))
        assert values[index[0] + 2, index[1] + 3] == owner + 1
    assert not values[:2].any()
    assert not values[:, -4:].any()
    part = Box((5, 2), (9, 30))
    np.testing.assert_array_equal(heatmap.read(part)[..., 0], values[7:11, 5:33])


# Folds


def test_no_heatmap_comes_from_a_network_that_saw_its_patient(tmp_path, monkeypatch):
    """Three patients, four slides, of which two have the same file name."""
    for seed, name in enumerate(("one/s", "two/s", "three", "four", "v")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write_slide(tmp_path, name, seed=seed)
    write_dataset(
        tmp_path,
        slide_entry("one/s", "train", patient="p"),
        slide_entry("two/s", "train", patient="p"),
        slide_entry("three", "train", patient="q"),
        slide_entry("four", "train", patient="r"),
        slide_entry("v", "val", patient="t"),
    )
    config = read_config(write_config(tmp_path, STAGES, REFINE, *QUICK))
    taught, asked = {}, {}
    train_stage, heatmap = stages._train_stage, stages._heatmap

    def watch_training(run, stage, what, slides, *rest):
        done = train_stage(run, stage, what, slides, *rest)
        taught[id(done.network)] = {slide.entry.patient for slide in slides}
        kept.append(done)
        return done

    def watch_heatmap(run, stage, network, slide, fold):
        store = heatmap(run, stage, network, slide, fold)
        asked[slide.entry.slide] = (slide.entry.patient, taught[id(network)], store.path)
        return store

    kept = []
    monkeypatch.setattr(stages, "_train_stage", watch_training)
    monkeypatch.setattr(stages, "_heatmap", watch_heatmap)
    run = trained(config, tmp_path / "run")
    assert len(asked) == 5
    for path, (patient, seen, store) in asked.items():
        assert patient not in seen
        assert seen == ({"p", "q", "r"} if patient == "t" else {"p", "q", "r"} - {patient} & seen)
        assert run.heatmaps["heatmap"][path].path == store
    assert len({store for _, _, store in asked.values()}) == 5
    assert not config.folds_by_block


def test_later_stages_of_three_read_heatmaps_of_their_own_fold(tmp_path):
    """What is asked about a patient left out must not pass through networks that saw it."""
    for seed, name in enumerate("abv"):
        write_slide(tmp_path, name, seed=seed)
    entries = [slide_entry(name, "val" if name == "v" else "train") for name in "abv"]
    write_dataset(tmp_path, *entries)
    third = REFINE.replace('"refine"', '"last"').replace('"mask"', '"final"')
    third = third.replace('from="heatmap"', 'from="mask"')
    quick = (*QUICK, fit_of("last", rounds=1, steps=1))
    config = read_config(write_config(tmp_path, STAGES, REFINE, third, *quick))
    run = trained(config, tmp_path / "run")
    packages = {p.name.rpartition("-")[0]: p for p in (tmp_path / "run/packages").iterdir()}
    folds = ("", "-fold-1", "-fold-2")
    assert set(packages) == {name + fold for name in ("patches", "refine") for fold in folds}
    for fold in folds[1:]:
        file = "patches.safetensors"
        first, within = (load_file(packages[n + fold] / file) for n in ("patches", "refine"))
        assert all(np.array_equal(value, within[key]) for key, value in first.items())
    assert set(run.folded) == {name for name in packages if "fold" in name}


def test_whole_views_have_no_blocks(tmp_path):
    two_slides(tmp_path)
    config = read_config(write_config(tmp_path, whole(STAGES), REFINE, *QUICK))
    with pytest.raises(TrainingError, match="no block can be left out"):
        trained(config, tmp_path / "run")


# What is kept and said


def test_the_package_runs_and_its_card_says_how_it_came_about(by_blocks):
    config, report = by_blocks
    card = json.loads((report.package / "model.json").read_text())
    origin = card["provenance"]
    assert config.dataset.digest in origin["trained_on"]
    assert "out of fold by blocks" in origin["limits"]
    assert "guard band of one patch" in origin["limits"]
    for stage in ("patches", "refine"):
        kept = report.histories[stage]
        scores = kept.rounds[kept.best].scores
        assert origin["metrics"][f"dice, validation patches, {stage}"] == round(scores["dice"], 4)
    assert card["calibration"]["method"] == "temperature"
    model = wsiseg.load_model(report.package, device="cpu", backend="torch")
    options = SegmentOptions(tissue=config.tissue)
    result = wsiseg.segment(config.dataset.slides[1].open(), model, options=options)
    assert result.annotations is not None


def test_a_weight_and_a_bias_per_class_can_be_fitted(tmp_path):
    two_slides(tmp_path)
    path = write_config(tmp_path, SEGMENTER, fit_of("mask"))
    path.write_text('calibration = "vector"\n' + path.read_text())
    report = train(read_config(path), tmp_path / "out", device="cpu", threads=1)
    assert report.card.calibration.method == "vector"
    assert len(report.card.calibration.values) == 4
    metrics = report.card.provenance.metrics
    assert metrics["ECE, validation patches, calibrated"] < 1


def test_everything_promised_lies_in_the_package(by_blocks):
    _, report = by_blocks
    names = {path.name for path in report.package.iterdir()}
    assert names >= {
        "model.json", "check.npz", "README.md", "curve.png", "patches.safetensors", "patches.onnx",
        "refine.safetensors", "refine.onnx",
    }  # fmt: skip
    history = json.loads((report.folder / "history.json").read_text())
    assert [len(history[name]["rounds"]) for name in ("patches", "refine")] == [2, 2]
    assert list((report.folder / "scalars").glob("events*"))


def test_the_worst_patches_lie_on_the_slide(by_blocks):
    _, report = by_blocks
    for name in "ab":
        content = json.loads((report.folder / "worst" / f"{name}.geojson").read_text())
        features = content["features"]
        assert 0 < len(features) <= 20
        losses = [f["properties"]["measurements"]["Loss"] for f in features]
        assert losses == sorted(losses, reverse=True)
        corners = np.array([f["geometry"]["coordinates"][0] for f in features])
        assert corners.min() >= 0
        assert (corners.max(axis=(0, 1)) <= (224, 192)).all()


def test_worst_patches_are_named_as_everywhere(tmp_path, monkeypatch):
    from types import SimpleNamespace as Made

    from wsiseg.train import worst
    from wsiseg.train.dataset import SlideEntry

    names = ("case.7.svs", "case.8.ome.tif", "x/one.svs", "y/one.svs")
    entries = [SlideEntry(tmp_path / name, tmp_path / "a", "p", "train") for name in names]
    slides = [Made(entry=entry) for entry in entries]
    lesson = Made(slides=slides[:2], tests=slides[2:])
    done = [Made(lesson=lesson, network=None)]
    run = Made(done=done, scans=(), train=slides[:2], tests=slides[2:])
    for part in ("_places", "_losses", "_annotations"):
        monkeypatch.setattr(worst, part, lambda *_: [])
    monkeypatch.setattr(worst, "write_geojson", lambda _, path: path.touch())
    found = [path.name for path in worst.write_worst(run, tmp_path / "worst")]
    assert found == ["case.7.geojson", "case.8.geojson", "one-3.geojson", "one-4.geojson"]


def test_heatmaps_are_used_again_only_where_nothing_differs(by_blocks, monkeypatch):
    config, report = by_blocks
    calls = []
    real = stages.segment

    def counting(*arguments, **named):
        calls.append(named["work_dir"])
        return real(*arguments, **named)

    monkeypatch.setattr(stages, "segment", counting)
    trained(config, report.folder)
    assert calls == []
    other = replace(config, tissue=replace(config.tissue, spacing_um=4.0))
    with pytest.raises(TrainingError, match="another network, data set or recipe"):
        trained(other, report.folder)
    for path in report.folder.glob("*/checkpoint.pt"):  # and were that deleted
        shutil.copytree(path.parent, report.folder.parent / "kept" / path.parent.name)
        path.unlink()
    changed = replace(config, dataset=replace(config.dataset, rules=config.dataset.rules), seed=4)
    recipes = {k: replace(r, fit=replace(r.fit, seed=4)) for k, r in config.recipes.items()}
    trained(replace(changed, recipes=recipes), report.folder)
    assert len(calls) == 3
    assert len(set(calls)) == 3


def test_changing_a_later_stage_keeps_the_earlier_ones(tmp_path):
    two_slides(tmp_path)
    told = []
    for steps in (1, 2):
        config = read_config(
            write_config(
                tmp_path, STAGES, REFINE, QUICK[0], fit_of("refine", rounds=1, steps=steps)
            )
        )
        shutil.rmtree(tmp_path / "run" / "refine", ignore_errors=True)
        stages.train_stages(
            config, tmp_path / "run", resources=RESOURCES, told=lambda name, _: told.append(name)
        )
    assert told == ["patches", "patches-block-1", "patches-block-2", "refine", "refine"]


def test_spelling_out_a_default_changes_nothing(tmp_path):
    """Nor does an option that a later version brings, with a default that does what was done."""
    two_slides(tmp_path)
    told = []
    for more in ({}, {"accumulate": 1, "amp": False}):
        fit = fit_of("mask", rounds=1, steps=1, **more)
        config = read_config(write_config(tmp_path, SEGMENTER, fit))
        stages.train_stages(
            config, tmp_path / "run", resources=RESOURCES, told=lambda name, _: told.append(name)
        )
    assert told == ["mask"]


def test_a_moved_folder_goes_on(tmp_path, monkeypatch):
    """The same slides under another path are the same."""
    (tmp_path / "here").mkdir()
    two_slides(tmp_path / "here")
    write_config(tmp_path / "here", SEGMENTER, fit_of("mask", rounds=1, steps=1))
    monkeypatch.chdir(tmp_path)
    first = read_config("here/config.toml")
    trained(first, tmp_path / "run")
    (tmp_path / "here").rename(tmp_path / "there")
    told = []
    stages.train_stages(
        read_config(tmp_path / "there/config.toml"), tmp_path / "run",
        resources=RESOURCES, told=lambda *row: told.append(row),
    )  # fmt: skip
    assert told == []


def test_check_patches_come_from_slides_that_have_places(tmp_path):
    """The first slide is unknown throughout."""
    write_slide(tmp_path, "a", seed=0)
    write_slide(tmp_path, "b", seed=1)
    shutil.copy(tmp_path / "b.mask.png", tmp_path / "saved.png")
    head = '[labels]\nmapping = {"0" = "background", "1" = "Tumor"}\nignore = ["7"]\n'
    import cv2

    cv2.imwrite(str(tmp_path / "a.mask.png"), np.full((192, 224), 7, np.uint8))
    write_dataset(tmp_path, slide_entry("a", "train"), slide_entry("b", "train"), head=head)
    config = read_config(write_config(tmp_path, SEGMENTER, fit_of("mask", rounds=1, steps=1)))
    run = trained(config, tmp_path / "run")
    (patches,) = stages.check_patches(run.done[0].lesson)
    assert patches.shape == (2, 32, 32, 3)

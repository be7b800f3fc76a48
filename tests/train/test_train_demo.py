"""The recipe from regions to a package, on tiny synthetic regions."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from wsiseg.errors import TrainingError
from wsiseg.model import check_model
from wsiseg.model.networks import receptive_field_radius
from wsiseg.train import cascade, demo
from wsiseg.train.cascade import PatchRecipe, Recipe, RefineRecipe, Trained
from wsiseg.train.fit import FitOptions
from wsiseg.train.sampling import Region

TINY = Recipe(
    patches=PatchRecipe(patch=32, stride=8, fit=FitOptions(steps=1, batch=2)),
    refine=RefineRecipe(
        patch=16,
        arguments={"widths": [4], "bottleneck": 4},
        fit=FitOptions(steps=1, batch=2),
    ),
    scales=(1.0, 1.1),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two regions of 96 x 160 µm, their left third dark tumour."""
    root = tmp_path_factory.mktemp("regions")
    for kind in ("images", "masks"):
        (root / kind).mkdir()
    for seed, name in enumerate(("a", "b")):
        rng = np.random.default_rng(seed)
        mask = np.zeros((384, 640), np.uint8)
        mask[:, :210] = 255
        image = np.where(mask[..., None] > 0, 100, 220) + rng.integers(-20, 20, (384, 640, 3))
        Image.fromarray(image.astype(np.uint8)).save(root / "images" / f"{name}.jpg", quality=95)
        Image.fromarray(mask).save(root / "masks" / f"{name}.png")
    return root


def test_regions_come_at_any_spacing(folder):
    region = demo.open_regions(folder)["a"](2.0)
    assert region.image.shape == (48, 80, 3)
    assert region.labels[:, :26].all()
    assert not region.labels[:, 27:].any()


@pytest.mark.parametrize("missing", ["images/b.jpg", "masks/b.png"])
def test_incomplete_data_is_refused(folder, tmp_path, missing):
    for file in folder.glob("*/*"):
        if str(file.relative_to(folder)) != missing:
            copy = tmp_path / file.relative_to(folder)
            copy.parent.mkdir(exist_ok=True)
            copy.write_bytes(file.read_bytes())
    with pytest.raises(TrainingError, match="needed two regions or more"):
        demo.open_regions(tmp_path)


def test_scores_by_hand():
    predicted = np.array([1, 1, 1, 0, 0, 0], bool)
    truth = np.array([1, 0, 0, 1, 0, 0], bool)
    found = demo.scores(predicted, truth)
    assert found == pytest.approx({"precision": 1 / 3, "recall": 1 / 2, "dice": 2 / 5})
    nothing = np.zeros(6, bool)
    assert demo.scores(nothing, truth) == {"dice": 0, "precision": 0, "recall": 0}


def test_folds_final_model_and_package(folder, tmp_path):
    trained = Trained(tmp_path / "networks")
    with ThreadPoolExecutor(1) as pool:
        table = demo.cross_validate(folder, TINY, trained, pool)
        networks = demo.train_final(folder, TINY, trained, pool)
    assert set(table) == {"a", "b", "mean"}
    everything = table["a"]["everything"]
    assert everything["recall"] == 1
    assert everything["precision"] == pytest.approx(210 / 640, abs=0.01)
    for design in ("stage 1", "U-Net", "cascade"):
        pair = [table[name][design]["dice"] for name in ("a", "b")]
        assert table["mean"][design]["dice"] == pytest.approx(np.mean(pair))
    # Per fold: two blocks, a classifier, two refiners; then the two final networks.
    assert len(list((tmp_path / "networks").iterdir())) == 2 * 5 + 2
    card = demo.demo_card("tiny", TINY, table)
    assert card["provenance"]["metrics"]["dice, cascade, mean"] == pytest.approx(
        table["mean"]["cascade"]["dice"], abs=1e-4
    )
    demo.write_demo(tmp_path / "tiny", folder, TINY, networks, table)
    stages = check_model(tmp_path / "tiny", backend="torch").stages
    assert [stage.stage for stage in stages] == ["patches", "refine"]


def test_a_kept_network_is_not_trained_again(tmp_path):
    trained = Trained(tmp_path)
    first, again, other = (torch.nn.Linear(2, 1) for _ in range(3))
    calls = []
    trained.fit("key", first, calls.append)
    trained.fit("key", again, calls.append)
    trained.fit("other key", other, calls.append)
    assert calls == [first, other]
    assert torch.equal(first.weight, again.weight)


def test_another_recipe_is_another_key():
    longer = replace(TINY, refine=replace(TINY.refine, patch=24))
    assert longer.key(refine=True) != TINY.key(refine=True)
    assert longer.key(refine=False) == TINY.key(refine=False)


def test_heatmaps_come_from_networks_that_have_not_seen_the_tissue(monkeypatch):
    """Each network's heatmap is its number, and it notes where its patches may lie."""
    places, numbers = [], {}

    class SpySampler:
        def __init__(self, regions, *, patch):
            places.append(regions[0][0].allowed)

    def number_of(network, image, *, patch, stride, within):
        cells = np.zeros((image.shape[0] // stride, image.shape[1] // stride, 2), np.float32)
        cells[within] = numbers.setdefault(network, len(numbers) + 1)
        return cells

    monkeypatch.setattr(cascade, "PatchSampler", SpySampler)
    monkeypatch.setattr(cascade, "fit", lambda *_: None)
    monkeypatch.setattr(cascade, "predict_cells", number_of)
    blank = Region("a", np.zeros((96, 160, 3), np.uint8), np.zeros((96, 160), np.uint8))

    cells = cascade.out_of_fold(lambda _: blank, TINY, Trained())(blank.image)[..., 0]
    assert set(np.unique(cells)) == {1, 2}, "each cell has exactly one network"
    stride, patch = TINY.patches.stride, TINY.patches.patch
    whole = np.kron(cells, np.ones((stride, stride)))
    for number, allowed in enumerate(places, start=1):
        seen, told = (
            np.nonzero(allowed.any(axis=0))[0],
            np.nonzero((whole == number).any(axis=0))[0],
        )
        assert np.abs(seen[:, None] - told).min() > patch


def test_halo_covers_the_receptive_field():
    for levels in (1, 3, 4):
        stage = RefineRecipe(arguments={"widths": [4] * levels, "bottleneck": 4})
        assert stage.halo >= receptive_field_radius(levels)
        assert stage.halo % stage.multiple == 0

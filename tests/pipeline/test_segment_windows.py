"""A dense network on a real slide: large windows give what its patches give, for fewer pixels."""

import json
import os
import shutil
from importlib.resources import files

import numpy as np
import pytest
import torch

import wsiseg
from wsiseg import pipeline
from wsiseg.engine import Journal, TilesDone, ignore, make_plan
from wsiseg.errors import MemoryBudgetError, ModelError
from wsiseg.geometry import Box
from wsiseg.model import networks, write_package
from wsiseg.model.networks import receptive_field_radius
from wsiseg.options import RunOptions, SegmentOptions, TissueOptions, UncertaintyOptions
from wsiseg.testing.models import CARD, make_colour_model
from wsiseg.testing.slides import make_svs, tissue_disc

SLIDE = files("wsiseg.bundled") / "slides" / "CMU-1-Small-Region.svs"
HALO, PATCH, STEP = 10, 36, 16
UM = 2.0
ARGUMENTS = {"widths": [6], "bottleneck": 8, "dropout": 0.1}
BIOPSY = tissue_disc((30, 1000), center=(15, 500), radius=500)[0]
"""A core as thin as a patch."""

DISC = tissue_disc((700, 900), center=(300, 500), radius=165)[0]


@pytest.fixture(scope="module", autouse=True)
def home(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WSISEG_HOME", str(tmp_path_factory.mktemp("home")))
        yield


def unet():
    """A U-Net of random weights that tells pink from glass, more or less."""
    torch.manual_seed(1)
    network = networks.build("wsiseg.unet", channels=(3,), classes=2, arguments=ARGUMENTS).eval()
    with wsiseg.open(SLIDE) as slide, torch.no_grad():
        pixels = slide.at(UM).read(Box((0, 0), (600, 500)))
        logits = network(torch.from_numpy(pixels / np.float32(255)).permute(2, 0, 1)[None])
        scale = 2 / (logits[:, 1] - logits[:, 0]).std()
        network.classify.weight *= scale
        network.classify.bias.copy_((network.classify.bias - logits.mean((0, 2, 3))) * scale)
    return network


@pytest.fixture(scope="module")
def packages(tmp_path_factory):
    """The same network with and without windows."""
    folder = tmp_path_factory.mktemp("models")
    assert receptive_field_radius(1) < HALO
    rgb = {"from": "slide", "channels": ["R", "G", "B"], "patch": [PATCH] * 2}
    rgb |= {"spacing_um": [UM] * 2, "steps": [{"name": "scale", "divide_by": 255.0}]}
    weights = {"architecture": "wsiseg.unet", "arguments": ARGUMENTS}
    with wsiseg.open(SLIDE) as slide:
        view = slide.at(UM)
        example = np.stack([view.read(Box((y, 200), (y + PATCH, 200 + PATCH))) for y in (100, 300)])
    for name, more in (("small", {}), ("large", {"max_patch": [PATCH + 7 * STEP] * 2})):
        output = {"name": "mask", "halo": [HALO] * 2} | more
        stage = {"name": "dense", "kind": "segmenter", "inputs": [rgb], "output": output}
        card = CARD | {"name": name, "stages": [stage | {"weights": weights}]}
        write_package(
            folder / name, card=card, networks={"dense": unet()}, check_inputs={"dense": (example,)}
        )
    return folder


def segment(model, slide=SLIDE, *, detector="auto", layers=(), journal=None, listen=ignore, **run):
    tissue, run = TissueOptions(detector=detector), RunOptions(device="cpu", **run)
    layered = UncertaintyOptions(layers=layers, dropout_samples=2)
    options = SegmentOptions(tissue=tissue, run=run, uncertainty=layered)
    opened = wsiseg.open(slide, mpp=None if slide is SLIDE else 1.0)
    return wsiseg.segment(opened, model, options=options, journal=journal, listen=listen)


def agree(found, expected):
    """Codes may differ by one where a probability lies halfway between two."""
    mine, theirs = (np.asarray(r.heatmap.codes[:]).astype(int) for r in (found, expected))
    assert (theirs > 0).any()
    np.testing.assert_array_equal(mine == 0, theirs == 0)
    assert np.abs(mine - theirs).max() <= 1
    assert (mine != theirs).mean() < 1e-4
    labels = [np.asarray(r.labels.labels[:]) for r in (found, expected)]
    assert 0 < labels[1].mean() < 1
    assert (labels[0] == labels[1]).mean() > 0.9999


def test_windows_give_what_patches_give_for_fewer_pixels(packages, tmp_path):
    expected, found = (segment(packages / name) for name in ("small", "large"))
    agree(found, expected)
    (small,), (large,) = expected.plan.stages, found.plan.stages
    assert (small.patch, small.card_patch) == ((PATCH,) * 2,) * 2
    assert large.patch > large.card_patch == (PATCH,) * 2
    assert large.halo == (HALO,) * 2
    pixels = [stage.tiles * np.prod(stage.patch) for stage in (small, large)]
    assert pixels[1] < 0.5 * pixels[0]
    assert found.reports[0].tiles == large.tiles
    folder = found.write(tmp_path)
    record = json.loads((folder / "run.json").read_text())
    (stage,) = record["plan"]["stages"]
    assert (stage["patch"], stage["card_patch"]) == (list(large.patch), [PATCH] * 2)
    assert stage["amplification"] == 1.0
    assert found.summary()["windows_px"] == f"dense {large.patch[0]} x {large.patch[1]}"
    assert "windows_px" not in expected.summary()


def test_a_small_biopsy_stays_on_patches(packages):
    found, expected = (
        segment(packages / name, BIOPSY, detector="none") for name in ("large", "small")
    )
    assert found.plan.stages[0].patch == (PATCH,) * 2
    assert found.plan.stages[0].tiles == expected.plan.stages[0].tiles > 0
    np.testing.assert_array_equal(found.heatmap.codes[:], expected.heatmap.codes[:])


def test_slides_of_one_run_each_get_their_window(packages):
    model = wsiseg.load_model(packages / "large", device="cpu", backend="onnxruntime")
    everywhere = TissueOptions(detector="none")
    slides = [wsiseg.open(SLIDE), wsiseg.open(BIOPSY, mpp=1.0)]
    sizes = []
    for slide in (*slides, *slides):
        options = SegmentOptions(tissue=everywhere) if slide is slides[1] else SegmentOptions()
        model, plan = pipeline.plan_run(slide, model, options=options)
        (predictor,), (stage,) = model.predictors, plan.stages
        assert predictor.stage.inputs[0].patch == stage.patch
        sizes.append(stage.patch[0])
    assert sizes[0] == sizes[2] > sizes[1] == sizes[3] == PATCH


def test_without_memory_for_them_smaller_windows_are_taken(packages, monkeypatch):
    tried = []

    def limited(setups, *args, **options):
        tried.append(setups[0].grid.patch[0])
        if tried[-1] > least:
            raise MemoryBudgetError("too much")
        return make_plan(setups, *args, **options)

    monkeypatch.setattr(pipeline, "make_plan", limited)
    least = PATCH
    found = wsiseg.plan(SLIDE, packages / "large")
    assert tried == sorted(tried, reverse=True)
    assert tried[0] > tried[-1] == found.stages[0].patch[0] == PATCH
    least = PATCH - 1
    with pytest.raises(MemoryBudgetError, match="too much"):
        wsiseg.plan(SLIDE, packages / "large")


def test_a_claim_that_is_wrong_is_an_error_before_the_slide_is_read(packages, tmp_path):
    folder = tmp_path / "wrong"
    shutil.copytree(packages / "large", folder)
    card = json.loads((folder / "model.json").read_text())
    card["stages"][0]["output"] |= {"halo": [4, 4], "max_patch": [PATCH + 4 * (PATCH - 8)] * 2}
    (folder / "model.json").write_text(json.dumps(card))
    with pytest.raises(ModelError, match=r"differ by .* farther than its halo of 4 x 4 px"):
        segment(folder)


class Killed(BaseException):
    """The end of a process."""


def test_a_run_that_was_ended_goes_on_in_its_windows(packages, tmp_path, monkeypatch):
    def end(event):
        if isinstance(event, TilesDone):
            seen.append(event.tiles)
            if sum(seen) > 0.7 * expected.reports[0].tiles:
                raise Killed

    seen: list[int] = []
    model = wsiseg.load_model(packages / "large", device="cpu", backend="onnxruntime")
    expected = segment(model, threads=1, batch_size=2)
    with pytest.raises(Killed), Journal(tmp_path / "work") as journal:
        segment(model, journal=journal, listen=end, threads=1, batch_size=2)
    monkeypatch.setattr(pipeline, "choose_window", lambda *_: (PATCH, PATCH))
    with Journal(tmp_path / "work") as journal:
        again = segment(model, journal=journal, threads=1, batch_size=2)
        assert again.plan.stages[0].patch == expected.plan.stages[0].patch > (PATCH, PATCH)
        assert 0 < again.reports[0].kept < again.reports[0].tiles
        np.testing.assert_array_equal(again.heatmap.codes[:], expected.heatmap.codes[:])
        np.testing.assert_array_equal(again.labels.labels[:], expected.labels.labels[:])


def test_layers_of_uncertainty_on_windows(packages):
    pixels = tissue_disc((240, 300), center=(120, 150), radius=100)[0]
    found, expected = (
        segment(packages / name, pixels, detector="none", layers=("tta",))
        for name in ("large", "small")
    )
    assert found.plan.stages[0].patch > expected.plan.stages[0].patch
    agree(found, expected)
    mine, theirs = (
        np.asarray(r.uncertainty["tta"].codes[:]).astype(int) for r in (found, expected)
    )
    assert theirs.max() > 1
    np.testing.assert_array_equal(mine == 0, theirs == 0)
    assert np.abs(mine - theirs).max() <= 1
    dropped = segment(packages / "large", BIOPSY, detector="none", layers=("dropout",))
    assert dropped.plan.stages[0].patch == (PATCH, PATCH)


@pytest.fixture
def cascade(tmp_path):
    """Two stages of ONNX graphs, the second on windows of image and heatmap."""
    folder = make_colour_model(tmp_path / "colour", refine_um=1.0)
    card = json.loads((folder / "model.json").read_text())
    card["stages"][1]["output"]["max_patch"] = [96 + 4 * 64] * 2
    (folder / "model.json").write_text(json.dumps(card))
    return folder


def test_a_refinement_reads_image_and_heatmap_in_windows(cascade, tmp_path):
    plain = make_colour_model(tmp_path / "plain", refine_um=1.0)
    slide = make_svs(tmp_path / "disc.svs", DISC, levels=(1, 4), tile=128, mpp=1.0)
    expected, found = (segment(package, slide, detector="none") for package in (plain, cascade))
    agree(found, expected)
    assert found.plan.stages[1].patch[0] > 96
    assert found.summary()["windows_px"].startswith("refine ")
    assert found.plan.stages[1].amplification == 1.0
    assert found.provenance()["reads"]["amplification"] == 1.0  # nothing decoded twice


def test_tiles_that_may_be_skipped_are_patches(cascade):
    found = segment(cascade, DISC, detector="none", skip_below=0.05)
    assert found.plan.stages[1].patch == (96, 96)
    assert found.reports[1].skipped.skipped > 0


def test_the_plan_says_which_window_runs(packages, tmp_path):
    from typer.testing import CliRunner
    from wsiseg_cli.main import app

    done = CliRunner().invoke(
        app, ["segment", os.fspath(SLIDE), "-m", os.fspath(packages / "large"), "--plan"]
    )
    assert done.exit_code == 0, done.output
    assert f"(patch {PATCH} x {PATCH})" in done.output
    assert "of windows of " in done.output

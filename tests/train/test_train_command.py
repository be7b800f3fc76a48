"""`wsiseg train`: what it prints, what it refuses, and that a kill changes nothing."""

import json
import random
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from small_training import (
    REFINE,
    SEGMENTER,
    STAGES,
    fit_of,
    slide_entry,
    two_slides,
    write_config,
    write_dataset,
)
from typer.testing import CliRunner
from wsiseg_cli.main import app

from wsiseg.errors import (
    AnnotationError,
    MissingSpacingError,
    SpacingUnavailableError,
    TrainingError,
)
from wsiseg.train.estimate import StageEstimate, TrainingPlan

QUICK = fit_of("mask", rounds=1, steps=1)
LONG = fit_of("mask", rounds=10, steps=2, ema=0.9, hard=0.4, schedule="plateau", accumulate=2)


@pytest.fixture(autouse=True)
def own_home(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("WSISEG_HOME", str(tmp_path_factory.getbasetemp() / "home"))


@pytest.fixture
def folder(tmp_path):
    two_slides(tmp_path)
    return tmp_path


def run(folder, *arguments):
    command = ["train", folder / "config.toml", "-o", folder / "out", "--threads", "1", *arguments]
    return CliRunner().invoke(app, [str(a) for a in command])


def refused(done, kind, match):
    assert done.exit_code == 1
    assert isinstance(done.exception, kind), done.exception
    for part in match if isinstance(match, tuple) else (match,):
        assert part in str(done.exception)


def test_a_plan_says_what_it_will_take_and_writes_nothing(folder):
    write_config(folder, STAGES, REFINE, fit_of("patches", steps=7), fit_of("refine", accumulate=3))
    before = set(folder.rglob("*"))
    done = run(folder, "--plan")
    assert done.exit_code == 0, done.stderr
    assert "patches: " in done.stdout
    assert "3 x 14 steps, 56 patches each" in done.stdout  # itself and two blocks
    assert "1 x 4 steps, 48 patches each" in done.stdout
    assert "0 a.png > Tumor: " in done.stdout
    plan = json.loads(run(folder, "--plan", "--json").stdout)
    assert [stage["trainings"] for stage in plan["stages"]] == [3, 1]
    places = plan["stages"][0]["places"]
    assert sum(places.values()) == 12 * 14  # cells of 16 px
    assert plan["peak_memory_bytes"] > 1e7
    assert plan["seconds"] > 0
    assert set(folder.rglob("*")) == before


def test_a_plan_of_many_slides_stays_short():
    places = {f"{number} slide.svs > Tumor": 10 for number in range(100)}
    stage = StageEstimate("patches", places, 1, 10, 40, 1.0, 1000)
    lines = str(TrainingPlan("m 1", "cpu", (stage,), 1.0, 1)).splitlines()
    assert len(lines) == 2 + 16 + 1
    assert lines[-1] == "    and 84 more with 840 places; --json lists them"


def test_training_prints_the_package_and_refuses_to_replace_it(folder):
    write_config(folder, SEGMENTER, QUICK)
    done = run(folder)
    assert done.exit_code == 0, done.stderr
    assert done.stdout.splitlines()[0] == str(folder / "out" / "small")
    assert "mask: round   1" in done.stderr
    card = (folder / "out/small/model.json").read_bytes()
    refused(run(folder), TrainingError, "is there already")
    assert (folder / "out/small/model.json").read_bytes() == card
    again = run(folder, "--overwrite", "--json")
    assert again.exit_code == 0
    assert json.loads(again.stdout.splitlines()[-1])["package"] == str(folder / "out/small")


def test_json_is_a_line_per_round(folder):
    write_config(folder, SEGMENTER, fit_of("mask", rounds=2, steps=1))
    done = run(folder, "--json")
    *rounds, last = map(json.loads, done.stdout.splitlines())
    assert [(row["training"], row["round"]) for row in rounds] == [("mask", 0), ("mask", 1)]
    assert set(rounds[0]["scores"]) >= {"loss", "dice"}
    assert last["folder"] == str(folder / "out" / "small.training")


def test_another_recipe_in_the_same_folder_is_refused(folder):
    write_config(folder, SEGMENTER, QUICK)
    assert run(folder, "--quiet").exit_code == 0
    write_config(folder, SEGMENTER, QUICK.replace("steps = 1", "steps = 2"))
    refused(run(folder, "--overwrite"), TrainingError, "another network, data set or recipe")


def test_a_class_without_a_sample_is_named(folder):
    write_config(folder, SEGMENTER, QUICK)
    cv2.imwrite(str(folder / "a.mask.png"), np.zeros((192, 224), np.uint8))
    refused(run(folder), TrainingError, ("no sample of class 'Tumor'", "a.png"))


def test_nothing_to_train_on_is_named(folder):
    write_config(folder, SEGMENTER, QUICK)
    write_dataset(folder, slide_entry("b", "val"))
    refused(run(folder), TrainingError, "no slide of split 'train'")


def test_unknown_columns_are_named(folder):
    write_config(folder, SEGMENTER, QUICK, 'levels = ["grade", "class"]\n')
    refused(run(folder), TrainingError, ("no column 'grade'", "patient, slide"))


def test_labels_outside_the_slide_are_refused(folder):
    write_config(folder, SEGMENTER, QUICK)
    ring = [[5000, 5000], [5100, 5000], [5100, 5100], [5000, 5000]]
    feature = {
        "type": "Feature",
        "geometry": {"type": "Polygon", "coordinates": [ring]},
        "properties": {"classification": {"name": "Tumor"}},
    }
    path = folder / "a.geojson"
    path.write_text(json.dumps({"type": "FeatureCollection", "features": [feature]}))
    entry = slide_entry("a", "train", labels=path.name)
    write_dataset(folder, entry, slide_entry("b", "val"))
    refused(run(folder), AnnotationError, "a.geojson")


def test_slides_coarser_than_the_card_are_refused(folder):
    write_config(folder, SEGMENTER, QUICK)
    write_dataset(folder, slide_entry("a", "train"), slide_entry("b", "val", mpp=8.0))
    refused(run(folder), SpacingUnavailableError, ("b.png", "2 x 2 µm", "8 x 8 µm"))


def test_inputs_on_different_grids_are_refused(folder):
    refine = REFINE.replace('from="heatmap", channels=["Tumor"], spacing_um=[2,2]',
                            'from="heatmap", channels=["Tumor"], spacing_um=[4,4]')  # fmt: skip
    assert refine != REFINE
    write_config(folder, STAGES, refine, fit_of("patches", rounds=1, steps=1))
    refused(run(folder), TrainingError, "needed heatmaps with the spacing and patch of the first")


def test_patches_that_do_not_fit_the_network_are_refused(folder):
    write_config(folder, SEGMENTER.replace("patch=[32,32]", "patch=[30,30]"), QUICK)
    for arguments in ((), ("--plan",)):
        refused(run(folder, *arguments), TrainingError, ("patches of 30 x 30 px", "a multiple of"))


def test_a_pixel_size_is_asked_for_where_it_goes(folder):
    write_config(folder, SEGMENTER, QUICK)
    text = (folder / "dataset.toml").read_text()
    (folder / "dataset.toml").write_text(text.replace("mpp = 1.0\n", ""))
    refused(run(folder), MissingSpacingError, "say it in the data set, for example mpp = 0.25")


@pytest.mark.parametrize(
    ("stage", "name", "options", "match"),
    [
        (STAGES, "patches", "tversky = 1", "needed no options of the loss"),
        (SEGMENTER, "mask", "class_weights = [1, 2, 3]", "3 class_weights; needed 2"),
    ],
)
def test_losses_that_do_not_fit_are_refused(folder, stage, name, options, match):
    write_config(folder, stage, fit_of(name), f"[stages.{name}.loss]\n{options}\n")
    refused(run(folder), TrainingError, match)


def test_patches_that_are_no_squares_are_refused(folder):
    write_config(folder, SEGMENTER.replace("patch=[32,32]", "patch=[32,48]"), QUICK)
    refused(run(folder), TrainingError, "in square patches")


# Kill and go on


def start(folder):
    arguments = ["train", folder / "config.toml", "-o", folder / "out", "--threads", "1", "-q"]
    code = "import sys; from wsiseg_cli.main import main; sys.argv[0] = 'wsiseg'; main()"
    return subprocess.Popen([sys.executable, "-c", code, *map(str, arguments)])


def kill_after_a_checkpoint(folder, wait):
    """Kill a training some seconds after its first checkpoint; tell whether it was running."""
    process = start(folder)
    deadline = time.monotonic() + 120
    while not list((folder / "out").rglob("checkpoint.pt")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    time.sleep(wait)
    running = process.poll() is None
    process.kill()
    process.wait()
    return running


def weights(folder):
    return {p.name: p.read_bytes() for p in Path(folder).glob("out/small/*.safetensors")}


def trained_twice(tmp_path, *parts, kills, longest):
    """Return the weights of an uninterrupted training and of one that was killed."""
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
        two_slides(tmp_path / name)
        write_config(tmp_path / name, *parts)
    assert run(tmp_path / "whole").exit_code == 0
    hits = [
        kill_after_a_checkpoint(tmp_path / "killed", random.uniform(0, longest))
        for _ in range(kills)
    ]
    assert any(hits)
    assert not (tmp_path / "killed/out/small").exists()
    done = run(tmp_path / "killed")
    assert done.exit_code == 0, done.stderr
    return weights(tmp_path / "whole"), weights(tmp_path / "killed")


@pytest.mark.slow
def test_a_killed_training_ends_with_the_same_weights(tmp_path):
    whole, killed = trained_twice(tmp_path, SEGMENTER, LONG, kills=1, longest=0.5)
    assert whole == killed
    assert len(whole) == 1


@pytest.mark.slow
def test_a_cascade_killed_again_and_again_ends_with_the_same_weights(tmp_path):
    options = {"rounds": 12, "steps": 3, "hard": 0.3}
    parts = (STAGES, REFINE, fit_of("patches", **options), fit_of("refine", ema=0.9, **options))
    whole, killed = trained_twice(tmp_path, *parts, kills=4, longest=3.0)
    assert whole == killed
    assert len(whole) == 2

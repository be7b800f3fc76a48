"""Finished blocks depend on exactly what makes them: each change names the stages it reaches."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

import wsiseg
from wsiseg.engine import Journal, lay_out, resume
from wsiseg.engine.decoding import EXACT
from wsiseg.engine.execute import Pace
from wsiseg.model import ModelCard
from wsiseg.options import RunOptions, UncertaintyOptions
from wsiseg.testing.models import make_colour_model
from wsiseg.testing.slides import make_svs, tissue_disc

PACE = Pace(6, 2, 400, threads=1)
BOTH, LAST, NONE = (True, True), (False, True), (False, False)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("place")
    pixels, _ = tissue_disc((300, 400))
    make_svs(folder / "disc.svs", pixels, levels=(1,), tile=128, mpp=0.5)
    make_colour_model(folder / "model", patch=32, stride=16, refine_um=1.0, window=64, halo=8)
    return folder


def ids(place, tmp_path, card=lambda _: None, **changes):
    """Return the ids of the work on both stages, once something is changed; nothing is run."""
    content = json.loads((place / "model" / "model.json").read_text())
    card(content)
    machine = {"backend": "onnxruntime", "device": "cpu", "precision": "float32"}
    machine |= {key: changes.pop(key) for key in machine.keys() & changes.keys()}
    model = SimpleNamespace(card=ModelCard.parse(json.dumps(content)), **machine)
    opened = {"mpp": changes.pop("mpp", None), "reader": changes.pop("reader", None)}
    on_damage = changes.pop("on_damage", "raise")
    pace, decoding = changes.pop("pace", PACE), changes.pop("decoding", EXACT)
    uncertainty = changes.pop("uncertainty", UncertaintyOptions())
    with (
        wsiseg.open(place / "disc.svs", on_damage=on_damage, **opened) as slide,
        Journal(tmp_path / "journal") as journal,
    ):
        kept = resume.Resume(journal, slide, RunOptions(**changes))
        for setup in lay_out(model.card, slide, uncertainty=uncertainty):
            tissue = np.ones(setup.decided.counts, np.bool_)
            kept.stage(model, setup, tissue, pace=pace, decoding=decoding, parts=("mask",))
        return [journal.find(stage.name).id for stage in model.card.stages]


def put(*path):
    """Return a change of the card; the last of `path` is the value."""
    *way, last, value = path

    def change(card):
        for key in way:
            card = card[key]
        card[last] = value

    return change


def rename_class(card):
    renamed = json.loads(json.dumps(card).replace('"Tumor"', '"Carcinoma"'))
    card.update(renamed)


CHANGES = {
    "threshold": ({"card": put("threshold", 0.7)}, LAST),
    "calibration": (
        {"card": put("calibration", {"method": "temperature", "values": [2.0]})},
        LAST,
    ),
    "weights": ({"card": put("stages", 0, "weights", "sha256", "1" * 64)}, BOTH),
    "later weights": ({"card": put("stages", 1, "weights", "sha256", "1" * 64)}, LAST),
    "preparation": (
        {"card": put("stages", 0, "inputs", 0, "steps", 0, "divide_by", 256.0)},
        BOTH,
    ),
    "class": ({"card": rename_class}, BOTH),
    "colour": ({"card": put("classes", 1, "color", [0, 0, 0])}, NONE),
    "version of the model": ({"card": put("version", "2")}, NONE),
    "pixel size": ({"mpp": 0.51}, BOTH),
    "reader": ({"reader": "openslide"}, BOTH),
    "damage": ({"on_damage": "replace"}, BOTH),
    "skipping": ({"skip_below": 0.1}, LAST),
    "uncertainty": ({"uncertainty": UncertaintyOptions(layers=("entropy",))}, LAST),
    "backend": ({"backend": "openvino"}, BOTH),
    "precision": ({"precision": "int8"}, BOTH),
    "decoding": ({"decoding": replace(EXACT, scaled=True)}, BOTH),
    "batch": ({"pace": replace(PACE, batch_size=7)}, BOTH),
    "columns": ({"pace": replace(PACE, column=200)}, BOTH),
    "direction": ({"pace": replace(PACE, turned=True)}, BOTH),
    "workers": ({"pace": replace(PACE, workers=1)}, NONE),
    "threads": ({"threads": 1}, NONE),
    "memory": ({"memory_bytes": 10**9}, NONE),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_reaches_what_depends_on_it(place, tmp_path, name):
    changes, reached = CHANGES[name]
    before, after = ids(place, tmp_path), ids(place, tmp_path, **changes)
    assert tuple(a != b for a, b in zip(before, after, strict=True)) == reached


@pytest.mark.parametrize(
    "name",
    [
        "code_fingerprint",
        "library_versions",
        "version_of",
        "hardware",
        "__version__",
    ],
)
def test_another_machine_or_library_reaches_all(place, tmp_path, monkeypatch, name):
    before = ids(place, tmp_path)
    monkeypatch.setattr(resume, name, "0" if name == "__version__" else lambda *_: "other")
    assert all(a != b for a, b in zip(before, ids(place, tmp_path), strict=True))

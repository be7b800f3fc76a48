import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_model import content

from wsiseg.errors import ModelCardError
from wsiseg.model.card import ModelCard, card_schema

SCHEMA = Path(__file__).parents[2] / "docs" / "model-card.schema.json"


def complete() -> dict[str, Any]:
    """Return a right card with hashes."""
    card = content()
    for stage in card["stages"]:
        stage["weights"] |= {"file": f"{stage['name']}.safetensors", "sha256": "0" * 64}
    return card


def parse(card: dict[str, Any]) -> ModelCard:
    return ModelCard.parse(json.dumps(card))


def put(*path: Any) -> Callable[[dict[str, Any]], None]:
    """Return a change that sets one field; the last of `path` is its value."""
    *way, last, value = path

    def change(card: dict[str, Any]) -> None:
        place: Any = card
        for key in way:
            place = place[key]
        place[last] = value

    return change


FIRST = ("stages", 0, "inputs", 0)
SECOND = ("stages", 1, "inputs", 0)
HEAT = ("stages", 1, "inputs", 1)
MASK = {"name": "mask", "halo": [1, 1]}
WINDOW = ("stages", 1, "output", "max_patch")
WRONG = {
    "unknown key": (put("colour", "red"), "colour"),
    "unknown nested key": (put(*FIRST, "mpp", 1.0), "stages.0.inputs.0.mpp"),
    "version": (put("schema_version", 2), "schema_version"),
    "text as number": (put(*FIRST, "spacing_um", ["1.0", "1.0"]), "spacing_um"),
    "NaN": (put(*FIRST, "spacing_tolerance", float("nan")), "spacing_tolerance"),
    "absurd spacing": (put(*FIRST, "spacing_um", [0.001, 0.001]), "spacing_um"),
    "no spacing": (put(*FIRST, "spacing_um", None), "needs spacing_um"),
    "range in a window": (put(*FIRST, "spacing_range_um", [1.0, 2.0]), "no spacing_range_um"),
    "spacing axes": (put(*FIRST, "spacing_um", [1.0]), "one per axis"),
    "patch axes": (put(*FIRST, "patch", [6, 4, 2]), "one per axis"),
    "stride axes": (put(*FIRST, "stride", [2]), "one per axis"),
    "stride leaves gaps": (put(*FIRST, "stride", [7, 2]), "leaves gaps"),
    "second stride": (put(*HEAT, "stride", [2, 2]), "only the first input"),
    "halo of classifier": (put("stages", 0, "output", "halo", [1, 0]), "has no halo"),
    "halo too wide": (put("stages", 1, "output", "halo", [1, 2]), "leaves nothing"),
    "halo axes": (put("stages", 1, "output", "halo", [1]), "halo"),
    "window of a classifier": (put("stages", 0, "output", "max_patch", [10, 6]), "a halo; remove"),
    "window without halo": (
        put("stages", 1, "output", {"name": "mask", "max_patch": [14, 10]}),
        "a halo; remove",
    ),
    "window off the step": (put(*WINDOW, [15, 10]), r"such as \(14, 10\)"),
    "window below the patch": (put(*WINDOW, [2, 10]), r"such as \(6, 10\)"),
    "window axes": (put(*WINDOW, [14]), "needs 2 values"),
    "window of a blend": (
        put("stages", 1, "output", {**MASK, "max_patch": [14, 10], "blend": "gaussian"}),
        "needs blend 'crop'",
    ),
    "window of overlapping patches": (
        lambda card: (put(*WINDOW, [14, 10])(card), put(*SECOND, "stride", [2, 2])(card)),
        r"needs blend 'crop' and stride \(4, 2\)",
    ),
    "window of two patches": (
        lambda card: (put(*WINDOW, [14, 10])(card), put(*HEAT, "patch", [12, 8])(card)),
        "one patch and one spacing_um",
    ),
    "window of two spacings": (
        lambda card: (put(*WINDOW, [14, 10])(card), put(*HEAT, "spacing_um", [4.0, 4.0])(card)),
        "one patch and one spacing_um",
    ),
    "weights fetched": (
        put("stages", 0, "weights", "arguments", {"pretrained": True}),
        "the package alone: leave out pretrained",
    ),
    "weights from any file": (
        put("stages", 0, "weights", "arguments", {"checkpoint_path": "a.pth"}),
        "the package alone: leave out checkpoint_path",
    ),
    "channel order": (put(*FIRST, "channels", ["B", "G", "R"]), "first layer reordered"),
    "channel twice": (put(*HEAT, "channels", ["Tumor", "Tumor"]), "names must differ"),
    "channel unknown": (put(*HEAT, "channels", ["Stroma"]), "no classes of this model"),
    "source unknown": (put(*FIRST, "from", "mask"), "no earlier stage"),
    "normalize": (
        put(*FIRST, "steps", [{"name": "normalize", "mean": [0.0], "std": [1.0]}]),
        "3 means",
    ),
    "step unknown": (put(*FIRST, "steps", [{"name": "stain"}]), "steps"),
    "division by zero": (put(*FIRST, "steps", [{"name": "scale", "divide_by": 0}]), "divide_by"),
    "class twice": (put("classes", [{"name": "a"}, {"name": "a"}]), "names must differ"),
    "class blank": (put("classes", 1, "name", " "), "blank"),
    "class line break": (put("classes", 1, "name", "a\nb"), "line break"),
    "class outer spaces": (put("classes", 1, "name", " a"), "outer spaces"),
    "one class": (put("classes", [{"name": "a"}]), "classes"),
    "stage twice": (put("stages", 1, "name", "patches"), "names must differ"),
    "output twice": (put("stages", 1, "output", "name", "heatmap"), "names must differ"),
    "output called slide": (put("stages", 1, "output", "name", "slide"), "names must differ"),
    "threshold of three": (
        lambda card: card.update(threshold=0.5, classes=[{"name": c} for c in ("b", "Tumor", "c")]),
        "needs two classes",
    ),
    "calibration sizes": (
        put("calibration", {"method": "temperature", "values": [1.0, 2.0]}),
        "exactly one value",
    ),
    "calibration of a negative temperature": (
        put("calibration", {"method": "temperature", "values": [-1.0]}),
        "above 0",
    ),
    "calibration of one class": (
        put("calibration", {"method": "vector", "values": [1.0, 0.0]}),
        "a weight and a bias per class",
    ),
    "calibration of three classes": (
        put("calibration", {"method": "vector", "values": [1.0, 1.0, 1.0, 0.0, 0.0, 0.0]}),
        "of 2 classes needs 4 values, found 6",
    ),
    "calibration ignored": (put("calibration", {"values": [2.0]}), "ignored"),
    "calibration of probabilities": (
        lambda card: (
            put("calibration", {"method": "temperature", "values": [2.0]})(card),
            put("stages", 1, "output", "activation", "none")(card),
        ),
        "raw outputs",
    ),
    "file outside": (put("stages", 0, "weights", "file", "../w.onnx"), "weights.file"),
    "file hidden": (put("stages", 0, "weights", "file", ".."), "weights.file"),
    "file is the card": (put("stages", 0, "weights", "file", "model.json"), "is taken"),
    "file is the check": (put("stages", 0, "weights", "file", "check.npz"), "is taken"),
    "check is the card": (put("check", {"file": "model.json"}), "is taken"),
    "file shared by two": (put("stages", 1, "weights", "file", "patches.safetensors"), "another"),
    "layout of torch": (put("stages", 0, "weights", "layout", "channels_last"), "layout"),
    "onnx argument": (
        lambda card: card["stages"][0]["weights"].update(architecture="onnx", arguments={"a": 1}),
        "no argument",
    ),
    "name outside": (put("name", "../tiny"), "name"),
    "no licence": (put("provenance", "license", " "), "license"),
    "whole with spacing": (put("stages", 1, "extent", "whole"), "spacing_range_um"),
}


def whole(card: dict[str, Any]) -> dict[str, Any]:
    """Turn the second stage into one that sees the whole slide."""
    stage = card["stages"][1] | {"extent": "whole"}
    for spec in stage["inputs"]:
        del spec["spacing_um"]
        spec["spacing_range_um"] = [8.0, 64.0]
    stage["output"].pop("halo")
    card["stages"][1] = stage
    return card


def test_right_cards_are_read() -> None:
    assert parse(complete()).stages[1].inputs[1].source == "heatmap"
    assert parse(whole(complete())).stages[1].extent == "whole"


@pytest.mark.parametrize(("change", "message"), WRONG.values(), ids=WRONG.keys())
def test_wrong_cards_are_refused_by_name(
    change: Callable[[dict[str, Any]], None], message: str
) -> None:
    card = complete()
    change(card)
    with pytest.raises(ModelCardError, match=message):
        parse(card)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (put("stages", 1, "output", "halo", [1, 1]), "has no halo"),
        (put("stages", 1, "inputs", 0, "spacing_range_um", [9.0, 8.0]), "runs backward"),
        (put("stages", 1, "inputs", 0, "stride", [2, 2]), "has a stride"),
    ],
)
def test_what_a_whole_view_cannot_have(
    change: Callable[[dict[str, Any]], None], message: str
) -> None:
    card = whole(complete())
    change(card)
    with pytest.raises(ModelCardError, match=message):
        parse(card)


def test_a_volume_may_name_its_channels() -> None:
    card = complete()
    card |= {"axes": "zyx", "scan": {}}
    del card["stages"][1]
    card["stages"][0]["kind"] = "segmenter"
    spec = card["stages"][0]["inputs"][0]
    spec |= {"from": "scan", "channels": ["CT"], "patch": [4, 4, 4], "stride": None}
    spec |= {"spacing_um": [1e3] * 3, "steps": []}
    assert parse(card).scan_channels == ("CT",)


printable = st.text(st.characters(categories=["L", "N", "P", "S"]), min_size=1, max_size=9)


@given(
    names=st.lists(printable, min_size=2, max_size=5, unique=True),
    color=st.tuples(*[st.integers(0, 255)] * 3),
    tolerance=st.floats(0, 0.5),
)
def test_a_card_survives_the_way_through_its_file(
    names: list[str], color: tuple[int, int, int], tolerance: float
) -> None:
    card = complete()
    card["classes"] = [{"name": name, "color": color} for name in names]
    put(*FIRST, "spacing_tolerance", tolerance)(card)
    put(*HEAT, "channels", names[1:2])(card)
    read = parse(card)
    assert tuple(c.name for c in read.classes) == tuple(names)
    assert ModelCard.parse(read.to_json()) == read


def test_errors_name_the_file(tmp_path: Path) -> None:
    with pytest.raises(ModelCardError, match="cannot be read"):
        ModelCard.read(tmp_path / "model.json")
    (tmp_path / "model.json").write_text("{")
    with pytest.raises(ModelCardError, match=r"model\.json: card: Invalid JSON"):
        ModelCard.read(tmp_path / "model.json")


def test_the_stored_schema_is_current() -> None:
    text = json.dumps(card_schema(), indent=2) + "\n"
    assert SCHEMA.read_text(encoding="utf-8") == text, (
        "write json.dumps(wsiseg.model.card.card_schema(), indent=2) to docs/model-card.schema.json"
    )

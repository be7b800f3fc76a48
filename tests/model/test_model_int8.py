import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from tiny_model import PATCH, check_inputs, content, noise
from torch import nn

from wsiseg.errors import ModelError
from wsiseg.model import (
    OutputChange,
    check_model,
    describe,
    load_model,
    measure_int8,
    quantize,
    record_int8,
)
from wsiseg.model import networks as networks_module
from wsiseg.model.check import output_change
from wsiseg.model.package import Package, write_package

SIZE = (16, 16)


class Deep(nn.Module):
    """Three convolutions: the middle one is what int8 changes."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(8, 8, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(8, 2, 1),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.body(x)


@pytest.fixture
def deep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    monkeypatch.setattr(networks_module, "build", lambda *_, **__: Deep())

    def write(**check: float) -> Path:
        torch.manual_seed(3)
        stage = content()["stages"][0]
        stage |= {"kind": "segmenter", "output": {"name": "mask"}}
        stage["inputs"][0] |= {"patch": list(SIZE), "stride": list(SIZE)}
        card = content() | {"name": "deep", "stages": [stage], "check": check}
        inputs = {"patches": (noise(2, *SIZE, 3),)}
        folder = tmp_path / "packages" / "deep"
        write_package(folder, card=card, networks={"patches": Deep()}, check_inputs=inputs)
        return folder

    return write


def graph_of(home: Path) -> onnx.ModelProto:
    (path,) = (home / "cache" / "int8").glob("*.onnx")
    return onnx.load(path)


def test_int8_is_made_once_and_close(
    deep: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = deep()
    exact = load_model(folder, backend="onnxruntime")
    model = load_model(folder, precision="int8", device="cpu")
    assert (model.backend, model.precision) == ("onnxruntime", "int8")
    pixels = noise(3, *SIZE, 3, seed=7)
    difference = np.abs(model.predictors[0](pixels) - exact.predictors[0](pixels)).max()
    assert 1e-5 < difference < 0.05
    nodes = graph_of(tmp_path / "home").graph.node
    convolutions = [node for node in nodes if node.op_type == "Conv"]
    made_by = {output: node.op_type for node in nodes for output in node.output}
    kinds = [made_by.get(node.input[1]) == "DequantizeLinear" for node in convolutions]
    assert kinds == [False, True, False]

    monkeypatch.setattr(quantize, "make_in_child", None)
    load_model(folder, precision="int8", device="cpu")


def test_what_int8_changes_is_reported(deep: Callable[..., Path]) -> None:
    folder = deep()
    report = check_model(folder, precision="int8")
    (stage,) = report.stages
    assert 0 < stage.change.mean <= stage.change.largest <= stage.error
    assert "int8" in str(report)
    assert "of the labels stay" in str(report)
    assert "of the labels stay" not in str(check_model(folder, backend="onnxruntime"))


def test_more_change_than_the_card_allows_is_an_error(deep: Callable[..., Path]) -> None:
    folder = deep(int8_tolerance=1e-6)
    load_model(folder, backend="onnxruntime")
    with pytest.raises(ModelError, match=r"by 0\.\d+: needed at most 1e-06; .*int8_tolerance"):
        load_model(folder, precision="int8")
    (change,) = measure_int8(folder).values()
    assert change.largest > 1e-6


def test_calibration_patches_count(deep: Callable[..., Path]) -> None:
    folder = deep()
    bright = {"patches": (np.full((4, *SIZE, 3), 255, np.uint8),)}
    plain = load_model(folder, precision="int8", device="cpu")
    wider = load_model(folder, precision="int8", device="cpu", calibration=bright)
    pixels = noise(3, *SIZE, 3, seed=7)
    assert np.any(plain.predictors[0](pixels) != wider.predictors[0](pixels))
    with pytest.raises(ModelError, match=r"calibration patches: needed .*16, 16, 3"):
        load_model(folder, precision="int8", calibration={"patches": (noise(1, *PATCH, 3),)})


def test_what_int8_changes_is_measured_on_other_patches(deep: Callable[..., Path]) -> None:
    folder = deep()
    (ours,) = measure_int8(folder).values()
    (theirs,) = measure_int8(folder, patches={"patches": (noise(3, *SIZE, 3, seed=7),)}).values()
    assert ours != theirs
    with pytest.raises(ModelError, match="needed some of"):
        measure_int8(folder, patches={"other": ()})


def test_a_measurement_goes_into_the_card(deep: Callable[..., Path]) -> None:
    folder = deep()
    changes = measure_int8(folder)
    card = record_int8(folder, changes)
    assert Package.open(folder).card == card
    name = "int8, patches, mean change of probability"
    assert card.provenance.metrics[name] == pytest.approx(changes["patches"].mean, abs=1e-6)
    assert name in describe(folder)
    assert name in (folder / "README.md").read_text()
    (folder / "README.md").write_text("my own words")
    record_int8(folder, changes)
    assert (folder / "README.md").read_text() == "my own words"


def test_a_bundled_card_stays(monkeypatch: pytest.MonkeyPatch, deep: Callable[..., Path]) -> None:
    folder = deep()
    monkeypatch.setattr("wsiseg.model.accuracy.BUNDLED", folder.parent)
    with pytest.raises(ModelError, match="bundled"):
        record_int8(folder, {})


def test_networks_of_one_weighted_layer_stay_as_they_are(package: Path) -> None:
    exact = load_model(package, backend="onnxruntime").predictors
    reduced = load_model(package, precision="int8", device="cpu").predictors
    for name, predictor, other in zip(("patches", "refine"), exact, reduced, strict=True):
        inputs = check_inputs()[name]
        np.testing.assert_allclose(predictor(*inputs), other(*inputs), atol=1e-6)


@pytest.mark.parametrize(
    ("machine", "flags", "saturates"),
    [
        ("x86_64", "flags : avx2 avx512_vnni", False),
        ("AMD64", "flags : avx2", True),
        ("arm64", "", False),
    ],
)
def test_cpus_whose_bytes_saturate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, machine: str, flags: str, saturates: bool
) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(f"model name : any\n{flags}\n")
    monkeypatch.setattr(quantize.platform, "machine", lambda: machine)
    monkeypatch.setattr(quantize, "CPUINFO", cpuinfo)
    assert quantize.eight_bits_saturate() is saturates
    monkeypatch.setattr(quantize, "CPUINFO", tmp_path / "none")
    assert quantize.eight_bits_saturate() is (machine != "arm64")


def test_a_change_counts_probabilities_and_labels(package: Path) -> None:
    card = Package.open(package).card
    stage = card.stages[0]
    expected = np.log(np.array([[0.5, 0.5], [0.9, 0.1]], np.float32))
    found = np.log(np.array([[0.4, 0.6], [0.8, 0.2]], np.float32))
    change = output_change(card, stage, found, expected)
    assert change.mean == pytest.approx(0.1, abs=1e-6)
    assert change.largest == pytest.approx(0.1, abs=1e-6)
    assert change.same_labels == 0.5
    wide = card.model_copy(update={"threshold": 0.15})
    assert output_change(wide, stage, found, expected).same_labels == 0.5
    assert output_change(wide, stage, expected, expected) == OutputChange(0.0, 0.0, 1.0)


def test_reports_survive_the_cache(deep: Callable[..., Path], tmp_path: Path) -> None:
    load_model(deep(), precision="int8", device="cpu")
    reports: list[dict[str, Any]] = [
        json.loads(path.read_bytes()) for path in (tmp_path / "home" / "cache" / "checks").iterdir()
    ]
    (report,) = [report for report in reports if report["precision"] == "int8"]
    assert set(report["stages"][0]["change"]) == {"mean", "largest", "same_labels"}

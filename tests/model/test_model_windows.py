"""Dense networks on larger windows: the same values, compared before they are relied on."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_model import CARD, Segmenter, check_inputs, content, networks, noise
from tiny_model import build as build_tiny
from torch import nn

from wsiseg.errors import ModelError
from wsiseg.model import Model, backends, check_model, load_model, windows
from wsiseg.model import networks as networks_module
from wsiseg.model.card import ModelCard, StageSpec
from wsiseg.model.enlarge import enlarged, widened, window_patches
from wsiseg.model.networks import receptive_field_radius

Write = Callable[..., Path]

SMALL, LARGE = (6, 4), (22, 12)
"""Of the second stage: steps of 4 and 2 pixels, five of each."""


class WholeMean(nn.Module):
    """Sees all of its window: no halo is wide enough."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.head = nn.Conv2d(channels, classes, 1)

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        x = torch.cat(inputs, 1)
        return self.head(x - x.mean((2, 3), keepdim=True))


@pytest.fixture(autouse=True)
def _networks(monkeypatch: pytest.MonkeyPatch) -> None:
    def build(architecture: str, *, channels: Any, classes: int, arguments: Any) -> Any:
        if architecture == "wsiseg.whole_mean":
            return WholeMean(sum(channels), classes)
        return build_tiny(architecture, channels=channels, classes=classes, arguments=arguments)

    monkeypatch.setattr(networks_module, "build", build)


def windowed(largest: tuple[int, int] = LARGE) -> dict[str, Any]:
    card = content()
    card["stages"][1]["output"]["max_patch"] = list(largest)
    return card


def dense(patch: int, halo: int, largest: int, widths: list[int]) -> dict[str, Any]:
    """Return the card of a U-Net that reads the slide alone."""
    card = content()
    stage = card["stages"][1]
    stage["inputs"] = stage["inputs"][:1]
    stage["inputs"][0]["patch"] = [patch] * 2
    stage["output"] |= {"halo": [halo] * 2, "max_patch": [largest] * 2}
    arguments = {"widths": widths, "bottleneck": 6}
    stage["weights"] = {"architecture": "wsiseg.unet", "arguments": arguments}
    card["stages"] = [stage]
    return card


def write_dense(write: Write, patch: int, halo: int, largest: int, levels: int = 1) -> Path:
    torch.manual_seed(0)
    widths = [4] * levels
    network = networks_module.build(
        "wsiseg.unet", channels=(3,), classes=2, arguments={"widths": widths, "bottleneck": 6}
    )
    for module in network.modules():
        if isinstance(module, nn.Conv2d):  # positive weights: nothing is cut off on its way
            module.weight.data.abs_()
    return write(
        dense(patch, halo, largest, widths),
        networks={"refine": network},
        check_inputs={"refine": (noise(2, patch, patch, 3),)},
    )


def stage_of(card: dict[str, Any]) -> StageSpec:
    for stage in card["stages"]:
        stage["weights"] |= {"file": f"{stage['name']}.safetensors", "sha256": "0" * 64}
    return ModelCard.parse(json.dumps(card)).stages[-1]


def test_sizes_halve_their_steps_down_to_the_patch() -> None:
    assert window_patches(stage_of(windowed())) == ((22, 12), (10, 6), (6, 4))
    assert window_patches(stage_of(windowed((22, 4)))) == ((22, 4), (10, 4), (6, 4))
    assert window_patches(stage_of(content())) == (SMALL,)


def test_a_widened_stage_has_another_patch_and_the_same_halo() -> None:
    stage = widened(stage_of(windowed()), LARGE)
    assert [spec.patch for spec in stage.inputs] == [LARGE, LARGE]
    assert (stage.output.halo, stage.output.max_patch) == ((1, 1), None)


def test_an_enlarged_patch_takes_examples_in_turn_and_turns_them_over() -> None:
    array = noise(2, 3, 4, 1)
    (window,) = enlarged((array,), (7, 10))
    first, second = array
    np.testing.assert_array_equal(window[0, :3, :4], first)
    np.testing.assert_array_equal(window[0, :3, 4:8], second[:, ::-1])
    np.testing.assert_array_equal(window[0, :3, 8:], first[:, :2])
    np.testing.assert_array_equal(window[0, 3:6, :4], second[::-1])
    np.testing.assert_array_equal(window[0, 6:, :4], first[:1])


@pytest.mark.parametrize("backend", ["onnxruntime", "torch"])
def test_two_inputs_on_a_window_give_what_patches_give(write: Write, backend: Any) -> None:
    model = load_model(write(windowed()), backend=backend, device="cpu")
    assert model.patches(1) == (LARGE, (10, 6), SMALL)
    wide = model.on_patches([SMALL, LARGE])
    assert wide.predictors[0] is model.predictors[0]
    heat = np.random.default_rng(2).random((1, *LARGE, 1), dtype=np.float32)
    inputs = (noise(1, *LARGE, 3), heat)
    whole = wide.predictors[1](*inputs)[0]
    for y in range(5):
        for x in range(5):
            box = (slice(None), slice(4 * y, 4 * y + 6), slice(2 * x, 2 * x + 4))
            alone = model.predictors[1](*(np.ascontiguousarray(a[box]) for a in inputs))[0]
            np.testing.assert_allclose(whole[box[1:]][1:-1, 1:-1], alone[1:-1, 1:-1], atol=1e-6)
    assert wide.on_patches([SMALL, SMALL]).predictors == model.predictors


def test_a_halo_of_the_receptive_field_is_wide_enough(write: Write) -> None:
    halo = receptive_field_radius(1) + 1  # even, as the pooling wants
    folder = write_dense(write, 2 * halo + 8, halo, 2 * halo + 8 * 4)
    report = check_model(folder, backend="onnxruntime", device="cpu")
    (found,) = report.windows
    assert found.patch == (2 * halo + 32,) * 2
    assert found.error <= 1e-5
    assert "on windows of 52 x 52 px values differ by" in str(report)


@pytest.mark.parametrize("backend", ["onnxruntime", "torch"])
def test_a_network_that_looks_farther_than_its_halo_is_refused(
    write: Write, monkeypatch: pytest.MonkeyPatch, backend: Any
) -> None:
    halo = receptive_field_radius(1) - 3
    with pytest.raises(ModelError, match=r"differ by .* remove output\.max_patch"):
        write_dense(write, 2 * halo + 8, halo, 2 * halo + 32)
    with monkeypatch.context() as patch:  # a package that was written elsewhere
        patch.setattr(windows.WindowNetworks, "check_largest", lambda _: ())
        folder = write_dense(write, 2 * halo + 8, halo, 2 * halo + 32)
    for _ in range(2):  # nothing was kept that would let it pass
        with pytest.raises(ModelError, match="looks farther than its halo of 6 x 6 px"):
            load_model(folder, backend=backend, device="cpu")


def test_a_pooling_that_does_not_divide_the_step_is_refused(write: Write) -> None:
    halo = receptive_field_radius(2) + 2
    assert halo == 25
    with pytest.raises(ModelError, match="does not divide the step of 14 x 14 px"):
        write_dense(write, 64, halo, 64 + 2 * 14, levels=2)


def test_a_network_that_sees_its_whole_window_is_refused_whatever_the_examples(
    write: Write,
) -> None:
    card = windowed()
    card["stages"][1]["weights"]["architecture"] = "wsiseg.whole_mean"
    grey = {**check_inputs(), "refine": tuple(np.ones_like(a) for a in check_inputs()["refine"])}
    given = {**networks(), "refine": WholeMean(4, 2)}
    with pytest.raises(ModelError, match="at the window as a whole"):
        write(card, networks=given, check_inputs=grey)


def test_it_is_compared_once(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[tuple[int, ...]] = []
    real = windows.compare_windows

    def counted(*args: Any) -> float:
        compared.append(args[3][0].shape[1:-1])
        return real(*args)

    monkeypatch.setattr(windows, "compare_windows", counted)
    folder = write(windowed())
    compared.clear()
    load_model(folder, backend="onnxruntime", device="cpu")
    assert compared == [LARGE, LARGE]
    again = load_model(folder, backend="onnxruntime", device="cpu")
    assert len(compared) == 2
    again.on_patches([SMALL, (10, 6)])  # another size is compared when it is first wanted
    again.on_patches([SMALL, (10, 6)])
    assert compared[2:] == [(10, 6)] * 2


@pytest.mark.parametrize("found", [[np.nan, 0.0], [0.0, np.nan], [0.0, 2e-4]])
def test_one_scene_that_differs_is_enough(
    write: Write, monkeypatch: pytest.MonkeyPatch, found: list[float]
) -> None:
    folder = write(windowed())
    errors = iter(found)
    monkeypatch.setattr(windows, "compare_windows", lambda *_: next(errors))
    with pytest.raises(ModelError, match="values differ by"):
        load_model(folder, backend="torch", device="cpu")


def test_not_a_number_is_no_agreement() -> None:
    stage = stage_of(windowed())

    def network(*inputs: np.ndarray) -> np.ndarray:
        return np.full((1, *inputs[0].shape[1:-1], 2), np.nan, np.float32)

    window = enlarged(check_inputs()["refine"], LARGE)
    assert np.isnan(windows.compare_windows(stage, network, network, window))


def test_int8_stays_on_patches(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "int8_graph", lambda *args: args[2])
    model = load_model(write(windowed()), backend="onnxruntime", device="cpu", precision="int8")
    assert model.patches(1) == (SMALL,)
    assert model.on_patches([SMALL, SMALL]) is model


def test_measured_windows_take_the_place_of_measured_patches(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    from wsiseg.model import load, tuning

    monkeypatch.setattr(load, "tune_package", tuning.tune_package)
    monkeypatch.setattr(tuning, "SECONDS", 0.1)
    made: list[dict[str, Any]] = []

    def measure(_job: str, request: dict[str, Any], **_: str) -> bytes:
        made.append(request)
        found = [
            tuning.StageTuning(stage["name"], 3 + len(made), 1, 1, 0.5)
            for stage in request["stages"]
        ]
        return tuning.tuning_bytes(tuning.Tuning(request["backends"][0], tuple(found), {}))

    monkeypatch.setattr(tuning, "make_in_child", measure)
    model = load_model(write(windowed()), device="cpu")
    wide = model.on_patches([SMALL, LARGE])
    assert {s.stage: s.batch_size for s in model.tuning.stages} == {"patches": 4, "refine": 4}
    assert {s.stage: s.batch_size for s in wide.tuning.stages} == {"patches": 4, "refine": 5}
    (asked,) = made[1]["stages"]
    assert asked["inputs"][0]["shape"] == [*LARGE, 3]
    assert made[1]["backends"] == (model.backend,)


def test_models_without_windows_are_left_alone(package: Path) -> None:
    model = load_model(package, backend="onnxruntime", device="cpu")
    assert isinstance(model, Model)
    assert model.windows is None
    assert model.patches(1) == (SMALL,)
    assert "max_patch" not in json.dumps(CARD)
    assert isinstance(networks()["refine"], Segmenter)

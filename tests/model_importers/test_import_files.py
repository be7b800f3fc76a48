"""Models of Raidionics, and ONNX and TorchScript of volumes with a card written by hand."""

import json
import warnings
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from made_models import INI, Voxelwise, export, make_raidionics, network
from scipy.ndimage import map_coordinates

from wsiseg.errors import ModelCardError, WeightsError, WsisegWarning
from wsiseg.model import ModelCard, add_model, load_model
from wsiseg.scans import segment_scan

CARD: dict[str, Any] = {
    "schema_version": 1,
    "name": "by-hand",
    "version": "1",
    "task": "semantic",
    "axes": "zyx",
    "scan": {"orientation": "RAS"},
    "classes": [{"name": "background"}, {"name": "liver"}, {"name": "tumour"}],
    "stages": [
        {
            "name": "network",
            "kind": "segmenter",
            "inputs": [
                {
                    "from": "scan",
                    "channels": ["CT"],
                    "spacing_um": [2000, 1000, 1000],
                    "patch": [8, 16, 16],
                    "steps": [{"name": "window", "low": -100, "high": 300}],
                }
            ],
            "windows": {"plan": "monai", "overlap": 0.5},
            "output": {"name": "labels", "blend": "gaussian-monai", "stitched": "raw"},
        }
    ],
    "provenance": {
        "license": "Apache-2.0",
        "trained_on": "nothing",
        "intended_use": "tests",
        "limits": "all",
    },
}


def expected(x: np.ndarray) -> np.ndarray:
    with torch.inference_mode():
        found = network()(torch.from_numpy(x).permute(0, 4, 1, 2, 3))
    return found.permute(0, 2, 3, 4, 1).numpy()


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def test_onnx_of_a_volume_with_a_card(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    export(network(), torch.zeros(1, 1, 8, 16, 16), path)
    path.with_suffix(".json").write_text(json.dumps(CARD))
    add_model(path)
    x = noise(2, 8, 16, 16, 1)
    found = load_model("by-hand", backend="onnxruntime").predictors[0](x)
    np.testing.assert_allclose(found, expected(x), atol=1e-4)


def test_torchscript_of_a_volume_with_a_card(tmp_path: Path) -> None:
    path = tmp_path / "net.ts"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.trace(network(), torch.zeros(1, 1, 8, 16, 16)), path)
    path.with_suffix(".json").write_text(json.dumps(CARD))
    with pytest.raises(WeightsError, match="--trust"):
        add_model(path)
    with pytest.warns(WsisegWarning, match="runs once"):
        add_model(path, trust=True)
    x = noise(2, 8, 16, 16, 1)
    found = load_model("by-hand", backend="onnxruntime").predictors[0](x)
    np.testing.assert_allclose(found, expected(x), atol=1e-4)


def raidionics(folder: Path, **changes: str) -> ModelCard:
    ini = INI
    for key, value in changes.items():
        lines = [f"{key}={value}" if s.split("=")[0] == key else s for s in ini.splitlines()]
        ini = "\n".join(lines)
    return ModelCard.read(add_model(make_raidionics(folder, ini), name="made") / "model.json")


def test_raidionics_of_whole_volumes(tmp_path: Path) -> None:
    card = raidionics(tmp_path / "T1")
    assert [c.name for c in card.classes] == ["Background", "Tumor"]
    assert card.threshold == 0.35
    assert card.scan is not None
    assert (card.scan.orientation, card.scan.transpose) == ("RAS", (1, 2, 0))
    stage = card.stages[0]
    assert (stage.extent, stage.inputs[0].patch) == ("whole", (16, 16, 8))
    assert [step.name for step in stage.inputs[0].steps] == ["percentile_clip", "rescale"]
    assert (stage.output.activation, stage.weights.layout) == ("none", "channels_last")
    x = noise(1, 16, 16, 8, 1)
    torch.manual_seed(0)
    assert load_model("made").predictors[0](x).shape == (1, 16, 16, 8, 2)


def test_raidionics_in_windows(tmp_path: Path) -> None:
    card = raidionics(
        tmp_path / "T1",
        new_axial_size="",
        patch_size="16, 16, 8",
        output_spacing="1.0, 1.0, 2.0",
        swap_training_input="False",
        normalization_method="zeromean_nonzero",
    )
    stage = card.stages[0]
    assert stage.windows is not None
    assert stage.windows.plan == "monai"
    assert stage.inputs[0].spacing_um == (1000.0, 1000.0, 2000.0)
    assert stage.inputs[0].steps[-1].model_dump() == {"name": "zscore", "region": "nonzero"}


class Brightness(torch.nn.Module):
    """Half of the value, and more the farther along the first axis, which tells the turn."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        ramp = torch.linspace(0, 0.4, 16).reshape(1, 16, 1, 1, 1)
        tumour = x.clamp(0, 1) / 2 + ramp
        return torch.cat([1 - tumour, tumour], -1)


def resized(values: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Return values (x, y, z) linearly at the centres of so many voxels over the same extent."""
    ends = zip(values.shape, shape, strict=True)
    places = np.meshgrid(*(((np.arange(m) + 0.5) * n / m - 0.5) for n, m in ends), indexing="ij")
    return map_coordinates(values.astype(np.float64), places, order=1, mode="nearest")


@pytest.mark.parametrize("swapped", [True, False])
def test_raidionics_values(tmp_path: Path, swapped: bool) -> None:
    """Of a whole volume: resized, clipped at percentiles, scaled, turned; and back the same way."""
    ini = INI.replace("swap_training_input=True", f"swap_training_input={swapped}")
    folder = make_raidionics(tmp_path / "T1", ini)
    export(Brightness().eval(), torch.zeros(1, 16, 16, 8, 1), folder / "model.onnx")
    add_model(folder, name="made")
    values = np.random.default_rng(0).gamma(2.0, 100.0, (30, 26, 14)).astype(np.float32)
    affine = np.diag([1.0, 1.2, 3.0, 1.0])
    nib.save(nib.Nifti1Image(values, affine), tmp_path / "scan.nii")
    result = segment_scan(tmp_path / "scan.nii", "made", probabilities=["Tumor"])
    seen = resized(values, (16, 16, 8))
    low, high = np.percentile(seen, [0, 99.5])
    seen = (np.clip(seen, low, high) - low) / (high - low)
    ramp = np.linspace(0, 0.4, 16)[:, None, None]
    wanted = resized(seen / 2 + (ramp.swapaxes(0, 1) if swapped else ramp), values.shape)
    found = result.probabilities["Tumor"].transpose(2, 1, 0)
    assert np.abs(found - wanted).max() < 1e-4
    sure = np.abs(wanted - 0.35) > 1e-4
    assert np.array_equal(result.labels.transpose(2, 1, 0)[sure], wanted[sure] > 0.35)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"background_cropping": "brain_clip"}, "'brain_clip': needs what another model finds"),
        ({"new_axial_size": "256,256"}, "new_axial_size of two values: slabs"),
        ({"new_axial_size": "a,b,c"}, "needed numbers"),
        ({"task": "Classification"}, "needed segmentation"),
        ({"normalization_method": "histogram"}, "normalization_method 'histogram'"),
        ({"new_axial_size": "", "patch_size": ""}, "needed three sizes in one of them"),
    ],
)
def test_raidionics_that_no_card_can_say(
    tmp_path: Path, changes: dict[str, str], message: str
) -> None:
    with pytest.raises(ModelCardError, match=message):
        raidionics(tmp_path / "T1", **changes)


def test_a_damaged_ini_is_said(tmp_path: Path) -> None:
    folder = make_raidionics(tmp_path / "T1", "no section")
    with pytest.raises(ModelCardError, match="no configuration"):
        add_model(folder)


def test_channels_last_are_told_from_the_card(tmp_path: Path) -> None:
    made = Voxelwise().eval()
    x = noise(1, 16, 16, 8, 1)
    export(made, torch.zeros(1, 16, 16, 8, 1), tmp_path / "m.onnx")
    card = json.loads(json.dumps(CARD))
    card["classes"] = card["classes"][:2]
    stage = card["stages"][0]
    stage["inputs"][0]["patch"] = [16, 16, 8]
    stage["output"]["activation"] = "none"
    stage["weights"] = {"layout": "channels_last"}
    (tmp_path / "m.json").write_text(json.dumps(card))
    add_model(tmp_path / "m.onnx")
    with torch.inference_mode():
        wanted = made(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(load_model("by-hand").predictors[0](x), wanted, atol=1e-5)

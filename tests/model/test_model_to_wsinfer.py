"""Packages for QuPath's WSInfer extension, and single networks with a card of one's own."""

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_model import Segmenter, content, noise
from torch.nn import functional

from wsiseg.errors import ModelError, WsisegWarning
from wsiseg.model import Package, add_model, find_model, load_model, write_package, write_wsinfer
from wsiseg.model.networks.patch_cnn import PatchCNN

ARGUMENTS: dict[str, Any] = {"widths": [4, 8], "hidden": 6}


def square(folder: Path, **changes: Any) -> Path:
    """Write a package of one classifier of square patches."""
    card = content()
    stage = card["stages"][0]
    stage["inputs"][0] |= {"patch": [16, 16], "stride": [8, 8]}
    stage["weights"] = {"architecture": "wsiseg.patch_cnn"}
    card |= {"stages": [stage], **changes}
    torch.manual_seed(0)
    inputs = {"patches": (noise(2, 16, 16, 3),)}
    write_package(folder, card=card, networks={"patches": PatchCNN(3, 2)}, check_inputs=inputs)
    return folder


def by_hand(folder: Path, pixels: np.ndarray) -> np.ndarray:
    """Run a WSInfer folder as its documentation says; return probabilities."""
    config = json.loads((folder / "config.json").read_text())
    values = torch.from_numpy(pixels).permute(0, 3, 1, 2)
    for step in config["transform"]:
        if step["name"] == "ToTensor":
            values = values.float() / 255
        elif step["name"] == "Normalize":
            mean, std = (
                torch.tensor(step["arguments"][name]).view(1, -1, 1, 1) for name in ("mean", "std")
            )
            values = (values - mean) / std
        else:
            assert step == {"name": "Resize", "arguments": {"size": pixels.shape[1]}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is deprecated; WSInfer reads nothing else
        network = torch.jit.load(folder / "torchscript_model.pt")
    return functional.softmax(network(values), dim=1).detach().numpy()


@pytest.mark.parametrize("calibration", [None, {"method": "temperature", "values": [2.5]}])
def test_a_package_runs_as_wsinfer_would_run_it(tmp_path: Path, calibration: Any) -> None:
    changes = {} if calibration is None else {"calibration": calibration}
    package = square(tmp_path / "package", **changes)
    folder = write_wsinfer(package, tmp_path / "user" / "tumour")
    config = json.loads((folder / "config.json").read_text())
    assert config["class_names"] == ["background", "Tumor"]
    assert (config["patch_size_pixels"], config["spacing_um_px"]) == (16, 1.0)
    pixels = noise(5, 16, 16, 3, seed=4)
    raw = load_model(package).predictors[0](pixels) / (2.5 if calibration else 1.0)
    wanted = np.exp(raw) / np.exp(raw).sum(-1, keepdims=True)
    np.testing.assert_allclose(by_hand(folder, pixels), wanted, atol=1e-5)
    assert "Licence: Apache-2.0" in (folder / "README.md").read_text()


def test_there_and_back(tmp_path: Path) -> None:
    package = square(tmp_path / "package")
    folder = write_wsinfer(package, tmp_path / "there")
    (folder / "torchscript_model.pt").rename(folder / "any name.pt")  # as the extension allows
    with pytest.warns(WsisegWarning, match="TorchScript runs once"):
        add_model(folder, name="back", trust=True)
    pixels = noise(3, 16, 16, 3)
    found = load_model("back").predictors[0](pixels)
    np.testing.assert_allclose(found, load_model(package).predictors[0](pixels), atol=1e-5)


def test_the_bundled_classifier_is_exported(tmp_path: Path) -> None:
    folder = write_wsinfer("breast-tumour-demo", tmp_path / "demo")
    package = Package.open(find_model("breast-tumour-demo"))
    (stage,) = (s for s in package.card.stages if s.kind == "classifier")
    example = package.read_examples()[stage.name]
    raw = example.output
    wanted = np.exp(raw) / np.exp(raw).sum(-1, keepdims=True)
    np.testing.assert_allclose(by_hand(folder, example.inputs[0]), wanted, atol=1e-4)


def test_what_wsinfer_cannot_run_is_said(tmp_path: Path, package: Path) -> None:
    with pytest.raises(ModelError, match="not square"):
        write_wsinfer(package, tmp_path / "x")
    with pytest.raises(ModelError, match="needed one classifier, found stages"):
        write_wsinfer(package, tmp_path / "x", stage="refine")
    own = square(tmp_path / "square")
    write_wsinfer(own, tmp_path / "x")
    with pytest.raises(ModelError, match="is there already"):
        write_wsinfer(own, tmp_path / "x")
    write_wsinfer(own, tmp_path / "x", overwrite=True)
    assert not list(tmp_path.glob(".x*"))


def test_a_torchscript_segmenter_with_a_card_of_ones_own(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = Segmenter(3, 2).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.trace(network, torch.zeros(1, 3, 16, 16)).save(str(tmp_path / "net.pt"))
    card = content()
    stage = card["stages"][0] | {"kind": "segmenter", "output": {"name": "mask", "halo": [2, 2]}}
    stage["inputs"][0] |= {"patch": [16, 16], "stride": None}
    card["stages"] = [stage | {"weights": {"layout": "channels_first"}}]
    (tmp_path / "net.json").write_text(json.dumps(card))
    with pytest.warns(WsisegWarning, match="TorchScript runs once"):
        folder = add_model(tmp_path / "net.pt", trust=True)
    pixels = noise(2, 16, 16, 3)
    ready = (pixels / 255.0 - [0.1, 0.5, 0.9]) / [0.5, 1.0, 2.0]
    tensor = torch.from_numpy(np.moveaxis(ready, -1, 1)).float()
    wanted = np.moveaxis(network(tensor).detach().numpy(), 1, -1)
    np.testing.assert_allclose(load_model(folder).predictors[0](pixels), wanted, atol=1e-4)

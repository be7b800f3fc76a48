"""Embedders as torch networks: built without a head, the same by every backend."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_model import PATCH, content, noise
from torch import nn

from wsiseg.errors import ModelCardError
from wsiseg.model import load_model, measure_int8, record_int8, write_package
from wsiseg.model import networks as networks_module
from wsiseg.model.networks.registry import build

LENGTH = 5


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Conv2d(3, LENGTH, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.body(x).mean((2, 3))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    def headless(architecture: str, *, channels: Any, classes: int, arguments: Any) -> nn.Module:
        assert (architecture, classes) == ("timm.encoder", 0)
        return Encoder()

    monkeypatch.setattr(networks_module, "build", headless)
    card = content() | {"task": "embedding"}
    del card["classes"]
    (stage,) = card["stages"] = card["stages"][:1]
    stage |= {"kind": "embedder", "output": {"name": "vector", "activation": "none"}}
    stage["weights"] = {"architecture": "timm.encoder"}
    torch.manual_seed(0)
    networks, inputs = {"patches": Encoder()}, {"patches": (noise(4, *PATCH, 3),)}
    write_package(tmp_path / "encoder", card=card, networks=networks, check_inputs=inputs)
    return tmp_path / "encoder"


def test_torch_and_onnx_give_the_same_vectors(folder: Path) -> None:
    patches = noise(3, *PATCH, 3, seed=1)
    found = []
    for backend in ("torch", "onnxruntime"):
        model = load_model(folder, backend=backend, device="cpu")
        assert model.channels == (LENGTH,)
        found.append(model.predictors[0](patches))
    assert found[0].shape == (3, LENGTH)
    assert found[0].min() < 0  # no probabilities, and none are asked for
    np.testing.assert_allclose(found[0], found[1], atol=1e-5)


def test_what_int8_changes_is_said_of_values(folder: Path) -> None:
    changes = measure_int8(folder)
    assert changes["patches"].same_labels is None
    assert str(changes["patches"]).startswith("vectors change by")
    metrics = record_int8(folder, changes).provenance.metrics
    assert set(metrics) == {
        f"int8, patches, {kind} change of value" for kind in ("mean", "largest")
    }


def test_networks_with_a_head_are_no_embedders() -> None:
    with pytest.raises(ModelCardError, match="cannot be built without classes"):
        build("wsiseg.mobilenet_v2", channels=(3,), classes=0)

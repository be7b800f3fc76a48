"""A tiny two-stage model whose outputs can be worked out by hand."""

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from wsiseg.model import networks as networks_module
from wsiseg.model.openvino_backend import openvino_is_installed

REAL_BUILD = networks_module.build

PATCH = (6, 4)
CARD: dict[str, Any] = {
    "schema_version": 1,
    "name": "tiny",
    "version": "1.0",
    "task": "semantic",
    "axes": "yx",
    "classes": [{"name": "background"}, {"name": "Tumor", "color": [200, 0, 0]}],
    "stages": [
        {
            "name": "patches",
            "kind": "classifier",
            "inputs": [
                {
                    "from": "slide",
                    "channels": ["R", "G", "B"],
                    "spacing_um": [1.0, 1.0],
                    "patch": list(PATCH),
                    "stride": [2, 2],
                    "steps": [
                        {"name": "scale", "divide_by": 255},
                        {"name": "normalize", "mean": [0.1, 0.5, 0.9], "std": [0.5, 1.0, 2.0]},
                    ],
                }
            ],
            "output": {"name": "heatmap"},
            "weights": {"architecture": "wsiseg.tiny_classifier", "arguments": {}},
        },
        {
            "name": "refine",
            "kind": "segmenter",
            "inputs": [
                {
                    "from": "slide",
                    "channels": ["R", "G", "B"],
                    "spacing_um": [2.0, 2.0],
                    "patch": list(PATCH),
                    "steps": [{"name": "scale", "divide_by": 255}],
                },
                {
                    "from": "heatmap",
                    "channels": ["Tumor"],
                    "spacing_um": [2.0, 2.0],
                    "patch": list(PATCH),
                },
            ],
            "output": {"name": "mask", "halo": [1, 1]},
            "weights": {"architecture": "wsiseg.tiny_segmenter", "arguments": {}},
        },
    ],
    "provenance": {
        "license": "Apache-2.0",
        "trained_on": "nothing",
        "intended_use": "tests",
        "limits": "all",
    },
}


class Classifier(nn.Module):
    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.head = nn.Linear(channels, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(x.mean((2, 3)))


class Segmenter(nn.Module):
    """Adds what it is told to the logits: a place for NaN and other faults."""

    def __init__(self, channels: int, classes: int, add: float = 0.0) -> None:
        super().__init__()
        self.head = nn.Conv2d(channels, classes, 3, padding=1)
        self.add = add

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        return self.head(torch.cat(inputs, 1)) + self.add


def build(architecture: str, *, channels: tuple[int, ...], classes: int, arguments: Any) -> Any:
    """Stand in for `networks.build` where an architecture is one of these."""
    if architecture == "wsiseg.tiny_classifier":
        return Classifier(sum(channels), classes)
    if architecture == "wsiseg.tiny_segmenter":
        return Segmenter(sum(channels), classes, **arguments)
    return REAL_BUILD(architecture, channels=channels, classes=classes, arguments=arguments)


def content() -> dict[str, Any]:
    """Return a card without hashes that a test may change."""
    return copy.deepcopy(CARD)


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def check_inputs(n: int = 2) -> dict[str, tuple[np.ndarray, ...]]:
    heat = np.random.default_rng(1).random((n, *PATCH, 1), dtype=np.float32)
    return {"patches": (noise(n, *PATCH, 3),), "refine": (noise(n, *PATCH, 3), heat)}


def networks() -> dict[str, nn.Module]:
    torch.manual_seed(0)
    return {"patches": Classifier(3, 2), "refine": Segmenter(4, 2)}


def require_openvino() -> None:
    if not openvino_is_installed():
        pytest.skip("OpenVINO is not installed")

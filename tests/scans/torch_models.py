"""Models of volumes whose networks are small ones of torch with weights drawn by chance."""

import json
from pathlib import Path

import torch

from wsiseg.model import Model
from wsiseg.model.card import ModelCard
from wsiseg.model.predictor import StagePredictor
from wsiseg.model.preprocessed import PreprocessedNetwork
from wsiseg.model.torch_backend import TorchNetwork

PROVENANCE = dict.fromkeys(("license", "trained_on", "intended_use", "limits"), "tests")


def stage_of(patch, spacing_mm, **more):
    return {
        "name": "s",
        "kind": "segmenter",
        "windows": {"plan": "monai", "overlap": 0.5},
        "inputs": [
            {
                "from": "scan",
                "channels": ["v"],
                "patch": list(patch),
                "spacing_um": None if spacing_mm is None else [1000 * mm for mm in spacing_mm],
            }
        ],
        "output": {"name": "m", "blend": "gaussian-monai", "stitched": "raw"},
        "weights": {"file": "w.onnx", "sha256": "0" * 64, "architecture": "onnx"},
    } | more


def card_of(stages, classes, **more):
    return ModelCard.parse(
        json.dumps(
            {
                "schema_version": 1,
                "name": "random",
                "version": "1",
                "task": "semantic",
                "axes": "zyx",
                "classes": [{"name": str(k)} for k in range(classes)],
                "scan": {},
                "stages": stages,
                "provenance": PROVENANCE,
            }
            | more
        )
    )


class Joined(torch.nn.Module):
    """A network of one input that is given several."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, *inputs):
        return self.network(torch.cat(inputs, 1))


def network(channels, classes):
    """Return a network whose classes are each the likeliest somewhere, for values around 0."""
    torch.manual_seed(classes)
    found = torch.nn.Sequential(
        torch.nn.Conv3d(channels, 4, 3, padding=1),
        torch.nn.Tanh(),
        torch.nn.Conv3d(4, classes, 3, padding=1),
    ).eval()
    with torch.inference_mode():
        values = torch.randn(1, channels, 12, 12, 12)
        found[2].bias -= found(values).mean((0, 2, 3, 4))
        found[2].weight *= 20
        found[2].bias *= 20
    return found


def torch_model(card, *, seed=0):
    """Return a model of a card whose networks look at neighbours, so that each window counts."""
    predictors = []
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for stage in card.stages:
            channels = sum(len(item.channels) for item in stage.inputs)
            count = len(card.channel_names)
            one = PreprocessedNetwork(Joined(network(channels, count)), stage).eval()
            predictors.append(StagePredictor(stage, count, TorchNetwork(one, threads=1)))
    names = (len(card.channel_names),) * len(predictors)
    return Model(card, "0", Path(), tuple(predictors), names, "torch", "cpu")

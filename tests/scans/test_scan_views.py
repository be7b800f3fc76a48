"""Several views of one scan: at two spacings in one network, in slabs and as a whole in two."""

import json
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from torch_models import card_of, network, stage_of

from wsiseg.geometry import Affine
from wsiseg.model import Model, check_model, load_model
from wsiseg.model.networks import build
from wsiseg.model.predictor import StagePredictor
from wsiseg.model.preprocessed import PreprocessedNetwork
from wsiseg.model.torch_backend import TorchNetwork
from wsiseg.options import RunOptions
from wsiseg.scans import segment_scan
from wsiseg.source import open_volume

ONE = RunOptions(threads=1)
GAIN = 4.0


def model_of(card, networks):
    count = len(card.channel_names)
    predictors = [
        StagePredictor(
            stage, count, TorchNetwork(PreprocessedNetwork(one, stage).eval(), threads=1)
        )
        for stage, one in zip(card.stages, networks, strict=True)
    ]
    return Model(card, "0", Path(), tuple(predictors), (count,) * len(predictors), "torch", "cpu")


class Difference(torch.nn.Module):
    """How far the middle of a coarse view, enlarged, is from the fine one."""

    def forward(self, fine, coarse):
        middle = torch.nn.functional.interpolate(
            coarse, scale_factor=2, mode="trilinear", align_corners=False
        )
        for axis, size in enumerate(fine.shape[2:], start=2):
            middle = middle.narrow(axis, (middle.shape[axis] - size) // 2, size)
        difference = GAIN * (middle - fine)
        return torch.cat([torch.zeros_like(difference), difference], 1)


@pytest.mark.parametrize(
    ("shape", "columns", "most_mm"),
    [
        ((48, 40, 48), (1.0, 1.0, 1.0), 0.01),
        ((50, 32, 64), (0.8, 1.5, 0.75), 0.01),
        ((44, 40, 48), (1.0, 1.0, 1.0), 1.0),
    ],
)
def test_two_spacings_see_the_same_place(shape, columns, most_mm):
    """Of a ramp, a fine voxel and the coarse ones around it have the same value if they lie right.

    The last scan is no whole number of windows long: these begin between voxels of the coarse
    view, which then lies up to half of its voxels, 1 mm, beside.
    """
    ends = [np.arange(n) * mm for n, mm in zip(shape, columns, strict=True)]
    places = np.meshgrid(*ends, indexing="ij", sparse=True)
    values = sum(places).astype(np.float32)
    stage = stage_of((8, 8, 8), (1.0, 1.0, 1.0))
    context = {"from": "scan", "channels": ["v"], "patch": [12, 12, 12]}
    stage["inputs"] = [*stage["inputs"], context | {"spacing_um": [2000.0] * 3}]
    stage["output"] = {"name": "m", "blend": "constant", "stitched": "raw"}
    stage["windows"] = {"plan": "nnunet", "overlap": 0.0}
    model = model_of(card_of([stage], 2), [Difference()])
    scan = open_volume(values, affine=Affine.from_spacing(columns))
    found = segment_scan(scan, model, options=ONE, probabilities=["1"]).probabilities["1"]
    inner = tuple(slice(9, -9) for _ in range(3))  # at the ends the coarse view sees beyond, too
    beside = np.log(found[inner] / (1 - found[inner])) / GAIN
    assert np.abs(beside).max() < 1.01 * most_mm


SHAPE = (16, 24, 28)


def ensemble_stages(by):
    """Return a network in slabs, one that sees the whole, and what makes one of both."""
    slab = stage_of((8, *SHAPE[1:]), None, extent="slab", name="slab", windows=None)
    whole = stage_of(SHAPE, None, extent="whole", name="whole", windows=None)
    for stage in (slab, whole):
        stage["output"] = {"name": f"{stage['name']}s"}
    names = ["0", "1", "2"]
    read = {"channels": names, "patch": [8, 16, 16], "spacing_um": None}
    fused = stage_of((8, 16, 16), None, name="both") | {
        "inputs": [{"from": "slabs", **read}, {"from": "wholes", **read}],
        "output": {"name": "both", "activation": "none"},
        "windows": None,
        "weights": {
            "file": "both.safetensors",
            "sha256": "0" * 64,
            "architecture": "wsiseg.fuse",
            "arguments": {"by": by},
        },
    }
    return slab, whole, fused


@pytest.mark.parametrize("by", ["mean", "maximum"])
def test_slab_and_whole_decide_together(by):
    rng = np.random.default_rng(4)
    scan = open_volume(
        rng.normal(size=SHAPE).astype(np.float32), affine=Affine.from_spacing((3.0, 1.0, 1.0))
    )
    slab, whole, fused = ensemble_stages(by)
    with torch.random.fork_rng():
        nets = [network(1, 3), network(1, 3)]
        torch.manual_seed(7)
        nets[1] = network(1, 3)
        for parameter in nets[1].parameters():
            parameter.data += torch.randn_like(parameter) / 3
    fuse = build("wsiseg.fuse", channels=(3, 3), classes=3, arguments={"by": by})
    together = segment_scan(
        scan,
        model_of(card_of([slab, whole, fused], 3), [*nets, fuse]),
        options=ONE,
        probabilities=["all"],
    )
    alone = [
        segment_scan(
            scan, model_of(card_of([stage], 3), [net]), options=ONE, probabilities=["all"]
        ).probabilities
        for stage, net in zip((slab, whole), nets, strict=True)
    ]
    one, other = (np.stack([*found.values()]) for found in alone)
    assert np.abs(one - other).max() > 0.5  # they are of two opinions
    wanted = (one + other) / 2 if by == "mean" else np.maximum(one, other)
    found = np.stack([*together.probabilities.values()])
    assert np.abs(found - wanted).max() < 1 / 250  # heatmaps between stages have 254 steps
    clear = np.sort(wanted, axis=0)
    clear = clear[-1] - clear[-2] > 0.01
    assert np.array_equal(together.labels[clear], wanted.argmax(0)[clear])


def test_a_stage_without_weights_loads(tmp_path):
    """Its file is there and empty, so that a package needs no exception."""
    import hashlib

    from wsiseg.testing.scan_models import make_scan_model

    package = make_scan_model(tmp_path / "m", patch=(8, 16, 16), spacing_mm=None)
    card = json.loads((package / "model.json").read_text())
    empty = safetensors.torch.save({})
    (package / "both.safetensors").write_bytes(empty)
    names = ["background", "grey", "bright"]
    read = {"channels": names, "patch": [8, 16, 16], "spacing_um": None}
    card["stages"].append(
        {
            "name": "both",
            "kind": "segmenter",
            "inputs": [{"from": "mask", **read}, {"from": "mask", **read}],
            "output": {"name": "both", "activation": "none"},
            "weights": {
                "file": "both.safetensors",
                "sha256": hashlib.sha256(empty).hexdigest(),
                "architecture": "wsiseg.fuse",
            },
        }
    )
    (package / "model.json").write_text(json.dumps(card))
    with np.load(package / "check.npz") as arrays:
        check = dict(arrays)
    one, other = np.random.default_rng(0).random((2, 1, 8, 16, 16, 3), np.float32)
    check |= {"both.input0": one, "both.input1": other, "both.output": (one + other) / 2}
    np.savez(package / "check.npz", **check)
    check_model(package)
    model = load_model(package)
    values = np.random.default_rng(0).random((16, 24, 28), np.float32)
    scan = open_volume(values, affine=Affine.from_spacing((1.0, 1.0, 1.0)))
    result = segment_scan(scan, model)
    assert np.mean(result.labels == (values > 0.25) * 1 + (values > 0.75)) > 0.98

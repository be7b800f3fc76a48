"""Patch classifiers for the comparison: the same fixed random weights for wsiseg and for the peers.

    python benchmarks/models.py FOLDER

Writes for each network `FOLDER/<name>/wsiseg` (a model package) and `FOLDER/<name>/torchscript`
(`torchscript_model.pt` with the `config.json` of the WSInfer zoo). Both take 256 px of 0.5 µm,
divided by 255, and give two logits.
"""

import argparse
import json
import shutil
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import numpy as np

PATCH, SPACING_UM = 256, 0.5

TOLERANCE = 1e-3
"""Fifty layers of random weights make of rounding what differs between libraries by 1.7e-4."""

NETWORKS = {"mobilenet": "wsiseg.mobilenet_v2", "resnet": "monai.resnet50"}
CLASSES = ("Other", "Tumor")


def patches(count: int) -> np.ndarray:
    """Return patches (n, y, x, 3), uint8, of tissue of the slide that comes with wsiseg."""
    import wsiseg
    from wsiseg.geometry import Box

    slide = files("wsiseg.bundled") / "slides" / "CMU-1-Small-Region.svs"
    with as_file(slide) as path, wsiseg.open(path) as opened:
        view = opened.at(SPACING_UM)
        rows, columns = (n // PATCH for n in view.shape)
        places = [(PATCH * y, PATCH * x) for y in range(rows) for x in range(columns)]
        read = [view.read(Box((y, x), (y + PATCH, x + PATCH))) for y, x in places]
    read.sort(key=lambda pixels: float(pixels.mean()))  # the darkest hold most tissue
    return np.stack(read[:count])


def make_network(architecture: str) -> Any:
    """Return the network with weights that depend on nothing but its name.

    Batch statistics are those of real tissue and the logits are scaled, so that values have the
    size of a trained network's: neither denormal, nor one class for all.
    """
    import torch
    from torch import nn

    from wsiseg.model.networks import build

    torch.manual_seed(0)
    network = build(architecture, channels=(3,), classes=2)
    for module in network.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=module.in_features**-0.5)
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # the plain mean of all batches
            module.reset_running_stats()
    pixels = torch.from_numpy(patches(32)).permute(0, 3, 1, 2).float() / 255
    with torch.no_grad():
        network.train()
        for batch in pixels.split(8):
            network(batch)
        network.eval()
        logits = network(pixels)
        last = [module for module in network.modules() if isinstance(module, nn.Linear)][-1]
        spread = (logits[:, 1] - logits[:, 0]).std()
        last.weight *= 2 / spread
        last.bias.copy_(-logits.mean(dim=0) * 2 / spread)
    return network


def card(name: str, architecture: str) -> dict[str, Any]:
    colors = [(64, 64, 64), (200, 0, 0)]
    return {
        "schema_version": 1,
        "name": f"benchmark-{name}",
        "version": "1",
        "task": "semantic",
        "axes": "yx",
        "classes": [{"name": n, "color": c} for n, c in zip(CLASSES, colors, strict=True)],
        "stages": [
            {
                "name": "patches",
                "kind": "classifier",
                "inputs": [
                    {
                        "from": "slide",
                        "channels": ["R", "G", "B"],
                        "spacing_um": [SPACING_UM] * 2,
                        "patch": [PATCH] * 2,
                        "steps": [{"name": "scale", "divide_by": 255.0}],
                    }
                ],
                "output": {"name": "heatmap", "activation": "softmax"},
                "weights": {"architecture": architecture},
            }
        ],
        "check": {"tolerance": TOLERANCE},
        "provenance": {
            "license": "Apache-2.0",
            "trained_on": "nothing: random weights",
            "intended_use": "measuring speed",
            "limits": "its answers mean nothing",
        },
    }


def zoo_config(name: str) -> dict[str, Any]:
    """Return what the WSInfer zoo says about a model."""
    return {
        "spec_version": "1.0",
        "architecture": name,
        "num_classes": len(CLASSES),
        "class_names": list(CLASSES),
        "name": f"benchmark-{name}",
        "patch_size_pixels": PATCH,
        "spacing_um_px": SPACING_UM,
        "transform": [{"name": "ToTensor"}],
    }


def write_model(folder: Path, name: str) -> None:
    """Write both forms of one network."""
    import torch

    from wsiseg.model import write_package

    network = make_network(NETWORKS[name])
    package, script = folder / "wsiseg", folder / "torchscript"
    write_package(
        package,
        card=card(name, NETWORKS[name]),
        networks={"patches": network},
        check_inputs={"patches": (patches(2),)},
        overwrite=package.exists(),
    )
    shutil.rmtree(script, ignore_errors=True)
    script.mkdir()
    with torch.no_grad():
        traced = torch.jit.trace(network, torch.zeros(1, 3, PATCH, PATCH))
    traced.save(str(script / "torchscript_model.pt"))
    (script / "config.json").write_text(json.dumps(zoo_config(name), indent=2) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    args = parser.parse_args()
    for name in NETWORKS:
        write_model(args.folder / name, name)
        print(args.folder / name)


if __name__ == "__main__":
    main()

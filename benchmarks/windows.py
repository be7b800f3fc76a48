"""A dense network on its patches and on large windows of the same values, as users run it.

    python benchmarks/windows.py SLIDE [--patch 192] [--halo 32] [--window 704] [--rounds 1]

A U-Net of two poolings and random weights at 0.5 µm, which looks 23 px far, as two packages that
differ in nothing but `output.max_patch`. Both segment the slide in turn; what is loaded, exported,
compared and measured once per machine comes before. Besides the times it says how many pixels the
network sees, and how far the two heatmaps differ.
"""

import argparse
import json
import math
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import measure
import numpy as np
from end_to_end import describe
from models import CLASSES, SPACING_UM, patches

ARCHITECTURE = "wsiseg.unet"
ARGUMENTS = {"widths": [16, 32], "bottleneck": 64}
WAYS = ("patches", "windows")


def make_network() -> Any:
    """Return the network; its logits on tissue have the size of a trained network's."""
    import torch
    from torch import nn

    from wsiseg.model.networks import build

    torch.manual_seed(0)
    network = build(ARCHITECTURE, channels=(3,), classes=len(CLASSES), arguments=ARGUMENTS)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # the plain mean of all batches
            module.reset_running_stats()
    pixels = torch.from_numpy(patches(8)).permute(0, 3, 1, 2).float() / 255
    with torch.no_grad():
        network.train()
        network(pixels)
        network.eval()
        logits = network(pixels)
        scale = 2 / (logits[:, 1] - logits[:, 0]).std()
        network.classify.weight *= scale
        network.classify.bias.copy_((network.classify.bias - logits.mean((0, 2, 3))) * scale)
        network.classify.bias[0] += 6  # else outlines of noise are what takes the time
    return network


def card(name: str, patch: int, output: dict[str, Any]) -> dict[str, Any]:
    rgb = {"from": "slide", "channels": ["R", "G", "B"], "patch": [patch] * 2}
    rgb |= {"spacing_um": [SPACING_UM] * 2, "steps": [{"name": "scale", "divide_by": 255.0}]}
    weights = {"architecture": ARCHITECTURE, "arguments": ARGUMENTS}
    stage = {"name": "dense", "kind": "segmenter", "inputs": [rgb], "output": output}
    return {
        "schema_version": 1,
        "name": f"benchmark-{name}",
        "version": "1",
        "task": "semantic",
        "axes": "yx",
        "classes": [{"name": name} for name in CLASSES],
        "stages": [stage | {"weights": weights}],
        "provenance": {
            "license": "Apache-2.0",
            "trained_on": "nothing: random weights",
            "intended_use": "measuring speed",
            "limits": "its answers mean nothing",
        },
    }


def write_models(folder: Path, patch: int, halo: int, window: int) -> None:
    from wsiseg.model import write_package

    network = make_network()
    examples = np.ascontiguousarray(patches(2)[:, :patch, :patch])
    for way in WAYS:
        output: dict[str, Any] = {"name": "mask", "halo": [halo] * 2}
        if way == "windows":
            output["max_patch"] = [window] * 2
        write_package(
            folder / way,
            card=card(way, patch, output),
            networks={"dense": network},
            check_inputs={"dense": (examples,)},
        )


def run_once(slide: Path, model: Path, out: Path) -> dict[str, Any]:
    program = Path(sys.executable).parent / "wsiseg"
    command = [program, "segment", slide, "--model", model, "--out", out, "--json", "--quiet"]
    used = measure.run([*command, "--backend", "onnxruntime", "--device", "cpu"])
    used.last_json()
    (run,) = out.glob("*/run.json")
    record = json.loads(run.read_text())
    (stage,), (report,) = record["plan"]["stages"], record["stages"]
    return {
        "on": model.name,
        "px": " x ".join(map(str, stage["patch"])),
        "tiles": stage["tiles"],
        "million px": round(stage["tiles"] * math.prod(stage["patch"]) / 1e6, 1),
        "network s": round(report["predict_s"], 2),
        **used.to_dict(),
    }


def largest_change(first: Path, second: Path) -> tuple[int, float]:
    """Return the largest difference of heatmap codes, and the share of pixels that differ."""
    from wsiseg.stitch import HeatmapStore

    stores = [next(out.glob("*/heatmap.zarr")) for out in (first, second)]
    codes = [np.asarray(HeatmapStore.open(path).codes[:]).astype(int) for path in stores]
    difference = np.abs(codes[0] - codes[1])
    return int(difference.max()), float((difference > 0).mean())


def ratio(rows: dict[str, list[dict[str, Any]]], key: str) -> float:
    """Return how many times as much the patches take, the median over rounds."""
    pairs = zip(rows["patches"], rows["windows"], strict=True)
    return round(statistics.median(small[key] / large[key] for small, large in pairs), 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("slide", type=Path)
    parser.add_argument("--patch", type=int, default=192)
    parser.add_argument("--halo", type=int, default=32)
    parser.add_argument("--window", type=int, default=704)
    parser.add_argument("--rounds", type=int, default=1)
    args = parser.parse_args()
    load = measure.machine()["load"]
    rows: dict[str, list[dict[str, Any]]] = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_models(folder, args.patch, args.halo, args.window)
        for number in range(-1, args.rounds):  # the first loads, exports and compares
            for way in WAYS:
                out = folder / f"out-{way}-{number}"  # what is finished would be left alone
                row = run_once(args.slide, folder / way, out)
                if number >= 0:
                    rows[way].append(row)
                    print(row)
        codes, share = largest_change(*(folder / f"out-{way}-{number}" for way in WAYS))
    content = {
        "slide": describe(args.slide),
        "card": {"patch": args.patch, "halo": args.halo, "max_patch": args.window},
        "load_before": load,
        "rows": [row for way in WAYS for row in rows[way]],
        "ratio": {key: ratio(rows, key) for key in ("million px", "network s", "cpu_s", "wall_s")},
        "largest_change_of_a_code": codes,
        "share_of_codes_changed": share,
    }
    print(measure.save(f"windows-{args.slide.stem.lower()}", content))


if __name__ == "__main__":
    main()

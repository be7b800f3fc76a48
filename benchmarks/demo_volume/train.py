"""The bundled demonstration for volumes: the spinal cord in MR, learned from two scans on a CPU.

    python benchmarks/demo_volume/train.py ../shared/data/volumes/sct_testing_data OUT

Scans and masks: spinalcordtoolbox/sct_testing_data (MIT). Learned from are T2-weighted scans, with
random contrasts; the Dice in the card is that of the T1-weighted scan, which is not learned from.
"""

import argparse
import math
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from wsiseg.geometry import Box, Spacing
from wsiseg.model import networks
from wsiseg.model.card import InputSpec
from wsiseg.model.package import write_package
from wsiseg.model.scan_card import ScanSpec
from wsiseg.scans import segment_scan
from wsiseg.source import open_volume
from wsiseg.volume.layout import input_grid
from wsiseg.volume.prepare import prepare_scan
from wsiseg.volume.scan import Scan

TRAIN = (("t2/t2.nii.gz", "t2/t2_seg-manual.nii.gz"),
         ("t2/t2_fake_lesion.nii.gz", "t2/t2_fake_lesion_sc_seg.nii.gz"))  # fmt: skip
HELD_OUT = ("t1/t1w.nii.gz", "t1/t1w_seg-manual.nii.gz")
PATCH = 32
ARCHITECTURE = {"widths": [8, 16], "bottleneck": 32, "residual": True}
READS: dict[str, Any] = {
    "from": "scan",
    "channels": ["MR"],
    "spacing_um": [1000.0] * 3,
    "patch": [PATCH] * 3,
    "resample": {"order": 1},
    "steps": [{"name": "percentile_window", "low": 1.0, "high": 99.0}],
}


def prepared(path: Path, *, labels: bool, folder: Path) -> np.ndarray:
    """Return a scan as the network reads it, or its mask on the same grid, (z, y, x)."""
    scan = Scan.of([open_volume(path)], ScanSpec())
    reads = {**READS, "steps": []} if labels else READS
    spec = InputSpec.model_validate(reads, strict=False)
    wanted = Spacing(tuple(READS["spacing_um"]))
    grid = input_grid(scan.shape, scan.affine.spacing, wanted, spec.resample)
    found = prepare_scan(scan, grid, spec.steps, folder, normalize_first=False)
    values = found.read(Box.of_shape(found.shape))[..., 0]
    return (values >= 0.5).astype(np.float32) if labels else values


def padded(values: np.ndarray) -> np.ndarray:
    """Return an array with room for patches anywhere on it."""
    return np.pad(values, PATCH // 2)


def draw(
    scans: list[tuple[np.ndarray, np.ndarray]], rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Return a patch and its mask: half of them are centred on the cord."""
    values, mask = scans[rng.integers(len(scans))]
    places = np.argwhere(mask) if rng.random() < 0.5 else None
    if places is None:
        centre = np.array([rng.integers(PATCH // 2, n - PATCH // 2) for n in values.shape])
    else:
        centre = places[rng.integers(len(places))] + rng.integers(-8, 9, 3)
    limits = np.array(values.shape) - PATCH
    start = np.clip(centre - PATCH // 2, 0, limits)
    place = tuple(slice(a, a + PATCH) for a in start)
    return values[place], mask[place]


def contrast(values: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return a patch in a random contrast: a random curve, at times upside down; and noise."""
    knots = np.sort(rng.random(6)) if rng.random() < 0.5 else np.linspace(0, 1, 6)
    if rng.random() < 0.4:
        knots = rng.random(6)
    elif rng.random() < 0.5:
        knots = knots[::-1]
    found = np.interp(values, np.linspace(0, 1, 6), knots)
    found += rng.normal(0, rng.uniform(0, 0.06), values.shape)
    return np.clip(found, 0, 1).astype(np.float32)


def warped(
    values: torch.Tensor, mask: torch.Tensor, rng: np.random.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return patches turned and scaled at random, and mirrored left to right."""
    n = len(values)
    theta = np.zeros((n, 3, 4), np.float32)
    for i in range(n):
        a, b, c = rng.uniform(-0.3, 0.3, 3)
        turn = np.array([[1, -a, b], [a, 1, -c], [-b, c, 1]])
        theta[i, :, :3] = turn * rng.uniform(0.8, 1.25)
        theta[i, 0, :3] *= rng.choice([-1, 1])
    grid = torch.nn.functional.affine_grid(torch.from_numpy(theta), values.shape, False)
    sample = torch.nn.functional.grid_sample
    return (
        sample(values, grid, align_corners=False),
        sample(mask, grid, align_corners=False).round(),
    )


def loss_of(logits: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Return cross-entropy and one minus soft Dice, in equal parts."""
    entropy = torch.nn.functional.cross_entropy(logits, mask[:, 0].long())
    chance = logits.softmax(1)[:, 1]
    overlap = 2 * (chance * mask[:, 0]).sum() + 1
    return entropy + 1 - overlap / (chance.sum() + mask.sum() + 1)


def trained(
    scans: list[tuple[np.ndarray, np.ndarray]], steps: int, seconds: float
) -> tuple[torch.nn.Module, int]:
    """Return a network, and how many steps it learned for."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    network = networks.build("wsiseg.unet3d", channels=(1,), classes=2, arguments=ARCHITECTURE)
    optimizer = torch.optim.AdamW(network.parameters(), 3e-3)
    started = time.monotonic()
    network.train()
    for step in range(steps):
        done = max(step / steps, (time.monotonic() - started) / seconds)
        if done >= 1:
            return network.eval(), step
        optimizer.param_groups[0]["lr"] = 3e-3 * 0.5 * (1 + math.cos(math.pi * done))
        drawn = [draw(scans, rng) for _ in range(4)]
        values = torch.from_numpy(np.stack([contrast(v, rng) for v, _ in drawn]))[:, None]
        mask = torch.from_numpy(np.stack([m for _, m in drawn]))[:, None]
        values, mask = warped(values, mask, rng)
        loss = loss_of(network(values), mask)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 50 == 0:
            print(f"step {step}: {loss.item():.3f}, {time.monotonic() - started:.0f} s", flush=True)
    return network.eval(), steps


def card(metrics: dict[str, Any]) -> dict[str, Any]:
    """Return the card but for its hashes."""
    return {
        "schema_version": 1,
        "name": "spinal-cord-demo",
        "version": "1.0.0",
        "task": "semantic",
        "axes": "zyx",
        "classes": [{"name": "background"}, {"name": "Spinal cord", "color": [255, 170, 0]}],
        "scan": {"orientation": "RAS"},
        "stages": [
            {
                "name": "cord",
                "kind": "segmenter",
                "windows": {"plan": "monai", "overlap": 0.5},
                "inputs": [READS],
                "output": {"name": "mask", "blend": "gaussian-monai", "stitched": "raw"},
                "weights": {"architecture": "wsiseg.unet3d", "arguments": ARCHITECTURE},
            }
        ],
        "provenance": {
            "license": "Apache-2.0",
            "citation": "scans and masks: spinalcordtoolbox/sct_testing_data, MIT",
            "trained_on": "two T2-weighted MR of the cervical spinal cord (sct_testing_data: "
            "t2/t2, t2/t2_fake_lesion), with random contrasts, patches of 32 mm",
            "intended_use": "demonstration of segmenting volumes; not for diagnosis",
            "limits": "learned from two small scans around the cervical cord; outside of the neck, "
            "on scans with thick slices and on CT it finds what is not there",
            "metrics": metrics,
        },
    }


def dice(found: np.ndarray, truth: np.ndarray) -> float:
    """Return the overlap of two masks."""
    return float(2 * (found & truth).sum() / (found.sum() + truth.sum()))


def main() -> None:
    """Train, measure on the scan that was held out, and write the package."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--seconds", type=float, default=1500.0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        scans = [
            tuple(
                padded(prepared(args.data / path, labels=k == 1, folder=Path(work)))
                for k, path in enumerate(pair)
            )
            for pair in TRAIN
        ]
    network, steps = trained(scans, args.steps, args.seconds)
    patch = scans[0][0][None, PATCH // 2 :, PATCH // 2 :, PATCH // 2 :, None]
    inputs = {"cord": (np.ascontiguousarray(patch[:, :PATCH, :PATCH, :PATCH]),)}
    write_package(
        args.out, card=card({}), networks={"cord": network}, check_inputs=inputs, overwrite=True
    )
    metrics: dict[str, Any] = {"steps": float(steps)}
    for name, (path, mask) in {"t1w, held out": HELD_OUT, "t2, learned from": TRAIN[0]}.items():
        result = segment_scan(args.data / path, args.out)
        truth = open_volume(args.data / mask)
        values = truth.read(Box.of_shape(truth.shape))[..., 0] > 0
        metrics[f"Dice of {name}"] = round(dice(result.labels == 1, values), 3)
    print(metrics)
    write_package(
        args.out,
        card=card(metrics),
        networks={"cord": network},
        check_inputs=inputs,
        overwrite=True,
    )


if __name__ == "__main__":
    main()

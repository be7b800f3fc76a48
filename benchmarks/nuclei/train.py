"""Train the nucleus model of the instance tests: `python benchmarks/nuclei/train.py DATA OUT`.

A small U-Net gives background, nucleus, and how far each pixel lies from its nucleus's centre.
Learned from images that are not scored; see `data.py`. Writes `weights.safetensors` and
`training.json` with what was done; `score.py` makes a package of them and scores it.
"""

import argparse
import json
import time
from pathlib import Path

import cv2
import numpy as np
import safetensors.torch
import torch
from data import Nuclei, offsets, read_nuclei
from numpy.typing import NDArray
from torch.nn import functional

from wsiseg.model.networks.unet import UNet

PATCH = 64
BATCH = 8
WIDTHS = (16, 32, 64)
BOTTLENECK = 64
RATE = 2e-3
SEED = 7
SCALES = (0.7, 1.4)
"""Around `SPACING_UM`; the images have half of that."""
OFFSET_WEIGHT = 2.0
"""Of the squared error of offsets beside cross-entropy and Dice."""


def main() -> None:
    """Train for the minutes given; the rate falls as a cosine of the time."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--minutes", type=float, default=40)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    torch.manual_seed(SEED)
    random = np.random.default_rng(SEED)
    images = [one for one in read_nuclei(given.data) if not one.is_scored]
    network = build()
    optimizer = torch.optim.AdamW(network.parameters(), lr=RATE, weight_decay=1e-4)
    started, steps, losses = time.monotonic(), 0, [0.0]
    while (share := (time.monotonic() - started) / (60 * given.minutes)) < 1:
        for group in optimizer.param_groups:
            group["lr"] = RATE * 0.5 * (1 + np.cos(np.pi * share))
        loss = _loss(network, *_batch(images, random))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        steps += 1
        losses.append(loss.item())
        if steps % 100 == 0:
            print(f"{share:4.0%} step {steps} loss {np.mean(losses[-100:]):.4f}", flush=True)
    given.out.mkdir(parents=True, exist_ok=True)
    safetensors.torch.save_file(network.state_dict(), given.out / "weights.safetensors")
    record = {
        "steps": steps,
        "minutes": given.minutes,
        "batch": BATCH,
        "patch": PATCH,
        "images": len(images),
        "last_loss": float(np.mean(losses[-100:])),
    }
    (given.out / "training.json").write_text(json.dumps(record, indent=1))


def build() -> UNet:
    """Return the network, untrained: 2 classes, and 2 offsets."""
    return UNet((3,), 4, widths=WIDTHS, bottleneck=BOTTLENECK)


def _loss(
    network: UNet, pixels: torch.Tensor, labels: torch.Tensor, wanted: torch.Tensor
) -> torch.Tensor:
    output = network(pixels)
    inside = (labels > 0).float()
    chance = output[:, :2].softmax(dim=1)[:, 1]
    dice = 1 - (2 * (chance * inside).sum() + 1) / ((chance + inside).sum() + 1)
    error = ((output[:, 2:] - wanted) ** 2).mean(dim=1)
    missed = (error * inside).sum() / inside.sum().clamp(min=1)
    found: torch.Tensor = functional.cross_entropy(output[:, :2], labels) + dice
    return found + OFFSET_WEIGHT * missed


def _batch(
    images: list[Nuclei], random: np.random.Generator
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return pixels (n, 3, y, x) in 0..1, labels (n, y, x), offsets (n, 2, y, x)."""
    sources = [[one for one in images if one.source == name] for name in ("nucls", "dsb2018")]
    patches = []
    for i in range(BATCH):
        several = sources[i % 2]
        patches.append(_patch(several[random.integers(len(several))], random))
    pixels, labels, wanted = (np.stack(part) for part in zip(*patches, strict=True))
    return (
        torch.from_numpy(np.moveaxis(pixels, -1, 1).copy()),
        torch.from_numpy(labels),
        torch.from_numpy(np.moveaxis(wanted, -1, 1).copy()),
    )


def _patch(
    one: Nuclei, random: np.random.Generator
) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.float32]]:
    scale = np.exp(random.uniform(*np.log(SCALES)))
    height, width = (max(PATCH, round(n * scale / 2)) for n in one.instances.shape)
    size = (width, height)
    pixels = cv2.resize(one.pixels, size, interpolation=cv2.INTER_AREA)
    labels = one.instances.astype(np.float32)
    instances = cv2.resize(labels, size, interpolation=cv2.INTER_NEAREST).astype(np.int32)
    turns, flip = random.integers(4), random.random() < 0.5
    pixels, instances = (np.rot90(a, turns) for a in (pixels, instances))
    if flip:
        pixels, instances = pixels[::-1], instances[::-1]
    wanted = offsets(np.ascontiguousarray(instances))
    y, x = (random.integers(n - PATCH + 1) for n in instances.shape)
    box = (slice(y, y + PATCH), slice(x, x + PATCH))
    return _recoloured(pixels[box], random), (instances[box] > 0).astype(np.int64), wanted[box]


def _recoloured(pixels: NDArray[np.uint8], random: np.random.Generator) -> NDArray[np.float32]:
    """Return pixels in 0..1 as another stain and scanner might have them."""
    density = -np.log(np.maximum(pixels, 1) / np.float32(255))
    density *= random.uniform(0.7, 1.4, 3).astype(np.float32)
    found = np.exp(-density) * np.float32(random.uniform(0.85, 1.08))
    if random.random() < 0.3:
        found = cv2.GaussianBlur(found, (0, 0), random.uniform(0.3, 1.2))
    found += random.normal(0, random.uniform(0, 0.02), found.shape).astype(np.float32)
    return np.clip(found, 0, 1).astype(np.float32)


if __name__ == "__main__":
    main()

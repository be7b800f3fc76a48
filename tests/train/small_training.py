"""Small slides whose tumour is the darker part, and configurations that train on them fast."""

import json
from pathlib import Path

import cv2
import numpy as np

SIDE = 192
MPP = 1.0

STAGES = """
[[card.stages]]
name = "patches"
kind = "classifier"
inputs = [{from="slide", channels=["R","G","B"], spacing_um=[1,1], patch=[32,32], stride=[16,16]}]
output = {name="heatmap"}
weights = {architecture="wsiseg.mobilenet_v2", arguments={width=0.1, hidden=8}}
"""

REFINE = """
[[card.stages]]
name = "refine"
kind = "segmenter"
inputs = [{from="slide", channels=["R","G","B"], spacing_um=[2,2], patch=[32,32]},
          {from="heatmap", channels=["Tumor"], spacing_um=[2,2], patch=[32,32]}]
output = {name="mask", halo=[4,4]}
weights = {architecture="wsiseg.h2g_unet", arguments={widths=[4,4], bottleneck=8, dropout=0.1}}
"""

SEGMENTER = """
[[card.stages]]
name = "mask"
kind = "segmenter"
inputs = [{from="slide", channels=["R","G","B"], spacing_um=[2,2], patch=[32,32]}]
output = {name="mask", halo=[4,4]}
weights = {architecture="wsiseg.unet", arguments={widths=[4,4], bottleneck=8, dropout=0.1}}
"""

CARD = """
dataset = "dataset.toml"
folds = 2
seed = 3
[tissue]
detector = "none"
[card]
name = "small"
version = "1"
classes = [{name="background"}, {name="Tumor", color=[200,0,0]}]
[card.provenance]
license = "x"
intended_use = "y"
limits = "Tests."
"""


def write_slide(folder: Path, name: str, *, seed: int, shape=(SIDE, SIDE + 32)) -> Path:
    """Write `name.png` and its mask `name.mask.png`: 1 in a dark band of rows."""
    rng = np.random.default_rng(seed)
    mask = np.zeros(shape, np.uint8)
    start = int(rng.integers(shape[0] // 4, shape[0] // 2))
    mask[start : start + shape[0] // 3] = 1
    grey = 200 - 90 * mask[..., None] + rng.integers(-20, 20, size=(*shape, 3))
    path = folder / f"{name}.png"
    cv2.imwrite(str(path), grey.astype(np.uint8))
    cv2.imwrite(str(folder / f"{name}.mask.png"), mask)
    return path


def slide_entry(name: str, split: str, **columns) -> str:
    said = {"slide": f"{name}.png", "labels": f"{name}.mask.png", "split": split, "mpp": MPP}
    said |= columns
    return "[[slides]]\n" + "".join(f"{k} = {json.dumps(v)}\n" for k, v in said.items())


def write_dataset(folder: Path, *entries: str, head: str = "") -> Path:
    path = folder / "dataset.toml"
    path.write_text('classes = ["background", "Tumor"]\n' + head + "\n".join(entries))
    return path


def write_config(folder: Path, *parts: str) -> Path:
    path = folder / "config.toml"
    path.write_text("\n".join((CARD, *parts)))
    return path


def whole(stage: str) -> str:
    """Return the classifier as a segmenter that sees the whole slide at once."""
    for old, new in (
        ('kind = "classifier"', 'kind = "segmenter"\nextent = "whole"'),
        ("spacing_um=[1,1]", "spacing_range_um=[1,99]"),
        (", stride=[16,16]", ""),
        ("mobilenet_v2", "unet"),
        ("width=0.1, hidden=8", "widths=[4], bottleneck=4"),
    ):
        stage = stage.replace(old, new)
    return stage


def fit_of(stage: str, *, validation: int = 8, **options) -> str:
    rows = {"rounds": 2, "steps": 2, "batch": 4} | options
    lines = "".join(f"{k} = {json.dumps(v)}\n" for k, v in rows.items())
    return f"[stages.{stage}.fit]\n{lines}[stages.{stage}.sampling]\nvalidation = {validation}\n"


def two_slides(folder: Path) -> None:
    """Write one training and one validation slide with their data set."""
    write_slide(folder, "a", seed=0)
    write_slide(folder, "b", seed=1)
    write_dataset(folder, slide_entry("a", "train"), slide_entry("b", "val"))

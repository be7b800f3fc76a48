"""Score the nucleus model on images it has not seen: `python benchmarks/nuclei/score.py DATA WORK`.

`WORK` has what `train.py` wrote. A package is made of it (`WORK/nuclei-<split>`), every image that
is not learned from is segmented by `wsiseg.segment`, and objects are compared with the truth by
`wsiseg.evaluate`: as connected regions, split by shape, and by the network's offsets. Writes
`benchmarks/results/nuclei.json`. Needs rasterio (of the extra `test`).
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
from data import IMAGE_UM, SPACING_UM, Nuclei, read_nuclei
from numpy.typing import NDArray
from rasterio.features import rasterize
from train import build

import wsiseg

sys.path.insert(0, str(Path(__file__).parents[1]))
import measure

from wsiseg.evaluate.instances import InstanceScores, compare_labels
from wsiseg.model import write_package
from wsiseg.model.networks import build as build_network
from wsiseg.options import SegmentOptions, TissueOptions

PATCH, HALO = 128, 32
SPLITS = ("none", "distance", "offsets")
EVERYWHERE = SegmentOptions(tissue=TissueOptions(detector="none"))


def main() -> None:
    """Make the package, segment, compare, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("work", type=Path)
    given = parser.parse_args()
    held_out = [one for one in read_nuclei(given.data) if one.is_scored]
    rows = []
    for split in SPLITS:
        model = wsiseg.load_model(package(given.work, split), backend="onnxruntime")
        for source in sorted({one.source for one in held_out}):
            images = [one for one in held_out if one.source == source]
            found = scores([compared(one, model) for one in images])
            rows.append({"images of": source, "split": split, **found})
            print(rows[-1], flush=True)
    training = json.loads((given.work / "training.json").read_text())
    print(measure.save("nuclei", {"rows": rows, "training": training}))


def package(work: Path, split: str) -> Path:
    """Write the package of one way to tell nuclei apart."""
    arguments: dict[str, Any] = {"widths": [16, 32, 64], "bottleneck": 64}
    network = build_network("wsiseg.unet", channels=(3,), classes=4, arguments=arguments)
    state = safetensors.torch.load_file(work / "weights.safetensors")
    build().load_state_dict(state)  # the same network as was trained
    network.load_state_dict(state)
    view = {"from": "slide", "channels": ["R", "G", "B"], "spacing_um": [SPACING_UM] * 2}
    steps = [{"name": "scale", "divide_by": 255.0}]
    card = {
        "schema_version": 1,
        "name": f"nuclei-{split}",
        "version": "1",
        "task": "semantic",
        "axes": "yx",
        "classes": [{"name": "background"}, {"name": "Nucleus", "color": [0, 120, 200]}],
        "stages": [
            {
                "name": "nuclei",
                "kind": "segmenter",
                "inputs": [view | {"patch": [PATCH] * 2, "steps": steps}],
                "output": {"name": "mask", "halo": [HALO] * 2, "offsets": True},
                "weights": {"architecture": "wsiseg.unet", "arguments": arguments},
            }
        ],
        "instances": {"split": split},
        "provenance": {
            "license": "Apache-2.0",
            "trained_on": "10 tiles of NuCLS and 77 images of DSB 2018, both CC0",
            "intended_use": "tests of objects",
            "limits": "small, shortly trained, a handful of slides; not for research on tissue",
        },
    }
    folder = work / f"nuclei-{split}"
    noise = np.random.default_rng(0).integers(0, 256, (1, PATCH, PATCH, 3), dtype=np.uint8)
    write_package(
        folder,
        card=card,
        networks={"nuclei": network},
        check_inputs={"nuclei": (noise,)},
        overwrite=True,
    )
    return folder


def compared(one: Nuclei, model: wsiseg.Model) -> tuple[InstanceScores, float]:
    """Return the scores of an image's objects, and the Dice of all their pixels."""
    slide = wsiseg.open(one.pixels, mpp=IMAGE_UM)
    shapes = wsiseg.segment(slide, model, options=EVERYWHERE).annotations.geometries
    numbered = [(shape, i) for i, shape in enumerate(shapes, start=1)]
    found: NDArray[np.int32] = (
        rasterize(numbered, one.instances.shape, dtype="int32")
        if numbered
        else np.zeros_like(one.instances)
    )
    both = np.count_nonzero((found > 0) & (one.instances > 0))
    pixels = np.count_nonzero(found) + np.count_nonzero(one.instances)
    return compare_labels(found, one.instances), 2 * both / pixels


def scores(each: list[tuple[InstanceScores, float]]) -> dict[str, float]:
    """Return F1 over all objects, and means over images."""
    right, extra, missed = (
        sum(getattr(score, name) for score, _ in each)
        for name in ("true_positives", "false_positives", "false_negatives")
    )
    return {
        "images": len(each),
        "objects": right + missed,
        "found": right + extra,
        "f1": round(2 * right / (2 * right + extra + missed), 4),
        "pq": round(float(np.mean([score.pq for score, _ in each])), 4),
        "aji": round(float(np.mean([score.aji for score, _ in each])), 4),
        "dice": round(float(np.mean([dice for _, dice in each])), 4),
    }


if __name__ == "__main__":
    main()

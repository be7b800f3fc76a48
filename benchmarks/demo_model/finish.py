"""The bundled model from what was trained: the package of `both`, with the scores of the other two.

    python benchmarks/demo_model/finish.py DATA WORK

In each of `WORK/1008` and `WORK/1015`, `wsiseg train`, `segment` (into `out/`) and `evaluate` (into
`evaluation/`) were run; in `WORK/both`, `train`. Writes `wsiseg/bundled/models/breast-tumour-demo`.
"""

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from wsiseg.geometry import Box
from wsiseg.model import ModelCard
from wsiseg.model.describe import readme
from wsiseg.stitch import HeatmapStore

NAME = "breast-tumour-demo"
BUNDLED = Path(__file__).resolve().parents[2] / "wsiseg" / "bundled" / "models" / NAME
TESTED = {"1008": "1015", "1015": "1008"}
"""Trained on -> tested on."""

LIMITS = (
    " The released weights have seen both regions, so no held-out figure exists for them; the "
    "metrics are those of the same recipe trained on one region and tested on the other, and with "
    "two patients they say little about a third. 'everything' calls all tissue tumour, 'stage 1' "
    "is the heatmap alone at its threshold. Tissue of a kind the training data lacks is often "
    "wrong: trained without lymphocytes, the recipe called sheets of lymphocytes tumour, which is "
    "most of what is wrong in region 1015."
)


def scores(found: NDArray[np.bool_], truth: NDArray[np.bool_]) -> dict[str, float]:
    both, either = np.count_nonzero(found & truth), found.sum() + truth.sum()
    return {
        "dice": 2 * both / either,
        "precision": both / max(1, found.sum()),
        "recall": both / truth.sum(),
    }


def stage_1(path: Path, truth: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return where the heatmap of the first stage is at least one half, in the truth's pixels."""
    heatmap = HeatmapStore.open(path)
    values = np.asarray(heatmap.read(Box.of_shape(heatmap.shape)))[..., -1]
    size = truth.shape[::-1]
    return cv2.resize(values.astype(np.float32), size, interpolation=cv2.INTER_NEAREST) >= 0.5


def held_out(data: Path, work: Path) -> dict[str, float]:
    """Return the metrics of both directions and their means."""
    rows: dict[str, list[float]] = {}
    metrics = {}
    for trained, tested in TESTED.items():
        mask = cv2.imread(str(data / f"histology/bcss/masks/{tested}.png"), cv2.IMREAD_GRAYSCALE)
        truth = mask > 127
        out = work / trained / "out" / tested
        report = json.loads((work / trained / "evaluation" / "evaluation.json").read_text())
        cascade = {
            row["figure"]: row["pooled"]
            for row in report["summary"]
            if row["class"] == "Tumor" and row["figure"] in ("dice", "precision", "recall")
        }
        ways = {
            "everything": scores(np.ones_like(truth), truth),
            "stage 1": scores(stage_1(out / "stage-heatmap.zarr", truth), truth),
            "cascade": cascade | {"ECE": report["calibration"]["ece"]},
        }
        for way, figures in ways.items():
            for figure, value in figures.items():
                metrics[f"{figure}, {way}, held out {tested}"] = round(float(value), 4)
                rows.setdefault(f"{figure}, {way}, mean", []).append(float(value))
    return metrics | {name: round(sum(v) / len(v), 4) for name, v in rows.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("work", type=Path)
    args = parser.parse_args()
    trained = args.work / "both" / NAME
    card: dict[str, Any] = json.loads((trained / "model.json").read_text())
    card["provenance"]["metrics"] = held_out(args.data, args.work)
    card["provenance"]["limits"] += LIMITS
    files = [path for path in trained.iterdir() if path.suffix in (".safetensors", ".npz")]
    for path in BUNDLED.glob("*"):
        path.unlink()
    for path in files:
        shutil.copy(path, BUNDLED / path.name)
    (BUNDLED / "model.json").write_text(json.dumps(card, indent=2, ensure_ascii=False) + "\n")
    (BUNDLED / "README.md").write_text(readme(ModelCard.read(BUNDLED / "model.json")))
    for name, value in card["provenance"]["metrics"].items():
        print(f"{name}: {value}")


if __name__ == "__main__":
    main()

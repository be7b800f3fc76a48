"""Networks on a GPU: copying, computing and decoding alone, together, and beside the CPU's answer.

    python benchmarks/gpu.py                          # one GPU, under ten minutes on 16 cores
    python benchmarks/gpu.py --device cpu --quick     # the same steps in two minutes, no GPU

Makes its own slide and models. For each network, precision and batch size: `decode` is the run
without its network, `model` the network without the run, `end` the run. Results go to
`results/gpu-<name of the device>.json`.
"""

import argparse
import itertools
import os
import re
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import cv2
import measure
import models
import numpy as np
from make_slide import make_slide

import wsiseg
from wsiseg.engine import ignore, run_cascade
from wsiseg.engine.execute import Threaded
from wsiseg.errors import ModelError
from wsiseg.geometry import Box
from wsiseg.model import Model, load_model, write_package
from wsiseg.model.predictor import FunctionPredictor
from wsiseg.options import RunOptions, SegmentOptions
from wsiseg.pipeline import plan
from wsiseg.source import Pyramid
from wsiseg.tissue import TissueMask, find_tissue

SIZE, QUICK_SIZE = (30_000, 22_500), (6_000, 4_500)
TISSUE = 0.5

CASCADE = "breast-tumour-demo"
BATCHES = {"mobilenet": (16, 64, 256), "resnet": (16, 64, 256), CASCADE: (64,)}
QUICK_BATCHES = {"mobilenet": (8,), CASCADE: (4,)}

PROBABILITY_STEPS = 2
"""Heatmaps are kept in steps of 1/254: this many are 0.8 %, and three are more than 1 %."""

LABELS_EQUAL = 0.999

OF_MODEL = 0.85
"""Share of the network's own speed that a run of patches should reach."""

CHAOS = 1000.0
"""Fifty layers of random weights turn the rounding of bfloat16 into a difference as large as that
between two patches (measured: logits differ by 1.9, their spread is 2). So the answers of random
networks are judged in float32, those of the trained cascade in both; all differences are told."""

ROUNDS = 3
MODEL_SECONDS = 1.0
LAST_START_S = 480.0
"""No measurement is begun later than this, so that one call ends within ten minutes."""


@dataclass(frozen=True)
class Slide:
    """An open slide and its tissue."""

    image: Pyramid
    tissue: TissueMask


@dataclass(frozen=True)
class Answer:
    """What a run left."""

    codes: np.ndarray
    labels: np.ndarray
    tiles: int


def texture(folder: Path) -> Path:
    """Write the most detailed slide that comes with wsiseg (0.23 µm per pixel) as a picture."""
    path = folder / "texture.png"
    source = files("wsiseg.bundled") / "slides" / "OS-1-detail.ome.tif"
    with as_file(source) as file, wsiseg.open(file) as slide:
        pixels = slide.levels[0].read(Box((0, 0), slide.shape))
    cv2.imwrite(str(path), pixels[..., ::-1])
    return path


def make_model(folder: Path, name: str) -> Path:
    """Write a package with fixed random weights, whose two classes stand a little apart."""
    import torch

    network = models.make_network(models.NETWORKS[name])
    pixels = models.patches(32)
    with torch.no_grad():
        logits = network(torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255)
        scores = (logits[:, 1] - logits[:, 0]).sort().values[8:24]
        widest = int(scores.diff().argmax())
        last = [m for m in network.modules() if isinstance(m, torch.nn.Linear)][-1]
        last.bias[1] -= float(scores[widest : widest + 2].mean())
    card = models.card(name, models.NETWORKS[name])
    card["check"]["int8_tolerance"] = CHAOS
    write_package(
        folder / name,
        card=card,
        networks={"patches": network},
        check_inputs={"patches": (pixels[:2],)},
        overwrite=(folder / name).exists(),
    )
    return folder / name


def without_network(model: Model) -> Model:
    """Return the model with predictors that answer at once."""
    classes = len(model.card.classes)

    def silent(dense: bool) -> FunctionPredictor:
        def zeros(*inputs: np.ndarray) -> np.ndarray:
            shape = inputs[0].shape[:-1] if dense else inputs[0].shape[:1]
            return np.zeros((*shape, classes), np.float32)

        return FunctionPredictor(zeros)

    kinds = [stage.kind == "segmenter" for stage in model.card.stages]
    return replace(model, predictors=tuple(silent(dense) for dense in kinds))


def run(slide: Slide, model: Model, batch: int | None) -> tuple[float, Answer]:
    """Return seconds and result of one run, from the first read to the last byte on disk."""
    options = SegmentOptions(run=RunOptions(batch_size=batch))
    counted = plan(slide.image, model, options=options, tissue=slide.tissue)
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        out = run_cascade(model, counted, Path(folder), listen=ignore)
        seconds = time.perf_counter() - started
        *_, heatmap = out.heatmaps.values()
        whole = Box((0,) * len(heatmap.shape), heatmap.shape)
        codes = np.asarray(heatmap.codes[:])
        answer = Answer(codes, out.labels.read(whole), sum(s.tiles for s in counted.stages))
    return seconds, answer


def model_seconds(slide: Slide, model: Model, batch: int) -> float:
    """Return the seconds the networks need for the tiles of the slide, patches in memory."""
    options = SegmentOptions(run=RunOptions(batch_size=batch))
    counted = plan(slide.image, without_network(model), options=options, tissue=slide.tissue)
    total = 0.0
    for stage, predictor, known in zip(
        model.card.stages, model.predictors, counted.stages, strict=True
    ):
        inputs = tuple(
            np.random.default_rng(0).integers(0, 256, (batch, *i.patch, len(i.channels)), np.uint8)
            if i.source == "slide"
            else np.random.default_rng(0).random(
                (batch, *i.patch, len(i.channels)), dtype=np.float32
            )
            for i in stage.inputs
        )
        # Without a GPU each call has a core, as in a run.
        alone = predictor.for_workers(1, 1) if isinstance(predictor, Threaded) else predictor
        total += batch_seconds(alone, inputs) * known.tiles / batch
    return total


def batch_seconds(predictor: Any, inputs: tuple[np.ndarray, ...]) -> float:
    """Return the seconds per batch of the fastest of several streams of at least a second."""

    def stream(count: int) -> float:
        started = time.perf_counter()
        for _ in predictor.stream(itertools.repeat(inputs, count)):
            pass
        return time.perf_counter() - started

    stream(3)  # kernels are loaded, a graph is captured
    count = 3
    while (seconds := stream(count)) < MODEL_SECONDS:
        count = max(count + 1, int(count * 1.3 * MODEL_SECONDS / max(seconds, 1e-4)))
    return min(seconds, *(stream(count) for _ in range(ROUNDS - 1))) / count


def compare(found: Answer, wanted: Answer, *, judged: bool) -> dict[str, Any]:
    """Return how far an answer is from the CPU's; `good` is None where that is not judged."""
    covered = (wanted.codes > 0).any(axis=0)
    steps = np.abs(found.codes.astype(int) - wanted.codes)
    equal = float((found.labels == wanted.labels)[covered].mean()) if covered.any() else 1.0
    worst = int(steps.max(initial=0))
    within = float((steps <= PROBABILITY_STEPS).all(axis=0)[covered].mean())
    same_tiles = bool(((found.codes > 0) == (wanted.codes > 0)).all())
    good = same_tiles and worst <= PROBABILITY_STEPS and equal >= LABELS_EQUAL
    return {
        "largest_difference": round(worst / 254, 4),
        "within_1_percent": round(within, 5),
        "labels_equal": round(equal, 5),
        "good": good if judged else None,
    }


def rows(args: argparse.Namespace, slide: Slide, folder: Path) -> Iterator[dict[str, Any]]:
    """Yield one measurement after the other, until time is up."""
    started = time.perf_counter()
    gpu = args.device != "cpu"
    for name, batches in (QUICK_BATCHES if args.quick else BATCHES).items():
        where: str | Path = name if name == CASCADE else make_model(folder, name)
        rounds = 1 if name == CASCADE else args.rounds  # its runs are long
        _, wanted = run(slide, load_model(where, backend="onnxruntime", device="cpu"), None)
        decode: dict[int, float] = {}
        for precision in ("float32", "bfloat16") if gpu else ("float32",):
            try:
                model = load_model(where, backend="torch", device=args.device, precision=precision)
            except ModelError as error:  # the card's own check refuses the precision
                print(f"{name}, {precision}: left out: {error}")
                continue
            for batch in batches:
                if time.perf_counter() - started > LAST_START_S:
                    print(f"no time left for {name}, {precision}, batch {batch}")
                    continue
                if batch not in decode:
                    silent = without_network(model)
                    decode[batch] = min(run(slide, silent, batch)[0] for _ in range(rounds))
                ends = [run(slide, model, batch) for _ in range(rounds)]
                end = min(seconds for seconds, _ in ends)
                alone = model_seconds(slide, model, batch)
                yield {
                    "model": name,
                    "precision": precision,
                    "batch": batch,
                    "tiles": wanted.tiles,
                    "decode_s": round(decode[batch], 3),
                    "model_s": round(alone, 3),
                    "end_s": round(end, 3),
                    "ends_s": [round(seconds, 3) for seconds, _ in ends],
                    "tiles_per_s": round(wanted.tiles / end, 1),
                    "of_model": round(alone / end, 3),
                    "of_limit": round(max(alone, decode[batch]) / end, 3),
                    **compare(
                        ends[-1][1], wanted, judged=precision == "float32" or name == CASCADE
                    ),
                }


COLUMNS = {
    "model": "20",
    "precision": "10",
    "batch": "6",
    "tiles": "7",
    "decode_s": "9",
    "model_s": "9",
    "end_s": "9",
    "tiles_per_s": "12",
    "of_model": "9",
    "of_limit": "9",
    "largest_difference": "19",
    "labels_equal": "13",
    "good": "5",
}


def table_row(values: dict[str, Any]) -> str:
    return "".join(f"{values[key]!s:>{width}}" for key, width in COLUMNS.items())


def verdicts(found: list[dict[str, Any]], *, gpu: bool) -> list[str]:
    """Return what is not as it should be: answers, and on a GPU the best speed of each network."""
    said = []
    if any(row["good"] is False for row in found):
        said.append("some answers differ from the CPU's by more than they should")
    for name in dict.fromkeys(row["model"] for row in found if gpu and row["model"] != CASCADE):
        best = max(
            (row for row in found if row["model"] == name), key=lambda row: row["tiles_per_s"]
        )
        if best["of_model"] < OF_MODEL:
            limit = "decoding" if best["decode_s"] > best["model_s"] else "the engine"
            said.append(
                f"{name}: {best['of_model']:.2f} of the network's own speed at its best batch, "
                f"{best['batch']} in {best['precision']}, below {OF_MODEL}; the limit is {limit}"
            )
    return said


def device_name(device: str) -> str:
    if device == "cpu":
        return "cpu"
    import torch

    return torch.cuda.get_device_name(device)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda", help="cuda, cuda:<n> or cpu")
    parser.add_argument("--quick", action="store_true", help="small slide, fewer networks")
    parser.add_argument("--size", type=int, nargs=2, metavar=("X", "Y"), help="of the slide")
    parser.add_argument("--rounds", type=int, help="runs of which the fastest counts")
    parser.add_argument("--work", type=Path, help="keeps slide, models and cache here")
    args = parser.parse_args()
    args.rounds = args.rounds or (1 if args.quick else ROUNDS)
    width, height = args.size or (QUICK_SIZE if args.quick else SIZE)
    name = device_name(args.device)
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.work or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        os.environ["WSISEG_HOME"] = str(folder / "home")
        path = folder / f"slide-{width}x{height}.svs"
        started = time.perf_counter()
        if not path.exists():
            make_slide(path, (height, width), [texture(folder)], tissue=TISSUE)
        print(f"{name}: slide of {width} x {height}: {time.perf_counter() - started:.0f} s")
        print(table_row({key: key for key in COLUMNS}))
        found = []
        with wsiseg.open(path) as image:
            slide = Slide(image, find_tissue(image, SegmentOptions().tissue))
            for row in rows(args, slide, folder):
                found.append(row)
                print(table_row(row), flush=True)
        content = {"device": name, "slide": [width, height], "rounds": args.rounds, "rows": found}
        file = "gpu-" + re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
        print(measure.save(f"{file}-trial" if args.quick else file, content))
    verdict = verdicts(found, gpu=args.device != "cpu")
    if verdict:
        raise SystemExit("; ".join(verdict))


if __name__ == "__main__":
    main()

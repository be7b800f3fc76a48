"""Training batches drawn on the fly against the same patches read with OpenSlide.

    python benchmarks/sampler.py slide.svs [--patches 512] [--rounds 5] [--threads 2]

The sampler draws slide -> class -> place on a slide whose tissue is annotated (a GeoJSON made from
the tissue mask, in a temporary folder) and reads 256 px patches of 0.5 µm with their labels, in
batches of 32. OpenSlide then reads the very same patches, `read_region` of the level below and
`cv2.resize` with INTER_AREA, without labels, in as many threads. Both take turns every few batches,
so that whatever else the machine does slows both alike; each round opens the slide anew. Training
keeps decoded blocks in an eighth of the machine's memory; OpenSlide keeps what it does by default,
or `--peer-cache` MB.

It prints the median ratio of the CPU times of both (all threads; other programs disturb it less
than the wall clock), also of the first and the last quarter of the patches, and of the wall times;
where the sampler's time goes (CPU of one thread), how near the pixels are, and which files were
written meanwhile (watched by an audit hook); and saves `results/sampler-<slide>.json`.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import cv2
import measure
import numpy as np
import openslide
import shapely
import torch

import wsiseg
from wsiseg.annotations import AnnotationClass, Annotations, ImageRef, write_geojson
from wsiseg.annotations.trace import trace_labels
from wsiseg.engine.inputs import connect
from wsiseg.model import ModelCard
from wsiseg.options import TissueOptions
from wsiseg.train.config import StageRecipe
from wsiseg.train.dataset import Dataset, SlideEntry
from wsiseg.train.lesson import LabelledSlide, Resources, StageLesson, open_slides, stage_lesson
from wsiseg.train.loop import FitOptions
from wsiseg.train.places import Place

PATCH, SPACING_UM, BATCH = 256, 0.5, 32
CLASSES = ("background", "tissue")

COLD = 256
"""Patches whose reading is timed in parts, few enough to meet almost no block twice."""

TURN = 4
"""Batches that one reads before the other has its turn."""

WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT


class Written:
    """Names of the files that this process opens for writing."""

    def __init__(self) -> None:
        self.paths: list[str] = []
        self.watching = False
        sys.addaudithook(self._hear)

    def _hear(self, event: str, arguments: tuple) -> None:
        if self.watching and event == "open" and isinstance(arguments[2], int):
            path, _, flags = arguments
            if flags & WRITING:
                self.paths.append(str(path))


def card() -> ModelCard:
    stage = {
        "name": "mask",
        "kind": "segmenter",
        "inputs": [
            {
                "from": "slide",
                "channels": ["R", "G", "B"],
                "spacing_um": [SPACING_UM] * 2,
                "patch": [PATCH] * 2,
            }
        ],
        "output": {"name": "mask"},
        "weights": {"architecture": "wsiseg.unet", "file": "x.safetensors", "sha256": "0" * 64},
    }
    return ModelCard.model_validate(
        {
            "schema_version": 1,
            "name": "sampler",
            "version": "1",
            "task": "semantic",
            "axes": "yx",
            "classes": [{"name": name} for name in CLASSES],
            "stages": [stage],
            "provenance": dict.fromkeys(("license", "trained_on", "intended_use", "limits"), "-"),
        }
    )


def annotate(path: Path, folder: Path) -> Path:
    """Write the outline of the tissue as GeoJSON."""
    with wsiseg.open(path) as slide:
        tissue = wsiseg.find_tissue(slide)
        scale = np.array(tissue.downsample[::-1])
        traced = trace_labels(tissue.mask.astype(np.uint8))
        polygons = shapely.transform(traced.geometries, lambda points: points * scale)
        written = folder / f"{path.stem}.geojson"
        write_geojson(
            Annotations(
                polygons,
                np.zeros(len(polygons), np.int64),
                (AnnotationClass("tissue", (200, 0, 0)),),
                ImageRef.of(slide),
            ),
            written,
        )
    return written


def lesson(slides: Sequence[LabelledSlide], threads: int) -> StageLesson:
    made = card()
    return stage_lesson(
        made,
        made.stages[0],
        StageRecipe(fit=FitOptions(batch=BATCH)),
        slides,
        (),
        lambda _, setup: connect(setup, {}),
        resources=Resources(torch.device("cpu"), threads),
    )


class Peer:
    """The same patches with OpenSlide."""

    def __init__(self, path: Path, drawn: StageLesson, threads: int, cache_mb: int) -> None:
        self._slide = openslide.OpenSlide(path)
        if cache_mb:
            self._slide.set_cache(openslide.OpenSlideCache(cache_mb << 20))
        view = drawn.slides[0].setup.reference.view
        self._level, self._ratio = view.level, round(view.ratio[0])
        self._downsample = view.downsample
        self._pool = ThreadPoolExecutor(threads)

    def read(self, place: Place) -> np.ndarray:
        pairs = zip(place.centre, self._downsample, strict=True)
        y, x = (round(c / d - PATCH / 2) * d for c, d in pairs)
        side = PATCH * self._ratio
        region = self._slide.read_region((int(x), int(y)), self._level.index, (side, side))
        pixels = np.asarray(region)[..., :3]
        return cv2.resize(pixels, (PATCH, PATCH), interpolation=cv2.INTER_AREA)

    def batch(self, places: Sequence[Place]) -> np.ndarray:
        return np.stack(list(self._pool.map(self.read, places)))

    def close(self) -> None:
        self._pool.shutdown()
        self._slide.close()


@dataclass
class Clock:
    """Seconds of all threads, and on the wall."""

    cpu: float = 0.0
    wall: float = 0.0

    def __enter__(self) -> None:
        self.cpu -= time.process_time()
        self.wall -= time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self.cpu += time.process_time()
        self.wall += time.perf_counter()


@dataclass(frozen=True)
class Round:
    turns: list[tuple[Clock, Clock]]
    """Of the sampler and of OpenSlide."""

    difference: float
    """Mean absolute difference of the pixels in grey values."""

    def seconds(self, who: int, kind: str, part: slice = slice(None)) -> float:
        return sum(getattr(turn[who], kind) for turn in self.turns[part])

    def ratio(self, kind: str, part: slice = slice(None)) -> float:
        return self.seconds(1, kind, part) / self.seconds(0, kind, part)


def one_round(
    path: Path, slides: Sequence[LabelledSlide], patches: int, threads: int, cache_mb: int
) -> Round:
    """Time both in turns; nothing is read ahead, which would go on in the other's turn."""
    drawn = lesson(slides, threads)
    peer = Peer(path, drawn, threads, cache_mb)
    turns, differences = [], []
    for _ in range(patches // BATCH // TURN):
        ours, theirs = Clock(), Clock()
        with ours:
            batches = list(drawn.batches(TURN))
        with theirs:
            read = [peer.batch(batch.places) for batch in batches]
        turns.append((ours, theirs))
        differences += [
            np.abs(pixels.astype(int) - batch.inputs[0]).mean()
            for pixels, batch in zip(read, batches, strict=True)
        ]
    peer.close()
    return Round(turns, float(np.mean(differences)))


def parts(slides: Sequence[LabelledSlide], patches: int) -> dict[str, float]:
    """Return CPU milliseconds per patch of one thread, by what they are spent on."""
    drawn = lesson(slides, 1)
    clock = time.thread_time
    started = clock()
    places = list(islice(drawn.sampler, patches))
    seconds = {"drawing": clock() - started, "pixels": 0.0, "labels": 0.0}
    one = drawn.slides[0]
    for place in places:
        box = one._box(one.setup.reference, place.centre)
        started = clock()
        one.inputs[0].source.read(box)
        middle = clock()
        one.labels.read(box)
        seconds["pixels"] += middle - started
        seconds["labels"] += clock() - middle
    return {name: round(1000 * value / patches, 3) for name, value in seconds.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("slide", type=Path)
    parser.add_argument("--patches", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--peer-cache", type=int, default=0, metavar="MB", help="of OpenSlide; 0: its default"
    )
    args = parser.parse_args()
    cv2.setNumThreads(1)
    before, written = measure.machine()["load"], Written()
    with tempfile.TemporaryDirectory() as folder:
        labels = annotate(args.slide, Path(folder))
        entry = SlideEntry(args.slide, labels, "p", "train")
        data = Dataset(labels, CLASSES, (entry,))
        rounds = []
        for _ in range(args.rounds):
            slides = open_slides(data, data.slides, TissueOptions(detector="none"))
            written.watching = True
            rounds.append(
                one_round(args.slide, slides, args.patches, args.threads, args.peer_cache)
            )
            written.watching = False
        spent = parts(open_slides(data, data.slides, TissueOptions(detector="none")), COLD)
    count = args.patches // BATCH // TURN * BATCH * TURN
    quarter = max(1, len(rounds[0].turns) // 4)
    ratios = {kind: [r.ratio(kind) for r in rounds] for kind in ("cpu", "wall")}
    ratios["cpu, first quarter"] = [r.ratio("cpu", slice(quarter)) for r in rounds]
    ratios["cpu, last quarter"] = [r.ratio("cpu", slice(-quarter, None)) for r in rounds]
    middle = {kind: round(statistics.median(values), 2) for kind, values in ratios.items()}
    rates = {
        name: round(count / statistics.median(r.seconds(who, "wall") for r in rounds))
        for who, name in enumerate(("wsiseg", "openslide"))
    }
    print(
        f"{count} patches, {args.threads} threads; patches/s: {rates} (wsiseg with labels); ratio: "
        f"{middle}; pixels differ by {rounds[-1].difference:.2f} of 255; ms of CPU per patch read "
        f"for the first time: {spent}; files written: {written.paths or 'none'}"
    )
    path = measure.save(
        f"sampler-{args.slide.stem}",
        {
            "load_before": before,
            "patches": count,
            "threads": args.threads,
            "peer_cache_mb": args.peer_cache,
            "ratio": middle,
            "ratios": {kind: [round(r, 2) for r in values] for kind, values in ratios.items()},
            "patches_per_s": rates,
            "mean_difference": round(rounds[-1].difference, 3),
            "cpu_ms_per_patch_at_first": spent,
            "files_written": written.paths,
        },
    )
    print(path)


if __name__ == "__main__":
    main()

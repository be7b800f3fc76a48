"""256 px tiles of a slide: this reader against OpenSlide `read_region` + area, one thread each.

    python benchmarks/read.py slide.svs [--tiles 300] [--mode exact|scaled|full|unaligned|all]

* exact      0.5 µm from the level below it, reduced by area
* scaled     the same, reduced by the JPEG decoder
* unaligned  as exact, on a grid that starts inside the file's tiles; also against exact itself
* full       level 0 as it is

Both read the same tissue tiles in the same order, taking turns every few tiles, so that whatever
else the machine does slows both alike; each round opens the slide anew. For each mode it prints
tiles per second of CPU time (of the one thread; other programs disturb it less than the wall
clock), the median ratio of both times, how often a compressed tile was decoded, and how near the
pixels are to OpenSlide's. `--reduce UM` instead times reading at a spacing of fractional ratio.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import cv2
import measure
import numpy as np
import openslide

import wsiseg
from wsiseg.geometry import Box, Spacing
from wsiseg.grid import Grid
from wsiseg.source.base import ReadCount
from wsiseg.source.pyramid import Level
from wsiseg.source.view import View

PATCH = 256
SPACING_UM = 0.5
OFFSET = 37
"""View pixels by which the unaligned grid is shifted: no multiple of anything in a file."""

TURN = 8
"""Tiles that one reader reads before the other has its turn."""

Read = Callable[[Box], np.ndarray]


@dataclass(frozen=True)
class Mode:
    name: str
    offset: int = 0
    scaled: bool = False
    full: bool = False

    def view(self, slide: wsiseg.Pyramid) -> View | Level:
        return slide.levels[0] if self.full else slide.at(SPACING_UM, scaled=self.scaled)


MODES = (
    Mode("exact"),
    Mode("scaled", scaled=True),
    Mode("unaligned", offset=OFFSET),
    Mode("full", full=True),
)


@dataclass(frozen=True)
class Seconds:
    wall: float = 0.0
    cpu: float = 0.0

    def __add__(self, other: "Seconds") -> "Seconds":
        return Seconds(self.wall + other.wall, self.cpu + other.cpu)


def timed(read: Read, boxes: Iterable[Box]) -> Seconds:
    wall, cpu = time.perf_counter(), time.thread_time()
    for box in boxes:
        read(box)
    return Seconds(time.perf_counter() - wall, time.thread_time() - cpu)


def in_turns(readers: tuple[Read, Read], boxes: list[Box]) -> tuple[Seconds, Seconds]:
    first, second = Seconds(), Seconds()
    for start in range(0, len(boxes), TURN):
        turn = boxes[start : start + TURN]
        first += timed(readers[0], turn)
        second += timed(readers[1], turn)
    return first, second


def openslide_reader(slide: openslide.OpenSlide, level: int, downsample: int, ratio: int) -> Read:
    def read(box: Box) -> np.ndarray:
        y, x = (start * ratio * downsample for start in box.start)
        side = PATCH * ratio
        pixels = np.asarray(slide.read_region((x, y), level, (side, side)))[..., :3]
        if ratio == 1:
            return pixels
        return cv2.resize(pixels, (PATCH, PATCH), interpolation=cv2.INTER_AREA)

    return read


def tissue_boxes(slide: wsiseg.Pyramid, mode: Mode, count: int) -> list[Box]:
    view = mode.view(slide)
    grid = Grid(view.shape, (PATCH, PATCH), (0, 0), (0, 0))
    chosen = wsiseg.find_tissue(slide).select(grid, view.downsample, 0.5)
    boxes = [grid.tile(tuple(map(int, index))).read for index in np.argwhere(chosen)]
    boxes = [box.shift((mode.offset, mode.offset)) for box in boxes]
    return [box for box in boxes if box.clip(view.shape) == box][:count]


def one_round(path: Path, mode: Mode, boxes: list[Box]) -> tuple[Seconds, Seconds, float]:
    with wsiseg.open(path) as slide, openslide.OpenSlide(path) as peer:
        view = mode.view(slide)
        level, ratio = (view, 1) if mode.full else (view.level, round(view.ratio[0]))
        read = openslide_reader(peer, level.index, round(level.downsample[0]), ratio)
        ours, theirs = in_turns((view.read, read), boxes)
        return ours, theirs, slide.reads.amplification if slide.reads else float("nan")


def likeness(path: Path, mode: Mode, boxes: list[Box]) -> str:
    with wsiseg.open(path) as slide, openslide.OpenSlide(path) as peer:
        view = mode.view(slide)
        level, ratio = (view, 1) if mode.full else (view.level, round(view.ratio[0]))
        read = openslide_reader(peer, level.index, round(level.downsample[0]), ratio)
        squares = [np.square(view.read(box).astype(float) - read(box)).mean() for box in boxes]
    error = float(np.mean(squares))
    return f"PSNR {10 * np.log10(255**2 / error):.1f} dB" if error else "identical"


def against_openslide(
    path: Path, modes: Iterable[Mode], tiles: int, rounds: int
) -> list[dict[str, object]]:
    modes = tuple(modes)
    rows: list[dict[str, object]] = []
    with wsiseg.open(path) as slide:
        boxes = {mode.name: tissue_boxes(slide, mode, tiles) for mode in modes}
    results: dict[str, list[tuple[Seconds, Seconds, float]]] = {mode.name: [] for mode in modes}
    for _ in range(rounds):
        for mode in modes:
            results[mode.name].append(one_round(path, mode, boxes[mode.name]))
    for mode in modes:
        ran, count = results[mode.name], len(boxes[mode.name])
        cpu = statistics.median(theirs.cpu / ours.cpu for ours, theirs, _ in ran)
        wall = statistics.median(theirs.wall / ours.wall for ours, theirs, _ in ran)
        rates = [
            count / statistics.median(seconds.cpu for seconds in column)
            for column in ([ours for ours, _, _ in ran], [theirs for _, theirs, _ in ran])
        ]
        pixels = likeness(path, mode, boxes[mode.name][:50])
        print(
            f"{mode.name:10s} {count} tiles: wsiseg {rates[0]:5.0f}, OpenSlide {rates[1]:5.0f} "
            f"tiles/s; ratio {cpu:.2f} (CPU) {wall:.2f} (wall); amplification {ran[-1][2]:.2f}; "
            f"{pixels}"
        )
        rows.append(
            {
                "read": mode.name,
                "tiles": count,
                "wsiseg tiles/s": round(rates[0]),
                "OpenSlide tiles/s": round(rates[1]),
                "ratio, CPU": round(cpu, 2),
                "ratio, wall": round(wall, 2),
                "amplification": round(ran[-1][2], 2),
                "pixels": pixels,
            }
        )
    if {"exact", "unaligned"} <= results.keys():
        pairs = zip(results["exact"], results["unaligned"], strict=True)
        kept = statistics.median(
            (aligned[0].cpu / len(boxes["exact"])) / (other[0].cpu / len(boxes["unaligned"]))
            for aligned, other in pairs
        )
        print(f"unaligned runs at {kept:.2f} of the speed of exact (CPU)")
    return rows


def fractional(path: Path, spacing_um: float, tiles: int, rounds: int) -> None:
    speeds = []
    for _ in range(rounds):
        with wsiseg.open(path) as slide:
            view = slide.at(Spacing((spacing_um, spacing_um)))
            grid = Grid(view.shape, (PATCH, PATCH), (0, 0), (0, 0))
            chosen = wsiseg.find_tissue(slide).select(grid, view.downsample, 0.5)
            boxes = [grid.tile(tuple(map(int, i))).read for i in np.argwhere(chosen)[:tiles]]
            before = slide.reads or ReadCount(0, 0, 0)
            pixels = len(boxes) * PATCH**2 * view.ratio[0] * view.ratio[1]
            speeds.append(pixels / timed(view.read, boxes).cpu / 1e6)
            decoded = (slide.reads or before).decoded - before.decoded
    print(
        f"{spacing_um} µm, ratio {view.ratio[0]:.4f}: {len(boxes)} tiles, "
        f"{statistics.median(speeds):.0f} Mpx of the level per second of CPU time; "
        f"{decoded / len(boxes):.1f} blocks decoded per tile"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("slide", type=Path)
    parser.add_argument("--tiles", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--mode", choices=[*(mode.name for mode in MODES), "all"], default="all")
    parser.add_argument("--reduce", type=float, metavar="UM", help="a spacing of fractional ratio")
    args = parser.parse_args()
    cv2.setNumThreads(1)
    if args.reduce:
        fractional(args.slide, args.reduce, args.tiles, args.rounds)
        return
    chosen = [mode for mode in MODES if args.mode in {mode.name, "all"}]
    rows = against_openslide(args.slide, chosen, args.tiles, args.rounds)
    if args.mode == "all":
        found = {"slide": args.slide.name, "rows": rows}
        print(measure.save(f"read-{args.slide.stem.lower()}", found))


if __name__ == "__main__":
    main()

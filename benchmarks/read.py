"""256 px tiles at 0.5 µm: this reader against OpenSlide `read_region` + area, one thread each.

    python benchmarks/read.py slide.svs [--tiles 300]

Both read the same tissue tiles in the same order, in alternating rounds; prints tiles per second,
the ratio of each round, and whether the pixels are the same bit for bit.
"""

import argparse
import statistics
import time
from pathlib import Path

import cv2
import numpy as np
import openslide

import wsiseg
from wsiseg.geometry import Box, Spacing
from wsiseg.grid import Grid

PATCH = 256
ROUNDS = 5


def read_wsiseg(path: Path, boxes: list[Box]) -> tuple[float, list[np.ndarray]]:
    with wsiseg.open(path) as slide:
        view = slide.at(0.5)
        view.read(boxes[0])
        started = time.perf_counter()
        tiles = [view.read(box) for box in boxes]
        return time.perf_counter() - started, tiles


def read_openslide(path: Path, boxes: list[Box]) -> tuple[float, list[np.ndarray]]:
    with openslide.OpenSlide(path) as slide:
        slide.read_region((0, 0), 0, (PATCH, PATCH))
        started = time.perf_counter()
        tiles = []
        for box in boxes:
            y, x = (2 * start for start in box.start)
            pixels = np.asarray(slide.read_region((x, y), 0, (2 * PATCH, 2 * PATCH)))[..., :3]
            tiles.append(cv2.resize(pixels, (PATCH, PATCH), interpolation=cv2.INTER_AREA))
        return time.perf_counter() - started, tiles


def tissue_boxes(path: Path, count: int, offset: int) -> list[Box]:
    with wsiseg.open(path) as slide:
        view = slide.at(Spacing((0.5, 0.5)))
        grid = Grid(view.shape, (PATCH, PATCH), (0, 0), (0, 0))
        chosen = wsiseg.find_tissue(slide).select(grid, view.downsample, 0.5)
        boxes = [grid.tile(tuple(map(int, index))).read for index in np.argwhere(chosen)]
    inside = Box.of_shape(view.shape)
    boxes = [box.shift((offset, offset)) for box in boxes]
    return [box for box in boxes if box.intersect(inside) == box][:count]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("slide", type=Path)
    parser.add_argument("--tiles", type=int, default=300)
    parser.add_argument("--offset", type=int, default=0, help="shift of the grid: unaligned tiles")
    args = parser.parse_args()
    cv2.setNumThreads(1)
    boxes = tissue_boxes(args.slide, args.tiles, args.offset)
    ratios = []
    for _ in range(ROUNDS):
        ours, mine = read_wsiseg(args.slide, boxes)
        theirs, reference = read_openslide(args.slide, boxes)
        same = all(np.array_equal(a, b) for a, b in zip(mine, reference, strict=True))
        ratios.append(theirs / ours)
        print(
            f"wsiseg {len(boxes) / ours:6.0f} tiles/s   OpenSlide + area "
            f"{len(boxes) / theirs:6.0f} tiles/s   ratio {theirs / ours:.2f}   "
            f"{'identical' if same else 'DIFFERENT'}"
        )
    print(f"{len(boxes)} tiles, median ratio {statistics.median(ratios):.2f}")


if __name__ == "__main__":
    main()

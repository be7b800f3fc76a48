"""Run one stage: read | predict | stitch and write, at once, with bounded queues between."""

import itertools
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsiseg.engine.events import Listener, StageFinished, StageStarted, TilesDone, ignore
from wsiseg.engine.graph import StageSetup
from wsiseg.engine.inputs import BlockCache, Readable, cache_bytes
from wsiseg.engine.stream import Background, prefetch
from wsiseg.grid import Tile
from wsiseg.model import Predictor
from wsiseg.stitch import CellStitcher, Reducer, Stitcher, TileStitcher

__all__ = ["Pace", "StageReport", "activate", "run_stage"]

Batch = tuple[list[Tile], NDArray[np.float32]]

BATCHES_AHEAD = 3
"""Batches being read while one is predicted."""


@dataclass(frozen=True, slots=True)
class Pace:
    """How a stage is driven; changes nothing of the result but the batch size's last bits."""

    batch_size: int
    """Patches per call of the predictor; the last batch is filled up with zeros."""

    read_threads: int

    @property
    def tiles_ahead(self) -> int:
        """Patches read before the predictor asks for them."""
        return BATCHES_AHEAD * self.batch_size


@dataclass(frozen=True, slots=True)
class StageReport:
    """What a stage did and where its time went."""

    stage: str
    tiles: int
    seconds: float
    read_wait_s: float
    """The predictor waited for pixels."""

    predict_s: float
    write_wait_s: float
    """The predictor waited for the writer."""


def run_stage(
    setup: StageSetup,
    inputs: Sequence[Readable],
    selected: NDArray[np.bool_],
    predictor: Predictor,
    reducer: Reducer,
    *,
    pace: Pace,
    slide: str = "",
    listen: Listener = ignore,
) -> StageReport:
    """Predict the selected tiles of a stage and push the stitched result into a reducer.

    Parameters
    ----------
    setup
        The stage on its slide.
    inputs
        One per input of the stage: uint8 pixels of the slide, or float32 probabilities.
    selected
        bool of `grid.counts`; the other tiles stay `nodata`.
    predictor
        Raw network values for a batch of patches.
    reducer
        Gets every slab, in order, and is finished at the end.
    pace
        Batch size, threads and queues.
    slide
        Name for the events.
    listen
        Called with progress events.

    Raises
    ------
    DamagedFileError
        If a block of the slide cannot be decoded.
    OutputShapeError
        If the network returns something else than its card promises.
    """
    count = int(selected.sum())
    listen(StageStarted(slide, setup.spec.name, count))
    stitcher = _stitcher(setup)
    started = time.perf_counter()
    read_wait = predict_time = write_wait = 0.0

    def write(batch: Batch) -> None:
        for tile, values in zip(*batch, strict=True):
            for slab in stitcher.add(tile, values):
                reducer.push(slab)

    batches = _batches(setup, inputs, selected, pace)
    with Background(write, depth=2) as writer, closing(batches):
        while True:
            mark = time.perf_counter()
            batch = next(batches, None)
            read_wait += time.perf_counter() - mark
            if batch is None:
                break
            tiles, patches = batch
            mark = time.perf_counter()
            raw = predictor(*patches)[: len(tiles)]
            values = activate(raw / np.float32(setup.temperature), setup.spec.output.activation)
            predict_time += time.perf_counter() - mark
            mark = time.perf_counter()
            writer.put((tiles, values))
            write_wait += time.perf_counter() - mark
            listen(TilesDone(slide, setup.spec.name, len(tiles)))
    for slab in stitcher.finish():
        reducer.push(slab)
    reducer.finish()
    seconds = time.perf_counter() - started
    listen(StageFinished(slide, setup.spec.name, seconds))
    return StageReport(setup.spec.name, count, seconds, read_wait, predict_time, write_wait)


def activate(raw: NDArray[np.float32], activation: str) -> NDArray[np.float32]:
    """Return probabilities from raw network values; classes are on the last axis."""
    if activation == "softmax":
        shifted = np.exp(raw - raw.max(axis=-1, keepdims=True))
        return np.asarray(shifted / shifted.sum(axis=-1, keepdims=True), dtype=np.float32)
    if activation == "sigmoid":
        from scipy.special import expit

        return np.asarray(expit(raw), dtype=np.float32)
    return raw


def _batches(
    setup: StageSetup,
    inputs: Sequence[Readable],
    selected: NDArray[np.bool_],
    pace: Pace,
) -> Generator[tuple[list[Tile], list[NDArray[Any]]], None, None]:
    read = _tile_reader(setup, inputs)
    tiles = (setup.grid.tile(tuple(int(i) for i in index)) for index in np.argwhere(selected))
    patches = prefetch(read, tiles, workers=pace.read_threads, ahead=pace.tiles_ahead)
    while chunk := list(itertools.islice(patches, pace.batch_size)):
        arrays = []
        for k, item in enumerate(setup.inputs):
            first = chunk[0][1][k]
            array = np.zeros((pace.batch_size, *item.spec.patch, first.shape[-1]), first.dtype)
            for row, (_, parts) in enumerate(chunk):
                array[row] = parts[k]
            arrays.append(array)
        yield [tile for tile, _ in chunk], arrays


def _tile_reader(
    setup: StageSetup, inputs: Sequence[Readable]
) -> Callable[[Tile], tuple[Tile, list[NDArray[Any]]]]:
    cached = [
        BlockCache(source, limit_bytes=cache_bytes(i.shape, i.spec.patch, i.bytes_per_pixel))
        for source, i in zip(inputs, setup.inputs, strict=True)
    ]

    def read(tile: Tile) -> tuple[Tile, list[NDArray[Any]]]:
        boxes = [item.box_of(tile.read, setup.reference) for item in setup.inputs]
        return tile, [source.read(box) for source, box in zip(cached, boxes, strict=True)]

    return read


def _stitcher(setup: StageSetup) -> TileStitcher:
    if setup.spec.kind == "classifier":
        return CellStitcher(setup.grid, len(setup.channels))
    return Stitcher(setup.grid, len(setup.channels), blend=setup.spec.output.blend)

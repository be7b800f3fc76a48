"""Run one stage: read | predict | stitch and write, at once, with bounded queues between."""

import math
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from wsiseg.engine.clock import Clock
from wsiseg.engine.cuts import keep_cuts
from wsiseg.engine.events import Listener, StageFinished, StageStarted, TilesDone, ignore
from wsiseg.engine.gaps import Gaps
from wsiseg.engine.graph import StageSetup
from wsiseg.engine.inputs import Input, TileReader
from wsiseg.engine.kept import Span, column_span, rows_of_tiles
from wsiseg.engine.on_device import (
    DeviceOutput,
    DevicePredictor,
    adder_of,
    make_stitcher,
    stitched_on_device,
    summed_on_device,
)
from wsiseg.engine.sampling import SampledPredictor
from wsiseg.engine.skip import SkipReport
from wsiseg.engine.stream import Background, prefetch
from wsiseg.engine.walk import batches_of
from wsiseg.grid import Column
from wsiseg.machine import HeapTrimmer
from wsiseg.model import Predictor
from wsiseg.model.activation import activate
from wsiseg.stitch import CellStitcher, Reducer, Slab, Stitcher

if TYPE_CHECKING:
    from wsiseg.stitch.device import CodeSlab
    from wsiseg.stitch.device_volume import TensorSlab

__all__ = ["Pace", "StageReport", "Threaded", "run_stage"]

Indices = NDArray[np.int64]
"""Places of tiles in a grid, (n, axes)."""

Batch = tuple[Indices, list[NDArray[Any]]]
Predicted = tuple[Indices, NDArray[np.float32]]
AnySlab = TypeVar("AnySlab", Slab, "CodeSlab", "TensorSlab")

BATCHES_AHEAD = 2
"""Batches under way or waiting, per worker."""


@runtime_checkable
class Threaded(Protocol):
    """A predictor that can be told how many calls will come at once, and their cores."""

    def for_workers(self, workers: int, threads: int) -> Predictor:
        """Return the same network for `workers` calls at once, each on `threads` cores."""
        ...

    def rest(self) -> None:
        """Free memory that only calls need, until the next one."""
        ...


class Kept(Protocol):
    """What tells which rows of a stage an earlier run has finished."""

    def missing(self, span: Span) -> NDArray[np.bool_]:
        """Return which rows of a column are to be made, bool (row,)."""
        ...


@dataclass(frozen=True, slots=True)
class Pace:
    """How a stage is driven; changes nothing of the result but the last bits."""

    batch_size: int
    """Patches per call of the predictor; the last batch of a column is filled up with zeros."""

    workers: int
    """Batches under way at once. On a CPU each worker reads a batch and predicts it on its own
    cores, so that none is idle, however the cost of reading compares with that of the network. For
    a GPU the workers only read."""

    column: int
    """Reference pixels walked at once along the last axis; bounds caches, stitcher and writer."""

    turned: bool = False
    """The walk is from left to right, and `column` counts along the first axis: what is kept is as
    wide as the image is high."""

    threads: int | None = None
    """Cores of one call on a CPU; `None`: leave the predictor as it is."""

    on_device: bool = False
    """The predictor is fed in a stream, from one thread; copies and computing overlap there."""

    ahead: int | None = None
    """See `batches_ahead`; `None`: two per worker."""

    @property
    def batches_ahead(self) -> int:
        """Batches begun before their results are asked for."""
        return BATCHES_AHEAD * self.workers if self.ahead is None else self.ahead


@dataclass(frozen=True, slots=True)
class StageReport:
    """What a stage did and where its time went."""

    stage: str
    tiles: int
    columns: int
    seconds: float
    """From the first read to the last pixel written."""

    read_s: float
    """Reading and reducing, summed over workers."""

    predict_s: float
    """The network, summed over workers."""

    write_s: float
    """Stitching, encoding and writing."""

    wait_s: float
    """Results were waited for: the writer had nothing to do; 0 where a GPU stitches."""

    starve_s: float = 0.0
    """Patches were waited for: a GPU had nothing to do."""

    skipped: SkipReport | None = None
    """What was not looked at, as asked; `None` where everything was."""

    uncertainty: Mapping[str, float | None] | None = None
    """Mean of each layer over the pixels that have a value; `None` where none was asked for."""

    kept: int = 0
    """Tiles that an earlier run, which was ended, had finished."""

    lost_mm2: float = 0.0
    """Area that has no result, since pixels it would rest on cannot be read."""


def run_stage(  # noqa: PLR0913 - what runs, how, and who listens
    setup: StageSetup,
    inputs: Sequence[Input],
    selected: NDArray[np.bool_],
    predictor: Predictor,
    reducer: Reducer,
    *,
    pace: Pace,
    device_output: DeviceOutput | None = None,
    kept: Kept | None = None,
    folder: Path | None = None,
    gaps: Gaps | None = None,
    spill: Path | None = None,
    sums_on: str | None = None,
    beyond: int = 0,
    slide: str = "",
    listen: Listener = ignore,
) -> StageReport:
    """Predict the selected tiles of a stage and push the stitched result into a reducer.

    Parameters
    ----------
    setup
        The stage on its slide.
    inputs
        One per input of the stage; see `connect`.
    selected
        bool of `decided.counts`; the other tiles stay `nodata`.
    predictor
        Raw network values for a batch of patches; a `SampledPredictor` where the stage's layers
        need one.
    reducer
        Gets every slab, in order, column after column, in the frame of the walk (`Column`), and is
        finished at the end.
    pace
        Batch size, workers and width of the columns.
    device_output
        Given, a dense output is stitched on the device where its front fits there; it writes into
        the sinks of `reducer`.
    kept
        Rows that are finished already; what gives them to `reducer` is in its sinks.
    folder
        Where blocks that several columns need wait in a file; `None`: they are made again.
    gaps
        The stage's: what it loses by damage becomes nodata.
    spill
        Given, the stitcher's front is in a file there instead of memory.
    sums_on
        Given, a volume is stitched on this device, and `reducer` gets slabs that lie there.
    beyond
        Pixels of the next column that slabs hold as well, for a reducer that interpolates.
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
    running = setup.runs(selected)
    count = int(running.sum())
    listen(StageStarted(slide, setup.spec.name, count))
    if pace.threads is not None and isinstance(predictor, Threaded):
        predictor = predictor.for_workers(pace.workers, pace.threads)
    clock, trim_heap = Clock(), HeapTrimmer(buffers=_passing_bytes(setup, pace))
    started = time.perf_counter()
    columns = setup.columns(pace.column, turned=pace.turned, beyond=beyond)
    with ExitStack() as stack:
        if folder is not None:
            inputs = stack.enter_context(keep_cuts(setup, inputs, columns, running, folder))

        def place(column: Column) -> _Place:
            return _Place(setup, column, selected, gaps)

        def run(  # what a column needs is freed before the next
            column: Column, batches: list[Indices]
        ) -> Iterator[int]:
            reader = TileReader(setup, inputs, column, batches)
            if sums_on is not None and isinstance(predictor, DevicePredictor):
                ahead = _read_ahead(reader, iter(batches), pace, clock)
                give = _placed_slabs(place(column), reducer, clock)
                return summed_on_device(setup, column, ahead, predictor, sums_on, give, clock)
            stitcher = device_output and make_stitcher(setup, column, device_output)
            if device_output and stitcher and isinstance(predictor, DevicePredictor):
                ahead = _read_ahead(reader, iter(batches), pace, clock)
                write = _code_writer(place(column), device_output, clock)
                return stitched_on_device(column, ahead, predictor, stitcher, write, clock)
            results = _predicted(setup, reader, iter(batches), predictor, pace, clock)
            stitching = _stitcher(setup, column, predictor, spill)
            apart = not setup.spec.reads_scan
            return _stitched(stitching, place(column), results, reducer, clock, apart=apart)

        finished = 0
        for column in columns:
            batches = list(batches_of(column.part_of(running), pace.batch_size))
            if kept is not None:
                batches, before = _missing(setup, column, batches, kept)
                finished += before
                listen(TilesDone(slide, setup.spec.name, before))
            for done in run(column, batches):
                listen(TilesDone(slide, setup.spec.name, done))
                trim_heap()
    reducer.finish()
    seconds = time.perf_counter() - started
    listen(StageFinished(slide, setup.spec.name, seconds))
    return StageReport(
        stage=setup.spec.name,
        tiles=count,
        columns=len(columns),
        seconds=seconds,
        read_s=clock.seconds["read"],
        predict_s=clock.seconds["predict"],
        write_s=clock.seconds["write"],
        wait_s=clock.seconds["wait"],
        starve_s=clock.seconds["starve"],
        kept=finished,
    )


def _passing_bytes(setup: StageSetup, pace: Pace) -> int:
    """Return the bytes of a volume's outputs that come and go; those of slides are small."""
    if not setup.spec.reads_scan:
        return 0
    output = 4 * len(setup.channels) * math.prod(setup.grid.patch) * pace.batch_size
    return pace.batches_ahead * output


def _missing(
    setup: StageSetup, column: Column, batches: list[Indices], kept: "Kept"
) -> tuple[list[Indices], int]:
    """Return the batches with a tile that touches unfinished rows, and the tiles of all others.

    They are whole as they were: a tile's last bits may depend on its place in the batch.
    """
    rows = rows_of_tiles(setup, column, kept.missing(column_span(setup, column)))
    missing = [batch for batch in batches if rows[batch[:, 0]].any()]
    return missing, sum(map(len, batches)) - sum(map(len, missing))


def _predicted(
    setup: StageSetup,
    reader: TileReader,
    batches: Iterator[Indices],
    predictor: Predictor,
    pace: Pace,
    clock: Clock,
) -> Generator[Predicted, None, None]:
    """Yield the probabilities of each batch of tiles, in order, from threads ahead."""

    def finish(indices: Indices, raw: NDArray[np.float32]) -> Predicted:
        if isinstance(predictor, SampledPredictor):
            return indices, raw[: len(indices)]  # probabilities already, and variances
        if setup.spec.output.stitched == "raw":
            return indices, raw[: len(indices)]
        scaled, output = setup.scaling(raw[: len(indices)]), setup.spec.output
        return indices, activate(scaled, output.activation, offsets=output.offsets)

    def read_and_predict(indices: Indices) -> Predicted:
        with clock.on("read"):
            patches = reader.read(indices, pace.batch_size)
        with clock.on("predict"):
            return finish(indices, predictor(*patches))

    workers, ahead = pace.workers, pace.batches_ahead
    if not pace.on_device:
        yield from prefetch(read_and_predict, batches, workers=workers, ahead=ahead)
        return
    waiting: deque[Indices] = deque()

    with closing(_read_ahead(reader, batches, pace, clock)) as read:

        def arrays() -> Iterator[tuple[NDArray[Any], ...]]:
            for indices, patches in clock.counted("starve", read, instead_of="predict"):
                waiting.append(indices)
                yield tuple(patches)

        with closing(predictor.stream(arrays())) as outputs:
            for raw in clock.counted("predict", outputs):
                yield finish(waiting.popleft(), raw)


def _read_ahead(
    reader: TileReader, batches: Iterator[Indices], pace: Pace, clock: Clock
) -> Generator[Batch, None, None]:
    """Yield each batch of tiles with its patches, in order, read by threads ahead."""

    def read(indices: Indices) -> Batch:
        with clock.on("read"):
            return indices, reader.read(indices, pace.batch_size)

    return prefetch(read, batches, workers=pace.workers, ahead=pace.batches_ahead)


def _stitched(
    stitching: "Stitching",
    place: "_Place",
    results: Generator[Predicted, None, None],
    reducer: Reducer,
    clock: Clock,
    *,
    apart: bool,
) -> Iterator[int]:
    """Stitch one column and push it into the reducer; yield the tiles of each batch.

    With `apart` in a thread of its own; without, of large outputs no more than one waits.
    """
    add, finish = stitching

    def push(slabs: Iterator[Slab]) -> None:
        with clock.on("write"):
            for slab in slabs:
                reducer.push(place(slab))

    def write(batch: Predicted) -> None:
        push(add(*batch))

    with ExitStack() as stack:
        put = stack.enter_context(Background(write, depth=2)).put if apart else write
        stack.enter_context(closing(results))
        while True:
            with clock.on("wait"):
                batch = next(results, None)
            if batch is None:
                break
            put(batch)
            done = len(batch[0])
            batch = None  # the next one is predicted meanwhile
            yield done
    push(finish())


Stitching = tuple[
    Callable[[Indices, NDArray[np.float32]], Iterator[Slab]], Callable[[], Iterator[Slab]]
]
"""What takes a batch and gives finished slabs, and what gives the rest."""


def _stitcher(
    setup: StageSetup, column: Column, predictor: Predictor, spill: Path | None
) -> Stitching:
    """Return what takes a batch and gives finished slabs, and what gives the rest."""
    channels, blend = setup.predicted + len(setup.layers.sampled), setup.spec.output.blend
    if setup.spec.kind != "segmenter":
        cells = CellStitcher(column.grid, channels)
        return cells.add, cells.finish
    stitcher = Stitcher(
        column.grid,
        channels,
        blend=blend,
        shares=setup.layers.blended_shares,
        spill=spill,
        summed=setup.spec.reads_scan,
        add_weighted=adder_of(predictor),
    )

    def add(indices: Indices, patches: NDArray[np.float32]) -> Iterator[Slab]:
        for index, patch in zip(indices.tolist(), patches, strict=True):
            values = patch.swapaxes(0, 1) if column.turned else patch
            yield from stitcher.add(column.grid.tile(tuple(index)), values)

    return add, stitcher.finish


def _placed_slabs(
    place: "_Place", reducer: Reducer, clock: Clock
) -> "Callable[[TensorSlab], None]":
    def give(slab: "TensorSlab") -> None:
        with clock.on("write"):
            reducer.push(place(slab))  # type: ignore[arg-type]  # the reducer was made for them

    return give


def _code_writer(
    place: "_Place", output: DeviceOutput, clock: Clock
) -> "Callable[[CodeSlab], None]":
    def write(slab: "CodeSlab") -> None:
        with clock.on("write"):
            output.writer.push(place(slab))

    return write


@dataclass(frozen=True, slots=True)
class _Place:
    """Moves the slabs of a column to their place, without what they do not decide, or lost."""

    setup: StageSetup
    column: Column
    selected: NDArray[np.bool_]
    gaps: Gaps | None

    def __call__(self, slab: AnySlab) -> AnySlab:
        placed = self._decided(slab)
        return self.gaps.blank(placed, turned=self.column.turned) if self.gaps else placed

    def _decided(self, slab: AnySlab) -> AnySlab:
        setup, column = self.setup, self.column
        if setup.spec.kind != "segmenter":
            return slab.moved(column.tiles.start)
        left, right = column_span(setup, column)
        placed = slab.moved(column.offset).within(left, right + self._beyond(right))
        if setup.patches is None:
            return placed
        return placed.without(setup.undecided(placed.box, self.selected, turned=column.turned))

    def _beyond(self, right: int) -> int:
        if not self.column.beyond:
            return 0
        return min(self.column.beyond, self.setup.grid.shape[-1] - right)

"""Everything countable before the first full-resolution pixel is read."""

import math
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsiseg.engine.blocks import row_bytes
from wsiseg.engine.cuts import column_uses
from wsiseg.engine.decoding import EXACT, DecodingChoice
from wsiseg.engine.execute import Pace, Threaded
from wsiseg.engine.graph import StageSetup, select_tiles
from wsiseg.engine.inputs import BLOCK, SlideInput
from wsiseg.engine.share import kept_bytes, shared_blocks
from wsiseg.errors import MemoryBudgetError
from wsiseg.geometry import ceil_div
from wsiseg.grid import Column
from wsiseg.machine import (
    machine_memory,
    release_memory,
    resident_memory,
    trim_heap,
    usable_cores,
)
from wsiseg.model import Model, Predictor
from wsiseg.model.tuning import StageTuning, default_batch, device_batch
from wsiseg.options import RunOptions, TissueOptions
from wsiseg.stitch import projected_bytes as stitch_bytes
from wsiseg.stitch import writer_bytes
from wsiseg.tissue import TissueMask

__all__ = ["Plan", "StagePlan", "make_plan"]

FRONT_BYTES = 24_000_000
"""Caches, stitcher and rows of the writer. Where a slide is too wide for them, it is walked across
its shorter side; where that is too wide as well, in columns."""

CUT_BYTES = 4_000_000_000
"""Most that blocks at the cuts between columns may take on disk; beyond it they are read twice."""

SOURCE_BYTES = 64_000_000
"""Decoded tiles that the source keeps, where stages do not read it in whole tiles."""

OUTPUT_BYTES = 200_000_000
"""Thumbnail, picture, and the outlines of ten thousand objects (measured: 170 MB)."""

DECODE_PIXELS_PER_S = 100e6
"""Level pixels one thread decodes in a second (JPEG, measured 160-190 million, with reserve)."""


NO_PACES: Mapping[str, Pace] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class StagePlan:
    """One stage, counted."""

    stage: str
    level: int | None
    requested_um: tuple[float, ...]
    effective_um: tuple[float, ...]
    patch: tuple[int, ...]
    """What the network runs on: the card's patch, or a larger window."""

    card_patch: tuple[int, ...]
    stride: tuple[int, ...]
    halo: tuple[int, ...]
    tiles_total: int
    tiles: int
    batch_size: int
    batches: int
    pace: Pace
    columns: int
    """1: the slide is walked once at its full width, and nothing is read twice."""

    amplification: float | None
    """How often a block of the slide is expected to be made, on average over those needed. 1 also
    in columns, as blocks at the cuts wait in a file for the next column: `cut_bytes`. `None` where
    the codec reduces or tiles are very large: the source's cache decides."""

    cut_bytes: int

    read_bytes: int
    """Decoded level pixels, three bytes each."""

    output_shape: tuple[int, ...]
    front_bytes: int
    """Caches, the stitcher's front and the writer's rows: what grows with the width walked."""

    buffer_bytes: int
    """The front, the batches under way, and the tiles that the source keeps: what comes on top of
    the network with its activations, which are there when the plan is made."""

    seconds: float

    passes: int = 1
    """How often each batch is predicted, for layers of uncertainty."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run on one slide will take."""

    slide: str
    model: str
    stages: tuple[StagePlan, ...]
    setups: tuple[StageSetup, ...]
    """The stages laid over the slide."""

    selected: tuple[NDArray[np.bool_], ...]
    """Per stage, which tiles have tissue; bool of `decided.counts`."""

    tissue_share: float
    projected_bytes: int
    """Peak resident memory of the process."""

    memory_bytes: int
    """What is allowed."""

    seconds: float
    decoding: DecodingChoice = EXACT

    @property
    def running(self) -> tuple[NDArray[np.bool_], ...]:
        """Per stage, which tiles the network runs on; bool of `grid.counts`."""
        pairs = zip(self.setups, self.selected, strict=True)
        return tuple(setup.runs(selected) for setup, selected in pairs)

    def to_dict(self) -> dict[str, Any]:
        """Return the numbers of the plan as plain values."""
        return {
            "slide": self.slide,
            "model": self.model,
            "tissue_share": round(self.tissue_share, 6),
            "projected_bytes": self.projected_bytes,
            "memory_bytes": self.memory_bytes,
            "seconds": round(self.seconds, 1),
            "decoding": asdict(self.decoding),
            "stages": [asdict(stage) for stage in self.stages],
        }


def make_plan(
    setups: Sequence[StageSetup],
    model: Model,
    tissue: TissueMask,
    *,
    slide: str,
    tissue_options: TissueOptions,
    options: RunOptions,
    decoding: DecodingChoice = EXACT,
    paces: Mapping[str, Pace] = NO_PACES,
) -> Plan:
    """Count tiles, bytes, memory and seconds; time one batch of zeros through each network.

    Parameters
    ----------
    paces
        How stages were driven by an earlier run that is to be repeated or gone on with, by their
        names. Taken again, but for the workers, where memory, device and options allow it.

    Raises
    ------
    MemoryBudgetError
        If even a batch of one patch needs more memory than allowed.
    """
    budget = options.memory_bytes
    if budget is None:
        budget = int(machine_memory() * 0.75)
    selected = tuple(select_tiles(s, tissue, tissue_options.min_fraction) for s in setups)
    stages: list[StagePlan] = []
    blocks, kept = shared_blocks(setups), kept_bytes(setups)
    for k, (setup, chosen) in enumerate(zip(setups, selected, strict=True)):
        measured = model.tuning.stages if model.tuning is not None else ()
        tuned = next((t for t in measured if t.stage == setup.spec.name), None)
        mine = {i: block for (s, i), block in blocks.items() if s == k}
        predictor, device = model.predictors[k], model.device
        pinned = paces.get(setup.spec.name)
        running = setup.runs(chosen)
        counted = _Stage(setup, setups[:k], running, predictor, device, mine, kept, tuned, pinned)
        # Allocators keep what they once had, so the stages' buffers add up.
        spent = sum(stage.buffer_bytes for stage in stages)
        trim_heap()  # of counting a million tiles, before another network takes its memory
        stages.append(counted.plan(options, budget - spent - OUTPUT_BYTES))
    projected = resident_memory() + OUTPUT_BYTES + sum(stage.buffer_bytes for stage in stages)
    if projected > budget:
        raise MemoryBudgetError(
            f"{slide}: the plan needs {projected / 1e6:.0f} MB, allowed are {budget / 1e6:.0f} MB; "
            "allow more memory, or take a model with smaller patches"
        )
    return Plan(
        slide=slide,
        model=model.card.title,
        stages=tuple(stages),
        setups=tuple(setups),
        selected=selected,
        tissue_share=tissue.share,
        projected_bytes=projected,
        memory_bytes=budget,
        seconds=sum(stage.seconds for stage in stages),
        decoding=decoding,
    )


@dataclass(frozen=True, slots=True)
class _Stage:
    """What the plan of one stage is made from."""

    setup: StageSetup
    earlier: Sequence[StageSetup]
    running: NDArray[np.bool_]
    predictor: Predictor
    device: str
    blocks: Mapping[int, tuple[int, ...]]
    """Pixels of a block of the inputs whose compressed tiles are each decoded once."""

    kept_bytes: int
    """Of decoded tiles, where all inputs are read so."""

    tuned: StageTuning | None = None
    """What was measured to be the fastest on this CPU."""

    pinned: Pace | None = None
    """How it was driven before."""

    @property
    def tiles(self) -> int:
        """Tiles that run."""
        return int(self.running.sum())

    def plan(self, options: RunOptions, budget: int) -> StagePlan:
        """Return the fastest plan whose memory, beside what is there now, is within `budget`."""
        cores = usable_cores() if options.threads is None else options.threads
        if self.pinned is not None and (again := self._again(self.pinned, options, cores, budget)):
            return again
        batch = options.batch_size
        if batch is None:
            batch = self._default_batch(cores)
        walk = self._fewest_columns(FRONT_BYTES)
        while True:
            pace = self._pace(batch, cores, walk)
            seconds = self._time_batch(pace)
            front = self._front_bytes(walk)
            needed = front + self._batch_bytes(pace)
            if resident_memory() + needed <= budget:
                break
            self._rest()
            narrower = self._fewest_columns(front // 2)
            if self._front_bytes(narrower) < front:
                walk = narrower
            elif batch > 1 and options.batch_size is None:
                batch //= 2
            elif cores > 1:
                cores //= 2
            else:
                break
        return self._counted(pace, seconds, needed)

    def _again(
        self, pinned: Pace, options: RunOptions, cores: int, budget: int
    ) -> StagePlan | None:
        """Return the plan that repeats an earlier run bit for bit; `None` if that cannot be."""
        if options.batch_size not in (None, pinned.batch_size):
            return None
        if pinned.on_device != (self.device != "cpu"):
            return None
        batches = ceil_div(self.tiles, pinned.batch_size)
        workers = cores if pinned.on_device else cores // (pinned.threads or 1)
        workers = max(1, workers if pinned.on_device else min(workers, batches))
        walk = _Walk(pinned.column, pinned.turned)
        while True:
            pace = replace(pinned, workers=workers)
            seconds = self._time_batch(pace)
            needed = self._front_bytes(walk) + self._batch_bytes(pace)
            if resident_memory() + needed <= budget:
                return self._counted(pace, seconds, needed)
            self._rest()
            if workers == 1:
                return None
            workers //= 2

    def _rest(self) -> None:
        """Free the activations of a batch that was too large."""
        if isinstance(self.predictor, Threaded):
            self.predictor.rest()
        release_memory()

    def _default_batch(self, cores: int) -> int:
        """Return a batch that gives each core some work, and whose activations stay small."""
        if self.device != "cpu":
            return max(1, min(device_batch(self.setup.grid.patch), self.tiles))
        wanted = self.tuned.batch_size if self.tuned else default_batch(self.setup.grid.patch)
        return max(1, min(wanted, self.tiles // cores))

    def _pace(self, batch: int, cores: int, walk: "_Walk") -> Pace:
        if self.device != "cpu":
            return Pace(batch, cores, walk.width, walk.turned, on_device=True)
        workers = max(1, min(cores, ceil_div(self.tiles, batch)))
        threads = max(1, cores // workers)
        return Pace(batch, workers, walk.width, walk.turned, threads=threads)

    def _fewest_columns(self, limit: int) -> "_Walk":
        """Return the walk in the fewest equal columns whose front is within `limit` bytes.

        Of equally many, in rows: so the tiles of the file come in the order they lie there.
        """
        walks = [self._columns(limit, turned=False)]
        *_, whole = self.setup.grid.shape
        can_turn = len(self.setup.grid.shape) == 2 and self.setup.spec.kind != "embedder"
        if walks[0][1].width < whole and can_turn:
            walks.append(self._columns(limit, turned=True))
        return min(walks, key=lambda found: found[0])[1]

    def _columns(self, limit: int, *, turned: bool) -> tuple[int, "_Walk"]:
        """Return the number of columns, and the walk, in one direction."""
        grid = self.setup.grid.turned if turned else self.setup.grid
        (*_, whole), (*_, patch) = grid.shape, grid.patch
        most = max(1, whole // (4 * patch))
        count = 1
        while count < most and self._front_bytes(_Walk(ceil_div(whole, count), turned)) > limit:
            count += 1
        return count, _Walk(ceil_div(whole, count), turned)

    def _front_bytes(self, walk: "_Walk") -> int:
        """Return the bytes of caches, the stitcher's front and the writer's rows of chunks."""
        setup = self.setup
        grid = setup.grid.turned if walk.turned else setup.grid
        channels = len(setup.channels)  # one is the background's, for which the labels are kept
        layers = len(setup.layers.names) + setup.predicted - len(setup.channels)
        caches = sum(self._cache_bytes(k, walk) for k in range(len(setup.inputs)))
        cells = ceil_div(walk.width, grid.stride[-1])
        if setup.spec.kind == "embedder":  # a row of vectors being filled, one being written
            return caches + 2 * cells * 4 * channels
        width = walk.width if setup.spec.kind == "segmenter" else cells
        writer = writer_bytes(setup.placement, channels + layers, width=width, turned=walk.turned)
        if setup.spec.kind == "classifier":  # its front is a row of cells: nothing beside the rest
            return caches + writer
        part = replace(grid, shape=(*grid.shape[:-1], walk.width))
        return caches + writer + stitch_bytes(part, setup.planes, setup.spec.output.blend)

    def _cache_bytes(self, k: int, walk: "_Walk") -> int:
        """Return the bytes of the blocks of one input that are kept at once."""
        item = self.setup.inputs[k]
        grid = item.downsample
        values, patch = item.bytes_per_pixel, tuple(item.spec.patch)
        for producer in self.earlier:
            if item.view is None and producer.spec.output.name == item.spec.source:
                grid = producer.placement.downsample
                pairs = zip(patch, item.downsample, grid, strict=True)
                patch = tuple(math.ceil(n * mine / theirs) + 2 for n, mine, theirs in pairs)
                values = 4 * len(producer.channels)
        axis = 0 if walk.turned else -1
        width = math.ceil(walk.width * self.setup.reference.downsample[axis] / grid[axis])
        block = self.blocks.get(k, (BLOCK,) * len(patch))
        if walk.turned:
            patch, block = patch[::-1], block[::-1]
        return row_bytes(width, patch, block, values)

    def _cuts(self, columns: Sequence[Column]) -> tuple[float | None, int]:
        """Return how often a tile is decoded, if that is known, and the bytes that wait for it."""
        views = {k for k, item in enumerate(self.setup.inputs) if item.view is not None}
        if not views <= self.blocks.keys():
            return None, 0
        needed = distinct = waiting = 0
        for k, item in enumerate(self.setup.inputs):
            if item.view is None or len(columns) == 1 or not self.tiles:
                continue
            one = SlideInput(item.view, self.blocks.get(k))
            counts = column_uses(self.setup, k, one, columns, self.running).counts
            needed += int(counts.sum())
            distinct += int(np.count_nonzero(counts))
            block_bytes = math.prod(one.block) * item.bytes_per_pixel
            waiting += int(np.count_nonzero(counts > 1)) * block_bytes
        if waiting <= CUT_BYTES:
            return 1.0, waiting
        return needed / distinct, 0

    def _batch_bytes(self, pace: Pace) -> int:
        """Return the bytes of the batches under way, and of the tiles that the source keeps."""
        inputs = sum(math.prod(i.spec.patch) * i.bytes_per_pixel for i in self.setup.inputs)
        outputs = 4 * self.setup.planes
        if self.setup.spec.kind == "segmenter":
            outputs *= math.prod(self.setup.grid.patch)
        waiting = pace.batches_ahead + 3  # and those of the writer
        if self.setup.layers.passes > 1:  # a turned copy, an answer, and what it adds to the mean
            waiting += 3 * pace.workers
        views = [k for k, item in enumerate(self.setup.inputs) if item.view is not None]
        source = self.kept_bytes if self.blocks.keys() >= set(views) else SOURCE_BYTES
        return waiting * pace.batch_size * (inputs + outputs) + source

    def _counted(self, pace: Pace, batch_s: float, buffer_bytes: int) -> StagePlan:
        setup, reference = self.setup, self.setup.reference
        batches = ceil_div(self.tiles, pace.batch_size)
        level_pixels = 0.0
        if reference.view is not None:
            covered = min(self.tiles * math.prod(setup.grid.stride), math.prod(setup.grid.shape))
            level_pixels = covered * math.prod(reference.view.ratio)
        cores = pace.workers * (pace.threads or 1)
        columns = setup.columns(pace.column, turned=pace.turned)
        amplification, cut_bytes = self._cuts(columns)
        read_s = level_pixels * (amplification or 1.0) / (DECODE_PIXELS_PER_S * cores)
        predict_s = batch_s * batches / (1 if pace.on_device else pace.workers)
        return StagePlan(
            stage=setup.spec.name,
            level=reference.view.level.index if reference.view is not None else None,
            requested_um=reference.requested.um,
            effective_um=reference.spacing.um,
            patch=setup.grid.patch,
            card_patch=setup.decided.patch,
            stride=setup.grid.stride,
            halo=setup.grid.halo,
            tiles_total=len(setup.grid),
            tiles=self.tiles,
            batch_size=pace.batch_size,
            batches=batches,
            pace=pace,
            columns=len(columns),
            amplification=amplification,
            cut_bytes=cut_bytes,
            read_bytes=int(level_pixels * 3),
            output_shape=setup.placement.shape,
            front_bytes=self._front_bytes(_Walk(pace.column, pace.turned)),
            buffer_bytes=buffer_bytes,
            seconds=max(predict_s, read_s) if pace.on_device else predict_s + read_s,
            passes=setup.layers.passes,
        )

    def _time_batch(self, pace: Pace) -> float:
        """Return the seconds of a batch of zeros, beside as many others as there will be.

        The memory that these calls need stays with the network. What was measured before is not
        measured again.
        """
        if not self.tiles:
            return 0.0
        size = pace.batch_size
        arrays = [np.zeros(item.batch_shape(size), item.dtype) for item in self.setup.inputs]
        predictor = self.predictor
        if pace.threads is not None and isinstance(predictor, Threaded):
            predictor = predictor.for_workers(pace.workers, pace.threads)
        at_once = 1 if pace.on_device else pace.workers
        with ThreadPoolExecutor(at_once) as pool:

            def call_all() -> float:
                started = time.perf_counter()
                list(pool.map(lambda _: predictor(*arrays), range(at_once)))
                return time.perf_counter() - started

            first = call_all()  # the first calls allocate
            if self.setup.layers.passes > 1:  # most of them do not
                return first
            tuned = self.tuned
            if tuned and (tuned.batch_size, tuned.workers) == (size, at_once):
                return tuned.seconds_per_patch * size * at_once
            return call_all()


@dataclass(frozen=True, slots=True)
class _Walk:
    """How wide a column is, and which way it is walked; see `Pace`."""

    width: int
    turned: bool

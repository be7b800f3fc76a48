"""Everything countable before the first full-resolution pixel is read."""

import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsiseg.engine.blocks import row_bytes
from wsiseg.engine.decoding import EXACT, DecodingChoice
from wsiseg.engine.execute import Pace, Threaded
from wsiseg.engine.graph import StageInput, StageSetup, select_tiles
from wsiseg.engine.inputs import BLOCK
from wsiseg.errors import MemoryBudgetError
from wsiseg.geometry import ceil_div
from wsiseg.machine import machine_memory, resident_memory, usable_cores
from wsiseg.model import Model, Predictor
from wsiseg.model.tuning import default_batch
from wsiseg.options import RunOptions, TissueOptions
from wsiseg.stitch import projected_bytes as stitch_bytes
from wsiseg.stitch import writer_bytes
from wsiseg.tissue import TissueMask

__all__ = ["Plan", "StagePlan", "make_plan"]

GPU_BATCH_PIXELS = 1 << 23
"""Patch pixels per batch on a GPU: 128 patches of 256 pixels."""

FRONT_BYTES = 45_000_000
"""Caches, stitcher and rows of the writer; where a slide is too wide for them, it is walked in
columns, and what lies at the cuts is read twice."""

SOURCE_BYTES = 64_000_000
"""Decoded tiles that the source keeps."""

OUTPUT_BYTES = 200_000_000
"""Thumbnail, picture, and the outlines of ten thousand objects (measured: 170 MB)."""

DECODE_PIXELS_PER_S = 100e6
"""Level pixels one thread decodes in a second (JPEG, measured 160-190 million, with reserve)."""


@dataclass(frozen=True, slots=True)
class StagePlan:
    """One stage, counted."""

    stage: str
    level: int | None
    requested_um: tuple[float, ...]
    effective_um: tuple[float, ...]
    patch: tuple[int, ...]
    stride: tuple[int, ...]
    halo: tuple[int, ...]
    tiles_total: int
    tiles: int
    batch_size: int
    batches: int
    pace: Pace
    columns: int
    """1: the slide is walked once at its full width, and nothing is read twice."""

    read_bytes: int
    """Decoded level pixels, three bytes each."""

    output_shape: tuple[int, ...]
    front_bytes: int
    """Caches, the stitcher's front and the writer's rows: what grows with the width walked."""

    buffer_bytes: int
    """The front, and the batches under way with their activations."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run on one slide will take."""

    slide: str
    model: str
    stages: tuple[StagePlan, ...]
    setups: tuple[StageSetup, ...]
    """The stages laid over the slide."""

    selected: tuple[NDArray[np.bool_], ...]
    """Per stage, which tiles have tissue; bool of `grid.counts`."""

    tissue_share: float
    projected_bytes: int
    """Peak resident memory of the process."""

    memory_bytes: int
    """What is allowed."""

    seconds: float
    decoding: DecodingChoice = EXACT

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
) -> Plan:
    """Count tiles, bytes, memory and seconds; time one batch of zeros through each network.

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
    for k, (setup, chosen) in enumerate(zip(setups, selected, strict=True)):
        measured = model.tuning.stages if model.tuning is not None else ()
        tuned = next((t.batch_size for t in measured if t.stage == setup.spec.name), None)
        tiles = int(chosen.sum())
        counted = _Stage(setup, setups[:k], tiles, model.predictors[k], model.device, tuned)
        # Allocators keep what they once had, so the stages' buffers add up.
        spent = sum(stage.buffer_bytes for stage in stages)
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
    tiles: int
    predictor: Predictor
    device: str
    tuned_batch: int | None = None
    """The batch size measured to be the fastest on this CPU."""

    def plan(self, options: RunOptions, budget: int) -> StagePlan:
        """Return the fastest plan whose memory, beside what is there now, is within `budget`."""
        cores = usable_cores() if options.threads is None else options.threads
        batch = options.batch_size
        if batch is None:
            batch = self._default_batch(cores)
        width = self._column_width(FRONT_BYTES)
        while True:
            pace = self._pace(batch, cores, width)
            network = self._time_batch(pace)
            needed = self._front_bytes(width) + self._batch_bytes(pace, network)
            if resident_memory() + needed <= budget:
                break
            if self._column_width(self._front_bytes(width) // 2) < width:
                width = self._column_width(self._front_bytes(width) // 2)
            elif batch > 1 and options.batch_size is None:
                batch //= 2
            elif cores > 1:
                cores //= 2
            else:
                break
        return self._counted(pace, network, needed)

    def _default_batch(self, cores: int) -> int:
        """Return a batch that gives each core some work, and whose activations stay small."""
        pixels = math.prod(self.setup.grid.patch)
        if self.device != "cpu":
            return max(1, min(256, GPU_BATCH_PIXELS // pixels, self.tiles))
        wanted = self.tuned_batch or default_batch(self.setup.grid.patch)
        return max(1, min(wanted, self.tiles // cores))

    def _pace(self, batch: int, cores: int, width: int) -> Pace:
        if self.device != "cpu":
            return Pace(batch, cores, width, on_device=True)
        workers = max(1, min(cores, ceil_div(self.tiles, batch)))
        return Pace(batch, workers, width, threads=max(1, cores // workers))

    def _column_width(self, limit: int) -> int:
        """Return the width of the fewest equal columns whose front is within `limit` bytes."""
        *_, whole = self.setup.grid.shape
        *_, patch = self.setup.grid.patch
        most = max(1, whole // (4 * patch))
        count = 1
        while count < most and self._front_bytes(ceil_div(whole, count)) > limit:
            count += 1
        return ceil_div(whole, count)

    def _front_bytes(self, width: int) -> int:
        """Return the bytes of caches, the stitcher's front and the writer's rows of chunks."""
        setup = self.setup
        channels = len(setup.channels)
        *rest, _ = setup.grid.shape
        *_, stride = setup.grid.stride
        caches = sum(self._cache_bytes(item, width) for item in setup.inputs)
        if setup.spec.kind == "embedder":  # a row of vectors being filled, one being written
            return caches + 2 * ceil_div(width, stride) * 4 * channels
        if setup.spec.kind == "classifier":  # its front is a row of cells: nothing beside the rest
            cells = ceil_div(width, stride)
            return caches + writer_bytes(setup.placement, channels + 1, width=cells)
        part = replace(setup.grid, shape=(*rest, width))
        front = stitch_bytes(part, channels, setup.spec.output.blend)
        return caches + front + writer_bytes(setup.placement, channels + 1, width=width)

    def _cache_bytes(self, item: StageInput, width: int) -> int:
        """Return the bytes of the blocks of one input that are kept at once."""
        grid, scale = item.downsample, 1.0
        values, patch = item.bytes_per_pixel, tuple(item.spec.patch)
        for producer in self.earlier:
            if item.view is None and producer.spec.output.name == item.spec.source:
                grid = producer.placement.downsample
                pairs = zip(patch, item.downsample, grid, strict=True)
                patch = tuple(math.ceil(n * mine / theirs) + 2 for n, mine, theirs in pairs)
                values = 4 * len(producer.channels)
        scale = self.setup.reference.downsample[-1] / grid[-1]
        block = (BLOCK,) * len(patch)
        return row_bytes(math.ceil(width * scale), patch, block, values)

    def _batch_bytes(self, pace: Pace, network: "_Timing") -> int:
        """Return the bytes of the batches under way and of the network's activations."""
        inputs = sum(math.prod(i.spec.patch) * i.bytes_per_pixel for i in self.setup.inputs)
        outputs = 4 * len(self.setup.channels)
        if self.setup.spec.kind == "segmenter":
            outputs *= math.prod(self.setup.grid.patch)
        waiting = pace.batches_ahead + 3  # and those of the writer
        others = network.activation_bytes * (pace.workers - 1)
        return waiting * pace.batch_size * (inputs + outputs) + others + SOURCE_BYTES

    def _counted(self, pace: Pace, network: "_Timing", buffer_bytes: int) -> StagePlan:
        setup, reference = self.setup, self.setup.reference
        batches = ceil_div(self.tiles, pace.batch_size)
        level_pixels = 0.0
        if reference.view is not None:
            covered = min(self.tiles * math.prod(setup.grid.stride), math.prod(setup.grid.shape))
            level_pixels = covered * math.prod(reference.view.ratio)
        cores = pace.workers * (pace.threads or 1)
        read_s = level_pixels / (DECODE_PIXELS_PER_S * cores)
        predict_s = network.seconds * batches / (1 if pace.on_device else pace.workers)
        return StagePlan(
            stage=setup.spec.name,
            level=reference.view.level.index if reference.view is not None else None,
            requested_um=reference.requested.um,
            effective_um=reference.spacing.um,
            patch=setup.grid.patch,
            stride=setup.grid.stride,
            halo=setup.grid.halo,
            tiles_total=len(setup.grid),
            tiles=self.tiles,
            batch_size=pace.batch_size,
            batches=batches,
            pace=pace,
            columns=len(setup.columns(pace.column)),
            read_bytes=int(level_pixels * 3),
            output_shape=setup.placement.shape,
            front_bytes=self._front_bytes(pace.column),
            buffer_bytes=buffer_bytes,
            seconds=max(predict_s, read_s) if pace.on_device else predict_s + read_s,
        )

    def _time_batch(self, pace: Pace) -> "_Timing":
        """Predict a batch of zeros with the threads it will have."""
        if not self.tiles:
            return _Timing(0.0, 0)
        size = pace.batch_size
        arrays = [np.zeros(item.batch_shape(size), item.dtype) for item in self.setup.inputs]
        predictor = self.predictor
        if pace.threads is not None and isinstance(predictor, Threaded):
            predictor = predictor.for_workers(pace.workers, pace.threads)
        before = resident_memory()
        predictor(*arrays)  # the first call allocates
        started = time.perf_counter()
        predictor(*arrays)
        seconds = time.perf_counter() - started
        return _Timing(seconds, max(0, resident_memory() - before))


@dataclass(frozen=True, slots=True)
class _Timing:
    """What one batch takes."""

    seconds: float
    activation_bytes: int

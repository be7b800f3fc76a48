"""Everything countable before the first full-resolution pixel is read."""

import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsiseg.engine.execute import BATCHES_AHEAD
from wsiseg.engine.graph import StageSetup, select_tiles
from wsiseg.engine.inputs import cache_bytes
from wsiseg.errors import MemoryBudgetError
from wsiseg.machine import machine_memory, resident_memory, usable_cores
from wsiseg.model import Model, Predictor
from wsiseg.options import RunOptions, TissueOptions
from wsiseg.stitch import projected_bytes as stitch_bytes
from wsiseg.stitch import writer_bytes
from wsiseg.tissue import TissueMask

__all__ = ["Plan", "StagePlan", "make_plan"]

BATCH_PIXELS = 1 << 18
"""Patch pixels per batch: enough to keep two cores busy, small enough to keep activations small."""

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
    read_bytes: int
    """Decoded level pixels, three bytes each."""

    output_shape: tuple[int, ...]
    buffer_bytes: int
    """Queues, caches, the stitcher's front and the writer's rows."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run on one slide will take."""

    slide: str
    model: str
    stages: tuple[StagePlan, ...]
    selected: tuple[NDArray[np.bool_], ...]
    """Per stage, which tiles have tissue; bool of `grid.counts`."""

    tissue_share: float
    projected_bytes: int
    """Peak resident memory of the process."""

    memory_bytes: int
    """What is allowed."""

    read_threads: int
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Return the numbers of the plan as plain values."""
        return {
            "slide": self.slide,
            "model": self.model,
            "tissue_share": round(self.tissue_share, 6),
            "projected_bytes": self.projected_bytes,
            "memory_bytes": self.memory_bytes,
            "read_threads": self.read_threads,
            "seconds": round(self.seconds, 1),
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
) -> Plan:
    """Count tiles, bytes, memory and seconds; time one batch of zeros through each network.

    Raises
    ------
    MemoryBudgetError
        If even a batch of one patch needs more memory than allowed.
    """
    budget = options.memory_bytes or int(machine_memory() * 0.75)
    fixed = resident_memory() + OUTPUT_BYTES
    threads = options.read_threads or usable_cores()
    selected = tuple(select_tiles(s, tissue, tissue_options.min_fraction) for s in setups)
    stages = []
    for setup, chosen, predictor in zip(setups, selected, model.predictors, strict=True):
        batch = options.batch_size or _default_batch(setup, int(chosen.sum()))
        while fixed + _buffer_bytes(setup, batch) > budget and batch > 1 and not options.batch_size:
            batch //= 2
        stages.append(_plan_stage(setup, chosen, predictor, batch, threads))
    # Allocators keep what they once had, so the stages' buffers add up.
    projected = resident_memory() + OUTPUT_BYTES + sum(stage.buffer_bytes for stage in stages)
    if projected > budget:
        raise MemoryBudgetError(
            f"{slide}: the plan needs {projected / 1e6:.0f} MB, allowed are {budget / 1e6:.0f} MB; "
            "allow more memory, or take a model with smaller patches"
        )
    return Plan(
        slide=slide,
        model=f"{model.card.name} {model.card.version}",
        stages=tuple(stages),
        selected=selected,
        tissue_share=tissue.share,
        projected_bytes=projected,
        memory_bytes=budget,
        read_threads=threads,
        seconds=sum(stage.seconds for stage in stages),
    )


def _default_batch(setup: StageSetup, tiles: int) -> int:
    pixels = math.prod(setup.grid.patch)
    return max(1, min(64, BATCH_PIXELS // pixels, tiles or 1))


def _plan_stage(
    setup: StageSetup,
    selected: NDArray[np.bool_],
    predictor: Predictor,
    batch_size: int,
    threads: int,
) -> StagePlan:
    tiles = int(selected.sum())
    batches = -(-tiles // batch_size)
    predict_s = _time_batch(setup, predictor, batch_size) if tiles else 0.0
    reference = setup.reference
    level_pixels = 0.0
    if reference.view is not None:
        covered = min(tiles * math.prod(setup.grid.stride), math.prod(setup.grid.shape))
        level_pixels = covered * math.prod(reference.view.ratio)
    read_s = level_pixels / (DECODE_PIXELS_PER_S * threads)
    return StagePlan(
        stage=setup.spec.name,
        level=reference.view.level.index if reference.view is not None else None,
        requested_um=reference.requested.um,
        effective_um=reference.spacing.um,
        patch=setup.grid.patch,
        stride=setup.grid.stride,
        halo=setup.grid.halo,
        tiles_total=len(setup.grid),
        tiles=tiles,
        batch_size=batch_size,
        batches=batches,
        read_bytes=int(level_pixels * 3),
        output_shape=setup.placement.shape,
        buffer_bytes=_buffer_bytes(setup, batch_size),
        seconds=max(predict_s * batches, read_s),
    )


def _buffer_bytes(setup: StageSetup, batch_size: int) -> int:
    """Return the bytes of queues, caches, the stitcher's front and the writer's rows of chunks."""
    channels = len(setup.channels)
    patches = sum(math.prod(i.spec.patch) * i.bytes_per_pixel for i in setup.inputs)
    caches = sum(cache_bytes(i.shape, i.spec.patch, i.bytes_per_pixel) for i in setup.inputs)
    queued = patches * batch_size * (BATCHES_AHEAD + 1)
    writing = writer_bytes(setup.placement, channels + 1)
    # A classifier's front is a row of cells, which is nothing beside the rest.
    dense = setup.spec.kind == "segmenter"
    front = stitch_bytes(setup.grid, channels, setup.spec.output.blend) if dense else 0
    return queued + writing + front + caches + SOURCE_BYTES


def _time_batch(setup: StageSetup, predictor: Predictor, batch_size: int) -> float:
    arrays = [
        np.zeros(
            (batch_size, *item.spec.patch, len(item.spec.channels)),
            np.uint8 if item.view is not None else np.float32,
        )
        for item in setup.inputs
    ]
    predictor(*arrays)  # the first call allocates
    started = time.perf_counter()
    predictor(*arrays)
    return time.perf_counter() - started

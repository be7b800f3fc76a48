"""What a run on a scan will take, and which plan of memory it takes, before it begins."""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsiseg.engine.execute import Pace, Threaded
from wsiseg.engine.graph import StageSetup
from wsiseg.engine.scan_labels import label_readers
from wsiseg.engine.scan_memory import plan_front
from wsiseg.errors import MemoryBudgetError
from wsiseg.geometry import ceil_div
from wsiseg.machine import machine_memory, resident_memory, usable_cores
from wsiseg.model import Model, Predictor
from wsiseg.model.ensemble import MirroredPredictor
from wsiseg.options import MemoryPlan, RunOptions
from wsiseg.volume.scan import SLAB_BYTES, Scan

__all__ = ["NO_PACES", "ScanPlan", "ScanStagePlan", "mirrored", "plan_scan"]

GPU_BATCH_VOXELS = 1 << 21
"""Patch voxels per batch on a GPU: two patches of 96 x 96 x 96."""

SMALL_PATCH = 80**3
"""Patches up to this many voxels are predicted several at once, each on a core of its own."""

SLOW_ALONE = 48**3
"""Patches of up to so many voxels go in pairs where torch predicts on a CPU: for a single small one
its convolutions do without oneDNN (`use_mkldnn` looks at the batch), 4 times as slowly."""

NO_PACES: Mapping[str, Pace] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class ScanStagePlan:
    """One stage, counted."""

    stage: str
    spacing_mm: tuple[float, ...]
    shape: tuple[int, ...]
    """Voxels of the network's grid."""

    patch: tuple[int, ...]
    windows_total: int
    windows: int
    """Those that run; the others see nothing of the body."""

    views: int
    """Mirrorings of each window."""

    folds: int
    batch_size: int
    pace: Pace
    memory: MemoryPlan
    """Where the sums of windows are; see `RunOptions.memory_plan`."""

    blocks: int
    """The scan is walked in so many, one after the other."""

    amplification: float
    """Windows predicted, over those that run: at the edges of blocks they are predicted again."""

    front_bytes: int
    """Of the stitcher: what grows with the classes and the cross-section."""

    buffer_bytes: int
    """The front where it is in memory, batches under way, and planes of the export."""

    seconds: float


@dataclass(frozen=True, slots=True)
class ScanPlan:
    """What a run on one scan will take."""

    scan: str
    model: str
    shape: tuple[int, ...]
    """Voxels of the scan, in the network's axes."""

    looked_at: tuple[tuple[int, ...], tuple[int, ...]]
    """First and last + 1 voxel of the part that networks see."""

    probabilities: tuple[str, ...]
    """Classes whose probabilities are kept."""

    stages: tuple[ScanStagePlan, ...]
    projected_bytes: int
    memory_bytes: int
    work_bytes: int
    """In files without a name while it runs."""

    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Return the numbers of the plan as plain values."""
        return asdict(self)


def plan_scan(
    model: Model,
    scan: Scan,
    setups: Sequence[StageSetup],
    selected: Sequence[NDArray[np.bool_]],
    options: RunOptions,
    *,
    probabilities: tuple[str, ...] = (),
    paces: Mapping[str, Pace] = NO_PACES,
    folder: Path | None = None,
) -> ScanPlan:
    """Count windows, bytes, memory and seconds; time one batch of zeros through each network.

    Parameters
    ----------
    probabilities
        Classes whose probabilities are kept beside the labels.
    paces
        How stages were driven by an earlier run that is gone on with, by their names; taken again
        where options allow it.
    folder
        Where files lie while it runs; default: that of temporary files.

    Raises
    ------
    MemoryBudgetError
        If no plan fits into the memory allowed.
    UsageError
        If the plan of memory asked for cannot be.
    """
    budget = options.memory_bytes or int(machine_memory() * 0.75)
    voxels = math.prod(scan.whole)
    stages, spent, work = [], 0, voxels + 2 * voxels * len(probabilities)
    for s, (setup, chosen) in enumerate(zip(setups, selected, strict=True)):
        pinned = paces.get(setup.spec.name)
        if pinned is not None and options.batch_size not in (None, pinned.batch_size):
            pinned = None
        stage = _Stage(model, setups, s, chosen, scan, options, pinned).plan(budget, folder)
        stages.append(stage)
        spent = max(spent, stage.buffer_bytes)
        work += sum(_work_bytes(scan, setup, k) for k in range(len(setup.inputs)))
        work += stage.front_bytes if stage.memory == "spill" else 0
    projected = resident_memory() + spent + 4 * SLAB_BYTES
    if projected > budget:
        raise MemoryBudgetError(
            f"{scan.name}: the plan needs {projected / 1e6:.0f} MB, allowed are "
            f"{budget / 1e6:.0f} MB; allow more memory (--memory), or take a model with smaller "
            "patches"
        )
    return ScanPlan(
        scan=scan.name,
        model=model.card.title,
        shape=scan.whole,
        looked_at=(scan.box.start, scan.box.stop),
        probabilities=probabilities,
        stages=tuple(stages),
        projected_bytes=projected,
        memory_bytes=budget,
        work_bytes=work,
        seconds=sum(stage.seconds for stage in stages),
    )


def mirrored(predictor: Predictor, setup: StageSetup) -> Predictor:
    """Return the predictor with the views that the card asks for."""
    axes = setup.spec.mirror_axes
    return MirroredPredictor(predictor, axes) if axes else predictor


@dataclass(frozen=True, slots=True)
class _Stage:
    """What the plan of one stage is made from."""

    model: Model
    setups: Sequence[StageSetup]
    s: int
    chosen: NDArray[np.bool_]
    scan: Scan
    options: RunOptions
    pinned: Pace | None
    """How it was driven by an earlier run."""

    def plan(self, budget: int, folder: Path | None) -> ScanStagePlan:
        """Return the plan, whose memory beside what is there now is within a budget if it can."""
        setup, windows = self.setups[self.s], int(self.chosen.sum())
        predictor = mirrored(self.model.predictors[self.s], setup)
        pace = self.pinned or _pace(self.model, setup, windows, self.options)
        seconds = _time_batch(predictor, setup, pace) if windows else 0.0
        last = self.s == len(self.setups) - 1
        # The labels are in a file, but mapped as they are written.
        rest = self._batch_bytes(pace) + (math.prod(self.scan.whole) if last else 0)
        front = plan_front(
            setup,
            self.chosen,
            predictor,
            box=self.scan.shape,
            last=last,
            labels=last or bool(label_readers(self.setups, setup.spec.output.name)),
            rest=rest + 4 * SLAB_BYTES,
            budget=budget,
            wanted=self.options.memory_plan if last else _on_host(self.options.memory_plan),
            column=self.pinned.column if self.pinned else None,
            folder=folder,
        )
        batches = ceil_div(round(windows * front.amplification), pace.batch_size)
        return ScanStagePlan(
            stage=setup.spec.name,
            spacing_mm=tuple(um / 1000 for um in setup.reference.spacing.um),
            shape=setup.grid.shape,
            patch=setup.grid.patch,
            windows_total=len(setup.grid),
            windows=windows,
            views=2 ** len(setup.spec.mirror_axes),
            folds=len(setup.spec.every_weights),
            batch_size=pace.batch_size,
            pace=replace(pace, column=front.column),
            memory=front.memory,
            blocks=front.blocks,
            amplification=round(front.amplification, 4),
            front_bytes=front.front_bytes,
            buffer_bytes=rest + front.host_bytes,
            seconds=seconds * batches / (pace.workers or 1),
        )

    def _batch_bytes(self, pace: Pace) -> int:
        """Return the bytes of the batches that are read, predicted, and waiting."""
        setup = self.setups[self.s]
        views, patch = 2 ** len(setup.spec.mirror_axes), math.prod(setup.grid.patch)
        read = sum(math.prod(i.spec.patch) * i.bytes_per_pixel for i in setup.inputs)
        one = pace.batch_size * (read + 4 * len(setup.channels) * patch)
        return int((pace.batches_ahead + 1 + pace.workers * (views - 1)) * one)


def _on_host(wanted: MemoryPlan | None) -> MemoryPlan | None:
    """Return the plan for an earlier stage, whose values go to the disk in any case."""
    return "slab" if wanted == "device" else wanted


def _work_bytes(scan: Scan, setup: StageSetup, k: int) -> int:
    item = setup.inputs[k]
    if item.layout is None or item.spec.source != "scan":
        return 0
    between = math.prod((scan.shape[0], *item.shape[1:]))
    return 4 * scan.channels * (between + math.prod(item.shape))


def _pace(model: Model, setup: StageSetup, windows: int, options: RunOptions) -> Pace:
    cores = options.threads or usable_cores()
    pixels = math.prod(setup.grid.patch)
    width = setup.grid.shape[-1]
    if model.device != "cpu":
        batch = options.batch_size or max(1, min(GPU_BATCH_VOXELS // pixels, windows))
        return Pace(batch, cores, width, on_device=True)
    alone = model.backend != "torch" or pixels > SLOW_ALONE
    batch = options.batch_size or (1 if alone else min(2, max(1, windows)))
    workers = min(cores, max(1, ceil_div(windows, batch))) if pixels <= SMALL_PATCH else 1
    threads = max(1, cores // workers)
    # One more than there are workers, so that none waits while an output is stitched; where one
    # core does both, it would only take memory.
    return Pace(batch, workers, width, threads=threads, ahead=workers + (cores > 1))


def _time_batch(predictor: Predictor, setup: StageSetup, pace: Pace) -> float:
    """Return the seconds of a batch of zeros; the memory it needs stays with the network."""
    arrays = [np.zeros(item.batch_shape(pace.batch_size), item.dtype) for item in setup.inputs]
    if pace.threads is not None and isinstance(predictor, Threaded):
        predictor = predictor.for_workers(pace.workers, pace.threads)
    started = time.perf_counter()
    predictor(*arrays)
    return time.perf_counter() - started

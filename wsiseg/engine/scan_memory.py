"""Which plan of memory a stage of a scan takes; four of them, and not a bit differs."""

import math
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wsiseg.engine.graph import StageSetup
from wsiseg.engine.on_device import device_of
from wsiseg.errors import UsageError
from wsiseg.geometry import ceil_div
from wsiseg.grid import Column
from wsiseg.machine import resident_memory
from wsiseg.model import Predictor
from wsiseg.options import MemoryPlan
from wsiseg.stitch import projected_bytes as stitch_bytes
from wsiseg.volume.export import export_bytes

__all__ = ["FrontPlan", "beyond_of", "plan_front"]

SPARE_SHARE = 0.9
"""Of free memory of a device and of free disk that a front may take."""


@dataclass(frozen=True, slots=True)
class FrontPlan:
    """Where the sums of a stage's windows are, and how much they take."""

    memory: MemoryPlan
    column: int
    """Pixels of the network's grid walked at once along the last axis."""

    blocks: int
    """1: windows are predicted once."""

    amplification: float
    """Windows predicted, over those that run."""

    front_bytes: int
    export_bytes: int
    """Planes that are brought to the scan, beside the front."""

    @property
    def host_bytes(self) -> int:
        """Of both what is in memory of the host."""
        kept = {"device": 0, "spill": self.export_bytes}
        return kept.get(self.memory, self.front_bytes + self.export_bytes)

    @property
    def disk_bytes(self) -> int:
        """Of the front, in a file without a name."""
        return self.front_bytes if self.memory == "spill" else 0


def beyond_of(setup: StageSetup, *, labels: bool) -> int:
    """Return the pixels that a block needs of the next one, to make labels on another grid."""
    layout = setup.reference.layout
    if not labels or layout is None:
        return 0
    return int(not layout.maps[-1].is_identity)


@dataclass(frozen=True, slots=True)
class _Fronts:
    """What the fronts of a stage are computed from."""

    setup: StageSetup
    chosen: NDArray[np.bool_]
    box: Sequence[int]
    """Voxels of the scan that are looked at."""

    last: bool
    beyond: int

    def of(self, memory: MemoryPlan, blocks: int = 1) -> FrontPlan:
        """Return the front of a plan."""
        *_, width = self.setup.grid.shape
        return self.of_column(memory, ceil_div(width, blocks))

    def of_column(self, memory: MemoryPlan, column: int) -> FrontPlan:
        """Return the front of a plan, walked in columns."""
        setup, channels = self.setup, len(self.setup.channels)
        columns = setup.columns(column, beyond=self.beyond)
        widest = max(columns, key=lambda one: one.grid.shape[-1]).grid
        blend = setup.spec.output.blend
        export = 0
        if self.last:
            share = widest.shape[-1] / setup.grid.shape[-1]
            box = (*self.box[:2], math.ceil(self.box[2] * share))
            export = export_bytes(channels, widest.shape, box)
        front = stitch_bytes(widest, channels, blend)
        if memory == "device":
            from wsiseg.stitch.device import device_bytes

            front = device_bytes(widest, channels, blend) + export
        predicted, running = self._windows(columns), int(self.chosen.sum())
        amplification = predicted / running if running else 1.0
        return FrontPlan(memory, column, len(columns), amplification, front, export)

    def _windows(self, columns: Sequence[Column]) -> int:
        return sum(int(column.part_of(self.chosen).sum()) for column in columns)


def plan_front(  # noqa: PLR0913 - a stage, and what there is room for
    setup: StageSetup,
    chosen: NDArray[np.bool_],
    predictor: Predictor,
    *,
    box: Sequence[int],
    last: bool,
    labels: bool,
    rest: int,
    budget: int,
    wanted: MemoryPlan | None,
    column: int | None,
    folder: Path | None,
) -> FrontPlan:
    """Return the first plan for which there is room; where there is none, the smallest.

    Parameters
    ----------
    setup, chosen, predictor
        The stage, its windows that run, and its network.
    box
        Voxels of the scan that are looked at.
    last, labels
        Whether the stage's labels are those of the scan, and whether labels are made of it.
    rest
        Bytes in memory beside the front.
    budget
        Bytes this process may have.
    wanted
        Asked for by name.
    column
        Pixels of a column of a run that is gone on with.
    folder
        Where files may lie; default: that of temporary files.

    Raises
    ------
    UsageError
        If the plan asked for cannot be.
    """
    fronts = _Fronts(setup, chosen, box, last, beyond_of(setup, labels=labels))
    room = budget - resident_memory() - rest
    on_device = _device(setup, predictor, last=last)
    if wanted == "device" and on_device is None:
        raise UsageError(
            f"stage {setup.spec.name!r}: memory plan 'device' needs the last stage, a network run "
            "by torch (--backend torch) and raw values that are stitched; take slab, spill or "
            "blocks"
        )
    if wanted in ("device", "slab", "spill"):
        return fronts.of(wanted)
    if column is not None and column < setup.grid.shape[-1]:
        return fronts.of_column("blocks", column)
    if wanted is None:
        if on_device not in (None, "cpu") and _fits_on(on_device, fronts.of("device")):
            return fronts.of("device")
        for memory in ("slab", "spill"):
            front = fronts.of(memory)
            if front.host_bytes <= room and front.disk_bytes <= _free_disk(folder):
                return front
    return _fewest_blocks(fronts, room, least=2 if wanted else 1)


def _fewest_blocks(fronts: _Fronts, room: int, *, least: int) -> FrontPlan:
    """Return the plan in the fewest blocks whose front there is room for, or in the most."""
    *_, most = fronts.setup.grid.counts
    for blocks in range(min(least, most), most):
        front = fronts.of("blocks", blocks)
        if front.host_bytes <= room:
            return front
    return fronts.of("blocks", most)


def _device(setup: StageSetup, predictor: Predictor, *, last: bool) -> str | None:
    """Return the device where a stage's sums can be and become labels, if there is one."""
    if not last or setup.spec.output.stitched != "raw":
        return None
    return device_of(predictor)


def _fits_on(device: str | None, front: FrontPlan) -> bool:
    from wsiseg.stitch.device_volume import free_bytes

    return device is not None and front.front_bytes <= SPARE_SHARE * free_bytes(device)


def _free_disk(folder: Path | None) -> float:
    place = Path(tempfile.gettempdir()) if folder is None else folder
    while not place.exists() and place != place.parent:
        place = place.parent
    return SPARE_SHARE * shutil.disk_usage(place).free

"""Coarse to fine: the last stage looks around what the stages before it found.

Where what the last stage finds reaches the border of its box, the box was too small: it grows
there, and the stage runs again.
"""

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from wsiseg.engine.scan_plan import ScanPlan
from wsiseg.engine.scan_run import ScanOutput
from wsiseg.errors import WsisegWarning
from wsiseg.geometry import Box
from wsiseg.model import Model
from wsiseg.model.card import Calibration
from wsiseg.volume.scan import Scan

__all__ = ["FocusedRun", "halves", "run_in_focus"]

Run = Callable[[Model, Scan], tuple[ScanPlan, ScanOutput]]
"""Lays a model over the part of a scan, plans it, and runs it."""


@dataclass(frozen=True, slots=True)
class FocusedRun:
    """What both halves of a model gave."""

    scan: Scan
    """The part that the last stage looked at; of no size where there was nothing to look at."""

    plan: ScanPlan
    output: ScanOutput
    boxes: tuple[Box, ...]
    """Where it looked, the last box last; voxels of the whole scan in the network's axes."""

    settled: bool
    """Whether nothing that was found reaches the border of the last box."""


def halves(model: Model) -> tuple[Model, Model]:
    """Return the stages before the last as a model of their own, and the last one."""
    card = model.card
    early = {"stages": card.stages[:-1], "calibration": Calibration()}
    late = {"stages": card.stages[-1:]}
    return (
        replace(
            model,
            card=card.model_copy(update=early),
            predictors=model.predictors[:-1],
            channels=model.channels[:-1],
            windows=None,
        ),
        replace(
            model,
            card=card.model_copy(update=late),
            predictors=model.predictors[-1:],
            channels=model.channels[-1:],
            windows=None,
        ),
    )


def run_in_focus(model: Model, scan: Scan, run: Run) -> FocusedRun:
    """Run all stages but the last, and then the last one around what they found.

    Parameters
    ----------
    model
        Its last stage has `within`.
    scan
        The part looked at; boxes stay within it.
    run
        Runs a half on a part.

    Warns
    -----
    WsisegWarning
        If the box has grown as often as the card allows, and what is found still reaches its
        border.
    """
    spec = model.card.stages[-1].within
    assert spec is not None
    coarse, fine = halves(model)
    plan, output = run(coarse, scan)
    names = [one.name for one in model.card.classes]
    wanted = [names.index(name) for name in spec.classes] or list(range(1, len(names)))
    found = _box_of(output.files.labels.map(), wanted)
    if found is None:
        output.files.clear(fine.card, fine.card.stages[-1])
        return FocusedRun(scan, plan, output, (), True)
    margin = [math.ceil(spec.margin_mm / mm) for mm in scan.affine.spacing_mm]
    boxes = [found.grow(margin).intersect(scan.box)]
    while True:
        part = scan.within(boxes[-1])
        late_plan, late = run(fine, part)
        sides = _touched(late.files.labels.map(), part.box, scan.box)
        if not any(map(any, sides)) or len(boxes) > spec.grow:
            break
        boxes.append(_grown(boxes[-1], sides, margin).intersect(scan.box))
    settled = not any(map(any, sides))
    if not settled:
        warnings.warn(
            f"{scan.name}: what stage {model.card.stages[-1].name!r} found reaches the border of "
            f"the box it looked at, which has grown {spec.grow} times; look at it, or allow more",
            WsisegWarning,
            stacklevel=3,
        )
    return FocusedRun(part, _joined(plan, late_plan), _both(output, late), tuple(boxes), settled)


def _box_of(labels: NDArray[np.uint8], wanted: Sequence[int]) -> Box | None:
    """Return the box of some classes."""
    low, high = list(labels.shape), [0, 0, 0]
    for z, plane in enumerate(labels):
        rows = np.isin(plane, wanted)
        if not rows.any():
            continue
        y, x = (np.flatnonzero(rows.any(axis=axis)) for axis in (1, 0))
        ends = ((z, z), (int(y[0]), int(y[-1])), (int(x[0]), int(x[-1])))
        for axis, (first, last) in enumerate(ends):
            low[axis], high[axis] = min(low[axis], first), max(high[axis], last + 1)
    return Box(tuple(low), tuple(high)) if all(high) else None


def _touched(labels: NDArray[np.uint8], box: Box, limits: Box) -> list[tuple[bool, bool]]:
    """Return per axis whether something lies at the two faces of a box that may yet grow."""
    inside = labels[box.slices()]
    sides = []
    for axis in range(3):
        ends = (inside.take(0, axis), inside.take(-1, axis))
        room = (
            box.start[axis] > limits.start[axis],
            box.stop[axis] < limits.stop[axis],
        )
        first, last = (bool(end.any()) and more for end, more in zip(ends, room, strict=True))
        sides.append((first, last))
    return sides


def _grown(box: Box, sides: Sequence[tuple[bool, bool]], margin: Sequence[int]) -> Box:
    """Return the box, larger by the margin, or a voxel, where something reaches it."""
    steps = [max(1, one) for one in margin]
    start = [a - n * first for a, n, (first, _) in zip(box.start, steps, sides, strict=True)]
    stop = [b + n * last for b, n, (_, last) in zip(box.stop, steps, sides, strict=True)]
    return Box(tuple(start), tuple(stop))


def _joined(early: ScanPlan, late: ScanPlan) -> ScanPlan:
    """Return the plan of both halves."""
    return replace(
        late,
        stages=early.stages + late.stages,
        projected_bytes=max(early.projected_bytes, late.projected_bytes),
        work_bytes=max(early.work_bytes, late.work_bytes),
        seconds=early.seconds + late.seconds,
    )


def _both(early: ScanOutput, late: ScanOutput) -> ScanOutput:
    return ScanOutput(late.files, {**early.heatmaps, **late.heatmaps}, early.reports + late.reports)

"""A stage of a huge slide, shared out: each process makes some rows of it, and one joins them.

Every part is made of the same plan, in the batches of the whole walk, so the rows have the bytes
they would have anyway. A part is a journal with those rows finished; `Journal.adopt` joins them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wsiseg.engine.cascade import Cascade
from wsiseg.engine.events import Listener
from wsiseg.engine.execute import Pace
from wsiseg.engine.graph import StageSetup
from wsiseg.engine.kept import Span, column_span
from wsiseg.engine.plan import Plan
from wsiseg.engine.resume import Resume
from wsiseg.engine.share import share_levels
from wsiseg.model import Model

__all__ = ["Part", "begin_parts", "rows_of_part", "run_part"]


@dataclass(frozen=True, slots=True)
class Part:
    """One of several parts of a stage."""

    stage: int
    """Place in the card."""

    index: int
    count: int


def begin_parts(model: Model, plan: Plan, resume: Resume) -> tuple[int, ...]:
    """Write into the journal what all stages depend on, for parts to be made of the same.

    Returns
    -------
    tuple of int
        Tiles that run, for each stage.
    """
    cascade = Cascade(model, plan, Path(), {}, resume=resume)
    for s in range(len(plan.setups)):
        cascade.kept(s)
    return tuple(int(running.sum()) for running in plan.running)


def run_part(
    model: Model,
    plan: Plan,
    folder: Path,
    part: Part,
    *,
    skip_below: float,
    resume: Resume,
    listen: Listener,
    check: Callable[[], None],
) -> None:
    """Make one part of a stage; what it reads of earlier stages comes from the journal.

    Parameters
    ----------
    model, plan, folder, skip_below, resume, listen, check
        As for `run_cascade`.
    part
        Which.
    """
    own = slice(part.stage, part.stage + 1)
    rows = rows_of_part(
        plan.setups[part.stage], plan.stages[part.stage].pace, plan.running[part.stage], part
    )
    with share_levels(plan.setups[own], plan.running[own], folder) as views:
        shared = {(part.stage, k): view for (_, k), view in views.items()}
        cascade = Cascade(
            model, plan, folder, shared, skip_below=skip_below, resume=resume, listen=listen
        )
        for s in range(part.stage):
            cascade.run(s)
            check()
        cascade.run(part.stage, rows)
        check()


def rows_of_part(
    setup: StageSetup, pace: Pace, running: NDArray[np.bool_], part: Part
) -> dict[Span, slice]:
    """Return which rows of each column belong to a part: about the same number of tiles each.

    Parameters
    ----------
    setup, pace
        The stage and its walk.
    running
        Tiles that run, bool of `grid.counts`.
    """
    columns = setup.columns(pace.column, turned=pace.turned)
    total = sum(int(column.part_of(running).sum()) for column in columns)
    before = 0
    height = setup.placement.shape[-1 if pace.turned else 0]
    wanted = {}
    for column in columns:
        tiles = column.part_of(running).sum(axis=1)
        first = before + np.cumsum(tiles) - tiles
        before += int(tiles.sum())
        whose = np.minimum(first * part.count // max(total, 1), part.count - 1)
        (mine,) = np.nonzero(whose == part.index)
        if len(mine):
            step = column.grid.stride[0] if setup.spec.kind == "segmenter" else 1
            last = mine[-1] + 1 == len(tiles)
            stop = height if last else int(mine[-1] + 1) * step
            wanted[column_span(setup, column)] = slice(int(mine[0]) * step, stop)
    return wanted

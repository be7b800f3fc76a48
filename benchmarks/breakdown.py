"""Where the time of a classifier goes: the pipeline's pace beside what its parts alone would take.

    python benchmarks/breakdown.py SLIDE MODEL

Segments the slide, then reads the same tiles in one thread with nothing else running, then runs
the network on tiles read before. The pipeline cannot be faster than (CPU seconds of reading + CPU
seconds of the network) / cores; prints one JSON line with both. `end_to_end.py` calls it.
"""

import argparse
import functools
import itertools
import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

import wsiseg
from wsiseg.engine import lay_out
from wsiseg.engine.events import StageFinished, StageStarted
from wsiseg.engine.execute import Threaded
from wsiseg.machine import usable_cores

BATCHES = 20
"""Batches of the network alone that are timed, after one that is not."""


class StageClock:
    """CPU seconds of this process from the start of a stage to its end."""

    def __init__(self) -> None:
        self.cpu_s = 0.0

    def __call__(self, event: object) -> None:
        if isinstance(event, StageStarted):
            self.cpu_s -= time.process_time()
        elif isinstance(event, StageFinished):
            self.cpu_s += time.process_time()


def timed(work: Callable[[], Any]) -> tuple[Any, float, float]:
    """Return the result, wall and CPU seconds."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = work()
    return result, time.perf_counter() - wall, time.process_time() - cpu


def tile_readers(slide: wsiseg.Pyramid, model: wsiseg.Model, chosen: np.ndarray) -> list[Callable]:
    """Return one call per tile that the stage looks at, in its order."""
    (setup,) = lay_out(model.card, slide)
    view = setup.reference.view
    boxes = (setup.grid.tile(tuple(map(int, index))).read for index in np.argwhere(chosen))
    return [functools.partial(view.read, box) for box in boxes]


def break_down(path: Path, name: str) -> dict[str, Any]:
    model = wsiseg.load_model(name)
    clock = StageClock()
    with wsiseg.open(path) as slide:
        result = wsiseg.segment(slide, model, listen=clock)
    (report,), (stage,) = result.reports, result.plan.stages
    with wsiseg.open(path) as slide:  # opened anew: nothing is decoded yet
        readers = tile_readers(slide, model, result.plan.selected[0])
        _, read_wall, read_cpu = timed(lambda: [None for reader in readers if reader() is None])
        size = stage.batch_size
        count = min(BATCHES, max(1, len(readers) // size))
        patches = [reader() for reader in itertools.islice(itertools.cycle(readers), count * size)]
    batches = np.split(np.stack(patches), count)
    (predictor,) = model.predictors
    if isinstance(predictor, Threaded):  # as the pipeline calls it: one thread each, all cores
        predictor = predictor.for_workers(stage.pace.workers, stage.pace.threads or 1)
    with ThreadPoolExecutor(stage.pace.workers) as pool:
        list(pool.map(predictor, batches[: stage.pace.workers]))
        _, run_wall, run_cpu = timed(lambda: list(pool.map(predictor, batches)))
    share = stage.batches / count
    ideal = (read_cpu + run_cpu * share) / usable_cores()
    return {
        "tiles": report.tiles,
        "batch_size": size,
        "cores": usable_cores(),
        "backend": model.backend,
        "total_s": round(result.seconds, 2),
        "steady_s": round(report.seconds, 2),
        "steady_cpu_s": round(clock.cpu_s, 2),
        "report": {k: round(v, 2) for k, v in asdict(report).items() if k.endswith("_s")},
        "read_alone_s": round(read_wall, 2),
        "read_alone_cpu_s": round(read_cpu, 2),
        "network_alone_s": round(run_wall * share, 2),
        "network_alone_cpu_s": round(run_cpu * share, 2),
        "ideal_s": round(ideal, 2),
        "ideal_share": round(ideal / report.seconds, 3),
        "tiles_per_s": round(report.tiles / report.seconds, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("slide", type=Path)
    parser.add_argument("model", help="name or folder of a model with one classifier")
    args = parser.parse_args()
    print(json.dumps(break_down(args.slide, args.model)))


if __name__ == "__main__":
    main()

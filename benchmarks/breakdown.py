"""Where the time of a classifier goes: the pipeline's pace beside what its parts alone would take.

    python benchmarks/breakdown.py SLIDE MODEL [--rounds 3]

Segments the slide, then reads the same tiles in one thread with nothing else running, then runs
the network on tiles read before. The pipeline cannot be faster than (CPU seconds of reading + CPU
seconds of the network) / cores; prints one JSON line with both, each the median over the rounds,
which alternate. `end_to_end.py` calls it.
"""

import argparse
import functools
import itertools
import json
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import measure
import numpy as np

import wsiseg
from wsiseg.engine import lay_out
from wsiseg.engine.events import StageFinished, StageStarted
from wsiseg.engine.execute import Threaded
from wsiseg.machine import usable_cores

BATCHES, NETWORK_S = 20, 4.0
"""Batches the network alone runs on, and for how long, over and over; a slow machine next door
passes in less."""


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
    """Return one round: the pipeline, then its parts."""
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
    (predictor,) = model.predictors
    if isinstance(predictor, Threaded):  # as the pipeline calls it: one thread each, all cores
        predictor = predictor.for_workers(stage.pace.workers, stage.pace.threads or 1)
    batches = np.split(np.stack(patches), count)
    wall_s, cpu_s = network_alone(predictor, batches, stage.pace.workers)
    return {
        "tiles": report.tiles,
        "batch_size": size,
        "backend": model.backend,
        "total_s": result.seconds,
        "steady_s": report.seconds,
        "steady_cpu_s": clock.cpu_s,
        "report": {k: v for k, v in asdict(report).items() if k.endswith("_s")},
        "read_alone_s": read_wall,
        "read_alone_cpu_s": read_cpu,
        "network_alone_s": wall_s * stage.batches,
        "network_alone_cpu_s": cpu_s * stage.batches,
        "ideal_s": (read_cpu + cpu_s * stage.batches) / usable_cores(),
    }


def network_alone(
    predictor: Callable[[np.ndarray], Any], batches: Sequence[np.ndarray], workers: int
) -> tuple[float, float]:
    """Return wall and CPU seconds per batch with nothing else running."""
    done = 0
    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(predictor, batches[:workers]))
        started, cpu = time.perf_counter(), time.process_time()
        while not done or time.perf_counter() - started < NETWORK_S:
            done += len(list(pool.map(predictor, batches)))
    return (time.perf_counter() - started) / done, (time.process_time() - cpu) / done


def medians(rounds: Sequence[Any]) -> Any:
    """Return the median of each number over the rounds; of the rest, that of the last round."""
    if isinstance(rounds[-1], dict):
        return {key: medians([one[key] for one in rounds]) for key in rounds[-1]}
    return round(statistics.median(rounds), 2) if isinstance(rounds[-1], float) else rounds[-1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("slide", type=Path)
    parser.add_argument("model", help="name or folder of a model with one classifier")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--save", action="store_true", help="as a result of its own")
    args = parser.parse_args()
    rounds = [break_down(args.slide, args.model) for _ in range(args.rounds)]
    shares = [one["ideal_s"] / one["steady_s"] for one in rounds]
    found = medians(rounds)
    found |= {
        "rounds": args.rounds,
        "cores": usable_cores(),
        "ideal_share": round(statistics.median(shares), 3),
        "tiles_per_s": round(found["tiles"] / found["steady_s"], 1),
    }
    print(json.dumps(found))
    if args.save:
        name = f"breakdown-{args.slide.stem.lower()}-{Path(args.model).parent.name}"
        measure.save(name, {"rows": [row_of(args.slide, found)], "breakdown": found})


def row_of(slide: Path, found: dict[str, Any]) -> dict[str, Any]:
    """Return what the table says."""
    ideal = found["ideal_s"]
    return {
        "slide": slide.name,
        "tiles": found["tiles"],
        "backend": found["backend"],
        "first read to last tile, s": found["steady_s"],
        "its CPU s": found["steady_cpu_s"],
        "reading alone, CPU s": found["read_alone_cpu_s"],
        "network alone, CPU s": found["network_alone_cpu_s"],
        "at best, s": ideal,
        "times that": round(found["steady_s"] / ideal, 3),
        "CPU, times that": round(found["steady_cpu_s"] / (ideal * found["cores"]), 3),
    }


if __name__ == "__main__":
    main()

"""The measurement behind `tune`, made in a process of its own: what it loads does not stay."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsiseg.errors import ModelError
from wsiseg.model.backends import build_network, graph_network
from wsiseg.model.package import Package
from wsiseg.model.predictor import Network
from wsiseg.model.tuning import (
    BACKEND_HYSTERESIS,
    HYSTERESIS,
    SECONDS,
    TORCH_HYSTERESIS,
    StageTuning,
    Tuning,
    tuning_bytes,
)

__all__ = ["measure_job"]

TURN_SECONDS = 0.1
"""Least time a candidate runs in a comparison."""

TURNS = 2
AGREE = 1e-4
"""How far a candidate's output may be from the default's, times the largest value (at least 1)."""


@dataclass(frozen=True)
class Choice:
    """What a stage is run with."""

    backend: str
    batch_size: int
    workers: int
    threads: int


class Runner:
    """Networks at work on batches of noise, and the best time a patch has taken so far.

    Parameters
    ----------
    network, inputs
        What is called, with what.
    workers
        Calls at once, as in a run.
    """

    def __init__(self, network: Network, inputs: tuple[NDArray[Any], ...], workers: int) -> None:
        self._network, self._inputs, self._workers = network, inputs, workers
        self._pool = ThreadPoolExecutor(workers)
        self.turns, self.spent, self.best = 0, 0.0, math.inf
        self.output = self._call()  # the first calls allocate, and compile

    def run(self) -> None:
        """Call the network once per worker."""
        started = time.perf_counter()
        self._call()
        seconds = time.perf_counter() - started
        self.turns += 1
        self.spent += seconds
        self.best = min(self.best, seconds / (self._workers * len(self._inputs[0])))

    @property
    def is_done(self) -> bool:
        """Whether it ran long enough."""
        return self.turns >= TURNS and self.spent >= TURN_SECONDS

    def _call(self) -> NDArray[Any]:
        calls = [self._pool.submit(self._network, *self._inputs) for _ in range(self._workers)]
        outputs = [call.result() for call in calls]
        return outputs[0]


Start = Callable[[Choice], Runner]


def measure_job(request: dict[str, Any]) -> bytes:
    """Return the tuning of a request as `tune_package` makes it."""
    deadline = time.perf_counter() + SECONDS
    starts = [_starter(request, stage) for stage in request["stages"]]
    usual, *others = request["backends"]
    quick = [name for name in others if name != "torch"]
    seconds = _race_backends(request, starts, (usual, *quick))
    if "torch" in others and min(seconds.values()) >= request["torch_from"]:
        again = _race_backends(request, starts, (usual, "torch"))
        if "torch" in again:  # as a share of the usual one, which ran beside each
            seconds["torch"] = again["torch"] * seconds[usual] / again[usual]
    backend = _clear_winner(seconds, usual)
    stages = tuple(
        _tune_stage(stage, start, backend, request["workers"], deadline)
        for stage, start in zip(request["stages"], starts, strict=True)
    )
    return tuning_bytes(Tuning(backend, stages, seconds))


def _clear_winner(seconds: Mapping[str, float], usual: str) -> str:
    """Return the fastest backend of those that win by their margin, or the usual one."""
    margins = {"torch": TORCH_HYSTERESIS, usual: 0.0}  # the usual one may be torch
    winners = {
        name: spent
        for name, spent in seconds.items()
        if spent <= seconds[usual] * (1 - margins.get(name, BACKEND_HYSTERESIS))
    }
    return min(winners, key=winners.__getitem__)


def _starter(request: dict[str, Any], stage: dict[str, Any]) -> Start:
    """Return what makes the runner of a choice for one stage; networks are built once."""

    @cache
    def network(backend: str, workers: int, threads: int) -> Network:
        if backend == "torch":
            package = Package.open(Path(request["folder"]))
            spec = next(spec for spec in package.card.stages if spec.name == stage["name"])
            return build_network(
                backend, package, spec, device="cpu", precision="float32", threads=threads
            )
        graph = Path(stage["graph"])
        return graph_network(backend, graph, threads=threads).for_workers(workers, threads)

    def start(choice: Choice) -> Runner:
        made = network(choice.backend, choice.workers, choice.threads)
        return Runner(made, _noise(stage["inputs"], choice.batch_size), choice.workers)

    return start


def _noise(inputs: list[dict[str, Any]], n: int) -> tuple[NDArray[Any], ...]:
    random = np.random.default_rng(0)
    return tuple(
        random.integers(0, 256, (n, *spec["shape"]), dtype=np.uint8)
        if spec["dtype"] == "uint8"
        else random.random((n, *spec["shape"]), dtype=np.float32)
        for spec in inputs
    )


def _race_backends(
    request: dict[str, Any], starts: Sequence[Start], backends: Sequence[str]
) -> dict[str, float]:
    """Return seconds per mm² for each backend that can run every stage; the first must."""
    usual, *others = backends
    seconds = dict.fromkeys(backends, 0.0)
    for stage, start in zip(request["stages"], starts, strict=True):
        usually = (stage["batches"][0], request["workers"], 1)
        runners = {usual: start(Choice(usual, *usually))}
        for backend in others:
            try:
                runner = start(Choice(backend, *usually))
            except ModelError:  # it lacks an operator: no candidate
                seconds.pop(backend, None)
                continue
            if _agree(runner.output, runners[usual].output):
                runners[backend] = runner
            else:
                seconds.pop(backend, None)
        _race(tuple(runners.values()))
        for backend in seconds:
            seconds[backend] += runners[backend].best * stage["patches_per_mm2"]
    return seconds


def _agree(found: NDArray[Any], wanted: NDArray[Any]) -> bool:
    allowed = AGREE * max(1.0, float(np.abs(wanted).max()))
    return found.shape == wanted.shape and bool(np.abs(found - wanted).max() <= allowed)


def _tune_stage(
    stage: dict[str, Any],
    start: Start,
    backend: str,
    workers: int,
    deadline: float,
) -> StageTuning:
    """Try the other batch sizes while there is time."""
    best = Choice(backend, stage["batches"][0], workers, 1)
    runner = start(best)
    _race((runner,))
    for n in stage["batches"][1:]:
        if time.perf_counter() < deadline:
            best, runner = _faster(best, runner, replace(best, batch_size=n), start)
    return StageTuning(stage["name"], best.batch_size, best.workers, best.threads, runner.best)


def _faster(best: Choice, runner: Runner, other: Choice, start: Start) -> tuple[Choice, Runner]:
    again, challenger = start(best), start(other)
    _race((again, challenger))
    if challenger.best < again.best * (1 - HYSTERESIS):
        return other, challenger
    return best, runner if runner.best < again.best else again


def _race(runners: Sequence[Runner]) -> None:
    """Call runners in turn, so that they share what else the machine does, till all are done."""
    while not all(runner.is_done for runner in runners):
        for runner in runners:
            runner.run()

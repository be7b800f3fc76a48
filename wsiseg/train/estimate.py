"""What a training will take, before it begins."""

import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from wsiseg.engine import temporary_folder
from wsiseg.engine.blocks import Readable
from wsiseg.engine.graph import StageSetup
from wsiseg.engine.inputs import Input, SlideInput
from wsiseg.errors import TrainingError
from wsiseg.geometry import Box
from wsiseg.machine import peak_memory, usable_cores
from wsiseg.train.build import build_network
from wsiseg.train.config import TrainConfig, read_config
from wsiseg.train.lesson import (
    LabelledSlide,
    Resources,
    StageLesson,
    open_slides,
    share_cache,
    stage_lesson,
)
from wsiseg.train.scans import open_scans, scan_lesson
from wsiseg.train.train import choose_device

__all__ = ["StageEstimate", "TrainingPlan", "plan_training"]

TIMED_STEPS = 3
SHOWN_LEAVES = 16
"""As many lines of a plan say what a stage may draw from."""


@dataclass(frozen=True, slots=True)
class StageEstimate:
    """What training one stage will take."""

    stage: str
    places: Mapping[str, int]
    """Places to draw from, by leaf of the label tree."""

    trainings: int
    """The stage itself, and once more per fold where later stages read its heatmaps."""

    steps: int
    """Of each training, at most."""

    patches: int
    """Drawn in each training, at most."""

    seconds: float
    """Of all trainings of this stage."""

    parameters: int


@dataclass(frozen=True, slots=True)
class TrainingPlan:
    """What a training will take."""

    name: str
    device: str
    stages: tuple[StageEstimate, ...]
    seconds: float
    peak_memory_bytes: int
    """Of this process after a few steps of every stage, and with all blocks it may keep."""

    def __str__(self) -> str:
        """Return the plan as text, a paragraph per stage."""
        lines = [
            f"{self.name} on {self.device}: about {self.seconds / 60:.1f} min, "
            f"{self.peak_memory_bytes / 1e6:.0f} MB"
        ]
        for stage in self.stages:
            lines.append(
                f"  {stage.stage}: {stage.parameters:,} parameters, {stage.trainings} x "
                f"{stage.steps} steps, {stage.patches:,} patches each, about {stage.seconds:.0f} s"
            )
            lines += _leaf_lines(stage.places)
        return "\n".join(lines)


def _leaf_lines(places: Mapping[str, int]) -> list[str]:
    shown = dict(islice(places.items(), SHOWN_LEAVES))
    lines = [f"    {leaf}: {count:,} places" for leaf, count in shown.items()]
    if rest := len(places) - len(shown):
        count = sum(places.values()) - sum(shown.values())
        lines.append(f"    and {rest:,} more with {count:,} places; --json lists them")
    return lines


def plan_training(
    config: TrainConfig | str | Path, *, device: str = "auto", threads: int | None = None
) -> TrainingPlan:
    """Return samples, steps, seconds and memory of a training; a few steps are tried.

    Heatmaps that do not exist yet count as if they were the slide.

    Raises
    ------
    TrainingError, SourceError, AnnotationError, ModelError
        As `train`.
    """
    if not isinstance(config, TrainConfig):
        config = read_config(config)
    cores = threads or usable_cores()
    torch.set_num_threads(cores)
    resources = Resources(choose_device(device), cores)
    if not config.dataset.of("train"):
        raise TrainingError(f"{config.dataset.path}: nothing of split 'train'; mark some")
    kept = 0
    with ExitStack() as stack:
        if config.dataset.volumes:
            lessons = _of_scans(config, resources, stack)
        else:
            slides = open_slides(config.dataset, config.dataset.of("train"), config.tissue)
            lessons = _of_slides(config, slides, resources)
            kept = share_cache(slides)
        stages = tuple(_estimate(config, lesson, resources) for lesson in lessons)
    return TrainingPlan(
        config.card.title,
        str(resources.device),
        stages,
        round(sum(stage.seconds for stage in stages), 1),
        peak_memory() + kept,
    )


def _of_slides(
    config: TrainConfig, slides: tuple[LabelledSlide, ...], resources: Resources
) -> Iterator[StageLesson]:
    card = config.card
    for stage in card.stages:
        recipe = config.recipes[stage.name]
        yield stage_lesson(card, stage, recipe, slides, (), _stand_ins, resources=resources)


def _of_scans(config: TrainConfig, resources: Resources, stack: ExitStack) -> Iterator[StageLesson]:
    dataset, card, folder = config.dataset, config.card, temporary_folder()
    scans = open_scans(dataset, dataset.of("train"), card)
    for stage in card.stages:
        yield scan_lesson(
            config,
            stage,
            scans,
            (),
            resources=resources,
            folder=folder,
            stack=stack,
        )


def _estimate(config: TrainConfig, lesson: StageLesson, resources: Resources) -> StageEstimate:
    stage = lesson.stage
    recipe = lesson.recipe
    network = build_network(config.card, stage).to(resources.device)
    per_step = _time_step(lesson, network) * recipe.fit.accumulate
    read_later = any(i.source == stage.output.name for s in config.card.stages for i in s.inputs)
    leaves = lesson.sampler.leaves
    patients = len({entry.patient for entry in config.dataset.of("train")})
    folds = config.folds if config.folds_by_block else min(config.folds, patients)
    trainings = 1 + folds * read_later
    steps = recipe.fit.rounds * recipe.fit.steps
    return StageEstimate(
        stage.name,
        {" > ".join(dict.fromkeys(leaf.path)): len(leaf.cells) for leaf in leaves},
        trainings,
        steps,
        steps * recipe.fit.batch * recipe.fit.accumulate,
        round(trainings * steps * per_step, 1),
        sum(p.numel() for p in network.parameters()),
    )


def _time_step(lesson: StageLesson, network: nn.Module) -> float:
    """Return the seconds of one batch, there and back."""
    network.train()
    batches = lesson.batches(TIMED_STEPS + 1)
    device = next(network.parameters()).device
    started = time.perf_counter()
    for number, batch in enumerate(batches):
        if number == 1:  # the first one allocates
            _wait_for(device)
            started = time.perf_counter()
        inputs, labels = lesson.tensors(batch, number)
        with torch.autocast(device.type, torch.bfloat16, enabled=lesson.recipe.fit.amp):
            outputs = network(*inputs)
        torch.autograd.backward(lesson.loss(outputs, labels, inputs))
    _wait_for(device)
    return (time.perf_counter() - started) / TIMED_STEPS


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _stand_ins(slide: LabelledSlide, setup: StageSetup) -> tuple[Input, ...]:
    """Return the slide as every input, cut to the channels of a heatmap where one is needed."""
    view = setup.reference.view
    if view is None:
        raise TrainingError(f"stage {setup.spec.name!r}: needed the slide as first input")
    return tuple(
        SlideInput(view) if item.view is not None else _Blank(len(item.spec.channels), view.shape)
        for item in setup.inputs
    )


class _Blank:
    """An empty heatmap."""

    def __init__(self, channels: int, shape: tuple[int, ...]) -> None:
        self.source: Readable = self
        self.block = shape
        self.shape = shape
        self._channels = channels

    def span(self, box: Box) -> Box:
        """Return the box itself."""
        return box

    def read(self, box: Box) -> NDArray[Any]:
        """Return zeros."""
        return np.zeros((*box.shape, self._channels), np.float32)

    def patch(self, pixels: NDArray[Any], span: Box, box: Box) -> NDArray[Any]:
        """Return the pixels as they are."""
        return pixels

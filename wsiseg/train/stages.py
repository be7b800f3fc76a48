"""Training a whole model: stage by stage, later ones on heatmaps that are out of fold.

A network is surer of tissue it has learned from than of any other. So the heatmaps that a later
stage learns from come from networks that never saw that tissue: one per fold of patients, or,
where there is one patient only, per block of the slides, with a guard band of one patch around it.
They are made by the same pipeline that will make them in use.
"""

import hashlib
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, fields, is_dataclass
from functools import cached_property, partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from wsiseg.engine import fingerprint
from wsiseg.engine.graph import StageSetup
from wsiseg.engine.inputs import Input, connect
from wsiseg.errors import TrainingError
from wsiseg.model import load_model, write_package
from wsiseg.model.card import ModelCard, StageSpec
from wsiseg.options import RunOptions, SegmentOptions
from wsiseg.pipeline import segment
from wsiseg.stitch import HeatmapStore
from wsiseg.train.blocks import BlockwiseHeatmap, outside_block
from wsiseg.train.build import build_network
from wsiseg.train.config import TrainConfig
from wsiseg.train.lesson import (
    Allowed,
    LabelledSlide,
    Resources,
    StageLesson,
    open_slides,
    stage_lesson,
)
from wsiseg.train.loop import History, RoundReport, fit
from wsiseg.train.places import PlaceSampler
from wsiseg.train.scans import LabelledScan, open_scans, scan_lesson

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

__all__ = ["Told", "TrainedStage", "Training", "train_stages"]

log = logging.getLogger(__name__)

Told = Callable[[str, RoundReport], None]
"""Told of each round: the name of what is trained, and how it went."""

RECIPE = 2
"""Grows when the same configuration would train other weights, as after a change of a default."""


@dataclass(frozen=True, slots=True, eq=False)
class TrainedStage:
    """A network, and how it came about."""

    stage: StageSpec
    network: nn.Module
    lesson: StageLesson
    history: History


@dataclass(eq=False)
class Training:
    """One run: the configuration, the slides it learns from, and where it keeps things."""

    config: TrainConfig
    folder: Path
    resources: Resources
    told: Told
    train: tuple[LabelledSlide, ...] = ()
    tests: tuple[LabelledSlide, ...] = ()
    scans: tuple[LabelledScan, ...] = ()
    test_scans: tuple[LabelledScan, ...] = ()
    files: ExitStack = field(default_factory=ExitStack)
    """Ends what patches of scans are read from."""

    done: list[TrainedStage] = field(default_factory=list)
    heatmaps: dict[str, dict[Path, HeatmapStore]] = field(default_factory=dict)
    """By output name and slide."""

    folded: dict[str, nn.Module] = field(default_factory=dict)
    """Networks that were trained without a fold, by the name of their training."""

    @property
    def card(self) -> ModelCard:
        """The card to be."""
        return self.config.card

    @cached_property
    def digest(self) -> str:
        """Hash of the data set, which takes time to read."""
        return self.config.dataset.digest

    def key(
        self, stage: StageSpec, what: str, slides: Sequence[LabelledSlide | LabelledScan]
    ) -> str:
        """Return what decides the weights, as a hash."""
        stages = self.card.stages[: self.card.stages.index(stage) + 1]
        said = [
            RECIPE,
            what,
            self.digest,
            [(fingerprint(slide.entry.slide), slide.entry.patient) for slide in slides],
            [_said_of(item) for item in stages],
            [_chosen(self.config.recipes[item.name]) for item in stages],
            _chosen(self.config.tissue),
            [self.config.folds, self.config.folds_by_block, self.config.seed],
        ]
        text = json.dumps(said, sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()

    def inputs_of(self, slide: LabelledSlide, setup: StageSetup) -> tuple[Input, ...]:
        """Return what the inputs of a stage read on a slide."""
        made = {name: stores[slide.entry.slide] for name, stores in self.heatmaps.items()}
        return connect(setup, made)


def train_stages(
    config: TrainConfig, folder: Path, *, resources: Resources, told: Told
) -> Training:
    """Train every stage of a model; what `folder` holds of an earlier, killed run is gone on with.

    Raises
    ------
    TrainingError
        If something cannot be learned from, or a loss is no number any more.
    SourceError, AnnotationError, ModelError
        If slides, labels or card do not fit.
    """
    run = Training(config, folder, resources, told)
    if config.dataset.volumes:
        return _train_on_scans(run)
    run.train = open_slides(config.dataset, config.dataset.of("train"), config.tissue)
    run.tests = open_slides(config.dataset, config.dataset.of("val"), config.tissue)
    if not run.train:
        raise TrainingError(f"{config.dataset.path}: no slide of split 'train'; mark some")
    for stage in config.card.stages:
        run.done.append(_train_stage(run, stage, stage.name, run.train, run.tests))
        if any(i.source == stage.output.name for s in config.card.stages for i in s.inputs):
            run.heatmaps[stage.output.name] = _out_of_fold(run, stage)
    return run


def _train_on_scans(run: Training) -> Training:
    """Train stages that each read the scan alone."""
    config, dataset = run.config, run.config.dataset
    run.scans = open_scans(dataset, dataset.of("train"), run.card)
    run.test_scans = open_scans(dataset, dataset.of("val"), run.card)
    if not run.scans:
        raise TrainingError(f"{dataset.path}: no scan of split 'train'; mark some")
    for stage in run.card.stages:
        lesson = scan_lesson(
            config,
            stage,
            run.scans,
            run.test_scans,
            resources=run.resources,
            folder=run.folder,
            stack=run.files,
        )
        run.done.append(_fit(run, stage, stage.name, lesson, run.key(stage, stage.name, run.scans)))
    return run


def _train_stage(
    run: Training,
    stage: StageSpec,
    what: str,
    slides: Sequence[LabelledSlide],
    tests: Sequence[LabelledSlide],
    allowed: Allowed | None = None,
) -> TrainedStage:
    lesson = stage_lesson(
        run.card,
        stage,
        run.config.recipes[stage.name],
        slides,
        tests,
        run.inputs_of,
        resources=run.resources,
        allowed=allowed,
    )
    return _fit(run, stage, what, lesson, run.key(stage, what, slides))


def _fit(run: Training, stage: StageSpec, what: str, lesson: StageLesson, key: str) -> TrainedStage:
    options = run.config.recipes[stage.name].fit
    torch.set_num_threads(run.resources.workers)  # making heatmaps takes other numbers
    torch.manual_seed(options.seed)
    network = build_network(run.card, stage)
    history = fit(
        network,
        lesson,
        options,
        device=run.resources.device,
        folder=run.folder / what,
        key=key,
        told=partial(run.told, what),
    )
    return TrainedStage(stage, network, lesson, history)


def _out_of_fold(run: Training, stage: StageSpec) -> dict[Path, HeatmapStore]:
    """Return the heatmaps of all slides, none of them by a network that saw its tissue."""
    final = run.done[-1].network
    made = {s.entry.slide: _heatmap(run, stage, final, s, "") for s in run.tests}
    if run.config.folds_by_block:
        return made | _by_blocks(run, stage)
    patients = sorted({slide.entry.patient for slide in run.train})
    count = min(run.config.folds, len(patients))
    order = np.random.default_rng(run.config.seed).permutation(len(patients))
    for fold in range(count):
        held = {patients[i] for i in order[fold::count]}
        rest = [slide for slide in run.train if slide.entry.patient not in held]
        name = f"-fold-{fold + 1}"
        network = _train_fold(run, stage, name, rest)
        for slide in run.train:
            if slide.entry.patient in held:
                made[slide.entry.slide] = _heatmap(run, stage, network, slide, name)
    return made


def _by_blocks(run: Training, stage: StageSpec) -> dict[Path, HeatmapStore]:
    """Return the training slides' heatmaps, each block by a network that was not trained there."""
    if stage.extent == "whole":
        raise TrainingError(
            f"stage {stage.name!r} sees whole slides, of which no block can be left out; needed "
            "slides of two patients and folds_by 'patient'"
        )
    count, margin = run.config.folds, run.config.recipes[stage.name].sampling.margin
    parts: dict[Path, list[HeatmapStore]] = {slide.entry.slide: [] for slide in run.train}
    for block in range(count):
        fold = f"-block-{block + 1}"
        allowed = partial(outside_block, block=block, count=count, margin=margin)
        network = _train_fold(run, stage, fold, run.train, allowed)
        for slide in run.train:
            parts[slide.entry.slide].append(_heatmap(run, stage, network, slide, fold))
    shapes = {slide.entry.slide: slide.pyramid.shape for slide in run.train}
    return {
        path: cast("HeatmapStore", BlockwiseHeatmap(stores, shapes[path]))
        for path, stores in parts.items()
    }


def _train_fold(
    run: Training,
    stage: StageSpec,
    fold: str,
    slides: Sequence[LabelledSlide],
    allowed: Allowed | None = None,
) -> nn.Module:
    what = stage.name + fold
    run.folded[what] = _train_stage(run, stage, what, slides, (), allowed).network
    return run.folded[what]


def _heatmap(
    run: Training, stage: StageSpec, network: nn.Module, slide: LabelledSlide, fold: str
) -> HeatmapStore:
    """Return what the model up to a stage makes of a slide, its networks trained without a fold.

    What an earlier run left is used again where weights, card and slide are the same.
    """
    nets = {
        item.stage.name: run.folded.get(item.stage.name + fold, item.network) for item in run.done
    } | {stage.name: network}
    name = f"{stage.name}{fold}-{_hash_of(run, nets)}"
    of_slide = f"{slide.entry.slide.name}-{str(fingerprint(slide.entry.slide))[:12]}"
    folder = run.folder / "heatmaps" / name / of_slide
    store = folder / "heatmap.zarr"
    if not store.exists():
        package = run.folder / "packages" / name
        if not package.exists():
            _write_part(run, nets, package)
        device = str(run.resources.device)
        use = RunOptions(device=device, threads=run.resources.workers)
        options = SegmentOptions(tissue=run.config.tissue, run=use)
        # The quickest backend is another one on another day, and its last digits are others.
        model = load_model(package, backend="torch", device=device)
        segment(slide.pyramid, model, options=options, work_dir=folder)
    return HeatmapStore.open(store)


def _said_of(stage: StageSpec) -> dict[str, Any]:
    """Return what a card says of a stage, but for the windows its network may run on.

    They change no weights: who has to correct them trains nothing again. Nor do options that a
    later wsiseg brings, until they are used: a training goes on after an update.
    """
    return stage.model_dump(mode="json", exclude={"output": {"max_patch"}}, exclude_defaults=True)


def _chosen(options: "DataclassInstance") -> dict[str, Any]:
    """Return what options say that is not their default; see `_said_of`."""
    said = {}
    for item in fields(options):
        value = getattr(options, item.name)
        if is_dataclass(value) and not isinstance(value, type):
            said[item.name] = _chosen(value)
        elif value != item.default:
            said[item.name] = value
    return said


def _hash_of(run: Training, nets: Mapping[str, nn.Module]) -> str:
    """Return what decides a heatmap of a slide, as a hash."""
    stages = [_said_of(item) for item in run.card.stages if item.name in nets]
    said = [run.digest, stages, _chosen(run.config.tissue)]
    digest = hashlib.sha256(json.dumps(said, sort_keys=True).encode())
    for network in nets.values():
        for tensor in network.state_dict().values():
            digest.update(tensor.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:12]


def _write_part(run: Training, nets: Mapping[str, nn.Module], folder: Path) -> None:
    """Write the model up to a stage as a package."""
    content: dict[str, Any] = {
        **run.config.content,
        "stages": run.config.content["stages"][: len(nets)],
        "provenance": {
            "license": "unknown",
            "trained_on": "part of a training run",
            "intended_use": "heatmaps for later stages",
            "limits": "not for use",
        },
    }
    inputs = {item.stage.name: check_patches(item.lesson) for item in run.done}
    write_package(folder, card=content, networks=nets, check_inputs=inputs)


def check_patches(lesson: StageLesson) -> tuple[NDArray[Any], ...]:
    """Return two patches of each input of a stage, as its predictor takes them."""
    places = islice(PlaceSampler(lesson.sampler.leaves, seed=0), 2)
    patches = [lesson.slides[place.slide].unturned().read(place.centre)[0] for place in places]
    return tuple(np.stack(one) for one in zip(*patches, strict=True))

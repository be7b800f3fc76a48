"""What one stage learns: its slides, the places on them, and the measure of its answers."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

from wsiseg.annotations.class_map import ClassMap
from wsiseg.annotations.labels import Labels
from wsiseg.engine.graph import StageSetup, lay_out
from wsiseg.engine.inputs import Input
from wsiseg.errors import TrainingError
from wsiseg.machine import machine_memory
from wsiseg.model.card import SLIDE, ModelCard, StageSpec
from wsiseg.model.preprocessed import PreprocessedNetwork
from wsiseg.options import TissueOptions
from wsiseg.source import Pyramid
from wsiseg.tissue import TissueMask, find_tissue
from wsiseg.train.clusters import cluster_loss
from wsiseg.train.config import StageRecipe
from wsiseg.train.dataset import Dataset, SlideEntry
from wsiseg.train.grouping import Groups, fit_groups
from wsiseg.train.losses import IGNORE, LossOptions, central_share, make_loss, patch_loss
from wsiseg.train.patches import Patches
from wsiseg.train.places import Leaf, Place, PlaceSampler
from wsiseg.train.reading import Batch, LabelledPatches, SlidePatches, read_batches
from wsiseg.train.transforms import augment_patches

__all__ = [
    "Allowed",
    "LabelledSlide",
    "Resources",
    "StageLesson",
    "find_leaves",
    "open_slides",
    "share_cache",
    "stage_lesson",
]

CELL = 8
"""Pixels of a dense stage that one cell of the map of places stands for."""

CACHE_SHARE = 8
"""An eighth of the machine's memory keeps decoded blocks: training comes back to them."""


@dataclass(frozen=True, slots=True)
class Resources:
    """What trains."""

    device: torch.device
    workers: int
    """Threads that read patches."""


Allowed = Callable[[StageSetup, ClassMap], NDArray[np.bool_]]
"""From a stage on a slide and the map of places there to which of them may be used."""


@dataclass(frozen=True, slots=True, eq=False)
class LabelledSlide:
    """An open slide with its labels and tissue."""

    entry: SlideEntry
    pyramid: Pyramid
    labels: Labels
    tissue: TissueMask


def open_slides(
    dataset: Dataset, entries: Sequence[SlideEntry], tissue: TissueOptions
) -> tuple[LabelledSlide, ...]:
    """Open slides with their labels, and find their tissue.

    Raises
    ------
    SourceError, AnnotationError
        If a slide or its labels cannot be opened, or do not belong together.
    """
    opened = []
    for entry in entries:
        pyramid = entry.open()
        labels = dataset.open_labels(entry, pyramid)
        opened.append(LabelledSlide(entry, pyramid, labels, find_tissue(pyramid, tissue)))
    return tuple(opened)


def find_leaves(
    slides: Sequence[LabelledSlide],
    setups: Sequence[StageSetup],
    levels: Sequence[str],
    *,
    allowed: Allowed | None = None,
) -> list[Leaf]:
    """Return where each class lies on each slide, inside the tissue.

    Raises
    ------
    TrainingError
        If a slide lacks a column.
    """
    leaves: list[Leaf] = []
    for index, (slide, setup) in enumerate(zip(slides, setups, strict=True)):
        leaves += _leaves_of(index, slide, setup, levels, allowed)
    return leaves


def _leaves_of(
    index: int,
    slide: LabelledSlide,
    setup: StageSetup,
    levels: Sequence[str],
    allow: Allowed | None,
) -> list[Leaf]:
    columns = {"patient": slide.entry.patient, "slide": f"{index} {slide.entry.name}"}
    columns |= slide.entry.columns
    if absent := [level for level in levels if level not in columns and level != "class"]:
        raise TrainingError(
            f"{slide.entry.name}: no column {absent[0]!r} to sample by; the data set has "
            f"{', '.join(columns)}"
        )

    def path(label: str) -> tuple[str, ...]:
        named = (label if level == "class" else columns[level] for level in levels)
        return (*named, columns["slide"], label)

    if setup.spec.extent == "whole":
        height, width = slide.pyramid.shape
        cell = (float(height), float(width))
        return [Leaf(index, 0, path(""), np.zeros(1, np.int64), (1, 1), cell)]
    found = slide.labels.class_map(_cell_um(setup))
    usable = found.values != IGNORE
    usable &= _has_tissue(slide, usable.shape, found.downsample)
    if allow is not None:
        usable &= allow(setup, found)
    down_y, down_x = found.downsample
    return [
        Leaf(index, value, path(name), cells, usable.shape, (down_y, down_x))
        for value, name in enumerate(slide.labels.classes)
        if len(cells := np.flatnonzero(usable & (found.values == value)))
    ]


def _cell_um(setup: StageSetup) -> float:
    """Return the µm of a cell of the map of places: a cell of the heatmap, or a few pixels."""
    cell = max(setup.grid.stride) if setup.spec.kind == "classifier" else CELL
    return cell * max(setup.reference.spacing.um)


def _has_tissue(
    slide: LabelledSlide, shape: tuple[int, int], downsample: tuple[float, float]
) -> NDArray[np.bool_]:
    """Return which cells of a map of places have their centre on tissue."""
    mask, grid = slide.tissue.mask, slide.tissue.downsample
    at = [
        np.minimum(((np.arange(n) + 0.5) * d / g).astype(np.int64), size - 1)
        for n, d, g, size in zip(shape, downsample, grid, mask.shape, strict=True)
    ]
    chosen: NDArray[np.bool_] = mask[np.ix_(*at)]
    return chosen


def stage_lesson(
    card: ModelCard,
    stage: StageSpec,
    recipe: StageRecipe,
    slides: Sequence[LabelledSlide],
    tests: Sequence[LabelledSlide],
    connect: Callable[[LabelledSlide, StageSetup], tuple[Input, ...]],
    *,
    resources: Resources,
    allowed: Allowed | None = None,
) -> "StageLesson":
    """Return what a stage learns on some slides and is tested on others.

    Parameters
    ----------
    connect
        Gives what the inputs of the stage read on a slide: the slide, or a heatmap of it that was
        made by networks that never saw it.
    allowed
        Where patches may be centred; default: everywhere.

    Raises
    ------
    TrainingError
        If the stage cannot be trained: a class has no sample, or its inputs differ in spacing.
    """
    _require_trainable(stage, recipe.loss, len(card.classes))
    number = card.stages.index(stage)

    def patches(slide: LabelledSlide, margin: float) -> SlidePatches:
        setup = lay_out(card, slide.pyramid)[number]
        labels = slide.labels.at(setup.reference)
        return SlidePatches(setup, connect(slide, setup), labels, margin)

    share_cache((*slides, *tests))
    sampling, seed = recipe.sampling, recipe.fit.seed
    seen = [patches(slide, sampling.margin) for slide in slides]
    leaves = find_leaves(slides, [p.setup for p in seen], sampling.levels, allowed=allowed)
    if stage.extent == "window":
        _require_all_classes(
            leaves, slides, "" if allowed is None else " outside the block left out"
        )
    test_patches = [patches(slide, 1.0) for slide in tests]
    test_places: tuple[Place, ...] = ()
    if tests:
        found = find_leaves(tests, [p.setup for p in test_patches], sampling.levels)
        if not found:
            names = ", ".join(slide.entry.name for slide in tests)
            raise TrainingError(f"nothing known in the tissue of {names}; label some to test on")
        count = len(tests) if stage.extent == "whole" else sampling.validation
        test_places = tuple(islice(PlaceSampler(found, seed=seed), count))
    lesson = StageLesson(
        stage=stage,
        recipe=recipe,
        ready=_SlidesReady(stage, recipe, seen[0].setup, resources.device),
        sampler=PlaceSampler(leaves, seed=seed, hard=recipe.fit.hard),
        slides=tuple(seen),
        tests=tuple(test_patches),
        test_places=test_places,
        resources=resources,
    )
    return replace(lesson, groups=_groups(lesson)) if recipe.groups.package else lesson


def _groups(lesson: "StageLesson") -> Groups:
    """Return what groups the patches of a lesson, made of some of them."""
    options, size = lesson.recipe.groups, lesson.recipe.fit.batch
    sampler = PlaceSampler(lesson.sampler.leaves, seed=lesson.recipe.fit.seed)
    slides = [slide.unturned() for slide in lesson.slides]
    places = islice(sampler, options.patches)
    batches = read_batches(slides, places, size=size, workers=lesson.resources.workers)
    return fit_groups(
        Path(options.package),
        (lesson.prepared(batch)[0] for batch in batches),
        device=lesson.resources.device,
        count=options.count,
        seed=lesson.recipe.fit.seed,
    )


def share_cache(slides: Sequence[LabelledSlide]) -> int:
    """Let slides keep decoded blocks, and return the bytes that come to at most."""
    each = machine_memory() // CACHE_SHARE // len(slides)
    for slide in slides:
        slide.pyramid.levels[0].limit_cache(each)
    return sum(min(each, 3 * math.prod(slide.pyramid.shape)) for slide in slides)


def _require_all_classes(
    leaves: Sequence[Leaf], slides: Sequence[LabelledSlide], where: str
) -> None:
    found = {leaf.label for leaf in leaves}
    for value, name in enumerate(slides[0].labels.classes):
        if value not in found:
            names = ", ".join(slide.entry.name for slide in slides)
            raise TrainingError(
                f"no sample of class {name!r} in the tissue of {names}{where}; label some, "
                "take more folds, or take the class out"
            )


def _require_trainable(stage: StageSpec, loss: LossOptions, classes: int) -> None:
    first, *others = stage.inputs
    if stage.kind == "classifier" and loss != LossOptions():
        raise TrainingError(
            f"stage {stage.name!r}: a patch classifier learns by the cross-entropy of its cell; "
            "needed no options of the loss"
        )
    if stage.output.offsets:
        raise TrainingError(
            f"stage {stage.name!r}: offsets cannot be trained here: needed a stage of classes "
            "alone; add the network, trained elsewhere, by `wsiseg models add`"
        )
    if len(loss.class_weights) not in (0, classes):
        raise TrainingError(
            f"stage {stage.name!r}: {len(loss.class_weights)} class_weights; needed {classes}, one "
            "per class, background first"
        )
    if first.source != SLIDE or len(set(first.patch)) != 1:
        raise TrainingError(
            f"stage {stage.name!r}: first input from {first.source!r} of {first.patch} px cannot "
            "be trained: needed the slide, in square patches, which are turned"
        )
    for spec in others:
        if spec.source == SLIDE or (spec.spacing_um, spec.patch) != (first.spacing_um, first.patch):
            raise TrainingError(
                f"stage {stage.name!r}: input from {spec.source!r} of {spec.patch} px at "
                f"{spec.spacing_um} µm cannot be trained: needed heatmaps with the spacing and "
                "patch of the first input, which are turned and stretched with it"
            )


class Ready(Protocol):
    """Makes of a batch what a network takes."""

    def __call__(
        self, batch: Batch, seed: int | None
    ) -> tuple[tuple[torch.Tensor, ...], torch.Tensor]:
        """Return inputs and int64 labels, on the device; augmented where there is a seed."""
        ...


class _SlidesReady:
    """Patches of slides, their pixels and heatmaps turned and changed together."""

    def __init__(
        self, stage: StageSpec, recipe: StageRecipe, setup: StageSetup, device: torch.device
    ) -> None:
        self._options, self._device = recipe.augment, device
        self._spacing_um = max(setup.reference.spacing.um)
        self._size = stage.inputs[0].patch[0]
        self._heatmaps = [len(spec.channels) for spec in stage.inputs[1:]]
        self._preprocess = PreprocessedNetwork(nn.Identity(), stage).inputs.to(device)

    def __call__(
        self, batch: Batch, seed: int | None
    ) -> tuple[tuple[torch.Tensor, ...], torch.Tensor]:
        image, *heatmaps = (torch.from_numpy(array).to(self._device) for array in batch.inputs)
        joined = torch.cat(heatmaps, dim=-1) if heatmaps else None
        patches = Patches(image, torch.from_numpy(batch.labels).to(self._device), joined)
        if seed is not None:
            patches = augment_patches(
                patches,
                self._options,
                spacing_um=self._spacing_um,
                generator=torch.Generator().manual_seed(seed),
                size=self._size,
            )
        arrays = [patches.image]
        if patches.heatmap is not None:
            arrays += torch.split(patches.heatmap, self._heatmaps, dim=-1)
        inputs = tuple(step(x) for step, x in zip(self._preprocess, arrays, strict=True))
        return inputs, patches.labels.long()


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class StageLesson:
    """A `Lesson` from labelled slides or scans; see `stage_lesson` and `scan_lesson`."""

    stage: StageSpec
    recipe: StageRecipe
    ready: Ready
    sampler: PlaceSampler
    slides: tuple[LabelledPatches, ...]
    tests: tuple[LabelledPatches, ...]
    test_places: tuple[Place, ...]
    resources: Resources
    groups: Groups | None = None
    """Given, groups of patches that look alike count alike."""

    def batches(self, count: int) -> Iterator[Batch]:
        """Yield the next batches."""
        size = self.recipe.fit.batch
        places = islice(self.sampler, count * size)
        return read_batches(self.slides, places, size=size, workers=self.resources.workers)

    def tensors(self, batch: Batch, seed: int) -> tuple[tuple[torch.Tensor, ...], torch.Tensor]:
        """Return the network's inputs, augmented, and int64 labels, on the device."""
        return self.ready(batch, seed)

    def prepared(self, batch: Batch) -> tuple[tuple[torch.Tensor, ...], torch.Tensor]:
        """Return the network's inputs as they are, and int64 labels, on the device."""
        return self.ready(batch, None)

    def loss(
        self,
        outputs: torch.Tensor | Sequence[torch.Tensor],
        labels: torch.Tensor,
        inputs: tuple[torch.Tensor, ...],
    ) -> torch.Tensor:
        """Return the recipe's loss; of a patch classifier, the cross-entropy of its cell."""
        if self.stage.kind != "classifier":
            return make_loss(self.recipe.loss)(outputs, labels)
        logits = outputs if isinstance(outputs, torch.Tensor) else outputs[0]
        if self.groups is None:
            return patch_loss(logits, labels, cell=self.cell)
        share = central_share(labels, logits.shape[1], self.cell)
        likeliest = torch.where(share.sum(dim=1) > 0, share.argmax(dim=1), IGNORE)
        return cluster_loss(logits, likeliest, self.groups(*inputs))

    @property
    def cell(self) -> int:
        """Side in pixels of what a patch of a classifier answers for."""
        spec = self.stage.inputs[0]
        return (spec.stride or spec.patch)[0]

    def hardness(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Return the cross-entropy of each patch, (n,)."""
        if self.stage.kind == "classifier":
            share = central_share(labels, logits.shape[1], self.cell)
            return functional.cross_entropy(logits.float(), share, reduction="none")
        each = functional.cross_entropy(
            logits.float(), labels, ignore_index=IGNORE, reduction="none"
        )
        known = (labels != IGNORE).flatten(1).sum(dim=1).clamp(min=1)
        return each.flatten(1).sum(dim=1) / known

    @torch.inference_mode()
    def validate(self, network: nn.Module) -> dict[str, float] | None:
        """Return the mean loss and the Dice of the foreground over the test places."""
        if not self.test_places:
            return None
        total, counts = 0.0, np.zeros(3)
        for batch, logits, labels, inputs in self._answers(network):
            total += self.loss(logits, labels, inputs).item() * len(batch.places)
            counts += self._overlap(logits, labels)
        hit, found, wanted = counts
        return {
            "loss": total / len(self.test_places),
            "dice": float(2 * hit / (found + wanted)) if found + wanted else 1.0,
        }

    def answers(self, network: nn.Module) -> Iterator[tuple[Batch, torch.Tensor, torch.Tensor]]:
        """Yield test batches, with what the network makes of them, and the labels."""
        for batch, logits, labels, _ in self._answers(network):
            yield batch, logits, labels

    @torch.inference_mode()
    def _answers(
        self, network: nn.Module
    ) -> Iterator[tuple[Batch, torch.Tensor, torch.Tensor, tuple[torch.Tensor, ...]]]:
        size, workers = self.recipe.fit.batch, self.resources.workers
        for batch in read_batches(self.tests, self.test_places, size=size, workers=workers):
            inputs, labels = self.prepared(batch)
            yield batch, network(*inputs), labels, inputs

    def _overlap(self, logits: torch.Tensor, labels: torch.Tensor) -> NDArray[np.float64]:
        """Return hits, foreground found and foreground wanted: pixels, or shares of cells."""
        found = logits.argmax(dim=1)
        if self.stage.kind == "classifier":
            share = central_share(labels, logits.shape[1], self.cell)
            known = share.sum(dim=1)
            hit = share.gather(1, found[:, None])[:, 0] * (found > 0)
            counts = (hit, (found > 0) * known, share[:, 1:].sum(dim=1))
        else:
            inside = labels != IGNORE
            foreground = (labels > 0) & inside
            counts = ((found == labels) & foreground, (found > 0) & inside, foreground)
        return np.array([float(count.sum()) for count in counts])

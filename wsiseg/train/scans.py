"""What a stage learns from scans: patches on the network's own grid, places of every class.

Scans are placed, normalised and resampled by what does it in a run, once, into files that patches
are read from; so training and running cannot differ in spacing, place or intensity.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray

from wsiseg.engine.graph import StageSetup
from wsiseg.engine.scan_graph import lay_out_scan
from wsiseg.engine.scan_run import prepare_inputs
from wsiseg.errors import TrainingError
from wsiseg.geometry import Box
from wsiseg.model.card import SCAN, ModelCard, StageSpec
from wsiseg.scans import place_scan
from wsiseg.source import Volume, open_volume
from wsiseg.train.config import StageRecipe, TrainConfig
from wsiseg.train.dataset import Dataset, SlideEntry
from wsiseg.train.lesson import Resources, StageLesson
from wsiseg.train.losses import LossOptions
from wsiseg.train.places import Leaf, Place, PlaceSampler
from wsiseg.train.reading import Batch
from wsiseg.train.scan_augment import augment_scans
from wsiseg.train.scan_labels import ScanLabels, ValueTable
from wsiseg.volume.prepare import PreparedScan
from wsiseg.volume.scan import Scan

__all__ = ["LabelledScan", "ScanPatches", "open_scans", "scan_lesson"]

CELL = 4
"""Voxels along each axis of a cell of the map of places."""


@dataclass(frozen=True, slots=True, eq=False)
class LabelledScan:
    """An open scan, placed in the frame of a model, with its labels."""

    entry: SlideEntry
    scan: Scan
    labels: Volume


@dataclass(frozen=True, slots=True, eq=False)
class ScanPatches:
    """One scan as a stage sees it, with its labels.

    Parameters
    ----------
    setup
        The stage laid over the scan.
    inputs
        One per input of the stage, all of one grid.
    labels
        On that grid.
    margin
        Patches are this much larger than the stage's along each axis; a factor >= 1.
    """

    setup: StageSetup
    inputs: tuple[PreparedScan, ...]
    labels: ScanLabels
    margin: float = 1.0

    def unturned(self) -> Self:
        """Return the same with patches of the stage's own size."""
        return replace(self, margin=1.0)

    def read(self, centre: tuple[float, ...]) -> tuple[tuple[NDArray[Any], ...], NDArray[np.uint8]]:
        """Return the patches of all inputs around a point, and the labels.

        Patches are moved into the scan where they fit, as windows of a run lie in it.

        Parameters
        ----------
        centre
            Voxels (z, y, x) of the first input's grid.
        """
        reference = self.setup.reference
        start = []
        for place, size, whole in zip(centre, reference.spec.patch, reference.shape, strict=True):
            room = whole - size
            first = min(max(0, round(place - size / 2)), room) if room >= 0 else -(-room // 2)
            start.append(first)
        more = [math.ceil(n * (self.margin - 1) / 2) for n in reference.spec.patch]
        box = Box.of_shape(reference.spec.patch).shift(start).grow(more)
        return tuple(one.read(box) for one in self.inputs), self.labels.read(box)


def open_scans(
    dataset: Dataset, entries: Sequence[SlideEntry], card: ModelCard
) -> tuple[LabelledScan, ...]:
    """Open scans with their labels, and look for the part that the card's crop leaves.

    Raises
    ------
    SourceError, UsageError
        If a scan or its labels cannot be opened, or its channels are not of one grid.
    """
    return tuple(
        LabelledScan(
            entry,
            place_scan([entry.slide, *entry.more], card)[0],
            open_volume(entry.labels),
        )
        for entry in entries
    )


def scan_lesson(
    config: TrainConfig,
    stage: StageSpec,
    scans: Sequence[LabelledScan],
    tests: Sequence[LabelledScan],
    *,
    resources: Resources,
    folder: Path,
    stack: ExitStack,
) -> StageLesson:
    """Return what a stage learns on some scans and is tested on others.

    Parameters
    ----------
    config, stage
        What is trained, and which stage of it.
    folder
        Where voxels wait, in files without a name.
    stack
        Ends these.

    Raises
    ------
    TrainingError
        If the stage cannot be trained, or a class has no sample.
    LabelError
        If labels lie on other voxels than their scan, or hold a value without a meaning.
    """
    card, dataset, recipe = config.card, config.dataset, config.recipes[stage.name]
    _require_trainable(card, stage, recipe.loss)
    number, sampling = card.stages.index(stage), recipe.sampling
    table = ValueTable(dataset.classes, dataset.rules, dataset.path)

    def patches(one: LabelledScan, margin: float) -> ScanPatches:
        setup = lay_out_scan(card, one.scan)[number]
        inputs = prepare_inputs(card, one.scan, setup, folder, stack)
        layout = setup.reference.layout
        assert layout is not None
        labels = ScanLabels(
            one.labels,
            one.scan,
            layout,
            table=table,
            classes=len(dataset.classes),
            folder=folder,
        )
        return ScanPatches(setup, tuple(inputs[k] for k in range(len(inputs))), labels, margin)

    seen = [patches(one, sampling.margin) for one in scans]
    leaves = list(_leaves(dataset, scans, seen, sampling.levels))
    _require_all_classes(dataset, leaves)
    tested = [patches(one, 1.0) for one in tests]
    places: tuple[Place, ...] = ()
    if tests:
        found = list(_leaves(dataset, tests, tested, sampling.levels))
        places = tuple(islice(PlaceSampler(found, seed=recipe.fit.seed), sampling.validation))
    return StageLesson(
        stage=stage,
        recipe=recipe,
        ready=_ScansReady(stage, recipe, seen[0].setup, resources.device),
        sampler=PlaceSampler(leaves, seed=recipe.fit.seed, hard=recipe.fit.hard),
        slides=tuple(seen),
        tests=tuple(tested),
        test_places=places,
        resources=resources,
    )


class _ScansReady:
    """Patches of scans, images and labels turned together."""

    def __init__(
        self, stage: StageSpec, recipe: StageRecipe, setup: StageSetup, device: torch.device
    ) -> None:
        self._options, self._device = recipe.scan_augment, device
        self._spacing_mm = tuple(um / 1000 for um in setup.reference.spacing.um)
        self._size = stage.inputs[0].patch

    def __call__(
        self, batch: Batch, seed: int | None
    ) -> tuple[tuple[torch.Tensor, ...], torch.Tensor]:
        images = tuple(
            torch.from_numpy(array).to(self._device).movedim(-1, 1) for array in batch.inputs
        )
        labels = torch.from_numpy(batch.labels).to(self._device)
        if seed is not None:
            images, labels = augment_scans(
                images,
                labels,
                self._options,
                spacing_mm=self._spacing_mm,
                generator=torch.Generator().manual_seed(seed),
                size=self._size,
            )
        return tuple(image.contiguous() for image in images), labels.long()


def _leaves(
    dataset: Dataset,
    scans: Sequence[LabelledScan],
    patches: Sequence[ScanPatches],
    levels: Sequence[str],
) -> Iterator[Leaf]:
    """Yield where each class lies in each scan."""
    for index, (one, seen) in enumerate(zip(scans, patches, strict=True)):
        own = f"{index} {one.entry.name}"
        columns = {"patient": one.entry.patient, "slide": own, "scan": own, **one.entry.columns}
        if absent := [level for level in levels if level not in (*columns, "class")]:
            raise TrainingError(
                f"{one.entry.name}: no column {absent[0]!r} to sample by; the data set has "
                f"{', '.join(columns)}"
            )
        values = seen.labels.values
        for value, name in enumerate(dataset.classes):
            cells = _cells(values, value)
            if cells.any():
                path = (*(name if at == "class" else columns[at] for at in levels), own, name)
                places = np.flatnonzero(cells)
                yield Leaf(index, value, path, places, cells.shape, (float(CELL),) * 3)


def _cells(values: NDArray[np.uint8], value: int) -> NDArray[np.bool_]:
    """Return which cells of `CELL` voxels along each axis hold a class."""
    rows = []
    for start in range(0, values.shape[0], CELL):
        found: NDArray[np.bool_] = (values[start : start + CELL] == value).any(axis=0)
        for axis in (0, 1):
            found = np.logical_or.reduceat(found, range(0, found.shape[axis], CELL), axis=axis)
        rows.append(found)
    return np.stack(rows)


def _require_all_classes(dataset: Dataset, leaves: Sequence[Leaf]) -> None:
    found = {leaf.label for leaf in leaves}
    for value, name in enumerate(dataset.classes):
        if value not in found:
            names = ", ".join(entry.name for entry in dataset.of("train"))
            raise TrainingError(
                f"no voxel of class {name!r} in the labels of {names}; label some, say in "
                "labels.mapping which value it has, or take the class out"
            )


def _require_trainable(card: ModelCard, stage: StageSpec, loss: LossOptions) -> None:
    first, *others = stage.inputs
    where = f"stage {stage.name!r}"
    if card.regions or stage.output.activation != "softmax":
        raise TrainingError(
            f"{where}: regions, and activation {stage.output.activation!r}, cannot be trained "
            "here: needed classes of which each voxel has one, and softmax"
        )
    if stage.folds:
        raise TrainingError(f"{where}: folds cannot be trained here; train them one by one")
    if len(loss.class_weights) not in (0, len(card.classes)):
        raise TrainingError(
            f"{where}: {len(loss.class_weights)} class_weights; needed {len(card.classes)}, one "
            "per class, background first"
        )
    for spec in stage.inputs:
        if spec.source != SCAN:
            raise TrainingError(
                f"{where}: an input from {spec.source!r} cannot be trained here: needed the scan; "
                "train stages that read it alone"
            )
    grid = (first.spacing_um, first.patch, first.resample)
    if any((spec.spacing_um, spec.patch, spec.resample) != grid for spec in others):
        raise TrainingError(
            f"{where}: inputs of other spacing or patch than the first cannot be trained here, as "
            "they are turned and scaled together"
        )

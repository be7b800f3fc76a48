"""The last stage of a scan as labels on its own voxels: by which rule, and in which parts."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from wsiseg.engine.graph import StageSetup
from wsiseg.engine.kept import Span
from wsiseg.engine.scan_resume import KeptPlanes
from wsiseg.geometry import Box
from wsiseg.model import ModelCard
from wsiseg.model.activation import IDENTITY, Scaling
from wsiseg.model.card import StageSpec
from wsiseg.resample import AxisMap
from wsiseg.stitch import Codes, Reducer, Sink, Slab, Values
from wsiseg.volume.block_export import BlockExport, Part, parts_of
from wsiseg.volume.export import FusedExport, PlaneMath
from wsiseg.volume.prepare import WorkFile
from wsiseg.volume.probabilities import ProbabilityPlanes
from wsiseg.volume.rules import ArgmaxRule, LabelRule, RegionRule, ThresholdRule
from wsiseg.volume.scan import Scan

__all__ = ["ScanFiles", "blank_values", "label_rule", "labels_of_scan", "parts_of_scan"]

SURE = 10.0
"""Raw value of the background, or less than 0 of a region, where no window looked: a probability
of 1 - 5e-5 of two."""


@dataclass(frozen=True, slots=True)
class ScanFiles:
    """Where the last stage's results wait, in the axes of the network."""

    labels: WorkFile
    """uint8 (z, y, x)."""

    names: tuple[str, ...] = ()
    """Of the classes whose probabilities are kept."""

    probabilities: WorkFile | None = None
    """Codes, uint16 (class, z, y, x), 65535 for 1; `None` where none are wanted."""

    @classmethod
    def create(cls, shape: Sequence[int], folder: Path, names: tuple[str, ...]) -> "ScanFiles":
        """Return empty files in a folder.

        Raises
        ------
        DiskFullError
            If there is no room.
        """
        kept = WorkFile((len(names), *shape), folder, np.uint16) if names else None
        return cls(WorkFile(shape, folder, np.uint8), names, kept)

    def clear(self, card: ModelCard, stage: StageSpec) -> None:
        """Make all of it background."""
        self.labels.map()[...] = 0
        if self.probabilities is not None:
            made = _probabilities(card, stage, self.names, self.sinks)
            assert made is not None
            blank = made.codes(np.asarray(blank_values(card, stage), np.float32))
            self.probabilities.map()[...] = blank[:, None, None, None]

    @property
    def sinks(self) -> list[Sink]:
        """What takes labels, and probabilities if wanted."""
        return [_PlaneFile(one) for one in (self.labels, self.probabilities) if one is not None]


def parts_of_scan(setup: StageSetup, scan: Scan, spans: Sequence[Span]) -> tuple[Part, ...]:
    """Return which voxels of the scan the blocks of the last stage give.

    Parameters
    ----------
    setup
        The stage.
    scan
        The part looked at.
    spans
        Pixels of the network's grid that each block decides along the last axis.
    """
    layout = setup.reference.layout
    assert layout is not None
    return parts_of(
        spans,
        layout.maps[2].inverse,
        layout.export_orders[2],
        first=scan.box.start[2],
        whole=scan.whole[2],
    )


def labels_of_scan(
    card: ModelCard,
    setup: StageSetup,
    scan: Scan,
    parts: Sequence[Part],
    outputs: ScanFiles,
    planes: KeptPlanes | None,
    *,
    device: str | None,
) -> Reducer:
    """Return what resamples and reduces the last stage into labels of the whole scan.

    Parameters
    ----------
    card, setup, scan, parts
        The model, its last stage, the part looked at, and the blocks it is walked in.
    outputs
        Get the labels, and the probabilities where they are wanted.
    planes
        What is finished, and keeps what is made.
    device
        Where slabs lie; `None`: in memory of the host.
    """
    layout = setup.reference.layout
    assert layout is not None
    maps, orders = [one.inverse for one in layout.maps], layout.export_orders
    blank = np.asarray(blank_values(card, setup.spec), np.float32)

    def make(part: Part, sinks: Sequence[Sink]) -> FusedExport:
        wanted = np.ones(scan.whole[0], np.bool_) if planes is None else planes.wanted(part)
        within = [maps[1], part.index]
        start, stop = scan.box.start, scan.box.stop
        left, right = (start[2] + voxel for voxel in part.voxels)
        return FusedExport(
            [*maps[:2], part.index],
            orders,
            len(setup.channels),
            box=Box((*start[:2], left), (*stop[:2], right)),
            whole=scan.whole,
            rule=label_rule(card, setup.spec),
            labels=sinks[0],
            blank=blank.tolist(),
            probabilities=_probabilities(card, setup.spec, outputs.names, sinks),
            wanted=lambda plane: bool(wanted[plane]),
            planes=None if device is None else _device_planes(within, orders[1:], blank, device),
            columns=part.columns,
        )

    sinks: Sequence[Sink] = outputs.sinks
    export: Reducer = BlockExport(parts, make, sinks if planes is None else planes.sinks(sinks))
    if setup.spec.output.stitched == "raw" and setup.scaling != IDENTITY:
        return _Scaled(export, setup.scaling)
    return export


def _probabilities(
    card: ModelCard, stage: StageSpec, names: Sequence[str], sinks: Sequence[Sink]
) -> ProbabilityPlanes | None:
    if not names:
        return None
    channels = [card.channel_names.index(name) for name in names]
    raw = stage.output.stitched == "raw"
    return ProbabilityPlanes(sinks[1], channels, stage.output.activation if raw else "none")


def _device_planes(
    maps: Sequence[AxisMap], orders: Sequence[int], blank: Values, device: str
) -> PlaneMath:
    from wsiseg.stitch.device_volume import DevicePlanes

    return DevicePlanes(maps, orders, blank, device=device)


def label_rule(card: ModelCard, stage: StageSpec) -> LabelRule:
    """Return what makes labels of the last stage's values, raw or probabilities."""
    output = stage.output
    raw = output.stitched == "raw" and output.activation != "none"
    if card.regions:
        names = [c.name for c in card.classes]
        classes = [names.index(region.label) for region in card.regions]
        return RegionRule(classes, 0.0 if raw else 0.5)
    if card.threshold is None:
        return ArgmaxRule()
    if not raw:
        return ThresholdRule(card.threshold, difference=False)
    limit = float(np.log(card.threshold / (1 - card.threshold)))
    return ThresholdRule(limit, difference=output.activation == "softmax")


def blank_values(card: ModelCard, stage: StageSpec) -> list[float]:
    """Return the values of voxels that no window looked at: background, surely."""
    count = len(card.channel_names)
    raw = stage.output.stitched == "raw" and stage.output.activation != "none"
    if card.regions or stage.output.activation == "sigmoid":
        first = [] if card.regions else [SURE if raw else 1.0]
        return first + [-SURE if raw else 0.0] * (count - len(first))
    return [SURE if raw else 1.0] + [0.0] * (count - 1)


class _Scaled:
    """Hands slabs of raw values on, calibrated; linear, so it may come before resampling."""

    def __init__(self, reducer: Reducer, scaling: Scaling) -> None:
        self._reducer = reducer
        self._scaling = scaling

    def push(self, slab: Slab) -> None:
        self._reducer.push(slab.scaled(self._scaling.weights, self._scaling.biases))

    def finish(self) -> None:
        self._reducer.finish()


class _PlaneFile:
    """Keeps labels, or a volume per class, in a file; a `Sink`."""

    def __init__(self, file: WorkFile) -> None:
        self._file = file

    def write(self, box: Box, codes: Codes) -> None:
        array = self._file.map()
        if array.ndim == 4:
            array = np.moveaxis(array, 0, -1)
        array[box.slices()] = codes

    def finish(self) -> None:
        """Nothing is left to do."""

"""Earlier stages of a scan as labels, on the grid of the input that reads them: a cascade."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from wsiseg.engine.graph import StageInput, StageSetup
from wsiseg.engine.kept import Span
from wsiseg.errors import ModelCardError
from wsiseg.geometry import Box
from wsiseg.resample import AxisMap
from wsiseg.stitch import Codes, Sink
from wsiseg.volume.block_export import BlockExport, Part, parts_of
from wsiseg.volume.export import FusedExport
from wsiseg.volume.layout import coarse_axis
from wsiseg.volume.prepare import WorkFile
from wsiseg.volume.rules import LabelRule

__all__ = ["StageLabels", "label_readers", "labels_of"]


class StageLabels:
    """Labels of an earlier stage on the grid of an input; read as a channel per class, 0 or 1.

    Parameters
    ----------
    shape
        Of the grid.
    classes
        Label of each channel.
    folder
        Where the labels wait, in a file without a name.
    """

    def __init__(self, shape: Sequence[int], classes: Sequence[int], folder: Path) -> None:
        self._labels = WorkFile(shape, folder, np.uint8)
        self._classes = np.asarray(classes, np.uint8)
        self.shape = tuple(shape)

    def write(self, box: Box, codes: Codes) -> None:
        """Keep the labels of a box."""
        self._labels.map()[box.slices()] = codes

    def finish(self) -> None:
        """Nothing is left to do."""

    def read(self, box: Box) -> NDArray[np.float32]:
        """Return float32 `(*box.shape, channel)`; 0 outside."""
        out = np.zeros((*box.shape, len(self._classes)), np.float32)
        inner = box.clip(self.shape)
        if inner.size:
            labels = self._labels.map()[inner.slices()]
            out[inner.relative_to(box).slices()] = labels[..., None] == self._classes
        return out

    def close(self) -> None:
        """Remove the file."""
        self._labels.close()


def label_readers(setups: Sequence[StageSetup], name: str) -> list[tuple[int, int]]:
    """Return the stages and inputs that read an output as labels."""
    return [
        (s, k)
        for s, setup in enumerate(setups)
        for k, item in enumerate(setup.inputs)
        if item.spec.source == name and item.spec.encoding == "labels"
    ]


def labels_of(
    setup: StageSetup,
    reader: StageInput,
    sink: StageLabels,
    *,
    spans: Sequence[Span],
    rule: LabelRule,
    blank: Sequence[float],
) -> BlockExport:
    """Return what makes labels of a stage's raw values on the grid of an input of a later one.

    Raw values are interpolated linearly, along an axis that is resampled on its own nearest, as
    where they are brought back to the scan; then the rule decides.

    Raises
    ------
    ModelCardError
        If one of the two is laid otherwise over the scan.
    """
    mine, theirs = setup.reference.layout, reader.layout
    if mine is None or theirs is None:
        raise ModelCardError(f"stage {setup.spec.name!r}: encoding 'labels' is for scans only")
    pairs = list(zip(mine.maps, theirs.maps, strict=True))
    maps = [
        AxisMap(a.target, b.target, b.step / a.step, (b.origin - a.origin) / a.step)
        for a, b in pairs
    ]
    spec = setup.reference.spec.resample
    coarse = None
    if spec is not None and spec.separate_z_over is not None:
        coarse = coarse_axis(mine.spacing.um, theirs.spacing.um, spec.separate_z_over)
    orders: list[Literal[0, 1]] = [0 if axis == coarse else 1 for axis in range(3)]
    shape = theirs.shape

    def make(part: Part, sinks: Sequence[Sink]) -> FusedExport:
        return FusedExport(
            [*maps[:2], part.index],
            orders,
            len(setup.channels),
            box=Box((0, 0, part.voxels[0]), (*shape[:2], part.voxels[1])),
            whole=shape,
            rule=rule,
            labels=sinks[0],
            blank=blank,
            columns=part.columns,
        )

    parts = parts_of(spans, maps[2], orders[2], first=0, whole=shape[2])
    return BlockExport(parts, make, [sink])

"""Labels of a scan on the grid of a network: by the majority around each of its voxels."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wsiseg.errors import LabelError
from wsiseg.geometry import Box
from wsiseg.source import Volume
from wsiseg.stitch import Codes, Slab
from wsiseg.train.dataset import LabelRules
from wsiseg.train.losses import IGNORE
from wsiseg.volume.export import FusedExport
from wsiseg.volume.layout import InputGrid
from wsiseg.volume.prepare import WorkFile
from wsiseg.volume.rules import ArgmaxRule
from wsiseg.volume.scan import SLAB_BYTES, Scan

__all__ = ["ScanLabels", "ValueTable"]

SAME_MM = 1e-2
"""Labels whose voxels lie farther from those of the scan than this are of another one."""


class ValueTable:
    """What the values of a label volume mean.

    Parameters
    ----------
    classes
        Background first.
    rules
        `mapping` from values, as text, to classes; without one, value k is class k. Values in
        `ignore` are unknown. 0 is background unless it is named.
    where
        What messages call the data set.

    Raises
    ------
    LabelError
        If a value is no whole number.
    """

    def __init__(self, classes: Sequence[str], rules: LabelRules, where: object) -> None:
        plain = {str(k): name for k, name in enumerate(classes)}
        named = dict(rules.mapping) or plain
        found = {0: 0} | {_value(key, where): classes.index(name) for key, name in named.items()}
        found |= {_value(key, where): IGNORE for key in rules.ignore}
        self._values = np.array(sorted(found), np.int64)
        self._classes = np.array([found[value] for value in sorted(found)], np.uint8)

    def __call__(self, voxels: NDArray[np.float32], name: str) -> NDArray[np.uint8]:
        """Return class values; 255 is unknown.

        Raises
        ------
        LabelError
            If a value stands for nothing.
        """
        place = np.searchsorted(self._values, voxels).clip(0, len(self._values) - 1)
        strange = self._values[place] != voxels
        if strange.any():
            raise LabelError(
                f"{name}: holds {voxels[strange][0]:g}, known are {self._values.tolist()}; name "
                "its class in labels.mapping, or leave it out by labels.ignore"
            )
        found: NDArray[np.uint8] = self._classes[place]
        return found


def _value(key: str, where: object) -> int:
    try:
        return int(key)
    except ValueError as error:
        raise LabelError(
            f"{where}: labels: {key!r} is no value of a label volume; needed whole numbers"
        ) from error


class ScanLabels:
    """Class values on the grid of an input of a stage, in a file without a name.

    Parameters
    ----------
    labels
        The label volume.
    scan
        What it belongs to, in the frame of the model; the part looked at counts.
    grid
        Where the input's voxels lie over that part.
    table
        What values mean.
    classes
        How many there are.
    folder
        Where the file lies.

    Raises
    ------
    LabelError
        If the labels lie on other voxels than the scan, or hold a value without a meaning.

    Notes
    -----
    Each class is interpolated linearly, unknown as well, and the largest wins; so edges stay
    where they are whatever the spacing. Classes times voxels are never in memory.
    """

    def __init__(
        self,
        labels: Volume,
        scan: Scan,
        grid: InputGrid,
        *,
        table: ValueTable,
        classes: int,
        folder: Path,
    ) -> None:
        turned = labels.oriented(scan.volumes[0].as_stored().affine.orientation)
        stored = scan.volumes[0].as_stored()
        if turned.shape != stored.shape or not turned.affine.is_close(stored.affine, SAME_MM):
            raise LabelError(
                f"{labels.name}: {turned.shape} voxels (z, y, x) at {_at(turned)} mm, {scan.name} "
                f"has {stored.shape} at {_at(stored)}: needed labels on the scan's own voxels; "
                "resample them"
            )
        turn = turned.turn.then(scan.turn)
        placed = Volume(labels.source, path=labels.path, turn=turn)
        self._own = Scan((placed,), scan.box)
        self._grid, self._table, self._classes = grid, table, classes
        self._file = WorkFile(grid.shape, folder, np.uint8)
        self._fill()

    @property
    def values(self) -> NDArray[np.uint8]:
        """All class values `(z, y, x)`, mapped from the file; 255 is unknown."""
        return self._file.map()

    def write(self, box: Box, codes: Codes) -> None:
        """Keep some planes."""
        self._file.map()[box.slices()] = np.where(codes == self._classes, IGNORE, codes)

    def finish(self) -> None:
        """Nothing is left to do."""

    def read(self, box: Box) -> NDArray[np.uint8]:
        """Return the class values of a box; unknown outside."""
        out = np.full(box.shape, IGNORE, np.uint8)
        inner = box.clip(self._file.shape)
        if inner.size:
            out[inner.relative_to(box).slices()] = self._file.map()[inner.slices()]
        return out

    def _fill(self) -> None:
        count, shape = self._classes + 1, self._own.shape
        orders = [0 if axis == self._grid.separate else 1 for axis in range(3)]
        export = FusedExport(
            self._grid.maps,
            orders,  # type: ignore[arg-type]
            count,
            box=Box.of_shape(self._grid.shape),
            whole=self._grid.shape,
            rule=ArgmaxRule(),
            labels=self,
            blank=[1.0] + [0.0] * self._classes,
        )
        step = max(1, SLAB_BYTES // (4 * count * shape[1] * shape[2]))
        channels = np.arange(count, dtype=np.uint8)
        for start in range(0, shape[0], step):
            box = Box((start, 0, 0), (min(start + step, shape[0]), *shape[1:]))
            codes = self._table(self._own.read(box)[..., 0], self._own.name)
            codes[codes == IGNORE] = self._classes
            members = (codes[..., None] == channels).astype(np.float32)
            export.push(Slab(box, members, np.ones(box.shape, np.bool_)))
        export.finish()


def _at(volume: Volume) -> tuple[float, ...]:
    return tuple(round(value, 2) for value in volume.affine.origin)

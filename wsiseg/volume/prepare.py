"""From a scan to what a network reads: normalised and resampled, slab by slab, into a file."""

import math
import tempfile
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsiseg.errors import unwritable
from wsiseg.geometry import Box
from wsiseg.model.card import Step
from wsiseg.model.scan_card import N4Step
from wsiseg.resample import along_axis
from wsiseg.volume.body import nonzero_mask
from wsiseg.volume.intensity import Intensity, measured_steps
from wsiseg.volume.layout import InputGrid
from wsiseg.volume.n4 import corrected
from wsiseg.volume.scan import SLAB_BYTES, Scan

__all__ = ["PreparedScan", "WorkFile", "prepare_scan"]

Values = NDArray[np.float32]


class WorkFile:
    """A float32 array in a file without a name, so that memory does not grow with it.

    Parameters
    ----------
    shape
        Of the array.
    folder
        Where the file lies.

    Raises
    ------
    DiskFullError
        If there is no room left.
    """

    def __init__(self, shape: Sequence[int], folder: Path, dtype: Any = np.float32) -> None:  # noqa: ANN401
        self.shape = tuple(shape)
        self.dtype = np.dtype(dtype)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - lives as long as this
            weakref.finalize(self, self._file.close)
            self._file.truncate(math.prod(shape) * self.dtype.itemsize)
        except OSError as error:
            raise unwritable(error, folder) from error

    def map(self) -> NDArray[Any]:
        """Return the array, mapped from the file; drop it soon, its pages count as memory."""
        return np.memmap(self._file, self.dtype, "r+", shape=self.shape)

    def close(self) -> None:
        """Remove the file."""
        self._file.close()


class PreparedScan:
    """What an input of a stage reads: float32 values on the input's grid; 0 outside of it.

    Parameters
    ----------
    values
        `(*shape, channel)`.
    """

    def __init__(self, values: WorkFile) -> None:
        self._values = values

    @property
    def shape(self) -> tuple[int, ...]:
        """Voxels per axis."""
        return self._values.shape[:3]

    def read(self, box: Box) -> Values:
        """Return float32 `(*box.shape, channel)`; 0 outside."""
        channels = self._values.shape[3]
        inner = box.clip(self.shape)
        if inner == box:
            return np.array(self._values.map()[box.slices()])
        out = np.zeros((*box.shape, channels), np.float32)
        if inner.size:
            out[inner.relative_to(box).slices()] = self._values.map()[inner.slices()]
        return out

    def close(self) -> None:
        """Remove the file."""
        self._values.close()


def prepare_scan(
    scan: Scan,
    grid: InputGrid,
    steps: Sequence[Step],
    folder: Path,
    *,
    normalize_first: bool,
    every: Scan | None = None,
) -> PreparedScan:
    """Return the values that an input of a stage reads.

    Parameters
    ----------
    scan
        The part looked at.
    grid
        Where the input's voxels lie.
    steps
        Of the card.
    folder
        Where the values wait, in a file without a name.
    normalize_first
        Whether steps come before resampling; otherwise they measure and change what it gave.
    every
        The scan with all of its channels, which decide on its mask; default: `scan`.

    Raises
    ------
    ModelError
        If a step needs what is not installed.
    DiskFullError
        If there is no room left.
    """
    if any(isinstance(step, N4Step) for step in steps):
        scan = corrected(scan)
    known: tuple[Intensity, ...] = ()
    inside = None
    if any(getattr(step, "region", "") == "mask" for step in steps):
        inside = nonzero_mask(every or scan)
    read = partial(_read, scan, inside)
    if normalize_first:
        known = measured_steps(steps, scan.channels, lambda: map(read, scan.slabs()))
    values = _resampled(scan, grid, lambda box: _ready(known, read(box)), folder)
    if not normalize_first and steps:
        known = measured_steps(steps, scan.channels, lambda: _slabs(values))
        for slab in _slabs(values):
            slab[...] = _after(known, np.array(slab))
    return PreparedScan(values)


def _read(scan: Scan, inside: NDArray[np.bool_] | None, box: Box) -> Values:
    """Return the values of a box, no numbers outside of the mask."""
    values = scan.read(box)
    if inside is not None:
        values[~inside[box.slices()]] = np.nan
    return values


def _ready(steps: Iterable[Intensity], values: Values) -> Values:
    """Return values after the steps, 0 outside of the mask."""
    values = _after(steps, values)
    values[np.isnan(values)] = 0
    return values


def _slabs(values: WorkFile) -> Iterator[NDArray[Any]]:
    """Yield parts of the first axis, mapped."""
    row = 4 * math.prod(values.shape[1:])
    step = max(1, SLAB_BYTES // row)
    for start in range(0, values.shape[0], step):
        yield values.map()[start : start + step]


def _after(steps: Iterable[Intensity], values: Values) -> Values:
    for step in steps:
        values = step(values)
    return values


def _resampled(
    scan: Scan, grid: InputGrid, read: Callable[[Box], Values], folder: Path
) -> WorkFile:
    """Resample along the last two axes slab by slab, then along the first, part by part.

    Splines overshoot, so cubic ones are clipped to the range of what they came from: that of the
    whole scan, or where an axis is resampled on its own, of each plane across it (as nnU-Net's
    calls of skimage do). That axis comes last.
    """
    separate = grid.separate
    limits = _Limits(scan.shape, scan.channels, separate) if 3 in grid.orders else None
    middle = (scan.shape[0], *(n for n in _middle_shape(scan, grid)), scan.channels)
    first = WorkFile(middle, folder)
    for box in scan.slabs():
        values = read(box)
        if limits is not None:
            limits.add(values, box.start[0])
        for axis in (1, 2):
            if axis != separate:
                values = along_axis(values, axis, grid.maps[axis], order=grid.orders[axis])
        if limits is not None and separate == 0:
            limits.clip(values, box.start[0])
        first.map()[box.start[0] : box.stop[0]] = values
    if grid.maps[0].is_identity and separate in (0, None) and (limits is None or separate == 0):
        return first
    try:
        return _across(first, grid, limits, folder)
    finally:
        first.close()


def _middle_shape(scan: Scan, grid: InputGrid) -> Iterator[int]:
    for axis in (1, 2):
        yield scan.shape[axis] if axis == grid.separate else grid.shape[axis]


def _across(first: WorkFile, grid: InputGrid, limits: "_Limits | None", folder: Path) -> WorkFile:
    """Resample along the first axis, and then along the separate one."""
    separate, channels = grid.separate, first.shape[3]
    out = WorkFile((*grid.shape, channels), folder)
    part = 2 if separate == 1 else 1
    depth = max(first.shape[0], grid.shape[0])
    row = 8 * channels * depth * max(first.shape[3 - part], grid.shape[3 - part])
    step = max(1, SLAB_BYTES // row)
    for start in range(0, first.shape[part], step):
        place = [slice(None)] * 3
        place[part] = slice(start, min(start + step, first.shape[part]))
        values = np.array(first.map()[tuple(place)])
        values = along_axis(values, 0, grid.maps[0], order=grid.orders[0])
        if limits is not None and separate != 0:
            limits.clip(values, 0)
        if separate in (1, 2):
            values = along_axis(values, separate, grid.maps[separate], order=grid.orders[separate])
        out.map()[tuple(place)] = values
    return out


class _Limits:
    """The range of the values per channel: of all, or of each plane across an axis."""

    def __init__(self, shape: Sequence[int], channels: int, axis: int | None) -> None:
        self._axis = axis
        planes = 1 if axis is None else shape[axis]
        self._low = np.full((planes, channels), np.inf, np.float32)
        self._high = np.full((planes, channels), -np.inf, np.float32)

    def add(self, values: Values, start: int) -> None:
        """Take a slab, `(z, y, x, channel)`, whose first plane is `start`."""
        axes = tuple(axis for axis in range(3) if axis != self._axis)
        mine = slice(start, start + len(values)) if self._axis == 0 else slice(None)
        np.minimum(self._low[mine], values.min(axis=axes), out=self._low[mine])
        np.maximum(self._high[mine], values.max(axis=axes), out=self._high[mine])

    def clip(self, values: Values, start: int) -> None:
        """Clip values in place; along the planes' axis they begin with plane `start`."""
        low, high = self._low, self._high
        if self._axis is not None:
            shape = [1, 1, 1, values.shape[3]]
            shape[self._axis] = values.shape[self._axis]
            mine = slice(start, start + values.shape[self._axis])
            np.clip(values, low[mine].reshape(shape), high[mine].reshape(shape), out=values)
            return
        np.clip(values, low, high, out=values)

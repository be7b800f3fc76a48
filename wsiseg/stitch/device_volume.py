"""Volumes stitched where the network's outputs are; see `wsiseg.stitch.device`.

The same laws as `Stitcher` with weighted sums, on tensors that never leave the device: what becomes
of a finished slab (`wsiseg.volume.export`) is computed there as well, and only labels are copied.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from wsiseg.errors import DeviceMemoryError
from wsiseg.geometry import Box
from wsiseg.grid import Grid, Tile
from wsiseg.machine import machine_memory, resident_memory
from wsiseg.resample import AxisMap, bracket
from wsiseg.stitch.blend import Blend
from wsiseg.stitch.device import DeviceFront, add_weighted
from wsiseg.stitch.slab import Codes, Values
from wsiseg.stitch.stitcher import infinite_values

__all__ = ["DevicePlanes", "TensorSlab", "TensorStitcher", "add_fused", "free_bytes"]


def free_bytes(device: str) -> int:
    """Return the memory of a device that is not in use."""
    where = torch.device(device)
    if where.type == "cuda":
        free, _ = torch.cuda.mem_get_info(where)
        return int(free)
    return max(0, machine_memory() - resident_memory())


def add_fused(sums: Values, values: Values, weights: Values) -> None:
    """Add values times weights to sums of NumPy arrays as `add_weighted` does on a CPU."""
    add_weighted(*(torch.from_numpy(array) for array in (sums, values, weights)))


@dataclass(frozen=True, slots=True)
class TensorSlab:
    """A finished part of the stitched array, on the device; see `Slab`."""

    box: Box
    values: torch.Tensor
    """float32 `(channel, *box.shape)`; 0 where not covered."""

    covered: torch.Tensor
    """bool `box.shape`."""

    def within(self, left: int, right: int) -> "TensorSlab":
        """Return the part between two pixels of the last axis; no copy."""
        box = Box((*self.box.start[:-1], left), (*self.box.stop[:-1], right))
        part = box.relative_to(self.box).slices()
        return TensorSlab(box, self.values[:, *part], self.covered[part])

    def without(self, undecided: NDArray[np.bool_]) -> "TensorSlab":
        """Return the slab with some pixels, bool `box.shape`, left as nodata."""
        if not undecided.any():
            return self
        decided = torch.from_numpy(~undecided).to(self.covered.device)
        return TensorSlab(self.box, self.values * decided, self.covered & decided)

    def moved(self, pixels: int) -> "TensorSlab":
        """Return the slab further along the last axis."""
        offset = (*(0 for _ in self.box.start[1:]), pixels)
        return TensorSlab(self.box.shift(offset), self.values, self.covered)

    def plane(self, row: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return a plane across axis 0, `(channel, ...)`, and what of it is covered; no copies."""
        return self.values[:, row], self.covered[row]

    def scaled(self, weights: Sequence[float], biases: Sequence[float]) -> "TensorSlab":
        """Return the slab with the values of each channel, or of all, multiplied and shifted."""
        shape = (-1, *(1 for _ in self.box.start))
        factors, shifts = (
            torch.tensor(some, dtype=torch.float32, device=self.values.device).view(shape)
            for some in (weights, biases)
        )
        return TensorSlab(self.box, self.values * factors + shifts, self.covered)


class TensorStitcher:
    """Put windows of a volume together on a device, as weighted sums in a moving front.

    Parameters
    ----------
    grid, channels, blend
        As for `Stitcher`.
    device
        Where the tensors are.

    Raises
    ------
    DeviceMemoryError
        If the front does not fit on the device.
    """

    def __init__(self, grid: Grid, channels: int, *, blend: Blend, device: str) -> None:
        self.grid = grid
        try:
            self._front = DeviceFront(
                grid, channels, blend=blend, summed=True, device=torch.device(device)
            )
        except torch.OutOfMemoryError as error:
            raise DeviceMemoryError(
                f"{device}: the sums of {channels} classes do not fit into its memory; end what "
                "else uses it, or take --memory-plan slab"
            ) from error

    def add(self, tile: Tile, values: torch.Tensor) -> Iterator[TensorSlab]:
        """Take the next tile in grid order, `(*tile.read.shape, channel)`; yield finished slabs."""
        yield from self._release(tile.write.start[0])
        inner = tile.write.relative_to(tile.read)
        cut = tuple(a - h for a, h in zip(inner.start, self.grid.halo, strict=True))
        self._front.add(tile.write, values[inner.slices()], cut=cut)

    def finish(self) -> Iterator[TensorSlab]:
        """Yield what is left, to the end of the volume."""
        yield from self._release(self.grid.shape[0])

    def _release(self, stop: int) -> Iterator[TensorSlab]:
        while (cut := self._front.cut(stop)) is not None:
            rows, values, covered = cut
            rest = self.grid.shape[1:]
            box = Box((self._front.top - rows, *(0 for _ in rest)), (self._front.top, *rest))
            if not covered.numel():
                values = values.new_zeros((len(values), *box.shape))
                covered = covered.new_zeros(box.shape)
            if not torch.isfinite(values.sum()) and not torch.isfinite(values).all():
                raise infinite_values(box)
            yield TensorSlab(box, values, covered)


class DevicePlanes:
    """Planes of raw values resampled, mixed and labelled on a device; see `HostPlanes`.

    Parameters
    ----------
    maps, orders
        Of the two axes within a plane.
    blank
        Values of pixels that nothing covers.
    device
        Where the planes are.
    """

    def __init__(
        self, maps: Sequence[AxisMap], orders: Sequence[int], blank: Values, *, device: str
    ) -> None:
        self._device = torch.device(device)
        pairs = zip(maps, orders, strict=True)
        self._down, self._across = (_Between.of(m, o, self._device) for m, o in pairs)
        self._blank = torch.from_numpy(blank).to(self._device).view(-1, 1, 1)

    def within(self, values: Any, covered: Any) -> torch.Tensor:  # noqa: ANN401
        """Return planes `(channel, y, x)` resampled in both axes."""
        found = values.where(covered, self._blank)
        if self._down is not None:
            found = self._down.take(found, 1)
        return found if self._across is None else self._across.take(found, 2)

    def reduced(
        self,
        one: torch.Tensor,
        other: torch.Tensor,
        share: float,
        rule: Any,  # noqa: ANN401 - a `LabelRule`, which is of a layer above
        *,
        keep: bool,
    ) -> tuple[Codes, Values | None]:
        """Return labels (y, x) between two planes, and where asked the values (y, x, channel)."""
        between = (other - one).mul_(share).add_(one) if share else one
        labels: Codes = rule.of_stack(between).to(torch.uint8).cpu().numpy()
        return labels, between.movedim(0, -1).cpu().numpy() if keep else None


@dataclass(frozen=True, slots=True)
class _Between:
    """Where samples of an axis lie between two others; products and sums are rounded in turn."""

    low: torch.Tensor
    high: torch.Tensor
    weights: tuple[torch.Tensor, torch.Tensor]

    @classmethod
    def of(cls, index: AxisMap, order: int, device: torch.device) -> "_Between | None":
        if index.is_identity:
            return None
        low, high, share = bracket(index, 0, index.target, order=order)
        first, second = (
            torch.from_numpy(some.astype(np.float32)).to(device) for some in (1 - share, share)
        )
        below, above = (torch.from_numpy(some).to(device) for some in (low, high))
        return cls(below, above, (first, second))

    def take(self, values: torch.Tensor, axis: int) -> torch.Tensor:
        shape = [1, 1, 1]
        shape[axis] = -1
        first, second = (weights.view(shape) for weights in self.weights)
        found = values.index_select(axis, self.low).mul_(first)
        return found.add_(values.index_select(axis, self.high).mul_(second))

"""Stitching where the network's outputs are: only codes and labels, a byte each, leave the device.

The same laws as `Stitcher` and the reducers, on tensors. This module imports torch; nothing else
of the package does, so import it where a device is used.
"""

import math
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from wsiseg.errors import DeviceMemoryError, GridError, HeatmapError
from wsiseg.geometry import Box
from wsiseg.grid import Grid, Tile
from wsiseg.model.activation import IDENTITY, Scaling
from wsiseg.stitch.blend import Blend, window_weights
from wsiseg.stitch.reduce import STEPS, TOLERANCE, Sink
from wsiseg.stitch.slab import MAX_CLASSES, Codes

__all__ = [
    "CodeSlab",
    "CodeWriter",
    "DeviceFront",
    "DeviceStitcher",
    "Kept",
    "add_weighted",
    "device_bytes",
]

Activation = Literal["softmax", "sigmoid", "none"]

SLABS_UNDER_WAY = 2
"""Slabs being copied to the host before the oldest is waited for."""


@dataclass(frozen=True, slots=True)
class Kept:
    """What is kept of the probabilities."""

    channels: tuple[int, ...]
    """Channels kept as codes; see `Probabilities`."""

    labels: Literal["none", "argmax", "threshold"] = "argmax"
    """What `ArgmaxLabels` or `ThresholdLabels` (of the last channel) makes of them."""

    threshold: float = 0.5


@dataclass(frozen=True, slots=True)
class CodeSlab:
    """A finished part of the stitched array: a range of axis 0, full width in the other axes."""

    box: Box
    """Where it lies."""

    codes: Codes
    """uint8 `(*box.shape, kept channel)`: 0 is nodata, 1 + round(254 p) a probability."""

    labels: Codes | None
    """uint8 `box.shape`: the class, 0 for background or nodata; `None` where not asked for."""

    def within(self, left: int, right: int) -> "CodeSlab":
        """Return the part between two pixels of the last axis; no copy."""
        box = Box((*self.box.start[:-1], left), (*self.box.stop[:-1], right))
        part = box.relative_to(self.box).slices()
        labels = None if self.labels is None else self.labels[part]
        return CodeSlab(box, self.codes[part], labels)

    def without(self, undecided: NDArray[np.bool_]) -> "CodeSlab":
        """Return the slab with some pixels, bool `box.shape`, left as nodata."""
        if not undecided.any():
            return self
        decided = ~undecided
        labels = None if self.labels is None else self.labels * decided
        return CodeSlab(self.box, self.codes * decided[..., None], labels)

    def moved(self, pixels: int) -> "CodeSlab":
        """Return the slab further along the last axis."""
        offset = (*(0 for _ in self.box.start[1:]), pixels)
        return CodeSlab(self.box.shift(offset), self.codes, self.labels)


class CodeWriter:
    """Writes code slabs into sinks: `Probabilities` and the labels' reducer in one.

    Parameters
    ----------
    codes
        Gets uint8 `(*box.shape, kept channel)`.
    labels
        Gets uint8 `box.shape`; `None` where no labels are kept.
    """

    def __init__(self, codes: Sink, labels: Sink | None = None) -> None:
        self._codes = codes
        self._labels = labels

    def push(self, slab: CodeSlab) -> None:
        """Write one slab."""
        self._codes.write(slab.box, slab.codes)
        if self._labels is not None and slab.labels is not None:
            self._labels.write(slab.box, slab.labels)


class DeviceFront:
    """The moving front of `Stitcher`, on a device: probabilities in, finished rows out.

    Parameters
    ----------
    grid, channels, blend, summed
        As for `Stitcher`.
    device
        Where the tensors are.

    Raises
    ------
    GridError
        If `crop` is asked of a grid whose tiles overlap.
    """

    def __init__(
        self,
        grid: Grid,
        channels: int,
        *,
        blend: Blend = "crop",
        summed: bool = False,
        device: torch.device,
    ) -> None:
        if blend == "crop" and grid.overlaps:
            raise GridError(
                f"blend 'crop' needs tiles that do not overlap, got overlap {grid.overlap}; take "
                "a larger stride or halo, or blend 'constant' or 'gaussian'"
            )
        window = grid.window
        self._stride = grid.stride[0]
        self._summed = summed and blend != "crop"
        self._weights: torch.Tensor | None = None
        if blend != "crop":
            self._weights = torch.from_numpy(window_weights(window, blend)).to(device)
        front = (min(window[0], grid.shape[0]), *grid.shape[1:])
        kind = torch.bool if blend == "crop" else torch.float32
        self._mean = torch.zeros((channels, *front), dtype=torch.float32, device=device)
        self._weight_sum = torch.zeros(front, dtype=kind, device=device)
        self.top = 0
        """Image row of the first row of the front."""

        self.bottom = 0
        """Image row from which on no tile has written yet."""

    def add(self, write: Box, values: torch.Tensor, *, cut: tuple[int, ...] | None = None) -> None:
        """Take the values, float32 `(*write.shape, channel)`, of a tile's own pixels.

        `cut` are the pixels of the window before the first of `write`, none if not given.
        """
        place = write.shift((-self.top, *(0 for _ in write.shape[1:]))).slices()
        mean, weight_sum = self._mean[:, *place], self._weight_sum[place]
        values = values.movedim(-1, 0)
        if self._weights is None:
            mean.copy_(values)
            weight_sum.fill_(True)
        else:
            first = cut or (0,) * len(write.shape)
            pairs = zip(first, write.shape, strict=True)
            weights = self._weights[tuple(slice(a, a + n) for a, n in pairs)]
            weight_sum += weights
            if self._summed:
                add_weighted(mean, values, weights)
            else:
                mean += (values - mean) * (weights / weight_sum)
        self.bottom = write.stop[0]

    def cut(self, stop: int) -> tuple[int, torch.Tensor, torch.Tensor] | None:
        """Take the next rows above `stop`, a stride at most; `None` if there are none.

        Returns
        -------
        rows, values, covered
            Their number, float32 `(channel, rows, ...)` and bool `(rows, ...)`; both tensors are
            empty along `rows` where no tile has written.
        """
        if self.top >= stop:
            return None
        rows = min(self._stride, stop - self.top)
        if self.top >= self.bottom:
            self.top += rows
            return rows, self._mean[:, :0], self._weight_sum[:0].bool()
        values, covered = self._mean[:, :rows].clone(), self._weight_sum[:rows] != 0
        if self._summed:
            values /= self._weight_sum[:rows].where(covered, 1)
        for planes in (self._mean.unbind(0), (self._weight_sum,)):
            for plane in planes:
                plane[: len(plane) - rows] = plane[rows:].clone()
                plane[len(plane) - rows :] = 0
        self.top += rows
        return rows, values, covered


def add_weighted(sums: torch.Tensor, values: torch.Tensor, weights: torch.Tensor) -> None:
    """Add values `(channel, ...)` times weights `(...)` to sums, in place.

    On a CPU product and sum are rounded at once, in one pass over memory. What a GPU's kernel of
    that name does depends on its compiler, so there they are rounded one after the other, as NumPy
    does: sums on the host and on the GPU have the same bits.
    """
    if sums.device.type == "cpu":
        sums.addcmul_(values, weights)
    else:
        sums += values * weights


class DeviceStitcher:
    """From raw network values on a device to codes and labels on the host.

    Each tile is activated, blended in a moving front, encoded and copied back without the host
    waiting for it: slabs come a little later than from `Stitcher`, in the same order. The copies
    are made on the stream current in the calling thread.

    Parameters
    ----------
    grid
        The tiles. Its halo is thrown away.
    channels
        Values per pixel.
    kept
        Which codes and labels are made.
    blend
        As for `Stitcher`.
    activation
        What makes probabilities of raw values; see the card.
    scaling
        What is done to raw values first.
    device
        Where the tensors are: `cuda`, `cuda:<n>` or `cpu`.

    Raises
    ------
    GridError
        If `crop` is asked of a grid whose tiles overlap.
    HeatmapError
        If there is no channel, or more than labels can hold.
    DeviceMemoryError
        If the front does not fit on the device; stitch on the host instead.

    Notes
    -----
    For the same probabilities the bits are those of `Stitcher` with `Probabilities` and
    `ArgmaxLabels` or `ThresholdLabels`. Activations differ in the last bits of float32 between
    libraries, so that a code may differ by one where a probability lies halfway between two.
    """

    def __init__(
        self,
        grid: Grid,
        channels: int,
        kept: Kept,
        *,
        blend: Blend = "crop",
        activation: Activation = "softmax",
        scaling: Scaling = IDENTITY,
        device: str | torch.device = "cuda",
    ) -> None:
        if not 1 <= channels <= MAX_CLASSES or not kept.channels:
            raise HeatmapError(
                f"needed 1 to {MAX_CLASSES} channels and one to keep, got {channels} and "
                f"{kept.channels}"
            )
        self.grid = grid
        self.channels = channels
        self._kept = kept
        self._activation = activation
        self._scaling = scaling
        self._device = torch.device(device)
        self._last: tuple[int, ...] = ()
        self._finished = False
        self._under_way: deque[_Copy] = deque()
        self._needs = device_bytes(grid, channels, blend)
        with self._memory():
            self._weights, self._biases = (
                torch.tensor(values, dtype=torch.float32, device=self._device)
                for values in (scaling.weights, scaling.biases)
            )
            self._front = DeviceFront(grid, channels, blend=blend, device=self._device)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the stitched array, without the channels."""
        return self.grid.shape

    def add(self, tiles: Sequence[Tile], raw: torch.Tensor) -> list[CodeSlab]:
        """Take a batch; return the slabs that have arrived on the host meanwhile.

        Parameters
        ----------
        tiles
            Tiles of the grid, later in row-major order than all before them. Some may be left out.
        raw
            float32 `(n, *tile.read.shape, channel)` on the device, n at least the number of
            tiles; what follows is ignored. It is not used after the call by anything but work
            already on the current stream.

        Raises
        ------
        HeatmapError
            If a tile is not of this grid or out of order, `raw` has another shape or type, or a
            slab holds values that are no probabilities.
        DeviceMemoryError
            If the device has no memory left.
        """
        self._check(tiles, raw)
        if not tiles:
            return []
        with self._memory(), torch.inference_mode():
            first = tiles[0]
            halo = first.write.relative_to(first.read).start
            window = tuple(
                slice(h, h + s + o)
                for h, s, o in zip(halo, self.grid.stride, self.grid.overlap, strict=True)
            )
            values = raw[: len(tiles), *window]
            for tile, inner in zip(tiles, self._activated(values), strict=True):
                self._last = tile.index
                self._release(tile.write.start[0])
                self._front.add(tile.write, inner[tuple(slice(n) for n in tile.write.shape)])
        return self._arrived(SLABS_UNDER_WAY)

    def finish(self) -> list[CodeSlab]:
        """Return what is left, to the end of the image; nothing can be added afterwards."""
        if self._finished:
            raise HeatmapError("cannot finish: the stitcher is finished; make a new one")
        self._finished = True
        with self._memory(), torch.inference_mode():
            self._release(self.shape[0])
        return self._arrived(0)

    @contextmanager
    def _memory(self) -> Iterator[None]:
        try:
            yield
        except torch.OutOfMemoryError as error:
            raise DeviceMemoryError(
                f"{self._device}: stitching needs {self._needs / 1e9:.2f} GB, which are not free; "
                "end what else uses the device, or take a smaller batch"
            ) from error

    def _check(self, tiles: Sequence[Tile], raw: torch.Tensor) -> None:
        if self._finished:
            raise HeatmapError("cannot add tiles: the stitcher is finished; make a new one")
        last = self._last
        for tile in tiles:
            if tile.index <= last or tile != self.grid.tile(tile.index):
                raise HeatmapError(
                    f"tile {tile.index} cannot follow {last}: needed a tile of the grid in "
                    "row-major order, so that sums never depend on batches or threads"
                )
            last = tile.index
        needed = (*self.grid.patch, self.channels)
        found = tuple(raw.shape)
        if found[1:] != needed or len(raw) < len(tiles) or raw.dtype != torch.float32:
            raise HeatmapError(
                f"needed float32 values of shape ({len(tiles)} or more, "
                f"{', '.join(map(str, needed))}), found {found} and {raw.dtype}"
            )

    def _activated(self, raw: torch.Tensor) -> Iterator[torch.Tensor]:
        """Yield the probabilities of each tile; one by one where those of all do not fit."""
        try:
            values = self._activate(raw)
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
            yield from map(self._activate, raw)
        else:
            yield from values

    def _activate(self, raw: torch.Tensor) -> torch.Tensor:
        if self._scaling != IDENTITY:
            raw = raw * self._weights + self._biases
        if self._activation == "softmax":
            shifted = (raw - raw.amax(-1, keepdim=True)).exp()
            return shifted / shifted.sum(-1, keepdim=True)
        return raw.sigmoid() if self._activation == "sigmoid" else raw

    def _release(self, stop: int) -> None:
        """Encode the rows above `stop` and start to copy them."""
        while (cut := self._front.cut(stop)) is not None:
            rows, values, covered = cut
            rest = self.shape[1:]
            box = Box((self._front.top - rows, *(0 for _ in rest)), (self._front.top, *rest))
            self._under_way.append(_Copy(box, self._encode(values, covered), self._kept))

    def _encode(self, values: torch.Tensor, covered: torch.Tensor) -> list[torch.Tensor]:
        """Return codes, labels where wanted, and the range of the values."""
        if not covered.numel():
            return []
        # Stacked, not indexed with a list: that would be sent to the device, and waited for.
        steps = torch.stack([values[channel] for channel in self._kept.channels])
        steps = (steps * STEPS).round_().add_(1).mul_(covered)
        # What is no probability is refused on the host; until then it must fit into a byte.
        results = [steps.nan_to_num_(0).clamp_(0, 255).to(torch.uint8)]
        if self._kept.labels != "none":
            results.append(self._label(values).mul_(covered))
        return [*results, torch.stack(torch.aminmax(values))]

    def _label(self, values: torch.Tensor) -> torch.Tensor:
        if self._kept.labels == "threshold":
            least = np.float32(self._kept.threshold).item()
            return (values[-1] >= least).to(torch.uint8)
        best = values[0].clone()
        labels = torch.zeros_like(best, dtype=torch.uint8)
        for label in range(1, len(values)):  # ties go to the lower class, on every device
            labels.masked_fill_(values[label] > best, label)
            torch.maximum(best, values[label], out=best)
        return labels

    def _arrived(self, still_under_way: int) -> list[CodeSlab]:
        slabs = []
        while len(self._under_way) > still_under_way:
            slabs.append(self._under_way.popleft().wait())
        return slabs


class _Copy:
    """A slab on its way to the host."""

    def __init__(self, box: Box, tensors: Sequence[torch.Tensor], kept: Kept) -> None:
        self._box = box
        self._kept = kept
        self._host: list[torch.Tensor] = []
        self._done: torch.cuda.Event | None = None
        for tensor in tensors:
            pinned = tensor.is_cuda
            host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=pinned)
            self._host.append(host.copy_(tensor, non_blocking=True))
        if tensors and tensors[0].is_cuda:
            self._done = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
            self._done.record(torch.cuda.current_stream(tensors[0].device))

    def wait(self) -> CodeSlab:
        """Return the slab once it is there.

        Raises
        ------
        HeatmapError
            If it holds something else than probabilities.
        """
        if self._done is not None:
            self._done.synchronize()
        shape = self._box.shape
        if not self._host:
            codes = np.zeros((*shape, len(self._kept.channels)), np.uint8)
            labels = None if self._kept.labels == "none" else np.zeros(shape, np.uint8)
            return CodeSlab(self._box, codes, labels)
        arrays: list[NDArray[Any]] = [tensor.numpy() for tensor in self._host]
        low, high = arrays[-1].tolist()
        # Written so that NaN fails: every comparison with it is false.
        if not (low >= -TOLERANCE and high <= 1 + TOLERANCE):
            raise HeatmapError(
                f"needed probabilities between 0 and 1, found {low} to {high} in rows "
                f"{self._box.start[0]} to {self._box.stop[0]}: the network overflowed, or the "
                "card's activation is wrong; try another precision or device"
            )
        codes = np.moveaxis(arrays[0], 0, -1)
        return CodeSlab(self._box, codes, None if self._kept.labels == "none" else arrays[1])


def device_bytes(grid: Grid, channels: int, blend: Blend) -> int:
    """Return the most memory of the device a `DeviceStitcher` needs, batches not counted."""
    row = math.prod(grid.shape[1:])
    window = grid.window
    front = min(window[0], grid.shape[0]) * row
    slab = min(grid.stride[0], grid.shape[0]) * row
    plane = 1 if blend == "crop" else 4
    # The front, one plane of it being moved, a slab cut out, its steps, codes and labels.
    return front * (4 * channels + plane + 4) + slab * (4 * channels + 8 * channels + 8)

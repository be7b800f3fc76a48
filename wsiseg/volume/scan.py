"""A scan in the frame of a model: its channels, turned as the card says, and the box looked at."""

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from wsiseg.errors import SourceError, UsageError, WsisegWarning
from wsiseg.geometry import Affine, Box, Reorientation
from wsiseg.model.scan_card import ScanSpec
from wsiseg.source.volumes import Volume

__all__ = ["Scan"]

SLAB_BYTES = 8 << 20
"""Of float32 values read at once by what walks through a scan."""

SAME_MM = 1e-2
"""Channels whose voxels lie farther apart than this are not of one grid."""


@dataclass(frozen=True, slots=True)
class Scan:
    """What networks read of a scan. Axes are the network's."""

    volumes: tuple[Volume, ...]
    """A volume per channel, or one with all of them; of one grid."""

    box: Box
    """The part looked at, in voxels of the whole; what is read counts from its start."""

    chosen: tuple[int, ...] = ()
    """Channels that are read; none named: all."""

    @classmethod
    def of(cls, volumes: Sequence[Volume], spec: ScanSpec) -> "Scan":
        """Return the whole scan in the frame of a model.

        Raises
        ------
        UsageError
            If the channels are not of one grid.
        """
        turned = tuple(_turned(volume, spec) for volume in volumes)
        first = turned[0]
        for other in turned[1:]:
            if other.shape != first.shape or not other.affine.is_close(first.affine, SAME_MM):
                raise UsageError(
                    f"{other.name}: has another grid than {first.name}: needed the same shape and "
                    "place for all channels; register and resample them first"
                )
        return cls(turned, Box.of_shape(first.shape))

    @property
    def name(self) -> str:
        """Of the first volume."""
        return self.volumes[0].name

    @property
    def whole(self) -> tuple[int, ...]:
        """Voxels of the whole scan."""
        return self.volumes[0].shape

    @property
    def shape(self) -> tuple[int, ...]:
        """Voxels of the part looked at."""
        return self.box.shape

    @property
    def channels(self) -> int:
        """Those that are read."""
        return len(self.chosen) or sum(volume.channels for volume in self.volumes)

    @property
    def affine(self) -> Affine:
        """Of the whole scan."""
        return self.volumes[0].affine

    @property
    def turn(self) -> Reorientation:
        """From the stored axes to those of the frame."""
        return self.volumes[0].turn

    def within(self, box: Box) -> "Scan":
        """Return the same scan, of which only a box is looked at."""
        return replace(self, box=box)

    def select(self, channels: Sequence[int]) -> "Scan":
        """Return the same scan, of which only some channels are read."""
        return replace(self, chosen=tuple(channels))

    def read(self, box: Box) -> NDArray[np.float32]:
        """Return float32 `(*box.shape, channel)` of a box inside the part looked at.

        What is not a number in the file becomes 0.
        """
        place = box.shift(self.box.start)
        parts = [volume.read(place).astype(np.float32) for volume in self.volumes]
        values = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=-1)
        if self.chosen:
            values = values[..., list(self.chosen)]
        bad = ~np.isfinite(values)
        if bad.any():
            values[bad] = 0
            warnings.warn(
                f"{self.name}: has voxels that are no finite numbers; they are read as 0",
                WsisegWarning,
                stacklevel=2,
            )
        return values

    def slabs(self) -> Iterator[Box]:
        """Yield boxes of the part looked at, whole across all axes but the first."""
        first, *rest = self.shape
        row = 4 * self.channels * int(np.prod(rest))
        step = max(1, SLAB_BYTES // row)
        for start in range(0, first, step):
            yield Box((start, *(0 for _ in rest)), (min(start + step, first), *rest))


def _turned(volume: Volume, spec: ScanSpec) -> Volume:
    if volume.channels < 1:
        raise SourceError(f"{volume.name}: has no channel")
    if spec.orientation != "stored":
        volume = volume.oriented(spec.orientation)
    turn = volume.turn.then(Reorientation(spec.transpose, (False, False, False)))
    return Volume(volume.source, path=volume.path, turn=turn)

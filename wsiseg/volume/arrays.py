"""Arrays of voxels as they come: NumPy, Zarr, a lazy volume; read a slab at a time."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from wsiseg.errors import UsageError
from wsiseg.geometry import Box, Reorientation
from wsiseg.source import Volume

__all__ = [
    "SLAB_BYTES",
    "Turned",
    "VolumeArray",
    "VoxelArray",
    "checked_labels",
    "class_boxes",
    "slabs",
]

SLAB_BYTES = 1 << 26
"""About how much of an array is held at once."""


class VoxelArray(Protocol):
    """`(z, y, x)` or `(z, y, x, c)`: what has a shape, a dtype, and gives NumPy for slices."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Voxels per axis."""
        ...

    @property
    def dtype(self) -> Any:  # noqa: ANN401 - zarr and NumPy differ here
        """Type of the values."""
        ...

    def __getitem__(self, index: Any, /) -> Any:  # noqa: ANN401
        """Return the part that the slices name."""
        ...


@dataclass(frozen=True, slots=True)
class Turned:
    """An array with its first three axes permuted and flipped, read only where asked."""

    array: VoxelArray
    turn: Reorientation

    @property
    def shape(self) -> tuple[int, ...]:
        """Voxels per axis after the turn."""
        return (*self.turn.shape(self.array.shape[:3]), *self.array.shape[3:])

    @property
    def dtype(self) -> Any:  # noqa: ANN401
        """Type of the values."""
        return self.array.dtype

    def __getitem__(self, index: Any) -> NDArray[Any]:  # noqa: ANN401
        box = _box_of(index, self.shape)
        rest = index[3:] if isinstance(index, tuple) else ()
        before = self.turn.box_before(box, self.array.shape[:3])
        return self.turn.apply(np.asarray(self.array[(*before.slices(), *rest)]))


@dataclass(frozen=True, slots=True)
class VolumeArray:
    """The first channel of an open scan as an array (z, y, x), read only where asked."""

    volume: Volume

    @property
    def shape(self) -> tuple[int, ...]:
        """Voxels per axis."""
        return self.volume.shape

    @property
    def dtype(self) -> Any:  # noqa: ANN401
        """Type of the values."""
        return self.volume.dtype

    def __getitem__(self, index: Any) -> NDArray[Any]:  # noqa: ANN401
        box = _box_of(index, self.shape)
        return self.volume.read(box)[..., 0]


def _box_of(index: Any, shape: Sequence[int]) -> Box:  # noqa: ANN401
    """Return the box of slices of step 1; those at the end may be left out."""
    parts = index if isinstance(index, tuple) else (index,)
    space = (*parts[:3], *[slice(None)] * (3 - len(parts)))
    spans = [part.indices(n)[:2] for part, n in zip(space, shape[:3], strict=True)]
    return Box(tuple(a for a, _ in spans), tuple(max(a, b) for a, b in spans))


def slabs(
    array: VoxelArray, *, most_bytes: int | None = None
) -> Iterator[tuple[Box, NDArray[Any]]]:
    """Yield slabs of whole slices along z that partition an array, each with its box.

    Parameters
    ----------
    array
        `(z, y, x)`.
    most_bytes
        Of a slab of more than one slice; default `SLAB_BYTES`.
    """
    depth, *plane = array.shape[:3]
    limit = min(SLAB_BYTES, most_bytes or SLAB_BYTES)
    thick = max(1, limit // max(1, int(np.prod(plane)) * np.dtype(array.dtype).itemsize))
    for start in range(0, depth, thick):
        stop = min(start + thick, depth)
        box = Box((start, 0, 0), (stop, *plane))
        yield box, np.asarray(array[start:stop])


def checked_labels(array: VoxelArray, what: str) -> None:
    """Refuse what is no label array.

    Raises
    ------
    UsageError
        If it has not three axes, or its values are not integers.
    """
    if len(array.shape) != 3 or np.dtype(array.dtype).kind not in "uib":
        raise UsageError(
            f"{what}: needed labels, integers (z, y, x), found {array.dtype} {array.shape}"
        )


def class_boxes(labels: VoxelArray) -> dict[int, Box]:
    """Return the box around each label value but 0, from one pass slab by slab.

    Raises
    ------
    UsageError
        If a value is negative or above 65535.
    """
    from scipy import ndimage

    boxes: dict[int, Box] = {}
    for slab, values in slabs(labels, most_bytes=SLAB_BYTES // 8):  # copied to 4 bytes each
        low, high = int(values.min()), int(values.max())
        if low < 0 or high > 65535:
            raise UsageError(f"labels run from {low} to {high}; needed 0 to 65535")
        for value, found in enumerate(ndimage.find_objects(values.astype(np.int32)), start=1):
            if found is None:
                continue
            own = Box(tuple(s.start for s in found), tuple(s.stop for s in found))
            own = own.shift(slab.start)
            boxes[value] = own.around(boxes.get(value, own))
    return dict(sorted(boxes.items()))

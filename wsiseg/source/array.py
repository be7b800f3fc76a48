"""Arrays as slides: NumPy, Dask, Zarr, or anything that slices like them."""

import itertools
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np

from wsiseg.errors import SourceError, UnsupportedFormatError
from wsiseg.geometry import Box, LevelInfo, Spacing
from wsiseg.source._blocks import level_at
from wsiseg.source.base import Pixels, SlideMetadata

__all__ = ["ArrayLike", "ArraySource"]

DEFAULT_CHUNK = 512
"""Chunk reported for arrays that have none; reading any part costs the same."""

ASPECT_TOLERANCE = 0.02
"""Levels whose downsample differs by more between the axes do not show the same field."""


@runtime_checkable
class ArrayLike(Protocol):
    """What is asked of an array; its pixels are read only when they are sliced."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes of the axes."""
        ...

    @property
    def dtype(self) -> object:
        """Type of the elements."""
        ...

    def __getitem__(self, key: tuple[slice, ...], /) -> Any:  # noqa: ANN401 - an array again
        """Return a part, something that `numpy.asarray` takes."""
        ...


class ArraySource:
    """Arrays `(y, x, 3)` uint8, one per level; see `PyramidSource` for the contract.

    Parameters
    ----------
    arrays
        One array, or the levels of a pyramid from finest to coarsest.
    name
        Name of the slide in messages and outputs.
    spacing
        µm per level-0 pixel, if known.
    reader, vendor
        What the metadata says, for readers that hand over decoded pixels.

    Raises
    ------
    UnsupportedFormatError
        If an array is not `(y, x, 3)` uint8, or the arrays make no pyramid.
    """

    def __init__(
        self,
        arrays: ArrayLike | Sequence[ArrayLike],
        *,
        name: str = "array",
        spacing: Spacing | None = None,
        reader: str = "array",
        vendor: str = "generic",
    ) -> None:
        levels = (arrays,) if isinstance(arrays, ArrayLike) else tuple(arrays)
        _check(levels, name)
        self._arrays: tuple[ArrayLike, ...] | None = levels
        self._levels = tuple(_level_info(i, levels, spacing) for i in range(len(levels)))
        self._metadata = SlideMetadata(name=name, reader=reader, vendor=vendor, spacing=spacing)

    @property
    def levels(self) -> tuple[LevelInfo, ...]:
        """Levels from finest to coarsest."""
        return self._levels

    @property
    def metadata(self) -> SlideMetadata:
        """What is known about the slide."""
        return self._metadata

    @property
    def associated_names(self) -> tuple[str, ...]:
        """Nothing: an array has no associated images."""
        return ()

    def read_associated(self, name: str) -> Pixels:
        """Raise `SourceError`: an array has no associated images."""
        raise SourceError(f"{self._metadata.name}: no associated image {name!r}, found none")

    def read(self, level: int, box: Box) -> Pixels:
        """Return the pixels of `box` (level pixels), `(*box.shape, 3)` uint8; always a copy."""
        name = self._metadata.name
        arrays = self._arrays
        if arrays is None:
            raise SourceError(f"{name}: the slide was closed; open it again")
        inside = box.clip(level_at(self._levels, level, name).shape)
        if inside == box:
            return np.array(arrays[level][box.slices()])
        pixels = np.full((*box.shape, 3), self._metadata.background, dtype=np.uint8)
        if inside.size:
            part = np.asarray(arrays[level][inside.slices()])
            pixels[inside.relative_to(box).slices()] = part
        return pixels

    def close(self) -> None:
        """Forget the arrays; reading afterwards raises `SourceError`."""
        self._arrays = None


def _check(levels: Sequence[ArrayLike], name: str) -> None:
    """Refuse what is no pyramid of RGB images."""
    if not levels:
        raise UnsupportedFormatError(f"{name}: needed at least one array, found none")
    for array in levels:
        if not isinstance(array, ArrayLike):
            raise UnsupportedFormatError(
                f"{name}: needed arrays (y, x, 3) of uint8, found {type(array).__name__}"
            )
        shape = tuple(array.shape)
        if len(shape) != 3 or shape[2] != 3 or min(shape) < 1 or array.dtype != np.uint8:
            raise UnsupportedFormatError(
                f"{name}: needed an array (y, x, 3) of uint8, found {shape} of {array.dtype}; "
                "convert it to 8-bit RGB"
            )
    for fine, coarse in itertools.pairwise(levels):
        if not (coarse.shape[0] < fine.shape[0] and coarse.shape[1] < fine.shape[1]):
            raise UnsupportedFormatError(
                f"{name}: needed levels from finest to coarsest, found {fine.shape[:2]} before "
                f"{coarse.shape[:2]}"
            )
    height, width = levels[0].shape[:2]
    for array in levels[1:]:
        off = abs(width * array.shape[0] / height - array.shape[1])
        if off > max(1, ASPECT_TOLERANCE * array.shape[1]):
            raise UnsupportedFormatError(
                f"{name}: needed levels of one field, found {array.shape[:2]} under "
                f"{(height, width)}, another aspect"
            )


def _level_info(index: int, levels: Sequence[ArrayLike], spacing: Spacing | None) -> LevelInfo:
    array = levels[index]
    shape = int(array.shape[0]), int(array.shape[1])
    downsample = levels[0].shape[0] / shape[0], levels[0].shape[1] / shape[1]
    level_spacing = spacing.times(downsample) if spacing else None
    return LevelInfo(index, shape, downsample, level_spacing, _chunk(array, shape))


def _chunk(array: ArrayLike, shape: tuple[int, int]) -> tuple[int, int]:
    """Return the block an array stores: Dask's largest chunk, Zarr's chunk, or the default."""
    chunks = getattr(array, "chunksize", None) or getattr(array, "chunks", None)
    if not chunks:
        chunks = (DEFAULT_CHUNK, DEFAULT_CHUNK)
    return min(int(chunks[0]), shape[0]), min(int(chunks[1]), shape[1])

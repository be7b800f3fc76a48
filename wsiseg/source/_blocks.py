"""Put a box together from the blocks of a regular grid, as the files store them."""

from collections.abc import Callable
from itertools import product

import numpy as np

from wsiseg.errors import LevelError, SourceError
from wsiseg.geometry import Box, LevelInfo, ceil_div
from wsiseg.source.base import Pixels

__all__ = ["assemble", "block_indices", "check_box", "level_at"]


def level_at(levels: tuple[LevelInfo, ...], index: int, name: str) -> LevelInfo:
    """Return level `index` of the slide `name`; raise `LevelError` where there is none."""
    if not 0 <= index < len(levels):
        raise LevelError(f"{name}: no level {index}: the slide has levels 0 to {len(levels) - 1}")
    return levels[index]


def check_box(box: Box, axes: int, name: str) -> None:
    """Raise `SourceError` where `box` is no box of so many axes."""
    if not isinstance(box, Box) or len(box.start) != axes:
        raise SourceError(
            f"{name}: cannot be read: needed a box of {axes} axes (y, x), such as "
            f"Box((0, 0), (256, 256)), found {box!r}"
        )


def assemble(
    box: Box,
    info: LevelInfo,
    background: tuple[int, int, int],
    block_at: Callable[[int, int], Pixels | None],
) -> Pixels:
    """Return the pixels of `box`, put together from the blocks of a level.

    Parameters
    ----------
    box
        Level pixels (y, x), anywhere.
    info
        The level; `info.chunk` is the size of its blocks, the first begins at pixel (0, 0).
    background
        RGB of pixels outside the level and of missing blocks.
    block_at
        Called with the row and column of a block; returns its pixels, `(y, x, 3)` uint8, which
        may overhang the level, or `None` where the file leaves it out.

    Returns
    -------
    Pixels
        `(*box.shape, 3)` uint8.
    """
    pixels = np.empty((*box.shape, 3), np.uint8)
    pixels[:] = background
    inside = box.clip(info.shape)
    for row, column in block_indices(inside, info.chunk):
        block = block_at(row, column)
        if block is None:
            continue
        origin = (row * info.chunk[0], column * info.chunk[1])
        whole = Box.of_shape(block.shape[:2]).shift(origin)
        part = inside.intersect(whole)
        pixels[part.relative_to(box).slices()] = block[part.relative_to(whole).slices()]
    return pixels


def block_indices(inside: Box, chunk: tuple[int, ...]) -> list[tuple[int, int]]:
    """Return (row, column) of the blocks of size `chunk` that a box inside the level touches."""
    if inside.size == 0:
        return []
    rows, columns = (
        range(start // size, ceil_div(stop, size))
        for start, stop, size in zip(inside.start, inside.stop, chunk, strict=True)
    )
    return list(product(rows, columns))

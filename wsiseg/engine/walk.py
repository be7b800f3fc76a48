"""The order of a stage's tiles: batches of them, and runs of neighbours that are read at once."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from wsiseg.grid import Grid, Tile

__all__ = ["Run", "all_runs", "batches_of", "runs_of"]


@dataclass(frozen=True, slots=True)
class Run:
    """Tiles side by side along the last axis, read in one piece."""

    first: tuple[int, ...]
    """Index of the first tile."""

    count: int

    def tiles(self, grid: Grid) -> tuple[Tile, Tile]:
        """Return the first and the last tile."""
        last = (*self.first[:-1], self.first[-1] + self.count - 1)
        return grid.tile(self.first), grid.tile(last)


def batches_of(selected: NDArray[np.bool_], size: int) -> Iterator[NDArray[np.int64]]:
    """Yield the indices of selected tiles in row-major order, int64 (n, axes), n up to `size`."""
    indices = np.argwhere(selected)
    for start in range(0, len(indices), size):
        yield indices[start : start + size]


def runs_of(indices: NDArray[np.int64]) -> Iterator[Run]:
    """Yield the runs of neighbours among tiles in row-major order."""
    if not len(indices):
        return
    steps = np.diff(indices, axis=0)
    follows = (steps[:, -1] == 1) & ~steps[:, :-1].any(axis=1)
    edges = [0, *(np.flatnonzero(~follows) + 1).tolist(), len(indices)]
    for start, stop in pairwise(edges):
        yield Run(tuple(map(int, indices[start])), stop - start)


def all_runs(selected: NDArray[np.bool_]) -> Iterator[Run]:
    """Yield the runs of neighbours among all selected tiles, bool of the grid's counts."""
    for row in range(len(selected)):
        indices = np.argwhere(selected[row : row + 1])
        indices[:, 0] = row
        yield from runs_of(indices)

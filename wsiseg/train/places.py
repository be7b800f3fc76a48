"""Where to look: places of every class on every slide, drawn down a tree of labels."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wsiseg.errors import TrainingError
from wsiseg.train.tree import BalancedTree

__all__ = ["HARDEST", "Leaf", "Place", "PlaceSampler"]

HARDEST = 256
"""Places of a leaf that are remembered as hard."""


@dataclass(frozen=True, slots=True, eq=False)
class Leaf:
    """The places of one class on one slide.

    Parameters
    ----------
    slide
        Index of the slide.
    label
        Class value, or 0 where places are whole slides.
    path
        Labels from the root of the tree down to this leaf.
    cells
        Flat indices of the cells of this class, int64 (n,).
    shape
        Of the map whose cells the indices count.
    cell
        Level-0 pixels (y, x) of a cell; of scans voxels (z, y, x) of the network's grid.
    """

    slide: int
    label: int
    path: tuple[str, ...]
    cells: NDArray[np.int64]
    shape: tuple[int, ...]
    cell: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Place:
    """The centre of one patch."""

    leaf: int
    cell: int
    slide: int
    centre: tuple[float, ...]
    """Level-0 pixels (y, x); of scans voxels (z, y, x) of the network's grid."""


class PlaceSampler:
    """Draws places without end; what is drawn depends on the seed and on reported losses alone.

    Parameters
    ----------
    leaves
        What there is to draw.
    seed
        The same seed gives the same places.
    hard
        Share of the draws of a leaf taken from its hardest places so far, in proportion to their
        losses (Shrivastava et al. 2016, doi:10.1109/CVPR.2016.89, mines them within a batch; here
        they are remembered, and drawn again).

    Raises
    ------
    TrainingError
        If a leaf has no place, or two leaves have one path.
    """

    def __init__(self, leaves: Sequence[Leaf], *, seed: int, hard: float = 0.0) -> None:
        for leaf in leaves:
            if not len(leaf.cells):
                raise TrainingError(f"no place to learn {' > '.join(leaf.path)} from; label some")
        self.leaves = tuple(leaves)
        self._tree = BalancedTree([leaf.path for leaf in leaves], seed=seed)
        self._seed, self._hard = seed, hard
        self._drawn: NDArray[np.int64] = np.zeros(len(leaves), np.int64)
        self._hardest: list[dict[int, float]] = [{} for _ in leaves]

    def __iter__(self) -> Iterator[Place]:
        while True:
            yield self.draw()

    def draw(self) -> Place:
        """Return the next place: a cell of the next leaf, and any point in it."""
        index = self._tree.draw()
        leaf = self.leaves[index]
        rng = np.random.default_rng((self._seed, 1, index, int(self._drawn[index])))
        self._drawn[index] += 1
        cell = self._cell(index, rng)
        within = rng.random(len(leaf.shape)).tolist()
        index_of = np.unravel_index(cell, leaf.shape)
        triples = zip(index_of, within, leaf.cell, strict=True)
        centre = tuple((int(i) + part) * size for i, part, size in triples)
        return Place(index, cell, leaf.slide, centre)

    def _cell(self, index: int, rng: np.random.Generator) -> int:
        known = self._hardest[index]
        if known and rng.random() < self._hard:
            losses = np.fromiter(known.values(), np.float64)
            return int(rng.choice(list(known), p=losses / losses.sum()))
        cells = self.leaves[index].cells
        return int(cells[rng.integers(len(cells))])

    def report(self, places: Sequence[Place], losses: Sequence[float]) -> None:
        """Remember how hard places were; the next draws know."""
        for place, loss in zip(places, losses, strict=True):
            known = self._hardest[place.leaf]
            known.pop(place.cell, None)
            if 0 < loss < math.inf:
                known[place.cell] = float(loss)
            if len(known) > HARDEST:
                del known[min(known, key=known.__getitem__)]

    def state(self) -> dict[str, NDArray[np.generic]]:
        """Return what `restore` needs to go on from here."""
        hard = [
            (i, cell, loss) for i, known in enumerate(self._hardest) for cell, loss in known.items()
        ]
        return {
            **self._tree.state(),
            "drawn": self._drawn.copy(),
            "hard_places": np.array([entry[:2] for entry in hard], np.int64).reshape(-1, 2),
            "hard_losses": np.array([entry[2] for entry in hard], np.float64),
        }

    def restore(self, state: Mapping[str, NDArray[np.generic]]) -> None:
        """Go on where a sampler of the same leaves was.

        Raises
        ------
        TrainingError
            If it had other leaves.
        """
        self._tree.restore(state)  # type: ignore[arg-type]
        self._drawn = np.array(state["drawn"], np.int64)
        self._hardest = [{} for _ in self.leaves]
        places, losses = state["hard_places"].tolist(), state["hard_losses"].tolist()
        for (leaf, cell), loss in zip(places, losses, strict=True):
            self._hardest[leaf][cell] = loss

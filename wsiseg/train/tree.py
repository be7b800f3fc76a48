"""Hierarchical balanced drawing: uniform at each node of a tree of labels.

H2G-Net draws grade -> slide -> class -> patch, each with equal chances (Pedersen et al. 2022,
doi:10.3389/fmed.2022.971873), so that neither the largest slide nor the commonest class decides
what is learned. Here each node goes through its children in shuffled rounds: after any number of
draws its children have been taken equally often, give or take one.
"""

from collections.abc import Hashable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from wsiseg.errors import TrainingError

__all__ = ["BalancedTree"]


class BalancedTree:
    """Draws leaves of a tree, one after the other.

    Parameters
    ----------
    paths
        For each leaf, its label at every level from the root, such as `("grade 2", "a.svs",
        "tumour")`; all of one length, all different.
    seed
        The same seed gives the same draws.

    Raises
    ------
    TrainingError
        If there is no leaf, or two have the same path.
    """

    def __init__(self, paths: Sequence[tuple[Hashable, ...]], *, seed: int) -> None:
        if not paths or len(set(paths)) != len(paths) or len({len(path) for path in paths}) != 1:
            raise TrainingError(
                f"nothing to draw from: needed leaves with different labels, found {list(paths)}"
            )
        self._seed = seed
        self._children: list[list[int]] = []
        """Per node: its children, as nodes, or as -1 - leaf."""
        self._grow(list(enumerate(paths)), 0)
        self._visits: NDArray[np.int64] = np.zeros(len(self._children), np.int64)
        self._order: dict[int, NDArray[np.int64]] = {}

    def _grow(self, leaves: Sequence[tuple[int, tuple[Hashable, ...]]], depth: int) -> int:
        """Add the node above some leaves; return its number."""
        node = len(self._children)
        self._children.append([])
        groups: dict[Hashable, list[tuple[int, tuple[Hashable, ...]]]] = {}
        for leaf, path in leaves:
            groups.setdefault(path[depth], []).append((leaf, path))
        for group in groups.values():
            last = depth + 1 == len(group[0][1])
            child = -1 - group[0][0] if last else self._grow(group, depth + 1)
            self._children[node].append(child)
        return node

    def draw(self) -> int:
        """Return the index of the next leaf."""
        node = 0
        while node >= 0:
            children = self._children[node]
            if len(children) == 1:
                node = children[0]
                continue
            turn, place = divmod(int(self._visits[node]), len(children))
            if place == 0 or node not in self._order:
                rng = np.random.default_rng((self._seed, node, turn))
                self._order[node] = rng.permutation(len(children))
            self._visits[node] += 1
            node = children[self._order[node][place]]
        return -1 - node

    def state(self) -> Mapping[str, NDArray[np.int64]]:
        """Return what `restore` needs to go on from here."""
        return {"visits": self._visits.copy()}

    def restore(self, state: Mapping[str, NDArray[np.int64]]) -> None:
        """Go on where a tree of the same leaves was.

        Raises
        ------
        TrainingError
            If it was another tree.
        """
        if state["visits"].shape != self._visits.shape:
            raise TrainingError(
                f"the draws of a tree of {len(state['visits'])} nodes do not fit one of "
                f"{len(self._visits)}: the data set has changed; begin anew in another folder"
            )
        self._visits = np.array(state["visits"], np.int64)
        self._order.clear()

"""The tree of labels: uniform at each node, the same by seed, and resumable."""

from collections import Counter
from fractions import Fraction

import pytest

from wsiseg.errors import TrainingError
from wsiseg.train.tree import BalancedTree

DRAWS = 10_000

PATHS = [
    *((grade, f"{grade}-{slide}", label)
      for grade, slides in {"1": 1, "2": 4, "3": 7}.items()
      for slide in range(slides)
      for label in ("background", "tumour", "necrosis")[: 1 + (slide + int(grade)) % 3]),
]  # fmt: skip
"""Grade -> slide -> class, uneven at every level."""


def shares(paths):
    """Return the chance of each leaf: the product of 1 / children down its path."""
    found = {}
    for path in paths:
        chance = Fraction(1)
        for depth in range(len(path)):
            chance /= len({p[depth] for p in paths if p[:depth] == path[:depth]})
        found[path] = chance
    assert sum(found.values()) == 1
    return found


def drawn(tree, count):
    return [tree.draw() for _ in range(count)]


@pytest.mark.parametrize("seed", [0, 1, 12345])
def test_leaves_and_nodes_are_drawn_evenly(seed):
    counts = Counter(PATHS[leaf] for leaf in drawn(BalancedTree(PATHS, seed=seed), DRAWS))
    for path, share in shares(PATHS).items():
        assert counts[path] == pytest.approx(DRAWS * float(share), rel=0.03), path
    for depth in range(3):
        for node in {path[:depth] for path in PATHS}:
            children = Counter()
            for path, count in counts.items():
                if path[:depth] == node:
                    children[path[depth]] += count
            mean = sum(children.values()) / len(children)
            assert all(abs(n - mean) <= 0.03 * mean for n in children.values()), node


def test_order_is_shuffled():
    draws = drawn(BalancedTree([("a",), ("b",), ("c",)], seed=0), 300)
    rounds = [tuple(draws[i : i + 3]) for i in range(0, 300, 3)]
    assert all(sorted(r) == [0, 1, 2] for r in rounds)
    assert len(set(rounds)) == 6


def test_the_seed_decides():
    first = drawn(BalancedTree(PATHS, seed=5), 500)
    assert drawn(BalancedTree(PATHS, seed=5), 500) == first
    assert drawn(BalancedTree(PATHS, seed=6), 500) != first


@pytest.mark.parametrize("before", [0, 1, 17, 500])
def test_a_restored_tree_goes_on(before):
    tree = BalancedTree(PATHS, seed=5)
    drawn(tree, before)
    state = {name: array.copy() for name, array in tree.state().items()}
    after = drawn(tree, 300)
    other = BalancedTree(PATHS, seed=5)
    drawn(other, 3)
    other.restore(state)
    assert drawn(other, 300) == after


def test_the_state_is_a_copy():
    tree = BalancedTree(PATHS, seed=5)
    state = tree.state()
    drawn(tree, 10)
    assert not state["visits"].any()


def test_the_state_of_another_tree_is_refused():
    state = BalancedTree(PATHS, seed=0).state()
    with pytest.raises(TrainingError, match="the data set has changed"):
        BalancedTree(PATHS[:5], seed=0).restore(state)


@pytest.mark.parametrize("paths", [[], [("a",), ("a",)], [("a",), ("a", "b")]])
def test_leaves_that_make_no_tree_are_refused(paths):
    with pytest.raises(TrainingError, match="nothing to draw from"):
        BalancedTree(paths, seed=0)

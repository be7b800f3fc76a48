"""Places: evenly over cells and leaves, harder ones more often where asked, and resumable."""

from collections import Counter

import numpy as np
import pytest

from wsiseg.errors import TrainingError
from wsiseg.train.places import HARDEST, Leaf, PlaceSampler

CELL = (16.0, 8.0)


def leaf(slide=0, label=0, cells=range(12), name=None):
    path = (f"slide {slide}", name or f"class {label}")
    return Leaf(slide, label, path, np.array(cells, np.int64), (100_000, 4), CELL)


def sampler(*leaves, seed=0, hard=0.0):
    return PlaceSampler(leaves or [leaf()], seed=seed, hard=hard)


def drawn(sampler, count):
    return [sampler.draw() for _ in range(count)]


def test_a_place_lies_in_a_cell_of_its_leaf():
    one = leaf(slide=3, cells=(0, 5, 11))
    for place in drawn(sampler(one), 200):
        row, column = place.centre[0] // CELL[0], place.centre[1] // CELL[1]
        assert row * 4 + column == place.cell
        assert place.cell in (0, 5, 11)
        assert place.slide == 3


def test_cells_of_a_leaf_are_drawn_evenly():
    counts = Counter(place.cell for place in drawn(sampler(), 12_000))
    assert all(abs(counts[cell] - 1000) < 150 for cell in range(12))


def test_large_leaves_are_drawn_no_more_often():
    places = drawn(sampler(leaf(label=0, cells=range(4000)), leaf(label=1, cells=(0,))), 1000)
    assert Counter(place.leaf for place in places) == {0: 500, 1: 500}


def test_the_seed_decides():
    assert drawn(sampler(seed=1), 50) == drawn(sampler(seed=1), 50)
    assert drawn(sampler(seed=1), 50) != drawn(sampler(seed=2), 50)


def test_hard_places_come_again_in_proportion_to_their_loss():
    many = sampler(leaf(cells=range(100_000)), hard=0.5)
    first, second, easy = drawn(many, 3)
    many.report([first, second, easy], [3.0, 1.0, 0.0])
    counts = Counter(place.cell for place in drawn(many, 4000))
    assert counts[first.cell] == pytest.approx(1500, rel=0.1)
    assert counts[second.cell] == pytest.approx(500, rel=0.15)
    assert counts[easy.cell] < 5


def test_reports_stay_within_their_leaf():
    both = sampler(leaf(label=0, cells=range(5000)), leaf(label=1, cells=range(5000)), hard=0.9)
    places = drawn(both, 2)
    both.report(places[:1], [1.0])
    after = drawn(both, 400)
    again = [p for p in after if p.cell == places[0].cell]
    assert len(again) > 150
    assert {p.leaf for p in again} == {places[0].leaf}


@pytest.mark.parametrize("loss", [float("nan"), float("inf"), 0.0])
def test_losses_that_are_no_weight_are_forgotten(loss):
    one = sampler(leaf(cells=range(5000)), hard=0.9)
    place = one.draw()
    one.report([place], [1.0])
    one.report([place], [loss])
    assert Counter(p.cell for p in drawn(one, 300))[place.cell] < 3


def test_only_the_hardest_are_remembered():
    one = sampler(leaf(cells=range(HARDEST * 8)), hard=0.9)
    places = list({place.cell: place for place in drawn(one, HARDEST * 3)}.values())
    one.report(places, [float(1 + i) for i in range(len(places))])
    kept = {cell for _, cell in one.state()["hard_places"].tolist()}
    assert kept == {place.cell for place in places[-HARDEST:]}


@pytest.mark.parametrize("hard", [0.0, 0.6])
def test_a_restored_sampler_goes_on(hard):
    leaves = [leaf(s, c, range(40), f"class {c}") for s in range(2) for c in range(3)]
    one = sampler(*leaves, hard=hard)
    places = drawn(one, 60)
    one.report(places, np.linspace(0, 2, 60).tolist())
    state = {name: array.copy() for name, array in one.state().items()}
    other = sampler(*leaves, hard=hard)
    other.restore(state)
    for _ in range(3):  # and go on alike through further reports
        after = drawn(one, 40)
        assert drawn(other, 40) == after
        for each in (one, other):
            each.report(after, np.linspace(1, 0, 40).tolist())


def test_a_leaf_without_places_is_refused():
    with pytest.raises(TrainingError, match="no place to learn slide 0 > class 0 from"):
        sampler(leaf(cells=()))

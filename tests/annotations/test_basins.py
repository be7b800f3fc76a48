"""Touching objects told apart, against a slow count of peaks and by laws of geometry."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage

from wsiseg.annotations.basins import basins, distances, grow

SHAPES = hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=12)
MASKS = SHAPES.flatmap(lambda shape: hnp.arrays(bool, shape))


def peaks_of(mask: np.ndarray, height: np.ndarray, depth: float) -> int:
    """Count the peaks that are deep enough: pixels join from the highest down, one by one."""
    places = sorted(zip(*np.nonzero(mask), strict=True), key=lambda yx: -height[yx])
    group: dict[tuple[int, int], list] = {}
    count = 0
    for y, x in places:
        around = [
            group[at] for at in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)) if at in group
        ]
        own = {"top": height[y, x], "cells": [(y, x)]}
        for other in {id(one): one for one in around}.values():
            low, high = sorted((own, other), key=lambda one: one["top"])
            if low["top"] - height[y, x] >= depth and low["top"] > height[y, x]:
                count += 1  # two peaks that stay apart; from here on they count as the higher one
            high["cells"] += low["cells"]
            for cell in low["cells"]:
                group[cell] = high
            own = high
        for cell in own["cells"]:
            group[cell] = own
    return count + ndimage.label(mask)[1]


@given(mask=MASKS, depth=st.integers(1, 6), data=st.data())
def test_as_many_objects_as_deep_peaks(mask, depth, data):
    height = data.draw(hnp.arrays(np.int64, mask.shape, elements=st.integers(0, 8)))
    found, count = basins(mask, height, depth)
    assert count == peaks_of(mask, height, depth)
    assert np.array_equal(found > 0, mask)
    assert set(np.unique(found[mask])) == set(range(1, count + 1))
    for value in range(1, count + 1):
        assert ndimage.label(found == value)[1] == 1, "an object is 4-connected"


@given(mask=MASKS, depth=st.sampled_from([0.3, 0.75, 1.5]))
def test_a_component_is_split_alike_wherever_it_lies(mask, depth):
    found, _ = basins(mask, distances(mask), depth)
    labels, count = ndimage.label(mask)
    for value in range(1, count + 1):
        alone = labels == value
        moved = np.pad(alone, ((5, 2), (1, 7)))
        there, _ = basins(moved, distances(moved), depth)
        there = there[5:-2, 1:-7]
        pairs = np.unique(np.stack([found[alone], there[alone]]), axis=1)
        assert len(set(pairs[0])) == len(set(pairs[1])) == pairs.shape[1]


@given(mask=MASKS)
def test_distances_are_euclidean_to_outside(mask):
    wanted = ndimage.distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1]
    np.testing.assert_allclose(distances(mask), wanted, rtol=1e-6)


def test_two_discs_that_touch_are_cut_at_their_neck():
    y, x = np.mgrid[:40, :70]
    mask = ((y - 20) ** 2 + (x - 20) ** 2 < 256) | ((y - 20) ** 2 + (x - 49) ** 2 < 256)
    found, count = basins(mask, distances(mask), 1.5)
    assert count == 2
    assert abs(found[20, :35].max() - found[20, 36:].max()) == 1
    assert (found[:, :33] != found[20, 49]).all()
    assert basins(mask, distances(mask), 20)[1] == 1


@given(mask=MASKS, data=st.data())
def test_grown_ids_are_the_fewest_steps_away(mask, data):
    seeds = data.draw(hnp.arrays(np.int32, mask.shape, elements=st.integers(0, 3))) * mask
    found = grow(seeds, mask)
    steps = {}
    for value in np.unique(seeds[seeds > 0]):
        reached, distance = seeds == value, np.where(seeds == value, 0, 10**6)
        for step in range(1, mask.size + 1):
            further = ndimage.binary_dilation(reached) & mask & ~reached
            distance[further] = step
            reached |= further
        steps[value] = np.where(seeds > 0, np.where(seeds == value, 0, 10**6), distance)
    if not steps:
        assert not found.any()
        return
    # A seed of another id stands in the way: what grows around it may be further than a way
    # through it, so nearest is compared over all ids together.
    least = np.min(list(steps.values()), axis=0)
    assert np.array_equal(found > 0, mask & (least < 10**6))
    for value, distance in steps.items():
        assert (distance[found == value] == least[found == value]).all()


@pytest.mark.parametrize("shape", [(0, 5), (3, 0), (4, 4)])
def test_nothing_is_nothing(shape):
    nothing = np.zeros(shape, bool)
    found, count = basins(nothing, np.zeros(shape), 1)
    assert count == 0
    assert not found.any()
    assert not grow(np.zeros(shape, np.int32), nothing).any()

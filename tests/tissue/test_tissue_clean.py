"""Clean-up in micrometres, on shapes whose size is known."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsiseg.geometry import Spacing
from wsiseg.tissue.clean import close_gaps, disk, drop_specks, fill_holes, reached_from

EIGHT = Spacing((8.0, 8.0))


@pytest.mark.parametrize(("gap", "closed"), [(1, True), (4, True), (5, False), (9, False)])
def test_gaps_narrower_than_the_width_are_closed(gap, closed):
    mask = np.zeros((40, 60), bool)
    mask[5:35, 5:25] = True
    mask[5:35, 25 + gap : 50] = True
    assert close_gaps(mask, 40.0, EIGHT)[10:30, 25 : 25 + gap].all() == closed


@given(st.integers(0, 10_000), st.sampled_from([0.0, 20.0, 40.0, 100.0]))
def test_closing_only_adds(seed, width):
    mask = np.random.default_rng(seed).random((12, 17)) < 0.3
    assert not (mask & ~close_gaps(mask, width, EIGHT)).any()


def test_disk_follows_each_axis():
    assert disk(40.0, Spacing((8.0, 4.0))).shape == (5, 11)
    assert disk(1.0, EIGHT).shape == (1, 1)


def test_holes_are_filled_by_area_and_bays_stay_open():
    mask = np.ones((30, 30), bool)
    mask[4:6, 4:6] = False  # 4 px = 256 um2
    mask[10:20, 10:20] = False  # 100 px = 6400 um2
    mask[25:27, 0:2] = False  # reaches the edge
    filled = fill_holes(mask, 1000.0, EIGHT)
    assert filled[4:6, 4:6].all()
    assert not filled[10:20, 10:20].any()
    assert not filled[25:27, 0:2].any()


def test_specks_are_dropped_by_area_and_corners_do_not_join():
    mask = np.zeros((20, 20), bool)
    mask[0:4, 0:4] = True  # 16 px
    mask[4:7, 4:7] = True  # 9 px, touches the other at a corner
    kept = drop_specks(mask, 16 * 64.0, EIGHT)
    assert kept[0:4, 0:4].all()
    assert kept.sum() == 16


def test_empty_and_full_masks_pass_through():
    for mask in (np.zeros((5, 7), bool), np.ones((5, 7), bool)):
        for done in (
            close_gaps(mask, 40, EIGHT),
            fill_holes(mask, 1e6, EIGHT),
            drop_specks(mask, 64, EIGHT),
        ):
            np.testing.assert_array_equal(done, mask)


def test_pieces_are_kept_where_a_seed_lies():
    mask = np.zeros((5, 9), bool)
    mask[1:3, 1:3] = mask[1:3, 6:8] = True
    seeds = np.zeros_like(mask)
    seeds[1, 1] = seeds[4, 8] = True
    assert reached_from(seeds, mask).sum() == 4

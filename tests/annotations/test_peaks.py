"""Peaks of a plane, wherever its slabs end."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from wsiseg.annotations.peaks import find_peaks

CODES = hnp.arrays(
    np.uint8,
    hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=14),
    elements=st.integers(0, 9),
)


@given(codes=CODES, least=st.integers(1, 6), depth=st.integers(1, 4), block=st.integers(1, 15))
def test_slabs_change_nothing(codes, least, depth, block):
    whole = find_peaks(codes, least=least, depth=depth)
    cut = find_peaks(codes, least=least, depth=depth, block=block)
    np.testing.assert_array_equal(whole.places, cut.places)
    np.testing.assert_array_equal(whole.codes, cut.codes)
    assert bool(len(whole.codes)) == bool((codes >= least).any())
    if len(whole.codes):
        assert whole.codes.max() == codes.max()
        assert (whole.codes >= least).all()


def test_hills_have_one_peak_each_in_their_middle():
    y, x = np.mgrid[:60, :90] + 0.5
    middles = np.array([[15, 20], [15.5, 45], [40, 70]])
    hills = [np.exp(-((y - a) ** 2 + (x - b) ** 2) / 60) for a, b in middles]
    codes = np.rint(1 + 254 * np.max(hills, axis=0)).astype(np.uint8)
    found = find_peaks(codes, least=128, depth=20)
    assert len(found.places) == 3
    assert np.abs(found.places - middles).max() < 0.75
    assert len(find_peaks(codes, least=2, depth=20).places) == 3
    assert len(find_peaks(codes, least=1, depth=255).places) == 1

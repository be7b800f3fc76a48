"""Reducers: what is kept of the probabilities."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsiseg.errors import HeatmapError
from wsiseg.geometry import Box
from wsiseg.stitch import (
    ArgmaxLabels,
    ArraySink,
    Probabilities,
    Reducers,
    Slab,
    ThresholdLabels,
    decode,
)

shapes = st.lists(st.integers(1, 7), min_size=2, max_size=3).map(tuple)


def slab_of(values, covered=None):
    shape = values.shape[:-1]
    return Slab(Box.of_shape(shape), values, np.ones(shape, bool) if covered is None else covered)


def reduced(reducer, slab, kept=None, **options):
    sink = ArraySink(slab.box.shape if kept is None else (*slab.box.shape, kept))
    made = reducer(sink, **options)
    made.push(slab)
    made.finish()
    return sink.array


@given(shape=shapes, channels=st.integers(1, 4), seed=st.integers(0, 99))
def test_codes_are_one_plus_the_rounded_254th(shape, channels, seed):
    rng = np.random.default_rng(seed)
    values = rng.random((*shape, channels), dtype=np.float32)
    covered = rng.random(shape) < 0.7
    codes = reduced(Probabilities, slab_of(values, covered), channels)
    expected = (1 + np.round(254 * values.astype(np.float64))) * covered[..., np.newaxis]
    assert (np.abs(codes - expected) <= (np.abs(254 * values % 1 - 0.5) < 1e-4)).all()
    assert np.abs(decode(codes) - values)[covered].max(initial=0) <= 0.5 / 254 + 1e-6


def test_the_ends_of_the_codes():
    values = np.array([0, 1, 1 + 1e-7, -1e-7, 0.5], np.float32).reshape(1, 5, 1)
    codes = reduced(Probabilities, slab_of(values), 1)
    assert codes.ravel().tolist() == [1, 255, 255, 1, 128]
    assert decode(np.array([0, 1, 128, 255], np.uint8)).tolist() == [0, 0, 0.5, 1]


def test_every_code_comes_back():
    codes = np.arange(1, 256, dtype=np.uint8).reshape(1, 255, 1)
    np.testing.assert_array_equal(reduced(Probabilities, slab_of(decode(codes)), 1), codes)


@given(shape=shapes, channels=st.integers(1, 5), seed=st.integers(0, 99))
def test_argmax_is_the_most_probable_class(shape, channels, seed):
    rng = np.random.default_rng(seed)
    values = rng.integers(0, 4, (*shape, channels)).astype(np.float32)  # ties on purpose
    covered = rng.random(shape) < 0.7
    labels = reduced(ArgmaxLabels, slab_of(values, covered))
    np.testing.assert_array_equal(labels, values.argmax(axis=-1) * covered)


def test_many_pixels_give_the_same_as_few():
    """Slabs larger than a block are reduced in pieces."""
    values = np.random.default_rng(0).random((300, 500, 3), dtype=np.float32)
    slab = slab_of(values)
    np.testing.assert_array_equal(reduced(ArgmaxLabels, slab), values.argmax(axis=-1))
    np.testing.assert_array_equal(
        reduced(Probabilities, slab, 3), 1 + np.round(254 * values).astype(np.uint8)
    )
    labels = reduced(ThresholdLabels, slab, threshold=0.4, channel=1)
    np.testing.assert_array_equal(labels, values[..., 1] >= 0.4)


def test_the_threshold_itself_is_foreground_and_nodata_is_not():
    values = np.array([[[0.8, 0.2], [0.5, 0.5], [0.3, 0.7], [0.0, 1.0]]], np.float32)
    covered = np.array([[True, True, True, False]])
    labels = reduced(ThresholdLabels, slab_of(values, covered), threshold=0.5)
    assert labels.tolist() == [[0, 1, 1, 0]]


def test_argmax_of_nodata_is_background():
    values = np.array([[[0.0, 1.0]]], np.float32)
    assert reduced(ArgmaxLabels, slab_of(values, np.array([[False]]))).tolist() == [[0]]


def test_chosen_channels_are_kept_in_the_order_asked():
    values = np.zeros((2, 2, 3), np.float32)
    values[..., 2] = 1
    codes = reduced(Probabilities, slab_of(values), 2, channels=[2, 0])
    assert codes[0, 0].tolist() == [255, 1]


def test_several_reducers_share_one_pass():
    values = np.random.default_rng(0).random((4, 4, 2), dtype=np.float32)
    codes, labels = ArraySink((4, 4, 2)), ArraySink((4, 4))
    both = Reducers([Probabilities(codes), ThresholdLabels(labels, 0.5)])
    both.push(slab_of(values))
    both.finish()
    np.testing.assert_array_equal(labels.array, values[..., 1] >= 0.5)
    assert codes.finish().all()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -0.01, 1.01])
def test_values_that_are_no_probabilities_are_refused(bad):
    values = np.full((3, 3, 2), 0.5, np.float32)
    values[1, 2, 1] = bad
    with pytest.raises(HeatmapError, match="between 0 and 1"):
        reduced(Probabilities, slab_of(values), 2)


@pytest.mark.parametrize(
    ("reducer", "options"), [(ArgmaxLabels, {}), (ThresholdLabels, {"threshold": 0.5})]
)
def test_nan_gets_no_label(reducer, options):
    values = np.full((3, 3, 2), 0.5, np.float32)
    values[1, 2, 1] = np.nan
    with pytest.raises(HeatmapError, match="NaN"):
        reduced(reducer, slab_of(values), **options)


def test_labels_are_for_256_classes_at_most():
    with pytest.raises(HeatmapError, match="found 257"):
        reduced(ArgmaxLabels, slab_of(np.zeros((1, 1, 257), np.float32)))

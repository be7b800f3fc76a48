"""Layers of uncertainty against formulas written out in another way."""

import itertools

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from wsiseg.errors import GridError
from wsiseg.geometry import Box
from wsiseg.grid import Grid
from wsiseg.stitch import (
    ArraySink,
    ClassPlanes,
    LayerCodes,
    LayerMean,
    NeighbourSpread,
    Probabilities,
    Reducers,
    Slab,
    Stitcher,
    decode,
    deviation,
    entropy,
    seen_by_neighbours,
    stitch_tiles,
    window_weights,
)

sizes = st.tuples(st.integers(1, 23), st.integers(1, 23))


def shares_of(shape, classes, seed=0):
    """Random probabilities, some of them 0 and 1, float32 (class, *shape)."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 4, (classes, *shape))
    logits[:, rng.random(shape) < 0.1] *= 100
    powers = np.exp(logits - logits.max(axis=0))
    return (powers / powers.sum(axis=0)).astype(np.float32)


@given(sizes, st.integers(2, 6), st.integers(0, 99))
def test_entropy_is_that_of_scipy(shape, classes, seed):
    planes = shares_of(shape, classes, seed)
    found = entropy(planes, exclusive=True)
    assert found.dtype == np.float32
    expected = scipy.stats.entropy(planes.astype(np.float64), axis=0, base=classes)
    np.testing.assert_allclose(found, expected, atol=2e-6)


def test_entropy_of_classes_that_do_not_exclude_each_other():
    planes = np.random.default_rng(0).random((3, 5, 4), np.float32)
    found = entropy(planes, exclusive=False)
    bits = [scipy.stats.bernoulli(p).entropy() / np.log(2) for p in planes[1:].astype(float)]
    np.testing.assert_allclose(found, np.mean(bits, axis=0), atol=2e-6)


def test_entropy_is_1_where_nothing_speaks_for_any_class():
    planes = np.zeros((3, 2, 1), np.float32)
    planes[1, 1] = 0.2  # the only one with a chance
    np.testing.assert_array_equal(entropy(planes, exclusive=True), [[1], [0]])


class Collect:
    """A reducer that keeps the whole array."""

    def __init__(self, shape, channels):
        self.values = np.full((*shape, channels), np.nan, np.float32)
        self.covered = np.zeros(shape, bool)

    def take(self, slabs):
        for slab in slabs:
            self.values[slab.box.slices()] = slab.values
            self.covered[slab.box.slices()] = slab.covered
        return self


@given(
    shape=sizes,
    stride=st.tuples(st.integers(1, 6), st.integers(1, 6)),
    overlap=st.tuples(st.integers(0, 9), st.integers(1, 9)),
    halo=st.integers(0, 2),
    blend=st.sampled_from(["constant", "gaussian"]),
    seed=st.integers(0, 99),
)
def test_overlap_is_the_weighted_variance_of_the_tiles(shape, stride, overlap, halo, blend, seed):
    grid = Grid(shape, stride, (halo, halo), overlap)
    rng = np.random.default_rng(seed)
    tiles = [tile for tile in grid if rng.random() < 0.8]
    outputs = [rng.random((*grid.patch, 3), np.float32) for _ in tiles]
    shares = (0.5, 0.5, 0.0)
    plain, spread = (
        Collect(shape, channels).take(
            stitch_tiles(
                zip(tiles, outputs, strict=True), Stitcher(grid, 3, blend=blend, shares=given)
            )
        )
        for channels, given in ((3, None), (4, shares))
    )
    np.testing.assert_array_equal(spread.values[..., :3], plain.values)  # the same bits
    np.testing.assert_array_equal(spread.covered, plain.covered)
    votes = np.full((len(tiles), *shape, 3), np.nan)
    weights = np.zeros((len(tiles), *shape, 1))
    window = tuple(s + o for s, o in zip(stride, overlap, strict=True))
    for k, (tile, values) in enumerate(zip(tiles, outputs, strict=True)):
        inner = tile.write.relative_to(tile.read).slices()
        votes[k][tile.write.slices()] = values[inner]
        part = tuple(slice(n) for n in tile.write.shape)
        weights[k][tile.write.slices()] = window_weights(window, blend)[part][..., None]
    total = weights.sum(axis=0)
    votes = np.nan_to_num(votes)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = (votes * weights).sum(axis=0) / total
        each = ((votes - mean) ** 2 * weights).sum(axis=0) / total
    variance = each @ np.array(shares)
    count = (weights[..., 0] > 0).sum(axis=0)
    found = spread.values[..., 3]
    np.testing.assert_array_equal(np.isnan(found), count == 1)
    np.testing.assert_array_equal(found[count == 0], 0)
    np.testing.assert_allclose(found[count > 1], variance[count > 1], atol=1e-6)


def test_tiles_that_agree_have_a_variance_of_0():
    grid = Grid((9, 9), (2, 2), (0, 0), (3, 3))
    value = np.full((*grid.patch, 1), 0.3, np.float32)
    stitcher = Stitcher(grid, 1, blend="gaussian", shares=(1.0,))
    found = Collect((9, 9), 2).take(stitch_tiles(((tile, value) for tile in grid), stitcher))
    assert set(found.values[1:8, 1:8, 1][~np.isnan(found.values[1:8, 1:8, 1])]) == {0}


@pytest.mark.parametrize(
    ("overlap", "shares"), [((0, 0), (1.0, 1.0)), ((1, 1), (1.0,)), ((1, 1), ())]
)
def test_a_variance_needs_overlap_and_a_share_per_channel(overlap, shares):
    grid = Grid((9, 9), (2, 2), (0, 0), overlap)
    with pytest.raises(GridError, match=rf"got {len(shares)} shares and overlap \({overlap[0]}"):
        Stitcher(grid, 2, blend="constant", shares=shares)


@given(st.integers(1, 40), st.integers(1, 40))
def test_what_neighbours_see_is_counted_in_pixels(stride, times):
    patch = stride + 2 * (times // 2)  # so that it lies centred on the pixel
    (shares,) = seen_by_neighbours([patch], [stride])
    cell = np.arange(stride) * 2 + 1 - stride  # pixel centres in half pixels, from the cell's
    reach = len(shares) // 2
    for distance in range(-reach - 1, reach + 2):
        covered = np.abs(cell + 2 * distance * stride) < patch
        expected = shares[distance + reach] if abs(distance) <= reach else 0
        assert covered.mean() == pytest.approx(expected)
    assert shares[reach] == 1
    assert shares.min() > 0


@given(
    shape=sizes,
    classes=st.integers(1, 3),
    patch=st.tuples(st.integers(4, 20), st.integers(4, 20)),
    stride=st.tuples(st.integers(2, 4), st.integers(2, 4)),
    depth=st.integers(1, 9),
    seed=st.integers(0, 99),
)
def test_neighbours_differ_as_counted_one_by_one(shape, classes, patch, stride, depth, seed):
    rng = np.random.default_rng(seed)
    planes = shares_of(shape, classes + 1, seed)[1:]
    codes = (np.rint(planes * 254) + 1).astype(np.uint8)
    codes[:, rng.random(shape) < 0.3] = 0
    seen = seen_by_neighbours(patch, stride)
    shares = [0.5] * classes
    spread = NeighbourSpread(seen, shares, rest_share=0.5)
    bands = (codes[:, top : top + depth] for top in range(0, shape[0], depth))
    found = np.concatenate(list(spread.rows(bands)))[..., 0]
    assert found.shape == shape
    values = np.moveaxis((codes.astype(float) - 1) / 254, 0, -1)
    values = np.concatenate([1 - values.sum(axis=-1, keepdims=True), values], axis=-1)
    for y, x in itertools.product(*map(range, shape)):
        reach = [len(s) // 2 for s in seen]
        votes, weights = [], []
        for dy, dx in itertools.product(*(range(-r, r + 1) for r in reach)):
            v, u = y + dy, x + dx
            if 0 <= v < shape[0] and 0 <= u < shape[1] and codes[0, v, u]:
                votes.append(values[v, u])
                weights.append(seen[0][dy + reach[0]] * seen[1][dx + reach[1]])
        if codes[0, y, x] == 0 or len(votes) < 2:
            assert found[y, x] == 0
            continue
        mean = np.average(votes, axis=0, weights=weights)
        each = np.average((np.array(votes) - mean) ** 2, axis=0, weights=weights)
        assert found[y, x] == pytest.approx(1 + 254 * np.sqrt(0.5 * each.sum()), abs=0.5001)


def test_layers_beside_probabilities_on_one_pass():
    rng = np.random.default_rng(0)
    planes = shares_of((7, 5), 3)
    variance = rng.random((7, 5), np.float32) / 8
    variance[3, 2] = np.nan
    covered = rng.random((7, 5)) < 0.7
    covered[3, 2] = True
    values = np.moveaxis(np.concatenate([planes, variance[None]]), 0, -1)
    values[~covered] = 0
    sinks = [ArraySink((7, 5, n)) for n in (3, 1, 1)]
    means = [LayerMean(sink) for sink in sinks[1:]]
    reducer = Reducers(
        [
            ClassPlanes(Probabilities(sinks[0]), 3),
            LayerCodes(means[0], slice(3), lambda p: entropy(p, exclusive=True)),
            LayerCodes(means[1], slice(3, 4), deviation),
        ]
    )
    for top in range(0, 7, 2):
        box = Box((top, 0), (min(top + 2, 7), 5))
        reducer.push(Slab(box, values[box.slices()], covered[box.slices()]))
    reducer.finish()
    np.testing.assert_allclose(
        decode(sinks[0].array)[covered], np.moveaxis(planes, 0, -1)[covered], atol=0.5001 / 254
    )
    expected = [scipy.stats.entropy(planes.astype(float), axis=0, base=3), np.sqrt(variance)]
    for sink, mean, layer in zip(sinks[1:], means, expected, strict=True):
        codes = sink.array[..., 0]
        known = covered & ~np.isnan(layer)
        np.testing.assert_array_equal(codes != 0, known)
        np.testing.assert_allclose(decode(codes)[known], layer[known], atol=0.5001 / 254)
        assert mean.mean == pytest.approx(decode(codes)[known].astype(float).mean(), abs=1e-6)


def test_the_mean_of_nothing_is_none():
    assert LayerMean(ArraySink((1, 1, 1))).mean is None

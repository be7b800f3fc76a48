"""Patches: balanced, deterministic, held-out tissue never seen."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsiseg.errors import TrainingError
from wsiseg.train.sampling import PatchSampler, Region, keep_away, split_blocks


def region(shape=(20, 30), *, tumour=5, name="a", **extra):
    """A region whose pixels tell their own place; the first columns are tumour."""
    rows, columns = np.indices(shape)
    image = np.stack([rows, columns, np.full(shape, 7)], axis=-1).astype(np.uint8)
    labels = (columns < tumour).astype(np.uint8)
    return Region(name, image, labels, **extra)


def test_same_seed_same_patches():
    sampler = PatchSampler([[region()]], patch=8)
    first, again, other = (sampler.draw(6, np.random.default_rng(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.image, again.image)
    np.testing.assert_array_equal(first.labels, again.labels)
    assert not np.array_equal(first.image, other.image)


def test_everything_in_a_batch_comes_from_one_place():
    rng = np.random.default_rng(0)
    heatmap = rng.random((20, 30, 1), dtype=np.float32)
    base = region()
    sampler = PatchSampler([[Region("a", base.image, base.labels, heatmap)]], patch=6)
    batch = sampler.draw(50, rng)
    inside = batch.image[..., 2] == 7
    rows, columns = batch.image[inside][:, 0], batch.image[inside][:, 1]
    np.testing.assert_array_equal(batch.labels[inside], base.labels[rows, columns])
    np.testing.assert_array_equal(batch.heatmap[inside], heatmap[rows, columns])
    assert (batch.image[~inside] == 255).all()
    assert not batch.labels[~inside].any()
    assert not batch.heatmap[~inside].any()


def test_regions_and_classes_are_balanced():
    small, large = region((9, 9), tumour=1, name="s"), region((90, 90), tumour=2, name="l")
    marked = Region("l", large.image, large.labels, np.ones((90, 90, 1), np.float32))
    plain = Region("s", small.image, small.labels, np.zeros((9, 9, 1), np.float32))
    batch = PatchSampler([[plain], [marked]], patch=1).draw(4000, np.random.default_rng(0))
    assert batch.heatmap.mean() == pytest.approx(0.5, abs=0.03)
    for share in (batch.labels[batch.heatmap[..., 0] == value].mean() for value in (0, 1)):
        assert share == pytest.approx(0.5, abs=0.04)


@given(
    shape=st.tuples(st.integers(12, 40), st.integers(12, 40)),
    count=st.integers(1, 4),
    patch=st.integers(1, 6),
    seed=st.integers(0, 99),
)
def test_no_patch_touches_a_held_out_block(shape, count, patch, seed):
    for block in split_blocks(shape, count):
        allowed = keep_away(shape, block, patch)
        if not allowed.any():
            continue
        base = region(shape)
        secret = base.image.copy()
        secret[block] = 99
        held_out = Region("a", secret, base.labels, allowed=allowed)
        batch = PatchSampler([[held_out]], patch=patch).draw(30, np.random.default_rng(seed))
        assert not (batch.image == 99).all(axis=-1).any()


@given(
    shape=st.tuples(st.integers(4, 40), st.integers(4, 40)),
    count=st.integers(1, 4),
)
def test_blocks_partition_a_region(shape, count):
    hits = np.zeros(shape, int)
    for block in split_blocks(shape, count):
        hits[block] += 1
    assert (hits == 1).all()


def test_guard_leaves_the_distance_asked_for():
    allowed = keep_away((10, 40), (slice(0, 10), slice(20, 40)), 6)
    assert allowed[:, :14].all()
    assert not allowed[:, 14:].any()


def test_refusals():
    with pytest.raises(TrainingError, match="at least one view"):
        PatchSampler([], patch=4)
    with pytest.raises(TrainingError, match="no pixel may be the centre"):
        PatchSampler([[region(allowed=np.zeros((20, 30), bool))]], patch=4)
    with pytest.raises(TrainingError, match=r"labels of \(3, 4\)"):
        Region("a", np.zeros((4, 4, 3), np.uint8), np.zeros((3, 4), np.uint8))
    with pytest.raises(TrainingError, match=r"\(y, x, 3\) uint8"):
        Region("a", np.zeros((4, 4, 3), np.float32), np.zeros((4, 4), np.uint8))

"""Augmentation: one geometry for all, colour for the image alone, the seed decides."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsiseg.train.augment import (
    AugmentOptions,
    augment,
    defocus,
    jitter_colour,
    orient,
    spill_glass,
)
from wsiseg.train.sampling import Batch

STILL = AugmentOptions(
    stain=0, stain_shift=0, stain_direction=0, hue_degrees=0, saturation=0, brightness=0,
    contrast=0, defocus=0, noise=0, glass=0,
)  # fmt: skip


def batch_of(count=16, size=8):
    """Labels and heatmap repeat what the image's channels say, pixel by pixel."""
    image = np.random.default_rng(0).integers(0, 255, (count, size, size, 3), dtype=np.uint8)
    return Batch(image, image[..., 0], image[..., 1:2].astype(np.float32))


@given(seed=st.integers(0, 999), size=st.integers(1, 9))
def test_geometry_is_the_same_for_image_labels_and_heatmap(seed, size):
    turned = orient(batch_of(4, size), np.random.default_rng(seed))
    np.testing.assert_array_equal(turned.labels, turned.image[..., 0])
    np.testing.assert_array_equal(turned.heatmap, turned.image[..., 1:2])


def test_all_eight_orientations_occur_and_nothing_else():
    image = np.arange(4, dtype=np.uint8).reshape(2, 2)
    stack = np.repeat(image[None, ..., None], 3, axis=-1)
    batch = Batch(np.repeat(stack, 400, axis=0), np.repeat(image[None], 400, axis=0))
    found = {tuple(x.ravel()) for x in orient(batch, np.random.default_rng(0)).labels}
    turns = [np.rot90(image, k) for k in range(4)]
    assert found == {tuple(x.ravel()) for t in turns for x in (t, t[:, ::-1])}


def test_colour_without_strength_is_the_identity():
    image = batch_of().image
    rng = np.random.default_rng(0)
    np.testing.assert_allclose(
        jitter_colour(image, rng, STILL).astype(int), np.maximum(image, 1).astype(int), atol=1
    )
    np.testing.assert_array_equal(defocus(image, rng, STILL), image)


def test_stain_scale_moves_haematoxylin_along_its_own_line():
    """A pixel of pure haematoxylin stays pure: its optical density is only multiplied."""
    direction = np.array([0.650, 0.704, 0.286])
    pixel = np.round(255 * np.exp(-0.8 * direction)).astype(np.uint8)
    image = np.broadcast_to(pixel, (40, 2, 2, 3)).copy()
    options = AugmentOptions(**{**vars_of(STILL), "stain": 0.3})
    moved = jitter_colour(image, np.random.default_rng(0), options)[:, 0, 0]
    density = -np.log(moved / 255)
    factor = density @ direction / (0.8 * direction @ direction)
    np.testing.assert_allclose(density, 0.8 * factor[:, None] * direction, atol=0.02)
    assert factor.min() < 0.8
    assert factor.max() > 1.2


def test_hue_turns_about_grey():
    options = AugmentOptions(**{**vars_of(STILL), "hue_degrees": 120})
    grey = np.full((5, 2, 2, 3), 100, np.uint8)
    np.testing.assert_allclose(
        jitter_colour(grey, np.random.default_rng(0), options).astype(int), 100, atol=1
    )
    red = np.zeros((200, 1, 1, 3), np.uint8) + np.array([150, 50, 50], np.uint8)
    moved = jitter_colour(red, np.random.default_rng(0), options).astype(int).reshape(-1, 3)
    np.testing.assert_allclose(moved.sum(axis=1), 250, atol=3)
    assert moved[:, 0].min() < 60


def test_colour_leaves_labels_and_heatmap_alone():
    batch = batch_of()
    options = AugmentOptions(glass=0)
    turned = orient(batch, np.random.default_rng(5))
    result = augment(batch, np.random.default_rng(5), options)
    np.testing.assert_array_equal(result.labels, turned.labels)
    np.testing.assert_array_equal(result.heatmap, turned.heatmap)
    assert not np.array_equal(result.image, turned.image)


def test_glass_is_bright_and_background():
    size = 32
    batch = Batch(
        np.full((50, size, size, 3), 90, np.uint8),
        np.ones((50, size, size), np.uint8),
        np.ones((50, size, size, 1), np.float32),
    )
    spilled = spill_glass(batch, np.random.default_rng(0), chance=1.0)
    glass = (spilled.image != 90).any(axis=-1)
    assert 0.2 < glass.mean() < 0.8
    assert spilled.image[glass].min() >= 220
    np.testing.assert_array_equal(spilled.labels == 0, glass)
    np.testing.assert_array_equal(spilled.heatmap[..., 0] == 0, glass)
    assert batch.labels.all(), "the input must stay as it was"


@pytest.mark.parametrize("seed", [0, 1])
def test_the_seed_decides(seed):
    results = [augment(batch_of(), np.random.default_rng(seed), AugmentOptions()) for _ in "ab"]
    np.testing.assert_array_equal(results[0].image, results[1].image)
    np.testing.assert_array_equal(results[0].labels, results[1].labels)


def vars_of(options):
    return {name: getattr(options, name) for name in options.__slots__}

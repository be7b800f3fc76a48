"""Area and linear resampling against plain definitions, and independence of the tile asked for."""

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsiseg.geometry import Box
from wsiseg.resample import area, area_span, linear, target_shape
from wsiseg.resample.linear import linear_span

ratios = st.one_of(st.sampled_from([1.0, 2.0, 3.0, 4.0]), st.floats(1.0, 6.0))


def pixels(shape: tuple[int, int], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*shape, 3), dtype=np.uint8)


def resample_whole(image: np.ndarray, ratio: tuple[float, float]) -> np.ndarray:
    whole = Box.of_shape(image.shape[:2])
    target = Box.of_shape(target_shape(image.shape[:2], ratio))
    return area(image, whole, target, ratio, image.shape[:2])


def mean_by_definition(image: np.ndarray, ratio: float, y: int, x: int) -> np.ndarray:
    """Integrate one target pixel over source pixels, by loops."""
    total, weight = np.zeros(3), 0.0
    height, width = image.shape[:2]
    for i in range(height):
        rows = min(i + 1, (y + 1) * ratio) - max(i, y * ratio)
        for j in range(width):
            columns = min(j + 1, (x + 1) * ratio) - max(j, x * ratio)
            if rows > 0 and columns > 0:
                total += rows * columns * image[i, j]
                weight += rows * columns
    return total / weight


@given(
    st.tuples(st.integers(4, 17), st.integers(4, 17)),
    ratios,
    st.integers(0, 100),
    st.integers(0, 100),
)
def test_a_pixel_is_the_mean_of_what_it_covers(shape, ratio, y, x):
    image = pixels(shape)
    out = resample_whole(image, (ratio, ratio))
    y, x = y % out.shape[0], x % out.shape[1]
    np.testing.assert_allclose(out[y, x], mean_by_definition(image, ratio, y, x), atol=0.51)


def shares(start: int, stop: int, ratio: float, size: int) -> np.ndarray:
    """The share of each source pixel of an axis in target pixels, (target, source) float64."""
    low = np.arange(start, stop)[:, None] * ratio
    pixel = np.arange(size)
    overlap = np.minimum(low + ratio, pixel + 1) - np.maximum(low, pixel)
    overlap = np.maximum(overlap, 0)
    return overlap / overlap.sum(axis=1, keepdims=True)


@given(
    st.tuples(st.floats(1.0, 9.0), st.floats(1.0, 9.0)),
    st.tuples(st.integers(0, 100), st.integers(0, 100)),
    st.sampled_from([1, 3, 4]),
    st.booleans(),
)
def test_many_pixels_equal_the_integral(ratio, corner, channels, black_and_white):
    """Far from the origin, over several strips of rows, and with the strongest contrast."""
    target = Box.of_shape((75, 20)).shift(corner)
    size = tuple(int(b * r) + 1 for b, r in zip(target.stop, ratio, strict=True))
    span = area_span(target, ratio).clip(size)
    source = np.random.default_rng(0).integers(0, 256, (*span.shape, channels), dtype=np.uint8)
    if black_and_white:
        source = np.where(source < 128, np.uint8(0), np.uint8(255))
    rows, columns = (
        shares(a, b, r, n)[:, i:j]
        for a, b, r, n, i, j in zip(
            target.start, target.stop, ratio, size, span.start, span.stop, strict=True
        )
    )
    expected = np.einsum("iy,yxc,jx->ijc", rows, source.astype(float), columns, optimize=True)
    found = area(source, span, target, ratio, size)
    assert found.shape == (75, 20, channels)
    np.testing.assert_allclose(found, expected, atol=0.501)


@pytest.mark.parametrize("ratio", [(2, 2), (2.2, 1.3)])
def test_nothing_is_reduced_to_nothing(ratio):
    image = pixels((9, 9))
    found = area(image, Box.of_shape((9, 9)), Box((2, 3), (2, 5)), ratio, (9, 9))
    assert found.shape == (0, 2, 3)


@given(st.tuples(st.integers(8, 120), st.integers(8, 40)), st.tuples(ratios, ratios), st.data())
def test_a_tile_gives_the_bytes_of_the_whole(shape, ratio, data):
    image = pixels(shape)
    whole = resample_whole(image, ratio)
    start = tuple(data.draw(st.integers(0, n - 1)) for n in whole.shape[:2])
    stop = tuple(data.draw(st.integers(a + 1, n)) for a, n in zip(start, whole.shape, strict=False))
    target = Box(start, stop)
    span = area_span(target, ratio).clip(shape)
    part = area(image[span.slices()], span, target, ratio, shape)
    np.testing.assert_array_equal(part, whole[target.slices()])


@pytest.mark.parametrize("ratio", [2, 3, 4, 8])
def test_whole_ratios_equal_opencv(ratio):
    image = pixels((48, 96))
    expected = cv2.resize(image, (96 // ratio, 48 // ratio), interpolation=cv2.INTER_AREA)
    np.testing.assert_array_equal(resample_whole(image, (ratio, ratio)), expected)


@given(st.floats(0.1, 3.0), st.integers(-5, 5), st.integers(1, 12))
def test_linear_reproduces_a_ramp(ratio, start, length):
    target = Box((start,), (start + length,))
    span = linear_span(target, (ratio,))
    ramp = (np.arange(span.start[0], span.stop[0], dtype=np.float32) + 0.5)[:, None]
    centres = (np.arange(start, start + length) + 0.5) * ratio
    found = linear(ramp, span, target, (ratio,))
    np.testing.assert_allclose(found[:, 0], centres, atol=1e-4)


def test_linear_in_three_dimensions_with_ratio_one_is_the_identity():
    values = np.random.default_rng(0).random((5, 6, 7, 2)).astype(np.float32)
    target = Box((1, 1, 1), (3, 4, 5))
    np.testing.assert_array_equal(
        linear(values, Box.of_shape((5, 6, 7)), target, (1, 1, 1)), values[target.slices()]
    )

"""The block cache changes how often a source is read, never what is read."""

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsiseg.engine.inputs import BlockCache, HeatmapInput
from wsiseg.errors import DamagedFileError
from wsiseg.geometry import Box


class ArrayImage:
    """Pixels in memory; white outside; counts its reads."""

    def __init__(self, pixels: np.ndarray, outside: int = 255) -> None:
        self.pixels = pixels
        self.shape = pixels.shape[:-1]
        self.outside = outside
        self.reads: list[Box] = []
        self._lock = threading.Lock()

    def read(self, box: Box) -> np.ndarray:
        with self._lock:
            self.reads.append(box)
        out = np.full((*box.shape, self.pixels.shape[-1]), self.outside, self.pixels.dtype)
        inside = box.clip(self.shape)
        out[inside.relative_to(box).slices()] = self.pixels[inside.slices()]
        return out


def image(shape=(23, 31)) -> ArrayImage:
    return ArrayImage(np.random.default_rng(1).integers(0, 255, (*shape, 3), dtype=np.uint8))


@given(
    st.tuples(st.integers(-9, 30), st.integers(-9, 40)),
    st.tuples(st.integers(0, 20), st.integers(0, 20)),
    st.integers(1, 40),
)
def test_cached_reads_equal_direct_reads(start, size, block):
    source = image()
    box = Box(start, tuple(a + n for a, n in zip(start, size, strict=True)))
    cached = BlockCache(source, block=block).read(box)
    np.testing.assert_array_equal(cached, source.read(box))


def test_overlapping_patches_read_each_block_once():
    source = image((64, 64))
    cached = BlockCache(source, block=16)
    for y in range(0, 48, 4):
        for x in range(0, 48, 4):
            cached.read(Box((y, x), (y + 16, x + 16)))
    assert len(source.reads) == len(set(source.reads)) == 16


def test_many_threads_read_each_block_once():
    source = image((64, 64))
    cached = BlockCache(source, block=16)
    boxes = [Box((y, x), (y + 20, x + 20)) for y in range(0, 44, 3) for x in range(0, 44, 3)]
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(cached.read, boxes))
    assert len(source.reads) == 16
    for box, pixels in zip(boxes, results, strict=True):
        np.testing.assert_array_equal(pixels, source.pixels[box.slices()])


def test_the_cache_stays_within_its_bytes():
    source = image((64, 64))
    cached = BlockCache(source, block=16, limit_bytes=3 * 16 * 16 * 3)
    for y in range(0, 64, 16):
        for x in range(0, 64, 16):
            cached.read(Box((y, x), (y + 16, x + 16)))
    assert len(cached._blocks) <= 3


def test_a_failed_block_is_tried_again_and_raised_each_time():
    source = image()
    calls = []

    def broken(box):
        calls.append(box)
        raise DamagedFileError("slide.svs: level 0: tile 3 cannot be decoded")

    source.read = broken
    cached = BlockCache(source, block=16)
    for _ in range(2):
        with pytest.raises(DamagedFileError, match="tile 3"):
            cached.read(Box((0, 0), (4, 4)))
    assert len(calls) == 2


def test_a_heatmap_is_read_between_its_cell_centres():
    values = np.arange(12, dtype=np.float32).reshape(3, 4, 1)
    heatmap = ArrayImage(values, outside=0)
    finer = HeatmapInput(heatmap, [0], (0.5, 0.5), (6, 8))
    out = finer.read(Box((2, 2), (4, 4)))[..., 0]
    # Centres at 0.25 and 0.75 of the way between cells 0..1 (y) and 0..1 (x), value = 4 y + x.
    y, x = np.array([0.75, 1.25]), np.array([0.75, 1.25])
    np.testing.assert_allclose(out, 4 * y[:, None] + x, atol=1e-6)


def test_a_cached_heatmap_fades_outside_as_it_does_uncached():
    heatmap = ArrayImage(np.full((4, 4, 1), 0.8, np.float32), outside=0)
    finer = HeatmapInput(heatmap, [0], (0.25, 0.25), (16, 16))
    box = Box((-5, 3), (9, 24))
    np.testing.assert_array_equal(BlockCache(finer, block=8).read(box), finer.read(box))

"""The block cache changes how often a source is read, never what is read."""

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsiseg.engine.blocks import BlockCache, BlockUses, block_box, row_bytes
from wsiseg.engine.inputs import HeatmapInput
from wsiseg.errors import DamagedFileError
from wsiseg.geometry import Box
from wsiseg.grid import Grid


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


def grid_of(shape, patch, stride):
    return Grid.of_patches(shape, (patch, patch), stride=(stride, stride))


def cache_of(source, grid, selected=None, block=16):
    chosen = np.ones(grid.counts, bool) if selected is None else selected
    boxes = (grid.tile(tuple(index)).read for index in np.argwhere(chosen).tolist())
    return BlockCache(source, BlockUses.of_boxes(boxes, (block, block)))


@given(
    st.tuples(st.integers(1, 40), st.integers(1, 40)),
    st.integers(1, 20),
    st.integers(1, 20),
    st.integers(0, 9),
    st.integers(1, 30),
    st.integers(0, 99),
)
def test_each_block_is_read_once_and_kept_no_longer_than_needed(
    shape, stride, spare, halo, block, seed
):
    source = image(shape)
    grid = Grid(shape, (stride, stride), (halo, halo), (spare, spare))
    selected = np.random.default_rng(seed).random(grid.counts) < 0.6
    cached = cache_of(source, grid, selected, block)
    for index in np.argwhere(selected):
        box = grid.tile(tuple(map(int, index))).read
        pixels = cached.read(box)
        direct = ArrayImage(source.pixels).read(box)
        np.testing.assert_array_equal(pixels, direct)
    assert len(source.reads) == len(set(source.reads))
    assert cached.kept == 0


def test_the_uses_of_a_block_are_the_tiles_that_touch_it():
    grid = grid_of((40, 40), 12, 5)
    selected = np.random.default_rng(0).random(grid.counts) < 0.5
    boxes = [tile.read.grow(3) for tile in grid if selected[tile.index]]
    uses = BlockUses.of_boxes(boxes, (7, 9))
    for place in np.ndindex(uses.counts.shape):
        index = tuple(i + first for i, first in zip(place, uses.first, strict=True))
        block = block_box(index, (7, 9))
        touching = [
            tile.index
            for tile in grid
            if selected[tile.index] and tile.read.grow(3).intersect(block).size
        ]
        assert uses.counts[place] == len(touching)
        assert uses.needed(index) == bool(touching)
    assert not uses.needed((100, 100))


def test_a_walk_in_rows_keeps_only_the_rows_it_touches():
    source = image((200, 200))
    grid = grid_of((200, 200), 16, 16)
    cached = cache_of(source, grid, block=20)
    most = 0
    for tile in grid:
        cached.read(tile.read)
        most = max(most, cached.kept * 20 * 20 * 3)
    assert 0 < most <= row_bytes(200, (16, 16), (20, 20), 3)


def test_many_threads_read_each_block_once():
    source = image((64, 64))
    grid = grid_of((64, 64), 20, 3)
    cached = cache_of(source, grid)
    boxes = [tile.read for tile in grid]
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(cached.read, boxes))
    assert len(source.reads) == len(set(source.reads))
    for box, pixels in zip(boxes, results, strict=True):
        np.testing.assert_array_equal(pixels, ArrayImage(source.pixels).read(box))


def test_a_block_that_cannot_be_read_is_raised_for_each_tile():
    source = image()

    def broken(box):
        raise DamagedFileError("slide.svs: level 0: tile 3 cannot be decoded")

    source.read = broken
    grid = grid_of((23, 31), 12, 4)
    cached = cache_of(source, grid)
    for tile in list(grid)[:3]:
        with pytest.raises(DamagedFileError, match="tile 3"):
            cached.read(tile.read)


def read_heatmap(heatmap, ratio, box):
    finer = HeatmapInput(heatmap, [0], ratio)
    span = finer.span(box)
    return finer.patch(heatmap.read(span), span, box)[..., 0]


def test_a_heatmap_is_read_between_its_cell_centres():
    values = np.arange(12, dtype=np.float32).reshape(3, 4, 1)
    heatmap = ArrayImage(values, outside=0)
    out = read_heatmap(heatmap, (0.5, 0.5), Box((2, 2), (4, 4)))
    # Centres at 0.25 and 0.75 of the way between cells 0..1 (y) and 0..1 (x), value = 4 y + x.
    y, x = np.array([0.75, 1.25]), np.array([0.75, 1.25])
    np.testing.assert_allclose(out, 4 * y[:, None] + x, atol=1e-6)


def test_a_heatmap_fades_to_nothing_outside():
    heatmap = ArrayImage(np.full((4, 4, 1), 0.8, np.float32), outside=0)
    out = read_heatmap(heatmap, (0.25, 0.25), Box((-5, 4), (2, 12)))
    np.testing.assert_array_equal(out[:3], 0)
    np.testing.assert_allclose(
        out[:, 0], np.clip((np.arange(-5, 2) + 2.5) / 4, 0, 1) * 0.8, atol=1e-6
    )

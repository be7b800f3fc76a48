"""Tiles of slides and layers: the right pixels, in the right place, of the right size."""

import io
import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from view_made import CLASSES, SIZE, index_of

from wsiseg.geometry import Box
from wsiseg.source import open as open_slide
from wsiseg.stitch import LabelStore
from wsiseg.view.cache import ByteCache
from wsiseg.view.outlines import MARGIN, draw_tile, outline_grid, outline_palette
from wsiseg.view.png import packed, picture
from wsiseg.view.tiles import TILE, SlideTiles


def pixels_of(content):
    return np.asarray(Image.open(io.BytesIO(content)))


def rgba_of(content):
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGBA"))


@pytest.fixture(scope="module")
def slide(made_run):
    with open_slide(made_run / "slides" / "a.svs") as opened:
        yield opened


def test_the_coarsest_level_is_one_tile_and_the_finest_level_0(slide):
    levels = SlideTiles(slide).levels
    assert levels[0].grid == (1, 1)
    assert levels[-1].shape == SIZE
    assert levels[-1].downsample == 1
    assert all(a.downsample > b.downsample for a, b in itertools.pairwise(levels))


def test_all_tiles_of_level_0_make_the_slide(slide):
    tiles = SlideTiles(slide)
    rows, columns = tiles.levels[-1].grid
    last = len(tiles.levels) - 1
    drawn = np.concatenate(
        [
            np.concatenate([pixels_of(tiles.jpeg(last, r, c)) for c in range(columns)], axis=1)
            for r in range(rows)
        ]
    )
    exact = slide.levels[0].read(Box.of_shape(SIZE))
    assert drawn.shape == exact.shape
    assert np.abs(drawn.astype(int) - exact).mean() < 2


def test_coarse_tiles_show_the_same_place(slide):
    tiles = SlideTiles(slide)
    level = tiles.levels[0]
    drawn = pixels_of(tiles.jpeg(0, 0, 0)).astype(float)
    assert drawn.shape[:2] == level.shape
    exact = slide.levels[0].read(Box.of_shape(SIZE)).astype(float)
    step = level.downsample
    height, width = level.shape
    for y, x in ((10, 10), (height // 2, 30), (height - 12, width - 12)):
        rows, columns = (slice(int(n * step), int((n + 6) * step)) for n in (y, x))
        small, large = drawn[y : y + 6, x : x + 6], exact[rows, columns]
        assert np.abs(small.mean((0, 1)) - large.mean((0, 1))).max() < 4


@pytest.mark.parametrize("place", [(9, 0, 0), (-1, 0, 0), (0, 1, 0), (0, 0, -1), (2, 3, 0)])
def test_there_are_no_other_tiles(slide, place):
    with pytest.raises(IndexError):
        SlideTiles(slide).jpeg(*place)


@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 2**32))
def test_a_picture_holds_its_codes_in_its_colours(height, width, seed):
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, 256, (height, width), np.uint8)
    palette = rng.integers(0, 256, (256, 4), np.uint8)
    content = picture(packed(codes), palette)
    assert np.array_equal(rgba_of(content), palette[codes])
    assert np.array_equal(pixels_of(content), codes)


def test_mask_tiles_are_the_mask_in_its_colours(client, shown):
    one, store = shown[0], LabelStore.open(shown[0].result.folder / "mask.zarr")
    mask = next(layer for layer in one.layers if layer.kind == "mask")
    number, last = one.layers.index(mask), mask.levels - 1
    drawn = rgba_of(client.get(f"api/0/layer/{number}/{last}/0/1").content)
    labels = store.read(Box((0, TILE), (TILE, 2 * TILE)).clip(store.shape))
    assert drawn.shape[:2] == labels.shape
    for value, known in enumerate(CLASSES):
        expected = (*known.color, 255) if value else (0, 0, 0, 0)
        assert (drawn[labels == value] == expected).all()


def test_hidden_classes_are_clear(client):
    shown = rgba_of(client.get("api/0/layer/0/0/0/0").content)
    hidden = rgba_of(client.get("api/0/layer/0/0/0/0?hide=1").content)
    tumor = (shown[..., :3] == CLASSES[1].color).all(-1) & (shown[..., 3] > 0)
    assert tumor.any()
    assert (hidden[tumor][:, 3] == 0).all()
    assert np.array_equal(shown[~tumor], hidden[~tumor])


def test_heatmaps_are_clear_below_their_threshold_and_without_data(client, shown):
    layer = shown[0].layers[1]
    assert layer.kind == "heatmap"
    last = layer.levels - 1
    codes = layer.codes(last, 0, 0)
    drawn = rgba_of(client.get(f"api/0/layer/1/{last}/0/0?least=50&map=cividis").content)
    assert np.array_equal(drawn[..., 3] > 0, (codes.astype(int) - 1) / 254 >= 0.5)
    drawn = rgba_of(client.get(f"api/0/layer/1/{last}/0/0").content)
    assert np.array_equal(drawn[..., 3] > 0, codes > 0)


def test_outlines_run_where_classes_meet(shown):
    one = shown[0]
    index = index_of(one)
    (height, width), levels = outline_grid(SIZE)
    assert (height, width) == (4 * SIZE[0], 4 * SIZE[1])
    level = levels - 3  # a tile pixel is a level-0 pixel
    codes = draw_tile(index, SIZE, level, 0, 0)
    assert codes.shape == (TILE, TILE)
    mask = LabelStore.open(one.result.folder / "mask.zarr").read(Box((0, 0), (128, 128)))
    large = np.kron(mask, np.ones((4, 4), np.uint8))
    edges = np.zeros(large.shape, bool)
    edges[0], edges[:, 0] = large[0] > 0, large[:, 0] > 0  # objects end with the slide
    edges[1:] |= large[1:] != large[:-1]
    edges[:, 1:] |= large[:, 1:] != large[:, :-1]
    assert edges.any()
    assert (codes[edges] > 0).mean() > 0.99
    far = np.ones_like(edges)
    for y, x in np.argwhere(edges):
        far[max(0, y - 4) : y + 5, max(0, x - 4) : x + 5] = False
    assert not codes[:-4, :-4][far[:-4, :-4]].any()  # beyond lie others


def test_outlines_go_on_across_tiles(shown):
    index = index_of(shown[0])
    _, levels = outline_grid(SIZE)
    left, right = (draw_tile(index, SIZE, levels - 3, 1, column) for column in (0, 1))
    assert MARGIN >= 2  # half a line and its soft edge
    crossing = (left[:, -1] > 0) | (right[:, 0] > 0)
    assert crossing.any()
    assert ((left[:, -1] > 0) & (right[:, 0] > 0))[crossing].mean() > 0.6


def test_outline_tiles_end_where_the_slide_ends(shown):
    index = index_of(shown[0])
    (height, width), levels = outline_grid(SIZE)
    for level in range(levels):
        rows, columns = (-(-n >> levels - 1 - level) for n in (height, width))
        last = draw_tile(index, SIZE, level, (rows - 1) // TILE, (columns - 1) // TILE)
        assert last.shape == ((rows - 1) % TILE + 1, (columns - 1) % TILE + 1)
        with pytest.raises(IndexError):
            draw_tile(index, SIZE, level, (rows - 1) // TILE + 1, 0)


def test_palettes_of_outlines_hide_classes():
    colors = [(200, 0, 0), (0, 0, 200)]
    palette = outline_palette(colors, frozenset({1}))
    assert [tuple(c) for c in palette[[30, 45], :3]] == colors
    assert palette[30, 3] == 255
    assert palette[45, 3] == 0
    assert outline_palette([(1, 2, 3)] * 400).shape == (256, 4)


def test_the_cache_keeps_what_was_used_last():
    cache = ByteCache(10)
    for key in "abc":
        cache.put(key, b"1234")
        cache.get("a")
    assert cache.get("b") is None
    assert cache.get("a") == b"1234"
    assert cache.bytes == 8
    assert cache.put("large", b"x" * 11) == b"x" * 11
    assert cache.get("large") is None
    cache.put("a", b"1")
    assert cache.bytes == 5

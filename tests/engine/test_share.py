"""Stages that read one level share its decoded blocks, and see the same pixels as alone."""

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st

from wsiseg.engine.blocks import BlockUses, block_box
from wsiseg.engine.fractional import FractionalLevel
from wsiseg.engine.graph import StageInput, StageSetup
from wsiseg.engine.inputs import TileReader, connect
from wsiseg.engine.share import SharedLevel, share_levels, shared_blocks
from wsiseg.engine.walk import batches_of
from wsiseg.geometry import Box, Spacing
from wsiseg.grid import Grid
from wsiseg.model.card import StageSpec
from wsiseg.source import open as open_slide
from wsiseg.source.view import View
from wsiseg.testing.slides import make_svs

SPEC = StageSpec.model_validate(
    {
        "name": "only",
        "kind": "classifier",
        "inputs": [
            {
                "from": "slide",
                "channels": ["R", "G", "B"],
                "patch": [32, 32],
                "spacing_um": [1.0, 1.0],
            }
        ],
        "output": {"name": "out", "activation": "none"},
        "weights": {"file": "w.onnx", "sha256": "0" * 64, "architecture": "onnx"},
    }
)


class Counting:
    """A source that remembers which boxes of it were read."""

    def __init__(self, source):
        self._source = source
        self.boxes: list[Box] = []
        self._lock = threading.Lock()

    def __getattr__(self, name):
        return getattr(self._source, name)

    def read(self, level, box):
        with self._lock:
            self.boxes.append(box)
        return self._source.read(level, box)


def picture(shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (*shape, 3), dtype=np.uint8)


def all_blocks(view, block):
    counts = [-(-n // b) for n, b in zip(view.shape, block, strict=True)]
    return [tuple(map(int, index)) for index in np.ndindex(*counts)]


def uses_of(view, block, patch=16):
    grid = Grid.of_patches(view.shape, (patch, patch))
    return BlockUses.of_boxes((tile.read for tile in grid), block)


@given(
    shape=st.tuples(st.integers(1, 70), st.integers(1, 70)),
    ratios=st.lists(st.sampled_from([1, 2, 3, 4, 6]), min_size=1, max_size=3),
    seed=st.integers(0, 9),
)
def test_each_view_is_what_it_is_alone_and_each_block_is_decoded_once(
    tmp_path_factory, shape, ratios, seed
):
    with open_slide(picture(shape, seed), mpp=1.0) as slide, ExitStack() as stack:
        views = [slide.at(float(ratio)) for ratio in ratios]
        level = slide.levels[0]
        counting = slide.reader = Counting(slide.source)
        shared = stack.enter_context(
            closing(SharedLevel(level, (24, 12), tmp_path_factory.mktemp("shared")))
        )
        readers = [shared.add(v, uses_of(v, shared.block_of(v))) for v in views]
        found = []
        for view, reader in zip(views, readers, strict=True):
            pixels = np.full((*view.shape, 3), 7, np.uint8)
            for index in all_blocks(view, reader.block):
                box = block_box(index, reader.block)
                inside = box.clip(view.shape)
                pixels[inside.slices()] = reader.read(box)[inside.relative_to(box).slices()]
            found.append(pixels)
        assert len(counting.boxes) == len(set(counting.boxes))
        for view, pixels in zip(views, found, strict=True):
            np.testing.assert_array_equal(pixels, view.read(Box.of_shape(view.shape)))


def test_outside_the_slide_lies_its_background(tmp_path):
    with open_slide(picture((20, 20)), mpp=1.0) as slide, ExitStack() as stack:
        view = slide.at(2.0)
        shared = stack.enter_context(closing(SharedLevel(slide.levels[0], (8, 8), tmp_path)))
        reader = shared.add(view, uses_of(view, shared.block_of(view)))
        box = block_box((-1, 1), reader.block)
        np.testing.assert_array_equal(reader.read(box), view.read(box))


def test_what_no_later_stage_wants_is_not_kept(tmp_path):
    with open_slide(picture((64, 64)), mpp=1.0) as slide, ExitStack() as stack:
        views = [slide.at(1.0), slide.at(2.0)]
        level = slide.levels[0]
        counting = slide.reader = Counting(slide.source)
        shared = stack.enter_context(closing(SharedLevel(level, (16, 16), tmp_path)))
        first = shared.add(views[0], uses_of(views[0], (16, 16)))
        few = [Box((0, 0), (8, 8))]
        second = shared.add(views[1], BlockUses.of_boxes(few, (8, 8)))
        for index in np.ndindex(4, 4):
            first.read(block_box(index, (16, 16)))
        assert len(counting.boxes) == 16
        second.read(block_box((0, 0), (8, 8)))
        assert len(counting.boxes) == 16
        second.read(block_box((1, 0), (8, 8)))
        assert len(counting.boxes) == 17


def test_a_full_disk_only_means_decoding_again(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.pwrite", full)
    with open_slide(picture((32, 32)), mpp=1.0) as slide, ExitStack() as stack:
        views = [slide.at(1.0), slide.at(2.0)]
        shared = stack.enter_context(closing(SharedLevel(slide.levels[0], (16, 16), tmp_path)))
        readers = [shared.add(v, uses_of(v, shared.block_of(v))) for v in views]
        for view, reader in zip(views, readers, strict=True):
            for index in all_blocks(view, reader.block):
                box = block_box(index, reader.block)
                np.testing.assert_array_equal(reader.read(box), view.read(box))


def read_whole(view, reader):
    """Return all pixels of a view, put together from its blocks."""
    pixels = np.full((*view.shape, 3), 7, np.uint8)
    for index in all_blocks(view, reader.block):
        box = block_box(index, reader.block)
        inside = box.clip(view.shape)
        pixels[inside.slices()] = reader.read(box)[inside.relative_to(box).slices()]
    return pixels


@given(
    shape=st.tuples(st.integers(1, 90), st.integers(1, 90)),
    ratios=st.lists(st.sampled_from([1.0, 1.3, 2.2017, 3.0, 4.4033, 8.8]), min_size=1, max_size=3),
    unit=st.sampled_from([(8, 8), (16, 24), (100, 100)]),
    tiles_in_memory=st.sampled_from([1, 3, 1000]),
)
def test_at_any_ratio_each_tile_is_decoded_once(
    tmp_path_factory, shape, ratios, unit, tiles_in_memory
):
    with pytest.MonkeyPatch.context() as patch, ExitStack() as stack:
        patch.setattr("wsiseg.engine.fractional.BLOCK_SIDE", 24)
        patch.setattr("wsiseg.engine.decoded.KEPT_BYTES", tiles_in_memory * 3 * unit[0] * unit[1])
        slide = stack.enter_context(open_slide(picture(shape), mpp=1.0))
        views = [View(slide, Spacing((r, r)), exact=True) for r in ratios]
        counting = slide.reader = Counting(slide.source)
        folder = tmp_path_factory.mktemp("shared")
        shared = stack.enter_context(closing(FractionalLevel(slide.levels[0], unit, folder)))
        readers = [shared.add(v, uses_of(v, shared.block_of(v))) for v in views]
        found = [read_whole(view, reader) for view, reader in zip(views, readers, strict=True)]
        assert len(counting.boxes) == len(set(counting.boxes))
        assert {box.shape for box in counting.boxes} == {unit}
        for view, pixels in zip(views, found, strict=True):
            np.testing.assert_array_equal(pixels, view.read(Box.of_shape(view.shape)))


def test_many_threads_decode_each_tile_once(tmp_path):
    with open_slide(picture((400, 300)), mpp=1.0) as slide, ExitStack() as stack:
        views = [View(slide, Spacing((r, r)), exact=True) for r in (1.3, 2.6)]
        counting = slide.reader = Counting(slide.source)
        shared = stack.enter_context(closing(FractionalLevel(slide.levels[0], (32, 32), tmp_path)))
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        patch.setattr("wsiseg.engine.fractional.BLOCK_SIDE", 48)
        patch.setattr("wsiseg.engine.decoded.KEPT_BYTES", 5 * 3 * 32 * 32)
        readers = [shared.add(v, uses_of(v, shared.block_of(v))) for v in views]
        whole = [view.read(Box.of_shape(view.shape)) for view in views]
        counting.boxes.clear()
        for view, reader, pixels in zip(views, readers, whole, strict=True):
            boxes = [block_box(index, reader.block) for index in all_blocks(view, reader.block)]
            with ThreadPoolExecutor(8) as pool:
                for box, block in zip(boxes, pool.map(reader.read, boxes), strict=True):
                    inside = box.clip(view.shape)
                    part = block[inside.relative_to(box).slices()]
                    np.testing.assert_array_equal(part, pixels[inside.slices()])
        assert len(counting.boxes) == len(set(counting.boxes)) == 13 * 10


def test_what_waits_for_later_stages_is_reduced(tmp_path):
    """The second stage reads no tile: its blocks were made along with those of the first."""
    with open_slide(picture((600, 600)), mpp=1.0) as slide, ExitStack() as stack:
        views = [View(slide, Spacing((r, r)), exact=True) for r in (1.3, 5.2)]
        counting = slide.reader = Counting(slide.source)
        shared = stack.enter_context(closing(FractionalLevel(slide.levels[0], (64, 64), tmp_path)))
        readers = [shared.add(v, uses_of(v, shared.block_of(v))) for v in views]
        read_whole(views[0], readers[0])
        decoded = len(counting.boxes)
        read_whole(views[1], readers[1])
        assert len(counting.boxes) == decoded == 100


def test_tiles_that_only_a_later_stage_wants_are_left_to_it(tmp_path):
    with open_slide(picture((640, 640)), mpp=1.0) as slide, ExitStack() as stack:
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        patch.setattr("wsiseg.engine.fractional.BLOCK_SIDE", 64)
        views = [View(slide, Spacing((r, r)), exact=True) for r in (1.3, 2.6)]
        counting = slide.reader = Counting(slide.source)
        shared = stack.enter_context(closing(FractionalLevel(slide.levels[0], (64, 64), tmp_path)))
        few = BlockUses.of_boxes([Box((0, 0), (49, 49))], shared.block_of(views[0]))
        first = shared.add(views[0], few)
        second = shared.add(views[1], uses_of(views[1], shared.block_of(views[1])))
        first.read(block_box((0, 0), first.block))
        assert 1 <= len(counting.boxes) <= 9  # its own, and those of the blocks beside it
        read_whole(views[1], second)
        assert len(counting.boxes) == len(set(counting.boxes)) == 100


def test_tiles_that_a_full_disk_forgets_are_decoded_again(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.pwrite", full)
    monkeypatch.setattr("wsiseg.engine.decoded.KEPT_BYTES", 1)
    with open_slide(picture((300, 300)), mpp=1.0) as slide, ExitStack() as stack:
        views = [View(slide, Spacing((r, r)), exact=True) for r in (1.3, 2.6)]
        shared = stack.enter_context(closing(FractionalLevel(slide.levels[0], (32, 32), tmp_path)))
        readers = [shared.add(v, uses_of(v, shared.block_of(v))) for v in views]
        for view, reader in zip(views, readers, strict=True):
            whole = view.read(Box.of_shape(view.shape))
            np.testing.assert_array_equal(read_whole(view, reader), whole)


def setup_at(slide, spacing_um):
    """Return one stage of 32 px patches at a spacing."""
    view = slide.at(spacing_um)
    item = StageInput(SPEC.inputs[0], view.shape, view.downsample, view.spacing, view.spacing, view)
    return StageSetup(SPEC, (item,), Grid.of_patches(view.shape, (32, 32)), ("a", "b"))


@pytest.mark.parametrize(
    ("spacings", "kind"),
    [((1.0, 2.0), SharedLevel), ((1.0, 2.6), FractionalLevel), ((1.3,), FractionalLevel)],
)
def test_all_stages_share_a_level_whatever_the_ratio(tmp_path, spacings, kind):
    with open_slide(picture((600, 600)), mpp=1.0) as slide:
        setups = [setup_at(slide, um) for um in spacings]
        selected = [np.ones(setup.grid.counts, bool) for setup in setups]
        with share_levels(setups, selected, tmp_path) as shared:
            assert {type(view._shared) for view in shared.values()} == {kind}
    assert set(shared) == {(s, 0) for s in range(len(spacings))}
    assert shared_blocks(setups) == {place: view.block for place, view in shared.items()}


def test_a_cascade_of_fractional_ratios_decodes_the_tiles_of_a_file_once(tmp_path, monkeypatch):
    """As the engine reads it: patches with their halo, through blocks, in turns."""
    monkeypatch.setattr("wsiseg.engine.decoded.KEPT_BYTES", 300_000)
    pixels = picture((1500, 2100))
    path = make_svs(tmp_path / "a.svs", pixels, levels=(1,), mpp=0.2431)
    with open_slide(path) as slide, ExitStack() as stack:
        setups = [setup_at(slide, um) for um in (0.5, 1.0, 4.0)]
        random = np.random.default_rng(0)
        selected = [random.random(setup.grid.counts) < 0.3 for setup in setups]
        shared = stack.enter_context(share_levels(setups, selected, tmp_path))
        found = []
        for s, (setup, chosen) in enumerate(zip(setups, selected, strict=True)):
            inputs = connect(setup, {}, {k: v for (i, k), v in shared.items() if i == s})
            (column,) = setup.columns(setup.grid.shape[-1])
            batches = list(batches_of(chosen, 8))
            reader = TileReader(setup, inputs, column, batches)
            for batch in batches:
                (patches,) = reader.read(batch, len(batch))
                boxes = [setup.grid.tile(tuple(index)).read for index in batch.tolist()]
                found += [
                    (setup.reference.view, *pair) for pair in zip(boxes, patches, strict=True)
                ]
        assert slide.reads.amplification == 1.0
        assert slide.reads.decoded > 40  # nearly all of them
        for view, box, patch in found:
            np.testing.assert_array_equal(patch, view.read(box))


def test_strips_are_decoded_once(tmp_path, monkeypatch):
    """A strip is as wide as the slide: blocks that are narrower would decode it for each."""
    monkeypatch.setattr("wsiseg.engine.share.SOURCE_CACHE_BYTES", 200_000)
    pixels = picture((256, 1500))
    path = tmp_path / "strips.tif"
    tifffile.imwrite(path, pixels, rowsperstrip=32, compression="deflate", photometric="rgb")
    with open_slide(path, mpp=1.0) as slide, ExitStack() as stack:
        setup = setup_at(slide, 1.0)
        selected = np.ones(setup.grid.counts, bool)
        shared = stack.enter_context(share_levels([setup], [selected], tmp_path))
        reader = shared.get((0, 0), setup.reference.view)
        block = getattr(reader, "block", (256, 256))
        for index in all_blocks(setup.reference.view, block):
            reader.read(block_box(index, block))
        assert slide.reads.amplification == 1

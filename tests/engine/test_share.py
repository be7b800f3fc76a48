"""Stages that read one level share its decoded blocks, and see the same pixels as alone."""

import threading
from contextlib import ExitStack, closing

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st

from wsiseg.engine.blocks import BlockUses, block_box
from wsiseg.engine.graph import StageInput, StageSetup
from wsiseg.engine.share import SharedLevel, share_levels
from wsiseg.geometry import Box
from wsiseg.grid import Grid
from wsiseg.model.card import StageSpec
from wsiseg.source import open as open_slide

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


def setup_at(slide, spacing_um):
    """Return one stage of 32 px patches at a spacing."""
    view = slide.at(spacing_um)
    item = StageInput(SPEC.inputs[0], view.shape, view.downsample, view.spacing, view.spacing, view)
    return StageSetup(SPEC, (item,), Grid.of_patches(view.shape, (32, 32)), ("a", "b"))


@pytest.mark.parametrize("spacing", [2.0, 2.6])
def test_only_whole_ratios_are_shared(tmp_path, spacing):
    with open_slide(picture((600, 600)), mpp=1.0) as slide:
        setups = [setup_at(slide, um) for um in (1.0, spacing)]
        selected = [np.ones(setup.grid.counts, bool) for setup in setups]
        with share_levels(setups, selected, tmp_path) as shared:
            pass
    assert set(shared) == ({(0, 0), (1, 0)} if spacing == 2.0 else {(0, 0)})


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

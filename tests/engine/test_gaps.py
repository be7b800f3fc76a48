"""What a lost pixel reaches, against looking at every window."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsiseg.engine.gaps import Gaps
from wsiseg.engine.graph import lay_out
from wsiseg.geometry import Box
from wsiseg.model import ModelCard
from wsiseg.source import State
from wsiseg.source import open as open_slide
from wsiseg.stitch import Slab
from wsiseg.stitch.device import CodeSlab

SHAPE = (90, 120)


def setups(stages):
    content = {
        "schema_version": 1,
        "name": "test",
        "version": "1",
        "task": "semantic",
        "axes": "yx",
        "classes": [{"name": "none"}, {"name": "some"}],
        "stages": stages,
        "provenance": dict.fromkeys(("license", "trained_on", "intended_use", "limits"), "x"),
    }
    slide = open_slide(np.zeros((*SHAPE, 3), np.uint8), mpp=1.0)
    return lay_out(ModelCard.parse(json.dumps(content)), slide)


def stage(kind, *, name="only", patch=12, stride=None, halo=0, spacing=1.0, more=()):
    rgb = {"from": "slide", "channels": ["R", "G", "B"]}
    rgb |= {"patch": [patch] * 2, "spacing_um": [spacing] * 2}
    rgb |= {"stride": [stride] * 2} if stride else {}
    output = {"name": name} | ({"halo": [halo] * 2} if kind == "segmenter" else {})
    weights = {"file": f"{name}.onnx", "sha256": "0" * 64, "architecture": "onnx"}
    inputs = [rgb, *more]
    return {"name": name, "kind": kind, "inputs": inputs, "output": output, "weights": weights}


def lose(setup, boxes):
    """Let the slide's views of a stage have lost these level-0 boxes."""
    for item in setup.inputs:
        if item.view is not None:
            lost = np.array(boxes, np.float64).reshape(-1, 4)
            item.view.damaged = lambda state, lost=lost: (
                lost if state == State.NODATA else np.empty((0, 4))
            )


def blanked(gaps, shape, turned=False):
    """Return the pixels of a covered array, pushed in two slabs, that become nodata."""
    shape = shape[::-1] if turned else shape
    middle, kept = shape[0] // 2, []
    for top, stop in ((0, middle), (middle, shape[0])):
        box = Box((top, 0), (stop, shape[1]))
        covered = np.ones(box.shape, np.bool_)
        slab = Slab(box, np.zeros((*box.shape, 2), np.float32), covered)
        kept.append(gaps.blank(slab, turned=turned).covered)
        assert covered.all()  # the slab given is left alone
    lost = ~np.concatenate(kept)
    return lost.T if turned else lost


boxes = st.lists(
    st.tuples(st.integers(0, 85), st.integers(0, 115), st.integers(1, 30), st.integers(1, 30)),
    min_size=1,
    max_size=3,
).map(lambda found: [(y, x, min(y + h, 90), min(x + w, 120)) for y, x, h, w in found])


@given(
    lost=boxes,
    kind=st.sampled_from(["classifier", "segmenter"]),
    patch=st.integers(9, 20),
    margin=st.integers(0, 4),
    spacing=st.sampled_from([1.0, 2.0, 2.6]),
    turned=st.booleans(),
)
def test_exactly_what_touches_a_lost_pixel_is_nodata(lost, kind, patch, margin, spacing, turned):
    stride = max(1, patch - 2 * margin - 1) if kind == "classifier" else None
    (setup,) = setups([stage(kind, patch=patch, stride=stride, halo=margin, spacing=spacing)])
    lose(setup, lost)
    pixels = np.zeros(setup.grid.shape, np.bool_)  # of the view, that have a lost level-0 pixel
    down = setup.reference.downsample
    for y0, x0, y1, x1 in lost:
        rows, columns = (
            slice(int(np.floor(a / d + 1e-6)), int(np.ceil(b / d - 1e-6)))
            for a, b, d in ((y0, y1, down[0]), (x0, x1, down[1]))
        )
        pixels[rows, columns] = True
    expected = np.zeros(setup.placement.shape, np.bool_)
    if kind == "classifier":
        for tile in setup.grid:
            expected[tile.index] = pixels[tile.read.clip(pixels.shape).slices()].any()
    else:
        for place in np.argwhere(pixels):
            around = Box(tuple(place), tuple(place + 1)).grow(margin).clip(pixels.shape)
            expected[around.slices()] = True
    gaps = Gaps(setup, {})
    assert np.array_equal(blanked(gaps, setup.placement.shape, turned), expected)
    pixel_mm2 = setup.placement.spacing.area_um2 * 1e-6
    every = np.ones(setup.decided.counts, np.bool_)
    assert gaps.lost_mm2(every) == pytest.approx(expected.sum() * pixel_mm2)


@given(lost=boxes, stride=st.integers(5, 12), halo=st.integers(0, 3), seed=st.integers(0, 99))
def test_what_no_tile_decides_is_not_lost(lost, stride, halo, seed):
    patch = 12 + 2 * halo
    (setup,) = setups([stage("segmenter", patch=patch, stride=stride, halo=halo)])
    lose(setup, lost)
    selected = np.random.default_rng(seed).random(setup.grid.counts) < 0.5
    covered = np.zeros(setup.placement.shape, np.bool_)
    for tile in setup.grid:
        covered[tile.write.slices()] |= selected[tile.index]
    gaps = Gaps(setup, {})
    expected = np.count_nonzero(blanked(gaps, covered.shape) & covered)
    assert gaps.lost_mm2(selected) == pytest.approx(expected * 1e-6)


def test_a_wider_context_counts_with_its_own_patch():
    wide = {"from": "slide", "channels": ["R", "G", "B"], "patch": [16, 16]}
    wide |= {"spacing_um": [2.0, 2.0]}
    (setup,) = setups([stage("classifier", patch=8, stride=4, more=[wide])])
    lose(setup, [(40, 60, 41, 61)])
    found = blanked(Gaps(setup, {}), setup.placement.shape)
    for tile in setup.grid:
        boxes = [item.box_of(tile.read, setup.reference) for item in setup.inputs]
        touched = any(
            all(a * d < p + 1 and b * d > p for a, b, d, p in zip(
                box.start, box.stop, item.downsample, (40, 60), strict=True
            ))
            for box, item in zip(boxes, setup.inputs, strict=True)
        )  # fmt: skip
        assert found[tile.index] >= touched
    rows, columns = np.nonzero(found)  # 32 µm of context, half a pixel of 2 µm spare on each side
    assert (np.ptp(rows) + 1, np.ptp(columns) + 1) <= (9, 9)


def test_what_a_stage_lost_is_lost_for_those_that_read_it():
    heat = {"from": "first", "channels": ["some"], "patch": [32, 32], "spacing_um": [1.0, 1.0]}
    first, second = setups(
        [
            stage("classifier", name="first", patch=16, stride=4),
            stage("segmenter", name="second", patch=32, halo=3, more=[heat]),
        ]
    )
    lose(first, [(40, 60, 44, 64)])
    lose(second, [])
    earlier = Gaps(first, {})
    cells = blanked(earlier, first.placement.shape)
    found = blanked(Gaps(second, {"first": earlier}), second.placement.shape)
    ((top, left), (bottom, right)) = np.argwhere(cells).min(0), np.argwhere(cells).max(0) + 1
    place = first.placement
    start = np.array((top, left)) * place.downsample + place.origin
    stop = np.array((bottom, right)) * place.downsample + place.origin
    rows, columns = np.nonzero(found)
    assert (rows.min(), columns.min()) == tuple(np.floor(start - 4).astype(int) - 3)
    assert (rows.max() + 1, columns.max() + 1) == tuple(np.ceil(stop + 4).astype(int) + 3)
    assert found[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1].all()


@pytest.mark.parametrize("labelled", [True, False])
def test_codes_stitched_on_a_device_are_blanked_as_well(labelled):
    (setup,) = setups([stage("segmenter", patch=16, halo=2)])
    lose(setup, [(40, 60, 44, 64)])
    box = Box((38, 0), (50, 120))
    codes = np.full((*box.shape, 2), 200, np.uint8)
    codes[:, 70:] = 0
    labels = np.ones(box.shape, np.uint8) if labelled else None
    gaps = Gaps(setup, {})
    found = gaps.blank(CodeSlab(box, codes, labels), turned=False)
    lost = np.zeros(box.shape, np.bool_)
    lost[0:8, 58:66] = True
    assert np.array_equal(found.codes, np.where(lost[..., None], 0, codes))
    if labelled:
        assert np.array_equal(found.labels == 0, lost)
    else:
        assert found.labels is None


def test_without_damage_a_slab_is_passed_on():
    (setup,) = setups([stage("segmenter", patch=16)])
    box = Box((0, 0), (9, 120))
    slab = Slab(box, np.zeros((*box.shape, 2), np.float32), np.ones(box.shape, np.bool_))
    assert Gaps(setup, {}).blank(slab, turned=False) is slab

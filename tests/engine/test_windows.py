"""Stages on larger windows: the same pixels decided, with the same values, for less computing."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import uniform_filter

from wsiseg.engine.execute import Pace, run_stage
from wsiseg.engine.graph import lay_out
from wsiseg.engine.inputs import connect
from wsiseg.engine.on_device import DeviceOutput
from wsiseg.engine.skip import _edges
from wsiseg.engine.windows import choose_window, window_pixels
from wsiseg.geometry import Box
from wsiseg.model import ModelCard
from wsiseg.model.enlarge import window_patches
from wsiseg.model.predictor import FunctionPredictor
from wsiseg.source import open as open_slide
from wsiseg.stitch import ArgmaxLabels, ArraySink, Probabilities, Reducers
from wsiseg.stitch.placement import Placement

shapes = st.tuples(st.integers(1, 60), st.integers(1, 60))
steps = st.tuples(st.integers(1, 7), st.integers(1, 7))


def card(step, halo, most):
    patch = [s + 2 * halo for s in step]
    rgb = {"from": "slide", "channels": ["R", "G", "B"], "patch": patch, "spacing_um": [1.0, 1.0]}
    stage = {
        "name": "only",
        "kind": "segmenter",
        "inputs": [rgb],
        "output": {
            "name": "out",
            "activation": "none",
            "halo": [halo] * 2,
            "max_patch": [p + (most - 1) * s for p, s in zip(patch, step, strict=True)],
        },
        "weights": {"file": "w.onnx", "sha256": "0" * 64, "architecture": "onnx"},
    }
    said = dict.fromkeys(("license", "trained_on", "intended_use", "limits"), "x")
    classes = [{"name": name} for name in ("red", "green", "blue")]
    content = {"schema_version": 1, "name": "test", "version": "1", "task": "semantic"}
    content |= {"axes": "yx", "classes": classes, "stages": [stage], "provenance": said}
    return ModelCard.parse(json.dumps(content))


def setup_of(shape, step, halo, most):
    with open_slide(picture(shape), mpp=1.0) as slide:
        (setup,) = lay_out(card(step, halo, most), slide)
    return setup


def picture(shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (*shape, 3), dtype=np.uint8)


def blur(radius):
    def network(patches):
        size = (1, 2 * radius + 1, 2 * radius + 1, 1)
        return uniform_filter(patches.astype(np.float64) / 255, size).astype(np.float32)

    return network


class Collect:
    def __init__(self, shape):
        self.values = np.full((*shape, 3), np.nan, np.float32)
        self.covered = np.zeros(shape, bool)

    def push(self, slab):
        self.values[slab.box.slices()] = slab.values
        self.covered[slab.box.slices()] = slab.covered

    def finish(self):
        pass


def run(setup, pixels, selected, network, *, width=1000, turned=False, batch=3):
    calls = []

    def counted(patches):
        calls.append(patches.shape)
        return network(patches)

    shape = setup.placement.shape
    collect = Collect(shape[::-1] if turned else shape)
    with open_slide(pixels, mpp=1.0) as slide:
        (fresh,) = lay_out(card_of(setup), slide)
        report = run_stage(
            fresh.in_windows(setup.grid.patch),
            connect(fresh, {}),
            selected,
            FunctionPredictor(counted),
            collect,
            pace=Pace(batch, 2, width, turned),
        )
    if turned:
        collect.values, collect.covered = collect.values.swapaxes(0, 1), collect.covered.T
    return collect, report, calls


def card_of(setup):
    step, (halo, _) = setup.decided.stride, setup.decided.halo
    most = 1 + (setup.spec.output.max_patch[0] - setup.decided.patch[0]) // step[0]
    return card(step, halo, most)


@settings(max_examples=25)
@given(
    shapes,
    steps,
    st.integers(1, 3),
    st.integers(2, 5),
    st.integers(1, 60),
    st.booleans(),
    st.integers(0, 99),
)
def test_windows_decide_what_patches_decide(shape, step, halo, most, width, turned, seed):
    setup = setup_of(shape, step, halo, most)
    pixels = picture(shape)
    selected = np.random.default_rng(seed).random(setup.grid.counts) < 0.4
    expected, *_ = run(setup, pixels, selected, blur(halo))
    for patch in window_patches(setup.spec):
        wide = setup.in_windows(patch)
        found, report, _ = run(wide, pixels, selected, blur(halo), width=width, turned=turned)
        np.testing.assert_array_equal(found.covered, expected.covered)
        np.testing.assert_allclose(found.values, expected.values, atol=1e-6, rtol=0)
        assert not found.values[~found.covered].any()
        assert report.tiles == wide.runs(selected).sum()


def test_a_halo_too_small_would_be_seen():
    setup = setup_of((50, 50), (8, 8), 2, 3)
    pixels, everything = picture((50, 50)), np.ones(setup.grid.counts, bool)
    expected, *_ = run(setup, pixels, everything, blur(3))
    found, *_ = run(setup.in_windows((28, 28)), pixels, everything, blur(3))
    assert np.abs(found.values - expected.values).max() > 0.01


def test_the_network_sees_fewer_pixels_and_each_window_once():
    setup = setup_of((60, 60), (6, 6), 3, 5)
    pixels, everything = picture((60, 60)), np.ones(setup.grid.counts, bool)
    _, report, calls = run(setup.in_windows((36, 36)), pixels, everything, blur(3), batch=1)
    assert report.tiles == len(calls) == 4
    assert set(calls) == {(1, 36, 36, 3)}
    assert window_pixels(setup, everything, (36, 36)) == 4 * 36**2
    assert window_pixels(setup, everything, (12, 12)) == 100 * 12**2


def test_a_stage_comes_back_from_windows():
    setup = setup_of((60, 60), (6, 6), 3, 5)
    assert setup.in_windows((36, 36)).in_windows((12, 12)) == setup
    assert setup.in_windows((36, 36)).in_windows((18, 18)) == setup.in_windows((18, 18))
    assert setup.in_windows((12, 12)) == setup


@given(shapes, steps, st.integers(2, 5), st.integers(0, 99))
def test_a_window_runs_where_one_of_its_patches_is_selected(shape, step, most, seed):
    setup = setup_of(shape, step, 1, most)
    selected = np.random.default_rng(seed).random(setup.grid.counts) < 0.2
    wide = setup.in_windows(window_patches(setup.spec)[0])
    runs = wide.runs(selected)
    for index in np.ndindex(*runs.shape):
        inside = selected[tuple(slice(i * most, (i + 1) * most) for i in index)]
        assert runs[index] == inside.any()


def dense(counts):
    return np.ones(counts, bool)


def scattered(counts):
    chosen = np.zeros(counts, bool)
    chosen[::8, ::8] = True
    return chosen


def biopsy(counts):
    """A thin core from one corner to the other."""
    return np.eye(*counts, dtype=bool)


@pytest.mark.parametrize(
    ("tissue", "patch"), [(dense, 704), (scattered, 192), (biopsy, 192), (np.zeros, 192)]
)
def test_tissue_decides_the_window(tissue, patch):
    setup = setup_of((128 * 40, 128 * 40), (128, 128), 32, 5)
    patches = window_patches(setup.spec)
    assert [a for a, _ in patches] == [704, 320, 192]
    chosen = choose_window(setup, tissue(setup.grid.counts).astype(bool), patches)
    assert chosen == (patch, patch)


def test_a_window_that_saves_next_to_nothing_is_not_taken():
    setup = setup_of((128 * 4, 128 * 4), (128, 128), 32, 2)
    small, large = 192**2, 320**2  # a window costs as much as 2.8 patches
    selected = np.zeros(setup.grid.counts, bool)
    selected[:2, :2].flat[:3] = True  # 3 patches: 0.93 of the pixels
    assert large / (3 * small) > 0.9
    assert choose_window(setup, selected, ((320, 320), (192, 192))) == (192, 192)
    selected[:2, :2] = True
    assert choose_window(setup, selected, ((320, 320), (192, 192))) == (320, 320)


@pytest.mark.parametrize("turned", [False, True])
def test_the_device_leaves_out_the_same_pixels(turned):
    torch = pytest.importorskip("torch")
    from wsiseg.stitch.device import CodeWriter, Kept

    shape, step, halo = (50, 41), (6, 5), 2
    pixels, network = picture(shape), blur(halo)
    setup = setup_of(shape, step, halo, 3)
    wide = setup.in_windows(window_patches(setup.spec)[0])
    selected = np.random.default_rng(1).random(setup.grid.counts) < 0.3
    shape = shape[::-1] if turned else shape

    class OnDevice(FunctionPredictor):
        device = "cpu"

        def stream_on_device(self, batches):
            for batch in batches:
                yield torch.from_numpy(self(*batch))

    def sinks():
        return ArraySink((*shape, 3)), ArraySink(shape)

    results = []
    for stage, on_device in ((setup, False), (wide, True)):
        codes, labels = sinks()
        output = DeviceOutput("cpu", Kept((0, 1, 2)), CodeWriter(codes, labels))
        with open_slide(pixels, mpp=1.0) as slide:
            (fresh,) = lay_out(card_of(setup), slide)
            run_stage(
                fresh.in_windows(stage.grid.patch),
                connect(fresh, {}),
                selected,
                OnDevice(network),
                Reducers([] if on_device else [Probabilities(codes), ArgmaxLabels(labels)]),
                pace=Pace(2, 1, 20, turned, on_device=on_device),
                device_output=output if on_device else None,
            )
        results.append((codes.array, labels.array))
    (expected, classes), (found, found_classes) = results
    assert (expected == 0).any()
    assert expected.any()
    assert np.abs(found.astype(int) - expected).max() <= 1
    np.testing.assert_array_equal(found == 0, expected == 0)
    np.testing.assert_array_equal(found_classes, classes)


def test_skipping_looks_under_the_patches_of_the_card():
    setup = setup_of((60, 60), (6, 6), 3, 5)

    class Heatmap:
        placement = Placement((60, 60), setup.reference.spacing, (1.0, 1.0))

    for stage in (setup, setup.in_windows((36, 36))):
        starts, stops = _edges(Heatmap, stage, 0, overlap=False)
        assert starts.tolist() == list(range(0, 60, 6))
        assert stops.tolist() == list(range(6, 61, 6))


def test_undecided_pixels_are_those_of_no_selected_patch():
    setup = setup_of((12, 13), (6, 5), 1, 2).in_windows((14, 12))
    selected = np.array([[True, False, False], [False, False, True]])
    whole = np.ones((12, 13), bool)
    whole[:6, :5] = whole[6:, 10:] = False
    box = Box((4, 3), (9, 13))
    np.testing.assert_array_equal(setup.undecided(box, selected), whole[4:9, 3:])
    turned = Box((3, 4), (13, 9))
    np.testing.assert_array_equal(setup.undecided(turned, selected, turned=True), whole[4:9, 3:].T)

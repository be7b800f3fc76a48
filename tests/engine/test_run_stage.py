"""One stage end to end on arrays: tiling is invisible, and nothing but the plan changes a bit."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.ndimage import uniform_filter

from wsiseg.engine.cuts import column_uses
from wsiseg.engine.events import ignore
from wsiseg.engine.execute import Pace, run_stage
from wsiseg.engine.graph import lay_out
from wsiseg.engine.inputs import SlideInput, connect
from wsiseg.errors import DamagedFileError, ModelError, SpacingUnavailableError
from wsiseg.geometry import Box
from wsiseg.model import ModelCard
from wsiseg.model.predictor import FunctionPredictor
from wsiseg.source import open as open_slide
from wsiseg.stitch import Slab
from wsiseg.testing.slides import make_svs

shapes = st.tuples(st.integers(1, 40), st.integers(1, 40))


def card(*, kind="segmenter", patch=12, stride=None, halo=0, blend="crop", spacing=1.0, **stage):
    spec = {
        "from": "slide",
        "channels": ["R", "G", "B"],
        "patch": [patch, patch],
        "spacing_um": [spacing, spacing],
    }
    if stride:
        spec["stride"] = [stride, stride]
    output = {"name": "out", "activation": "none", "blend": blend}
    if kind == "segmenter":
        output["halo"] = [halo, halo]
    weights = {"file": "w.onnx", "sha256": "0" * 64, "architecture": "onnx"}
    return ModelCard.parse(
        json.dumps(
            {
                "schema_version": 1,
                "name": "test",
                "version": "1",
                "task": "semantic",
                "axes": "yx",
                "classes": [{"name": name} for name in ("red", "green", "blue")],
                "stages": [
                    {
                        "name": "only",
                        "kind": kind,
                        "inputs": [spec],
                        "output": output,
                        "weights": weights,
                    }
                    | stage
                ],
                "provenance": {
                    "license": "x",
                    "trained_on": "x",
                    "intended_use": "x",
                    "limits": "x",
                },
            }
        )
    )


class Collect:
    """A reducer that keeps the whole array."""

    def __init__(self, shape):
        self.values = np.full((*shape, 3), np.nan, np.float32)
        self.covered = np.zeros(shape, bool)
        self.finished = False

    def push(self, slab: Slab) -> None:
        self.values[slab.box.slices()] = slab.values
        self.covered[slab.box.slices()] = slab.covered

    def finish(self) -> None:
        self.finished = True


def identity(patches: np.ndarray) -> np.ndarray:
    return patches.astype(np.float32) / np.float32(255)


def run(
    pixels,
    model_card,
    predictor=identity,
    *,
    selected=None,
    batch=3,
    threads=2,
    width=1000,
    turned=False,
):
    """Return what a stage gives, in the frame of the image."""
    with open_slide(pixels, mpp=1.0) as slide:
        (setup,) = lay_out(model_card, slide)
        shape = setup.placement.shape
        collect = Collect(shape[::-1] if turned else shape)
        chosen = np.ones(setup.grid.counts, bool) if selected is None else selected(setup)
        run_stage(
            setup,
            connect(setup, {}),
            chosen,
            FunctionPredictor(predictor),
            collect,
            pace=Pace(batch, threads, width, turned),
            listen=ignore,
        )
    assert collect.finished
    if turned:
        collect.values, collect.covered = collect.values.swapaxes(0, 1), collect.covered.T
    return collect


def picture(shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (*shape, 3), dtype=np.uint8)


@given(shapes, st.integers(1, 13), st.integers(0, 4), st.integers(1, 9), st.integers(1, 4))
def test_identity_with_crop_is_bit_for_bit(shape, stride, halo, batch, threads):
    pixels = picture(shape)
    model = card(patch=stride + 2 * halo, halo=halo)
    found = run(pixels, model, batch=batch, threads=threads)
    np.testing.assert_array_equal(found.values, identity(pixels))
    assert found.covered.all()


@given(shapes, st.integers(1, 12), st.integers(0, 2), st.sampled_from(["constant", "gaussian"]))
def test_identity_with_blending_is_within_1e_6(shape, stride, halo, blend):
    pixels = picture(shape)
    model = card(patch=12 + 2 * halo, stride=stride, halo=halo, blend=blend)
    found = run(pixels, model)
    np.testing.assert_allclose(found.values, identity(pixels), atol=1e-6, rtol=0)


@given(shapes, st.integers(0, 3), st.integers(3, 9))
def test_a_halo_of_the_receptive_field_equals_the_whole_image_pass(shape, radius, stride):
    pixels = picture(shape)

    def blur(patches):
        size = (1, 2 * radius + 1, 2 * radius + 1, 1)
        return uniform_filter(identity(patches).astype(np.float64), size).astype(np.float32)

    padded = np.pad(pixels, ((radius,) * 2, (radius,) * 2, (0, 0)), constant_values=255)
    whole = blur(padded[None])[0][radius : radius + shape[0], radius : radius + shape[1]]
    found = run(pixels, card(patch=stride + 2 * radius, halo=radius), blur)
    np.testing.assert_allclose(found.values, whole, atol=1e-6, rtol=0)


def test_a_halo_too_small_would_be_seen():
    pixels = picture((30, 30))

    def blur(patches):
        return uniform_filter(identity(patches), (1, 5, 5, 1))

    enough = run(pixels, card(patch=14, halo=2), blur).values
    too_small = run(pixels, card(patch=12, halo=1), blur).values
    assert np.abs(enough - too_small).max() > 0.01


@given(st.integers(1, 40), st.integers(1, 5), st.sampled_from(["crop", "gaussian"]))
def test_batches_and_threads_never_change_a_bit(batch, threads, blend):
    pixels = picture((50, 37))
    model = card(patch=12, stride=None if blend == "crop" else 5, blend=blend)

    def network(patches):
        return np.sqrt(identity(patches)) * np.float32(0.7)

    reference = run(pixels, model, network, batch=1, threads=1)
    found = run(pixels, model, network, batch=batch, threads=threads)
    assert found.values.tobytes() == reference.values.tobytes()


@given(
    shapes,
    st.integers(1, 50),
    st.integers(1, 12),
    st.integers(0, 3),
    st.sampled_from(["crop", "constant", "gaussian"]),
    st.booleans(),
)
def test_walking_in_columns_never_changes_a_bit(shape, width, stride, halo, blend, turned):
    pixels = picture(shape)
    patch = (stride if blend == "crop" else 12) + 2 * halo
    model = card(patch=patch, stride=stride, halo=halo, blend=blend)

    def network(patches):  # tells each place in a patch from the others, so tiles disagree
        place = np.indices(patches.shape[1:3], np.float32).sum(axis=0)[..., None] / 50
        return np.sqrt(identity(patches)) * place

    def some(setup):
        return np.random.default_rng(3).random(setup.grid.counts) < 0.7

    whole = run(pixels, model, network, selected=some, turned=turned)
    cut = run(pixels, model, network, selected=some, width=width, turned=turned)
    assert cut.values.tobytes() == whole.values.tobytes()
    np.testing.assert_array_equal(cut.covered, whole.covered)
    straight = run(pixels, model, network, selected=some)
    np.testing.assert_array_equal(whole.covered, straight.covered)
    if blend == "crop":
        assert whole.values.tobytes() == straight.values.tobytes()
    else:  # the same sums in another order
        np.testing.assert_allclose(whole.values, straight.values, rtol=0, atol=1e-6)


@given(shapes, st.integers(1, 50), st.integers(1, 9), st.integers(0, 9), st.booleans())
def test_classifier_cells_are_the_same_in_columns(shape, width, stride, spare, turned):
    pixels = picture(shape)
    model = card(kind="classifier", patch=stride + spare, stride=stride)

    def mean(patches):  # of one half only: a patch turned over would give another value
        return identity(patches)[:, : (stride + spare + 1) // 2].mean((1, 2))

    found = run(pixels, model, mean, width=width, turned=turned)
    assert found.values.tobytes() == run(pixels, model, mean).values.tobytes()


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("kept", [False, True])
def test_what_lies_at_a_cut_is_decoded_once(tmp_path, kept, turned):
    path = make_svs(tmp_path / "a.svs", picture((700, 900)), levels=(1,), tile=64, mpp=0.5)
    with open_slide(path) as slide:
        slide.levels[0].limit_cache(0)  # no luck
        (setup,) = lay_out(card(patch=64, halo=8, spacing=0.5), slide)
        shape = setup.placement.shape
        collect = Collect(shape[::-1] if turned else shape)
        chosen = np.random.default_rng(3).random(setup.grid.counts) < 0.8
        inputs = (SlideInput(setup.reference.view, (64, 64)),)
        report = run_stage(
            setup, inputs, chosen, FunctionPredictor(identity), collect,
            pace=Pace(4, 2, 230, turned), folder=tmp_path if kept else None,
        )  # fmt: skip
        columns = setup.columns(230, turned=turned)
        uses = column_uses(setup, 0, inputs[0], columns, chosen)
        reads = slide.reads
    assert report.columns == len(columns) == 4
    inside = uses.counts[max(0, -uses.first[0]) :, max(0, -uses.first[1]) :][:11, :15]
    assert reads.distinct == np.count_nonzero(inside)
    assert reads.decoded == (reads.distinct if kept else inside.sum())
    assert inside.max() == 2
    values = collect.values.swapaxes(0, 1) if turned else collect.values
    covered = collect.covered.T if turned else collect.covered
    with open_slide(path) as slide:
        pixels = slide.levels[0].read(Box.of_shape((700, 900)))
    np.testing.assert_array_equal(values[covered], identity(pixels)[covered])


@given(shapes, st.integers(1, 9))
def test_a_stream_gives_what_calls_give(shape, batch):
    pixels = picture(shape)
    with open_slide(pixels, mpp=1.0) as slide:
        (setup,) = lay_out(card(patch=8), slide)
        collect = Collect(setup.placement.shape)
        chosen = np.ones(setup.grid.counts, bool)
        pace = Pace(batch, 2, 20, on_device=True)
        network = FunctionPredictor(identity)
        report = run_stage(setup, connect(setup, {}), chosen, network, collect, pace=pace)
    np.testing.assert_array_equal(collect.values, identity(pixels))
    assert report.tiles == chosen.size


@given(shapes, st.integers(1, 5), st.integers(0, 6))
def test_a_classifier_cell_is_the_patch_centred_on_it(shape, half, spare):
    stride, patch = 2 * half, 2 * half + 2 * spare
    pixels = picture(shape)
    found = run(
        pixels,
        card(kind="classifier", patch=patch, stride=stride),
        lambda p: identity(p).mean((1, 2)),
    )
    padded = np.pad(pixels, ((spare, spare + stride),) * 2 + ((0, 0),), constant_values=255)
    for y in range(found.values.shape[0]):
        for x in range(found.values.shape[1]):
            patch_pixels = padded[y * stride :, x * stride :][:patch, :patch]
            expected = identity(patch_pixels[None]).mean((1, 2))[0]
            np.testing.assert_allclose(found.values[y, x], expected, atol=1e-6)


def test_tiles_left_out_are_nodata():
    pixels = picture((24, 24))

    def checkerboard(setup):
        return np.indices(setup.grid.counts).sum(axis=0) % 2 == 0

    found = run(pixels, card(patch=8), selected=checkerboard)
    expected = np.kron([[1, 0, 1], [0, 1, 0], [1, 0, 1]], np.ones((8, 8))).astype(bool)
    np.testing.assert_array_equal(found.covered, expected)
    np.testing.assert_array_equal(found.values[expected], identity(pixels)[expected])


def test_the_last_batch_is_filled_up():
    seen = []

    def spy(patches):
        seen.append(len(patches))
        return identity(patches)

    run(picture((24, 40)), card(patch=8), spy, batch=4)
    assert set(seen) == {4}
    assert len(seen) == 4


def test_a_damaged_block_stops_the_stage_soon():
    with open_slide(picture((64, 64)), mpp=1.0) as slide:
        (setup,) = lay_out(card(patch=8), slide)

        class Broken:
            shape = setup.reference.shape

            def read(self, box: Box):
                raise DamagedFileError("slide.svs: level 0: tile 7 cannot be decoded")

        with pytest.raises(DamagedFileError, match="tile 7"):
            run_stage(
                setup,
                [SlideInput(Broken())],
                np.ones(setup.grid.counts, bool),
                FunctionPredictor(identity),
                Collect((64, 64)),
                pace=Pace(4, 2, 64),
                listen=ignore,
            )


def test_a_failing_network_reaches_the_caller():
    def fail(patches):
        raise ModelError("the network gave up")

    with pytest.raises(ModelError, match="gave up"):
        run(picture((30, 30)), card(), fail)


def test_finer_pixels_than_the_slide_has_are_refused():
    with (
        open_slide(picture((30, 30)), mpp=1.0) as slide,
        pytest.raises(SpacingUnavailableError, match=r"needed pixels of 0.5 x 0.5 µm"),
    ):
        lay_out(card(spacing=0.5), slide)


def test_a_slide_a_little_too_coarse_is_read_as_it_is():
    with open_slide(picture((30, 30)), mpp=1.08) as slide:
        (setup,) = lay_out(card(spacing=1.0), slide)
    assert setup.reference.spacing.um == (1.08, 1.08)
    assert setup.reference.requested.um == (1.0, 1.0)
    assert setup.grid.shape == (30, 30)

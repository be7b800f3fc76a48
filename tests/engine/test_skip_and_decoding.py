"""Less work on request: tiles skipped with their loss stated, JPEG reduced while it is decoded."""

import json
import time
from dataclasses import replace
from typing import ClassVar

import numpy as np
import pytest

import wsiseg
from wsiseg.engine import choose_decoding, lay_out
from wsiseg.engine.decoding import LARGEST_MEAN_CHANGE, _Compared, _judge
from wsiseg.engine.skip import _at_most
from wsiseg.model.predictor import FunctionPredictor
from wsiseg.options import RunOptions, SegmentOptions, TissueOptions
from wsiseg.testing.models import make_colour_model
from wsiseg.testing.slides import make_svs, tissue_disc

EVERYWHERE = TissueOptions(detector="none")


@pytest.fixture(scope="module", autouse=True)
def home(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WSISEG_HOME", str(tmp_path_factory.mktemp("home")))
        yield


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return wsiseg.load_model(make_colour_model(tmp_path_factory.mktemp("models") / "colour"))


@pytest.fixture(scope="module")
def pixels():
    return tissue_disc((1400, 1800), center=(600, 1000), radius=330)[0]


def segment(pixels, model, **run):
    options = SegmentOptions(tissue=EVERYWHERE, run=RunOptions(**run))
    with wsiseg.open(pixels, mpp=0.5) as slide:
        return wsiseg.segment(slide, model, options=options)


def test_tiles_that_the_first_stage_calls_empty_are_skipped_and_nothing_is_lost(pixels, model):
    whole, part = segment(pixels, model), segment(pixels, model, skip_below=0.05)
    skipped = part.reports[1].skipped
    assert part.reports[0].skipped is None
    assert skipped.skipped > 0
    assert part.reports[1].tiles + skipped.skipped == whole.reports[1].tiles
    assert skipped.recall == 1.0
    np.testing.assert_array_equal(part.labels.labels[:], whole.labels.labels[:])
    assert part.provenance()["stages"][1]["skipped"]["recall"] == 1.0


def test_what_skipping_loses_is_estimated_from_the_sample(pixels, model):
    whole = segment(pixels, model)
    coarse = whole.heatmaps["heatmap"]
    highest = float(coarse.read(wsiseg.Box((0, 0), coarse.shape)).max())
    part = segment(pixels, model, skip_below=highest)
    found = np.asarray(whole.heatmap.codes[:]).max(axis=0) > 127
    report = part.reports[1].skipped
    kept = (np.asarray(part.heatmap.codes[:]).max(axis=0) > 127).sum() / found.sum()
    assert kept < 1
    assert kept <= report.recall < 1  # here the sample sees less than there is
    assert report.sampled == 16
    assert 0 < report.hits < 16
    assert report.hits / 16 < report.hit_share_at_most < 1


def test_the_limit_of_what_is_missed_is_that_of_the_binomial():
    from scipy.stats import binom

    for hits, sampled in [(0, 16), (3, 40), (39, 40)]:
        limit = _at_most(hits, sampled)
        assert binom.cdf(hits, sampled, limit) == pytest.approx(0.05)
    assert _at_most(0, 59) < 0.05 < _at_most(0, 58)


def test_skipping_depends_on_no_thread(pixels, model):
    one, two = (segment(pixels, model, skip_below=0.3, threads=n) for n in (1, 2))
    np.testing.assert_array_equal(one.heatmap.codes[:], two.heatmap.codes[:])


@pytest.mark.parametrize(
    ("read_s", "predict_s", "change", "cores", "scaled", "reason"),
    [
        (0.9, 0.1, 0.001, 1, True, "is the bottleneck"),
        (0.9, 0.1, 0.001, 16, False, "not the bottleneck"),
        (0.01, 0.1, 0.001, 1, False, "not the bottleneck"),
        (0.9, 0.1, 0.02, 1, False, "too much"),
    ],
)
def test_scaled_decoding_needs_a_reason(
    read_s, predict_s, change, cores, scaled, reason, pixels, model
):
    with wsiseg.open(pixels, mpp=0.5) as slide:
        setups = wsiseg.plan(slide, model).setups
    choice = _judge([_Compared(read_s, predict_s, change, 32)], [0], setups, cores)
    assert choice.scaled == scaled
    assert reason in choice.reason


@pytest.fixture(scope="module")
def fine_slide(tmp_path_factory):
    pixels, _ = tissue_disc((1400, 1800), center=(600, 1000), radius=330)
    return make_svs(tmp_path_factory.mktemp("slides") / "fine.svs", pixels, levels=(1,), mpp=0.5)


def scalable(folder, *, allowed):
    make_colour_model(folder)
    card = json.loads((folder / "model.json").read_text())
    card["stages"][0]["allows_scaled_decoding"] = allowed
    (folder / "model.json").write_text(json.dumps(card))
    return wsiseg.load_model(folder)


def test_scaled_decoding_is_what_was_asked_and_stands_in_the_record(fine_slide, model):
    options = SegmentOptions(run=RunOptions(decoding="scaled"))
    exact, scaled = (
        wsiseg.segment(fine_slide, model),
        wsiseg.segment(fine_slide, model, options=options),
    )
    assert not exact.plan.decoding.scaled
    assert scaled.plan.decoding.scaled
    assert scaled.provenance()["plan"]["decoding"]["reason"] == "as asked"
    before, after = (
        np.asarray(r.heatmaps["heatmap"].codes[:]).astype(int) for r in (exact, scaled)
    )
    assert (before != after).any()
    assert np.abs(before - after).mean() / 254 < LARGEST_MEAN_CHANGE


def test_auto_needs_the_card_and_measures(fine_slide, tmp_path):
    options = SegmentOptions(run=RunOptions(decoding="auto"))
    refused = wsiseg.plan(
        fine_slide, scalable(tmp_path / "a", allowed=False), options=options
    ).decoding
    assert not refused.scaled
    assert "card" in refused.reason
    choice = wsiseg.plan(fine_slide, scalable(tmp_path / "b", allowed=True), options=options)
    found = choice.decoding
    assert found.patches == 32
    assert 0 < found.mean_change < 0.05
    fits = found.read_s > found.predict_s and found.mean_change <= LARGEST_MEAN_CHANGE
    assert found.scaled == fits
    assert choice.setups[0].inputs[0].view.scaled == fits


class Streaming(FunctionPredictor):
    """Answers a call late, as a GPU that is waited for, and a stream at once."""

    sizes: ClassVar[list[int]] = []

    def __init__(self):
        super().__init__(lambda pixels: np.zeros((len(pixels), 2), np.float32))

    def __call__(self, *inputs):
        time.sleep(0.05)
        return super().__call__(*inputs)

    def stream(self, batches):
        for (pixels,) in batches:
            self.sizes.append(len(pixels))
            yield np.zeros((len(pixels), 2), np.float32)


def test_a_gpu_is_timed_by_the_batches_it_streams(fine_slide, tmp_path):
    model = scalable(tmp_path / "model", allowed=True)
    on_gpu = replace(model, device="cuda", predictors=(Streaming(), *model.predictors[1:]))
    with wsiseg.open(fine_slide) as slide:
        setups = [lay_out(model.card, slide, scaled=scaled) for scaled in (False, True)]
        everywhere = [np.ones(setup.grid.counts, np.bool_) for setup in setups[0]]
        found = choose_decoding(*setups, everywhere, on_gpu, "auto", batch_size=40)
    assert set(Streaming.sizes) == {40}
    assert found.predict_s < 0.05 / 8  # a run of eight patches takes 0.05 s when it is waited for
    assert found.scaled


def test_nothing_to_scale_is_said(pixels, model):
    with wsiseg.open(pixels, mpp=0.5) as slide:
        options = SegmentOptions(run=RunOptions(decoding="scaled"))
        choice = wsiseg.plan(slide, model, options=options).decoding
    assert not choice.scaled
    assert "no codec" in choice.reason

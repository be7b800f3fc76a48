"""Which way a slide is walked, in how many columns, and that neither costs anything twice."""

import json
from pathlib import Path

import numpy as np
import pytest

import wsiseg
from wsiseg.engine import plan as plan_module
from wsiseg.engine import share
from wsiseg.options import RunOptions, SegmentOptions, TissueOptions
from wsiseg.testing.models import make_colour_model
from wsiseg.testing.slides import make_svs, tissue_disc

OPTIONS = SegmentOptions(
    tissue=TissueOptions(detector="none"), run=RunOptions(threads=2, batch_size=4)
)
HEIGHT, WIDTH = 900, 2600


@pytest.fixture(scope="module")
def wide(tmp_path_factory) -> Path:
    pixels, _ = tissue_disc((HEIGHT, WIDTH), center=(300, 1500), radius=400)
    path = tmp_path_factory.mktemp("walks") / "wide.svs"
    # the tissue detector has a level of its own, so that what is counted is the stages'
    return make_svs(path, pixels, levels=(1, 16), tile=128, mpp=0.5)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return {
        blend: wsiseg.load_model(
            make_colour_model(
                folder / blend, patch=32, stride=32, refine_um=1.0, window=64, halo=8, blend=blend
            )
        )
        for blend in ("crop", "gaussian")
    }


def walked(path, model, monkeypatch, **limits):
    """Return the plan, the output and the reads of a run with other limits."""
    monkeypatch.setattr(share, "SOURCE_CACHE_BYTES", 0)  # no luck
    for name, value in limits.items():
        monkeypatch.setattr(plan_module, name, value)
    with wsiseg.open(path) as slide:
        before = slide.reads
        result = wsiseg.segment(slide, model, options=OPTIONS)
        record = json.loads(json.dumps(result.provenance()))
        assert before.decoded == 0
        codes = [np.asarray(store.codes[:]) for store in result.heatmaps.values()]
        return result.plan, [*codes, np.asarray(result.labels.labels[:])], record


@pytest.mark.parametrize("blend", ["crop", "gaussian"])
def test_a_wide_slide_is_turned_where_its_front_would_not_fit(wide, models, monkeypatch, blend):
    straight, expected, _ = walked(wide, models[blend], monkeypatch)
    assert [(s.columns, s.pace.turned) for s in straight.stages] == [(1, False)] * 2
    limit = min(stage.front_bytes for stage in straight.stages) - 1
    plan, found, record = walked(wide, models[blend], monkeypatch, FRONT_BYTES=limit)
    for after, before in zip(plan.stages, straight.stages, strict=True):
        assert after.pace.turned
        assert after.front_bytes < before.front_bytes
    assert plan.stages[0].columns == 1
    for mine, other in zip(found, expected, strict=True):
        assert other.any()
        # blends add the same values in another order: codes may round the other way
        largest = 0 if blend == "crop" else 1
        assert np.abs(mine.astype(int) - other).max() <= largest
    assert record["plan"]["stages"][0]["pace"]["turned"]
    assert record["reads"]["amplification"] == 1.0


def test_a_high_slide_is_walked_in_rows(tmp_path, models, monkeypatch):
    pixels, _ = tissue_disc((WIDTH, HEIGHT), radius=300)
    path = make_svs(tmp_path / "high.svs", pixels, levels=(1,), tile=128, mpp=0.5)
    plan, _, _ = walked(path, models["crop"], monkeypatch, FRONT_BYTES=1)
    assert not any(stage.pace.turned for stage in plan.stages)
    assert plan.stages[0].columns > 1


@pytest.mark.parametrize("blend", ["crop", "gaussian"])
def test_columns_decode_nothing_twice(wide, models, monkeypatch, blend):
    plan, found, record = walked(wide, models[blend], monkeypatch, FRONT_BYTES=1)
    assert all(stage.pace.turned for stage in plan.stages)
    assert plan.stages[0].columns > 1
    assert plan.stages[0].cut_bytes > 0
    assert record["reads"]["amplification"] == 1.0
    assert record["plan"]["stages"][0]["amplification"] == 1.0
    monkeypatch.undo()
    _, expected, _ = walked(wide, models[blend], monkeypatch)
    for mine, other in zip(found, expected, strict=True):
        assert np.abs(mine.astype(int) - other).max() <= (blend != "crop")


def test_without_room_for_the_cuts_the_halo_is_decoded_again(wide, models, monkeypatch):
    limits = {"FRONT_BYTES": 1, "CUT_BYTES": 0}
    plan, _, record = walked(wide, models["crop"], monkeypatch, **limits)
    planned = max(stage.amplification for stage in plan.stages)
    assert 1 < record["reads"]["amplification"] <= planned < 2
    assert not any(stage.cut_bytes for stage in plan.stages)


def test_the_overview_of_a_small_slide_decodes_nothing_again(wide, models):
    with wsiseg.open(wide) as slide:
        result = wsiseg.segment(slide, models["crop"], options=OPTIONS)
        seen, before = max(result.tissue.picture.shape), slide.reads
        slide.forget()
        result.overview(2 * seen)
        assert slide.reads == before
        result.overview(4 * seen)
        assert slide.reads != before

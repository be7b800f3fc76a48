"""Coarse to fine: the last stage looks around what the first found, and the box grows."""

import itertools
import json

import numpy as np
import pytest

from wsiseg.errors import ModelCardError, WsisegWarning
from wsiseg.geometry import Affine, Box
from wsiseg.model import ModelCard, load_model
from wsiseg.scans import plan_of_scan, segment_scan
from wsiseg.source import open_volume
from wsiseg.testing.scan_models import LEVELS, make_scan_model

SHAPE = (24, 40, 48)


def two_stages(folder, *, margin_mm=2.0, grow=5, full=1.0, classes=("bright",), coarse_mm=2.0):
    """Return a model that looks for bright voxels at a coarse spacing, then around them."""
    make_scan_model(folder, spacing_mm=(coarse_mm,) * 3, full=full, patch=(8, 16, 16))
    path = folder / "model.json"
    content = json.loads(path.read_text())
    coarse = content["stages"][0]
    fine = json.loads(json.dumps(coarse)) | {"name": "fine"}
    fine["inputs"][0]["spacing_um"] = None
    fine["output"]["name"] = "labels"
    fine["within"] = {"classes": list(classes), "margin_mm": margin_mm, "grow": grow}
    content["stages"] = [coarse | {"output": coarse["output"] | {"name": "coarse"}}, fine]
    path.write_text(json.dumps(content))
    check = dict(np.load(folder / "check.npz"))
    check |= {key.replace("bright", "fine"): value for key, value in check.items()}
    np.savez(folder / "check.npz", **check)
    return folder


def bar():
    """Return a bright middle with a grey tail to one side along x, 1 mm voxels."""
    values = np.zeros(SHAPE, np.float32)
    values[8:16, 14:26, 6:40] = 0.5
    values[9:15, 16:24, 8:14] = 1.0
    return values


def expected(values):
    return (values > LEVELS[0]).astype(int) + (values > LEVELS[1])


@pytest.fixture
def scan():
    return open_volume(bar(), affine=Affine.from_spacing((1.0, 1.0, 1.0)))


def test_the_box_grows_until_all_of_it_is_seen(scan, tmp_path):
    model = load_model(two_stages(tmp_path / "m", margin_mm=4.0, grow=10))
    result = segment_scan(scan, model)
    assert np.array_equal(result.labels, expected(bar()))
    boxes = result.focus.boxes
    assert len(boxes) > 2
    assert result.focus.settled
    for earlier, later in itertools.pairwise(boxes):
        assert all(b <= a for a, b in zip(earlier.start, later.start, strict=True))
        assert all(b >= a for a, b in zip(earlier.stop, later.stop, strict=True))
    # It grew towards the tail alone, and never saw the rest.
    assert boxes[-1].start[2] == boxes[0].start[2]
    assert boxes[-1].stop[2] >= 40
    assert boxes[-1].shape[0] < SHAPE[0]
    record = result.provenance()["focus"]
    assert record["settled"]
    assert record["boxes"][-1] == [list(boxes[-1].start), list(boxes[-1].stop)]
    assert [stage["stage"] for stage in result.provenance()["stages"]] == ["bright", "fine"]


def test_a_box_that_may_grow_no_more_is_told(scan, tmp_path):
    model = load_model(two_stages(tmp_path / "m", margin_mm=4.0, grow=1))
    with pytest.warns(WsisegWarning, match="reaches the border of the box .* grown 1 times"):
        result = segment_scan(scan, model)
    assert not result.focus.settled
    assert len(result.focus.boxes) == 2


def test_nothing_found_is_an_empty_result(tmp_path):
    model = load_model(two_stages(tmp_path / "m"))
    grey = open_volume(np.minimum(bar(), 0.5), affine=Affine.from_spacing((1.0, 1.0, 1.0)))
    result = segment_scan(grey, model)
    assert not result.labels.any()
    assert result.focus.boxes == ()


def test_a_plan_counts_both_stages_as_if_everywhere(scan, tmp_path):
    plan = plan_of_scan(scan, load_model(two_stages(tmp_path / "m")))
    assert [stage.stage for stage in plan.stages] == ["bright", "fine"]
    assert plan.stages[1].windows == plan.stages[1].windows_total


def test_a_real_scan_gives_what_the_fine_stage_finds_alone(data_dir, tmp_path):
    scan = open_volume(data_dir / "volumes/sct_testing_data/t1/t1w.nii.gz")
    full = float(np.percentile(scan.read(Box.of_shape(scan.shape)), 99.5))
    model = load_model(two_stages(tmp_path / "m", margin_mm=5.0, full=full, grow=20))
    result = segment_scan(scan, model)
    alone = segment_scan(scan, make_scan_model(tmp_path / "a", spacing_mm=None, full=full))
    box = result.focus.boxes[-1]
    found, wanted = (one.files.labels.map() for one in (result, alone))
    assert np.array_equal(found[box.slices()], wanted[box.slices()])
    outside = np.ones(found.shape, bool)
    outside[box.slices()] = False
    assert not found[outside].any()


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda c: c["stages"].pop(0), "is for the last of several stages"),
        (
            lambda c: c["stages"][1]["within"].update(classes=["x"]),
            "none of the classes",
        ),
        (
            lambda c: c["stages"][1]["inputs"][0].update(channels=["other"]),
            "the same channels before and in it",
        ),
    ],
)
def test_cards_that_make_no_sense_are_refused(tmp_path, change, text):
    content = json.loads((two_stages(tmp_path / "m") / "model.json").read_text())
    change(content)
    with pytest.raises(ModelCardError, match=text):
        ModelCard.parse(json.dumps(content))

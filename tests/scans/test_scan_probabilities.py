"""Probabilities on the voxels of a scan: those that the labels come from, whatever the plan."""

import json

import nibabel
import numpy as np
import pytest
import torch
from test_memory_plans import options, scan
from torch_models import card_of, network, stage_of, torch_model

import wsiseg
from wsiseg.engine import Journal
from wsiseg.engine.events import TilesDone
from wsiseg.errors import UsageError
from wsiseg.geometry import Affine
from wsiseg.scans import plan_of_scan, segment_scan
from wsiseg.source import open_volume

STEP = 1 / 65535


def model_of(spacing_mm=(1.0, 1.3, 1.2), classes=4, **more):
    output = {"name": "m", "blend": "gaussian-monai", "stitched": "raw", "activation": "softmax"}
    return torch_model(card_of([stage_of((8, 16, 16), spacing_mm, output=output)], classes, **more))


@pytest.mark.parametrize("plan", ["device", "slab", "spill", "blocks"])
def test_labels_are_the_likeliest(plan):
    result = segment_scan(scan(), model_of(), options=options(plan), probabilities=["all"])
    found = result.probabilities
    assert list(found) == ["0", "1", "2", "3"]
    stack = np.stack([*found.values()])
    assert np.abs(stack.sum(axis=0) - 1).max() <= 2 * STEP
    best = stack.max(axis=0)
    own = np.take_along_axis(stack, result.labels[None].astype(np.int64), 0)[0]
    assert (best - own).max() <= STEP  # rounding may make two equal
    assert len(np.unique(result.labels)) == 4


def test_equals_the_network_where_one_window_sees_all():
    """Without resampling and blending, they are the network's own."""
    values = np.random.default_rng(5).normal(size=(8, 16, 16)).astype(np.float32)
    opened = open_volume(values, affine=Affine.from_spacing((1.0, 1.0, 1.0)))
    model = model_of(None)
    result = segment_scan(opened, model, options=options("slab"), probabilities=["all"])
    turned = result.scan.turn.apply(values)
    with torch.inference_mode():
        raw = network(1, 4)(torch.from_numpy(turned.copy())[None, None])
        expected = torch.softmax(raw, 1)[0].numpy()
    back = result.scan.turn.inverse()
    for k, found in enumerate(result.probabilities.values()):
        assert np.abs(found - back.apply(expected[k])).max() <= STEP


def test_the_plan_of_memory_changes_nothing():
    every = [
        segment_scan(scan(), model_of(), options=options(plan), probabilities=["2", "1"])
        for plan in ("slab", "spill", "blocks")
    ]
    assert list(every[0].probabilities) == ["1", "2"]  # the order of the card
    for result in every[1:]:
        for name, found in result.probabilities.items():
            assert np.array_equal(found, every[0].probabilities[name])


def test_regions_have_their_own():
    regions = [{"name": "all", "label": "1"}, {"name": "part", "label": "2"}]
    output = {"name": "m", "blend": "gaussian-monai", "stitched": "raw", "activation": "sigmoid"}
    card = card_of([stage_of((8, 16, 16), (1.0, 1.3, 1.2), output=output)], 3, regions=regions)
    result = segment_scan(scan(), torch_model(card), options=options("slab"), probabilities=["all"])
    found, labels = result.probabilities, result.labels
    assert list(found) == ["all", "part"]
    assert np.array_equal(labels == 2, found["part"] > 0.5)
    assert np.array_equal(labels == 1, (found["all"] > 0.5) & (found["part"] <= 0.5))


@pytest.mark.parametrize("name", ["scan.nii.gz", "turned.nii"])
def test_written_on_the_voxels_of_the_scan(tmp_path, name):
    rng = np.random.default_rng(1)
    affine = np.diag([1.2, 1.0, 1.5, 1])
    if name == "turned.nii":
        affine = np.array([[0, 0, 1.5, -3], [-1.2, 0, 0, 9], [0, 1.0, 0, 2], [0, 0, 0, 1.0]])
    image = nibabel.Nifti1Image(rng.normal(size=(30, 24, 20)).astype(np.float32), affine)
    nibabel.save(image, tmp_path / name)
    result = segment_scan(
        tmp_path / name, model_of(), options=options("slab"), probabilities=["1", "3"]
    )
    folder = result.write(tmp_path / "out")
    file = nibabel.load(folder / "probabilities.nii.gz")
    labels = nibabel.load(folder / "labels.nii.gz")
    assert file.shape == (30, 24, 20, 2)
    assert np.array_equal(file.affine, labels.affine)
    values = file.get_fdata()
    for k, found in enumerate(result.probabilities.values()):
        assert np.abs(values[..., k] - found.transpose(2, 1, 0)).max() < 1e-6
    record = json.loads((folder / "run.json").read_bytes())
    assert record["options"]["export"] == {"probabilities": ["1", "3"]}
    sure = values[..., 0] > 0.5
    assert (np.asarray(labels.dataobj)[sure] == 1).all()
    assert sure.any()


def test_beyond_the_body_it_is_background():
    values = np.zeros((20, 40, 40), np.float32)
    values[4:14, 8:30, 9:33] = np.random.default_rng(2).normal(size=(10, 22, 24)) + 3
    opened = open_volume(values, affine=Affine.from_spacing((1.0, 1.0, 1.0)))
    model = model_of(None, scan={"crop": {"to": "nonzero"}})
    result = segment_scan(opened, model, options=options("slab"), probabilities=["all"])
    found = result.probabilities
    for place in ((0, 0, 0), (19, 20, 20), (8, 2, 20)):
        assert found["0"][place] > 0.999
        assert found["1"][place] < 0.001
    assert result.labels.any()


class EndedError(Exception):
    """Ends a run from inside."""


def test_goes_on_where_it_was_ended(tmp_path):
    model, chosen = model_of(), options("slab")
    whole = segment_scan(scan(), model, options=chosen, probabilities=["all"])
    seen = 0

    def listen(event):
        nonlocal seen
        seen += event.tiles if isinstance(event, TilesDone) else 0
        if seen >= 60:
            raise EndedError

    with Journal(tmp_path) as journal, pytest.raises(EndedError):
        segment_scan(
            scan(), model, options=chosen, probabilities=["all"], journal=journal, listen=listen
        )
    with Journal(tmp_path) as journal:
        again = segment_scan(scan(), model, options=chosen, probabilities=["all"], journal=journal)
        assert again.reports[-1].kept > 0
        assert np.array_equal(again.labels, whole.labels)
        for name, found in whole.probabilities.items():
            assert np.array_equal(again.probabilities[name], found)


def test_planned():
    plain = plan_of_scan(scan(), model_of(), options=options("slab"))
    kept = plan_of_scan(scan(), model_of(), options=options("slab"), probabilities=["all"])
    assert kept.probabilities == ("0", "1", "2", "3")
    assert kept.work_bytes - plain.work_bytes == 2 * 4 * 26 * 38 * 60


def test_classes_that_are_not_there():
    with pytest.raises(UsageError, match="no class 'liver'; needed some of 0, 1, 2, 3, or all"):
        segment_scan(scan(), model_of(), probabilities=["liver"])
    export = wsiseg.ExportOptions(probabilities=("all",))
    with pytest.raises(UsageError, match="is a model for slides"):
        wsiseg.segment(
            "nothing.svs", "breast-tumour-demo", options=wsiseg.SegmentOptions(export=export)
        )

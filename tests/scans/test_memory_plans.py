"""Four plans of memory, and the same bytes."""

import numpy as np
import pytest
from torch_models import card_of, stage_of, torch_model

from wsiseg.engine import Journal, scan_memory
from wsiseg.engine.events import TilesDone
from wsiseg.errors import UsageError
from wsiseg.geometry import Affine
from wsiseg.options import RunOptions
from wsiseg.scans import plan_of_scan, segment_scan
from wsiseg.source import open_volume
from wsiseg.volume.scan import SLAB_BYTES

PLANS = ("device", "slab", "spill", "blocks")


def scan():
    values = np.random.default_rng(3).normal(size=(26, 38, 60)).astype(np.float32)
    for axis in range(3):
        values = (values + np.roll(values, 1, axis)) / 2
    return open_volume(values, affine=Affine.from_spacing((1.5, 1.0, 1.0)))


def options(plan, **more):
    return RunOptions(threads=1, memory_plan=plan, **more)


CASES = {
    "resampled": {"spacing_mm": (1.0, 1.3, 1.2)},
    "as stored": {"spacing_mm": None},
    "finer": {"spacing_mm": (1.5, 0.6, 0.7)},
    "two voxels": {"spacing_mm": None, "mirror_axes": [0, 2]},
}


@pytest.mark.parametrize("name", CASES)
def test_the_same_bytes(name):
    card = card_of([stage_of((8, 16, 16), **CASES[name])], 4)
    model = torch_model(card)
    results = {plan: segment_scan(scan(), model, options=options(plan)) for plan in PLANS}
    for plan, result in results.items():
        (stage,) = result.plan.stages
        assert stage.memory == plan
        assert result.provenance()["plan"]["stages"][0]["memory"] == plan
        assert np.array_equal(result.labels, results["slab"].labels)
    assert len(np.unique(results["slab"].labels)) == 4
    (stage,) = results["blocks"].plan.stages
    assert stage.blocks > 1
    assert stage.amplification > 1
    assert stage.front_bytes < results["slab"].plan.stages[0].front_bytes


@pytest.mark.parametrize("threshold", [None, 0.4])
def test_rules_are_the_same_on_a_device(threshold):
    regions = [{"name": "all", "label": "1"}, {"name": "part", "label": "1"}]
    more = {"threshold": threshold} if threshold else {"regions": regions}
    output = {"name": "m", "blend": "gaussian-nnunet", "stitched": "raw"}
    if threshold is None:
        output["activation"] = "sigmoid"
    card = card_of([stage_of((8, 16, 16), (1.0, 1.3, 1.2), output=output)], 2, **more)
    model = torch_model(card)
    slab, device = (
        segment_scan(scan(), model, options=options(plan)).labels for plan in ("slab", "device")
    )
    assert np.array_equal(slab, device)
    assert 0 < slab.mean() < 1


def test_a_cascade_in_blocks():
    first = stage_of((8, 16, 16), (2.0, 2.0, 2.0))
    second = stage_of((8, 16, 16), (1.0, 1.3, 1.2), name="t")
    second["inputs"] = [
        *second["inputs"],
        {
            "from": "m",
            "channels": ["1", "2"],
            "patch": [8, 16, 16],
            "spacing_um": [1000, 1300, 1200],
        },
    ]
    second["output"] = second["output"] | {"name": "n"}
    for encoding in ("labels", "probabilities"):
        second["inputs"][1]["encoding"] = encoding
        model = torch_model(card_of([first, second], 3))
        slab, blocks = (
            segment_scan(scan(), model, options=options(plan)) for plan in ("slab", "blocks")
        )
        assert [stage.blocks > 1 for stage in blocks.plan.stages] == [True, True]
        assert np.array_equal(slab.labels, blocks.labels)


def test_chosen_by_what_there_is_room_for(monkeypatch):
    model = torch_model(card_of([stage_of((8, 16, 16), None)], 64))

    def planned():
        chosen = RunOptions(threads=1, memory_bytes=10**12)
        (stage,) = plan_of_scan(scan(), model, options=chosen).stages
        return stage

    slab = planned()
    assert slab.memory == "slab"
    least = slab.buffer_bytes + 4 * SLAB_BYTES  # a byte less, and its front has no room
    monkeypatch.setattr(scan_memory, "resident_memory", lambda: 10**12 - least + 1)
    assert planned().memory == "spill"
    monkeypatch.setattr(scan_memory, "_free_disk", lambda folder: 0)
    blocks = planned()
    assert (blocks.memory, blocks.blocks) == ("blocks", 2)
    assert blocks.buffer_bytes < slab.buffer_bytes


def test_a_device_needs_torch(tmp_path):
    from wsiseg.testing.scan_models import make_scan_model

    package = make_scan_model(tmp_path / "m", spacing_mm=None)
    with pytest.raises(UsageError, match="needs the last stage"):
        segment_scan(scan(), package, options=options("device", backend="onnxruntime"))


class EndedError(Exception):
    """Ends a run from inside."""


@pytest.mark.parametrize("tiles", [40, 120])
def test_blocks_go_on_where_they_were_ended(tmp_path, tiles):
    model = torch_model(card_of([stage_of((8, 16, 16), (1.0, 1.3, 1.2))], 4))
    whole = segment_scan(scan(), model, options=options("slab")).labels
    seen = 0

    def listen(event):
        nonlocal seen
        seen += event.tiles if isinstance(event, TilesDone) else 0
        if seen >= tiles:
            raise EndedError

    chosen = options("blocks")
    with Journal(tmp_path / "work") as journal, pytest.raises(EndedError):
        segment_scan(scan(), model, options=chosen, journal=journal, listen=listen)
    with Journal(tmp_path / "work") as journal:
        result = segment_scan(scan(), model, options=chosen, journal=journal)
    assert result.plan.stages[0].memory == "blocks"
    assert result.reports[-1].kept > 0
    assert np.array_equal(result.labels, whole)

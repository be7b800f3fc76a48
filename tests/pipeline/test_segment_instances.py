"""A dense model whose pixels become objects: the network reads all it says off the colours."""

import json
from pathlib import Path

import numpy as np
import pytest
import shapely
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from rasterio.features import rasterize
from scipy import ndimage

import wsiseg
from wsiseg.engine import Journal
from wsiseg.engine.annotate import NUCLEUS_AREA
from wsiseg.engine.events import TilesDone
from wsiseg.errors import ModelCardError, UsageError
from wsiseg.model import add_model
from wsiseg.options import RunOptions, SegmentOptions, TissueOptions, UncertaintyOptions

PATCH, HALO, SHAPE = 64, 8, (230, 310)
EVERYWHERE = TissueOptions(detector="none")


CELLS = [{"name": "background"}, {"name": "Cell"}, {"name": "Nucleus"}]


def network(patch: int) -> bytes:
    """Red is how much of a nucleus; green and blue are the places down and to the right."""
    weight = np.zeros((4, 3, 1, 1), np.float32)
    weight[1, 0], weight[2, 1], weight[3, 2] = 40, 2, 2
    return conv(weight, np.array([0, -20, -1, -1], np.float32), patch)


def conv(weight: np.ndarray, bias: np.ndarray, patch: int) -> bytes:
    constants = {"weight": weight, "bias": bias}
    channels = len(bias)
    graph = helper.make_graph(
        [helper.make_node("Conv", ["rgb", "weight", "bias"], ["out"])],
        "g",
        [helper.make_tensor_value_info("rgb", TensorProto.FLOAT, ["n", 3, patch, patch])],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, ["n", channels, patch, patch])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    return model.SerializeToString()


def package(folder: Path, *, graph=None, offsets=True, **changes) -> Path:
    """Add a network to the models; `changes` are those of its card."""
    graph = graph or network(PATCH)
    path = folder.with_suffix(".onnx")
    path.write_bytes(graph)
    stage = {
        "name": "nuclei",
        "kind": "segmenter",
        "inputs": [
            {
                "from": "slide",
                "channels": ["R", "G", "B"],
                "spacing_um": [0.5, 0.5],
                "patch": [PATCH, PATCH],
                "steps": [{"name": "scale", "divide_by": 255.0}],
            }
        ],
        "output": {"name": "mask", "halo": [HALO, HALO], "offsets": offsets},
    }
    instances = {"split": "offsets"} if offsets else {"cell": "Cell", "nucleus": "Nucleus"}
    card = {
        "schema_version": 1,
        "name": folder.name,
        "version": "1",
        "task": "semantic",
        "axes": "yx",
        "classes": [{"name": "background"}, {"name": "Nucleus", "color": [0, 100, 200]}],
        "stages": [stage],
        "instances": instances,
        "provenance": dict.fromkeys(("license", "trained_on", "intended_use", "limits"), "none"),
    }
    path.with_suffix(".json").write_text(json.dumps(card | changes))
    return add_model(path)


def discs() -> tuple[np.ndarray, np.ndarray]:
    """Return an image (y, x, 3) of touching discs, and which disc each pixel is of."""
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    pixels = np.full((*SHAPE, 3), 128, np.uint8)
    pixels[..., 0] = 0
    truth = np.zeros(SHAPE, int)
    for i, (row, column) in enumerate(
        (r, c) for r in range(15, 220, 18) for c in range(15, 300, 19)
    ):
        own = ((y - row) ** 2 + (x - column) ** 2 <= 100) & (truth == 0)
        truth[own] = i + 1
        pixels[own, 0] = 255
        for axis, away in ((1, y - row), (2, x - column)):
            pixels[own, axis] = np.rint(127.5 + 12.7 * away[own])
    return pixels, truth


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("WSISEG_HOME", str(tmp_path / "home"))


def matched(geometries, truth) -> np.ndarray:
    """Return for each true object the intersection over union with the best polygon."""
    found = rasterize([(g, i + 1) for i, g in enumerate(geometries)], truth.shape, dtype="int32")
    best = []
    for value in range(1, truth.max() + 1):
        own = truth == value
        several, counts = np.unique(found[own & (found > 0)], return_counts=True)
        other = several[counts.argmax()]
        best.append(counts.max() / np.count_nonzero(own | (found == other)))
    return np.array(best)


def test_touching_nuclei_become_objects_whole_across_tiles(tmp_path):
    pixels, truth = discs()
    slide = wsiseg.open(pixels, mpp=0.5)
    model = wsiseg.load_model(package(tmp_path / "nuclei"))
    result = wsiseg.segment(slide, model, options=SegmentOptions(tissue=EVERYWHERE))
    found = result.annotations
    assert len(found) == truth.max()
    assert found.object_type == "detection"
    assert matched(found.geometries, truth).min() > 0.8
    assert shapely.area(found.geometries).sum() == np.count_nonzero(truth)
    folder = result.write(tmp_path / "out")
    assert wsiseg.verify_geojson(folder / "annotations.geojson").verdict == "clean"
    assert result.summary()["objects"] == truth.max()


def test_by_shape_alone_and_as_one(tmp_path):
    pixels, truth = discs()
    slide = wsiseg.open(pixels, mpp=0.5)
    counts = {}
    for name, rule in (("distance", {"split": "distance", "depth": 1.0}), ("none", None)):
        model = package(tmp_path / name, instances=rule)
        result = wsiseg.segment(slide, model, options=SegmentOptions(tissue=EVERYWHERE))
        counts[name] = len(result.annotations), result.annotations.object_type
    assert counts["distance"] == (truth.max(), "detection")
    assert counts["none"][0] < truth.max() / 2
    assert counts["none"][1] == "annotation"


def test_what_the_card_cannot_mean_is_refused(tmp_path):
    with pytest.raises(ModelCardError, match="no class"):
        wsiseg.load_model(package(tmp_path / "a", instances={"cell": "Cell", "nucleus": "Nucleus"}))
    with pytest.raises(ModelCardError, match="needed two classes, or neither"):
        wsiseg.load_model(package(tmp_path / "b", instances={"nucleus": "Nucleus"}))
    with pytest.raises(ModelCardError, match="do not go together"):
        wsiseg.load_model(
            package(tmp_path / "c", calibration={"method": "temperature", "values": [2.0]})
        )
    pixels, _ = discs()
    options = SegmentOptions(tissue=EVERYWHERE, uncertainty=UncertaintyOptions(layers=("tta",)))
    with pytest.raises(UsageError, match="offsets"):
        wsiseg.segment(wsiseg.open(pixels, mpp=0.5), package(tmp_path / "d"), options=options)


def test_a_killed_run_keeps_the_offsets(tmp_path):
    pixels, truth = discs()
    Image.fromarray(pixels).save(tmp_path / "discs.png")
    model = wsiseg.load_model(package(tmp_path / "nuclei"))
    options = SegmentOptions(tissue=EVERYWHERE, run=RunOptions(batch_size=5, threads=1))
    events = []

    def stop(event):
        events.append(event)
        if sum(isinstance(one, TilesDone) for one in events) == 4:
            raise KeyboardInterrupt

    def run(listen=events.append):
        slide = wsiseg.open(tmp_path / "discs.png", mpp=0.5)
        with Journal(tmp_path / "work") as journal:
            found = wsiseg.segment(slide, model, options=options, journal=journal, listen=listen)
            return found.annotations, found.reports[0].kept

    with pytest.raises(KeyboardInterrupt):
        run(stop)
    annotations, kept = run()
    assert kept > 0
    assert len(annotations) == truth.max()


def cells_network(patch: int) -> bytes:
    """Green is how much of a cell, red how much of a nucleus."""
    weight = np.zeros((3, 3, 1, 1), np.float32)
    weight[1, 1], weight[2, 0] = 40, 80
    return conv(weight, np.array([0, -20, -50], np.float32), patch)


def test_cells_come_with_their_nuclei(tmp_path):
    _, truth = discs()
    pixels = np.zeros((*SHAPE, 3), np.uint8)
    pixels[truth > 0, 1] = 255
    inner = ndimage.binary_erosion(truth > 0, iterations=5)
    pixels[inner, 0] = 255
    folder = package(tmp_path / "cells", graph=cells_network(PATCH), classes=CELLS, offsets=False)
    result = wsiseg.segment(
        wsiseg.open(pixels, mpp=0.5), folder, options=SegmentOptions(tissue=EVERYWHERE)
    )
    found = result.annotations
    count = ndimage.label(inner)[1]
    assert (len(found), found.object_type) == (count, "cell")
    assert all(c.covers(n) for c, n in zip(found.geometries, found.nuclei, strict=True))
    summary, square_mm = result.summary(), 0.25e-6
    assert summary["Nucleus_mm2"] == pytest.approx(inner.sum() * square_mm, abs=1e-6)
    assert summary["Cell_mm2"] == pytest.approx((truth > 0).sum() * square_mm, abs=1e-6)
    measured = found.measurements[NUCLEUS_AREA]
    assert measured.sum() == pytest.approx(inner.sum() * square_mm)
    path = result.write(tmp_path / "out") / "annotations.geojson"
    report = wsiseg.verify_geojson(path)
    assert report.verdict == "clean"
    assert report.loads["0.5"].types == {"cell": count}
    assert path.read_bytes().count(b"nucleusGeometry") == count

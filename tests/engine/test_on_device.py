"""Dense outputs stitched where they are made, against the host: the same codes and labels."""

import time

import numpy as np
import pytest

import wsiseg
from wsiseg.engine import cascade, execute
from wsiseg.engine.plan import _Walk
from wsiseg.errors import DeviceMemoryError
from wsiseg.options import RunOptions, SegmentOptions, TissueOptions
from wsiseg.stitch import device
from wsiseg.testing.slides import tissue_disc

OPTIONS = SegmentOptions(
    tissue=TissueOptions(detector="none"), run=RunOptions(backend="torch", device="cpu")
)


@pytest.fixture(scope="module", autouse=True)
def home(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WSISEG_HOME", str(tmp_path_factory.mktemp("home")))
        yield


@pytest.fixture(scope="module")
def model():
    return wsiseg.load_model("breast-tumour-demo", backend="torch", device="cpu")


@pytest.fixture
def stitchers(monkeypatch):
    """Take this CPU for a device with memory of its own; return the stitchers made."""
    made = []

    class Recorded(device.DeviceStitcher):
        def __init__(self, *args, **options):
            super().__init__(*args, **{**options, "device": "cpu"})
            made.append(self)

    monkeypatch.setattr(device, "DeviceStitcher", Recorded)
    monkeypatch.setattr(cascade, "device_of", lambda _: "cuda:0")
    return made


def codes(model):
    pixels, _ = tissue_disc((700, 1300), center=(350, 600), radius=220)
    with wsiseg.open(pixels, mpp=0.9) as slide:
        result = wsiseg.segment(slide, model, options=OPTIONS)
        return np.asarray(result.heatmap.codes[:]), np.asarray(result.labels.labels[:])


def agree(found, expected):
    """Codes may differ by one where a probability lies halfway between two."""
    assert expected[0].any()
    assert np.abs(found[0].astype(int) - expected[0]).max() <= 1
    assert (found[1] == expected[1]).mean() >= 0.9999


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize(
    ("width", "columns"), [pytest.param(10_000, 1, marks=pytest.mark.slow), (300, 2)]
)
def test_stitching_on_the_device_gives_the_same(
    model, stitchers, monkeypatch, width, columns, turned
):
    walk = _Walk(width, turned)
    monkeypatch.setattr("wsiseg.engine.plan._Stage._fewest_columns", lambda *_: walk)
    found = codes(model)
    assert len(stitchers) == columns
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cascade, "device_of", lambda _: None)
        expected = codes(model)
    agree(found, expected)


def test_seconds_without_patches_are_told(model, stitchers, monkeypatch):
    read = execute.TileReader.read

    def slowly(reader, *args):
        if reader._setup.spec.kind == "segmenter":
            time.sleep(0.5)
        return read(reader, *args)

    monkeypatch.setattr(execute.TileReader, "read", slowly)
    pixels, _ = tissue_disc((400, 400), center=(200, 200), radius=150)
    with wsiseg.open(pixels, mpp=0.9) as slide:
        result = wsiseg.segment(slide, model, options=OPTIONS)
    assert stitchers
    assert [report.starve_s >= 0.25 for report in result.reports] == [False, True]
    assert result.reports[-1].wait_s == 0


def test_a_front_that_does_not_fit_is_stitched_on_the_host(model, monkeypatch):
    tried = []

    class Full:
        def __init__(self, *_args, **_options):
            tried.append(1)
            raise DeviceMemoryError("cuda:0: the front of the stitcher needs 9 GB; not free")

    expected = codes(model)
    monkeypatch.setattr(device, "DeviceStitcher", Full)
    monkeypatch.setattr(cascade, "device_of", lambda _: "cuda:0")
    agree(codes(model), expected)
    assert tried

"""A known square of tissue, through a model into files in both frames, for each vendor."""

import json
from dataclasses import replace

import numpy as np
import pytest

import wsiseg
from wsiseg.exchange import ExportRequest, FinishedResult, export_result
from wsiseg.geometry import Box, Spacing
from wsiseg.options import SegmentOptions, TissueOptions
from wsiseg.source import Pyramid
from wsiseg.source.array import ArraySource
from wsiseg.testing.models import make_colour_model

SHAPE = (640, 800)
SQUARE = Box((320, 384), (448, 576))
"""On the grid of the model's second stage, so that its edges are exact."""

BOUNDS = Box((96, 160), (608, 736))
"""What the vendor calls the scanned part."""

WHERE = {
    "aperio": (None, (0, 0)),
    "hamamatsu": (BOUNDS, (0, 0)),
    "mirax": (BOUNDS, (96, 160)),
    "leica": (BOUNDS, (96, 160)),
    "philips": (None, (0, 0)),
    "ventana": (None, (0, 0)),
    "generic-tiff": (BOUNDS, (0, 0)),
}
"""Vendor -> bounds it declares, and the corner (y, x) of the image that QuPath 0.5 to 0.7 show."""


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WSISEG_HOME", str(tmp_path_factory.mktemp("home")))
        folder = tmp_path_factory.mktemp("models") / "colour"
        sizes = {"patch": 32, "stride": 16, "refine_um": 1.0, "window": 64, "halo": 8}
        yield wsiseg.load_model(make_colour_model(folder, **sizes), backend="onnxruntime")


class Scanned(ArraySource):
    """Pixels as the reader of some vendor gives them."""

    def __init__(self, pixels, vendor, bounds):
        super().__init__(pixels, name="case", spacing=Spacing((0.5, 0.5)), vendor=vendor)
        self._bounds = bounds

    @property
    def metadata(self):
        return replace(super().metadata, bounds=self._bounds)


def bounds_of(path) -> list[int]:
    """Return the box of the only object of a file: y0, x0, y1, x1."""
    (feature,) = json.loads(path.read_text())["features"]
    x, y = np.array(feature["geometry"]["coordinates"][0]).T
    return [y.min(), x.min(), y.max(), x.max()]


@pytest.mark.parametrize("vendor", WHERE)
def test_the_square_is_on_the_same_tissue_in_both_frames(vendor, model, tmp_path):
    pixels = np.full((*SHAPE, 3), 240, np.uint8)
    pixels[SQUARE.slices()] = 210, 90, 160
    bounds, corner = WHERE[vendor]
    slide = Pyramid(Scanned(pixels, vendor, bounds))
    options = SegmentOptions(tissue=TissueOptions(detector="none"))
    result = FinishedResult(wsiseg.segment(slide, model, options=options).write(tmp_path / "out"))
    square = [*SQUARE.start, *SQUARE.stop]
    found = {}
    for frame in ("level0", "qupath"):
        request = ExportRequest(frame=frame)
        (path,) = export_result(result, "qupath", tmp_path / frame, request=request).files
        assert wsiseg.verify_geojson(path).verdict == "clean"
        found[frame] = bounds_of(path)
        about = json.loads(path.read_text())["wsiseg"]
        shown = bounds if any(corner) and frame == "qupath" else Box((0, 0), SHAPE)
        assert (about["image_height"], about["image_width"]) == shown.shape
        assert (about["frame"], about["bounds_applied"]) == (frame, shown.shape != SHAPE)
    assert found["level0"] == square
    assert found["qupath"] == [a - b for a, b in zip(square, corner * 2, strict=True)]
    image = pixels[bounds.slices()] if any(corner) else pixels  # what QuPath shows
    y0, x0, y1, x1 = map(int, found["qupath"])
    assert (image[y0:y1, x0:x1, 0] == 210).all()
    assert np.count_nonzero(image[..., 0] == 210) == SQUARE.size

"""The model that comes with wsiseg: whole, small, and still finding tumour."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import shapely

import wsiseg
from wsiseg.model import check_model, load_model
from wsiseg.model.card import ModelCard

BUNDLED = Path(wsiseg.__file__).parent / "bundled"
PACKAGE = BUNDLED / "models" / "breast-tumour-demo"


def test_weights_stay_small():
    assert sum(file.stat().st_size for file in PACKAGE.glob("*.safetensors")) < 6e6


@pytest.mark.parametrize("backend", ["torch", "onnxruntime"])
def test_the_package_gives_what_it_gave_when_written(backend):
    check_model("breast-tumour-demo", backend=backend)


def test_the_card_is_honest():
    card = ModelCard.read(PACKAGE / "model.json")
    assert (card.classes[1].name, card.classes[1].color) == ("Tumor", (200, 0, 0))
    assert "Not for diagnosis" in card.provenance.intended_use
    assert "no held-out figure" in card.provenance.limits
    for fold in ("held out 1008", "held out 1015", "mean"):
        assert 0 < card.provenance.metrics[f"dice, cascade, {fold}"] < 1
    for stage in card.stages:
        patch, stride = stage.inputs[0].patch[0], stage.inputs[0].stride
        if stride:
            assert stride[0] * 4 <= patch


def test_another_scanner_and_stain():
    """Places picked by eye in a slide the model has not seen, x and y in level-0 pixels."""
    result = wsiseg.segment(BUNDLED / "slides" / "OS-1-detail.ome.tif", "breast-tumour-demo")
    tumour = shapely.union_all(result.annotations.geometries)
    nests = [(680, 960), (640, 620), (970, 620), (110, 280), (1020, 940), (90, 1010)]
    stroma = [(640, 170), (620, 480), (160, 850), (560, 260), (60, 60), (900, 90)]
    assert [tumour.contains(shapely.Point(x, y)) for x, y in nests] == [True] * len(nests)
    assert [tumour.contains(shapely.Point(x, y)) for x, y in stroma] == [False] * len(stroma)


@pytest.mark.realdata
def test_training_regions_are_remembered(data_dir):
    """Not a measure of quality: the model was trained on these pixels."""
    folder = data_dir / "histology" / "bcss"
    model = load_model("breast-tumour-demo")
    for name in ("1008", "1015"):
        slide = wsiseg.open(folder / "images" / f"{name}.jpg", mpp=0.25)
        result = wsiseg.segment(slide, model)
        truth = cv2.imread(str(folder / "masks" / f"{name}.png"), cv2.IMREAD_GRAYSCALE) > 127
        shape = result.labels.shape
        found = np.asarray(result.labels.read(wsiseg.Box.of_shape(shape))).reshape(shape) > 0
        found = cv2.resize(
            found.astype(np.uint8), truth.shape[::-1], interpolation=cv2.INTER_NEAREST
        )
        dice = 2 * np.count_nonzero(truth & (found > 0)) / (truth.sum() + found.sum())
        assert dice > 0.75

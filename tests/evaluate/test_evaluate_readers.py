"""A real slide, its labels and its heatmap meet on the pixels of one view."""

import numpy as np
import pytest

import wsiseg
from wsiseg.errors import UsageError
from wsiseg.evaluate import EvaluationOptions, evaluate, read_heatmap, slide_case
from wsiseg.geometry import Box, Spacing
from wsiseg.stitch import HeatmapStore
from wsiseg.stitch.placement import Placement

CLASSES = ("background", "Tumor")


@pytest.fixture
def slide():
    pixels = np.random.default_rng(0).integers(120, 255, (200, 300, 3), dtype=np.uint8)
    with wsiseg.open(pixels, mpp=0.5) as opened:
        yield opened


def stored(tmp_path, values, channels, *, covered=None):
    """Write a heatmap of cells of 16 level-0 pixels that begins 8 pixels into the slide."""
    placement = Placement(values.shape[:2], Spacing((8.0, 8.0)), (16.0, 16.0), (8.0, 8.0))
    covered = np.ones(values.shape[:2], bool) if covered is None else covered
    path = tmp_path / "heatmap.zarr"
    with HeatmapStore.create(path, placement, channels=channels) as writer:
        codes = np.where(covered[..., None], 1 + np.rint(values * 254), 0).astype(np.uint8)
        writer.write(Box.of_shape(values.shape[:2]), codes)
        return writer.finish()


def cells(seed=1):
    values = np.random.default_rng(seed).random((11, 17))
    return np.stack([1 - values, values], axis=-1)


@pytest.mark.parametrize("with_background", [True, False])
def test_each_pixel_has_the_cell_its_centre_lies_in(slide, tmp_path, with_background):
    values, view = cells(), slide.at(1.5)
    covered = np.ones((11, 17), bool)
    covered[5, 5] = False
    some = values[..., ::-1] if with_background else values[..., 1:]
    channels = ["Tumor", "background"] if with_background else ["Tumor"]
    heatmap = stored(tmp_path, some, channels, covered=covered)
    box = Box((0, 3), view.shape)
    found = read_heatmap(heatmap, view, CLASSES)(box)
    assert found.shape == (*box.shape, 2)
    for y in range(0, view.shape[0], 3):
        for x in range(3, view.shape[1], 5):
            i, j = (int((3 * at + 1.5 - 8) // 16) for at in (y, x))
            answered = 0 <= i < 11 and 0 <= j < 17 and covered[i, j]
            expected = values[i, j] if answered else [0, 0]
            np.testing.assert_allclose(found[y, x - 3], expected, atol=1 / 254)


def test_a_slide_is_evaluated_with_its_pictures(slide, tmp_path):
    view = slide.at(1.0)
    truth = np.zeros(view.shape, np.uint8)
    truth[20:60, 30:90] = 1
    guess = np.roll(truth, 6, axis=1)
    case = slide_case(
        slide,
        view,
        prediction=lambda box: guess[box.slices()],
        reference=lambda box: truth[box.slices()],
        probabilities=read_heatmap(stored(tmp_path, cells(), list(CLASSES)), view, CLASSES),
        columns={"patient": "1"},
    )
    result = evaluate([case], CLASSES, options=EvaluationOptions(tolerance_um=6.0))
    figures = result.slides[0].classes[0].figures()
    assert figures["dice"] == pytest.approx(54 / 60)
    assert figures["hd95_um"] == pytest.approx(6.0)
    assert figures["reference_um2"] == 40 * 60
    assert 0 < result.calibration().ece < 1
    assert result.pictures[0].whole is not None


def test_a_class_without_a_channel_is_named(slide, tmp_path):
    heatmap = stored(tmp_path, cells(), ["background", "Stroma"])
    with pytest.raises(UsageError, match=r"needed a channel for each of \['background', 'Tumor'\]"):
        read_heatmap(heatmap, slide.at(1.0), CLASSES)

"""Tissue on real slides: against masks that others made, across scanners, and by what is known."""

import cv2
import numpy as np
import openslide
import pytest
import tifffile
from PIL import Image

from wsiseg.geometry import Spacing
from wsiseg.tissue.find import detect
from wsiseg.tissue.pen import find_pen

pytestmark = pytest.mark.realdata

EIGHT = Spacing((8.0, 8.0))


def picture(path):
    return np.asarray(Image.open(path).convert("RGB"))


def truth_of(path):
    return np.asarray(Image.open(path).convert("L")) > 0


def reduced(pixels, factor):
    height, width = (max(1, round(n / factor)) for n in pixels.shape[:2])
    return cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA)


def slide(path):
    with openslide.OpenSlide(path) as opened:
        return np.asarray(opened.read_region((0, 0), 0, opened.dimensions).convert("RGB"))


def dice(found, truth):
    if found.shape != truth.shape:
        size = truth.shape[::-1]
        found = cv2.resize(found.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST) > 0
    return 2 * (found & truth).sum() / (found.sum() + truth.sum())


@pytest.mark.parametrize(
    ("name", "least"), [("cmu-1-small-region", 0.96), ("tcga-cr-7395-01a-01-ts1", 0.985)]
)
@pytest.mark.parametrize("kind", ["tissue", "bbox"])
def test_against_masks_of_histolab(data_dir, name, kind, least):
    truth = f"artifacts/histolab/expected_tissue_mask/{name}-{kind}-location-tissue-mask-true.png"
    found = detect(reduced(slide(data_dir / f"slides/{name}.svs"), 16), EIGHT)
    assert dice(found, truth_of(data_dir / truth)) > least


def test_against_mask_of_histoqc(data_dir):
    base = data_dir / "artifacts/histoqc/tests_target/TCGA-EJ-5509-01A-01-BS1_ROI.svs"
    found = detect(picture(f"{base}_thumb_small.png"), EIGHT)
    assert dice(found, truth_of(f"{base}_mask_use.png")) > 0.95


def test_two_scanners_agree(data_dir):
    ndpi, vsi = (
        tifffile.imread(data_dir / f"slides/petebankhead_OS-2-{kind}.ome.tif")
        for kind in ("ndpi", "vsi")
    )
    assert dice(detect(reduced(ndpi, 35), EIGHT), detect(reduced(vsi, 23), EIGHT)) > 0.97


@pytest.mark.parametrize(
    ("ink", "recall", "precision"),
    [("green", 0.98, 0.70), ("red", 0.50, 0.98), ("black", 0.99, 0.80)],
)
def test_pen_against_masks_of_histoqc(data_dir, ink, recall, precision):
    folder = data_dir / "artifacts/histoqc/pen/1k_version"
    pixels, truth = picture(folder / f"pen_{ink}.png"), truth_of(folder / f"pen_{ink}_mask.png")
    found = find_pen(pixels, EIGHT, np.ones(truth.shape, bool))
    assert (found & truth).sum() > recall * truth.sum()
    assert (found & truth).sum() > precision * found.sum()
    assert not (detect(pixels, EIGHT) & found).any()


@pytest.mark.parametrize("name", ["1008", "1015"])
def test_a_region_of_tumour_is_all_tissue(data_dir, name):
    pixels = picture(data_dir / f"histology/bcss/images/{name}.jpg")
    assert detect(reduced(pixels, 32), EIGHT).all()


@pytest.mark.parametrize("number", range(1, 5))
def test_stain_templates_are_all_tissue(data_dir, number):
    pixels = picture(data_dir / f"artifacts/histoqc/templates/template{number}.png")
    assert detect(reduced(pixels, 8), Spacing((4.0, 4.0))).mean() > 0.99


@pytest.mark.parametrize("name", ["no-tissue", "no-tissue2", "no-tissue-line", "almost-white-1"])
def test_tiles_of_glass_have_no_tissue(data_dir, name):
    pixels = picture(data_dir / f"artifacts/histolab/tiles/{name}.png")
    assert not detect(reduced(pixels, 16), EIGHT).any()


def test_round_core(data_dir):
    pixels = tifffile.imread(data_dir / "slides/instanseg_HE_example.tif")
    pixels = np.moveaxis(pixels, 0, -1) if pixels.shape[0] == 3 else pixels
    found = detect(reduced(pixels, 16), EIGHT)
    height, width = found.shape
    y, x = np.mgrid[:height, :width]
    (top, bottom), (left, right) = (np.flatnonzero(found.any(axis))[[0, -1]] for axis in (1, 0))
    radii = (bottom - top + 1) / 2, (right - left + 1) / 2
    disc = ((y - (top + bottom) / 2) / radii[0]) ** 2 + ((x - (left + right) / 2) / radii[1]) ** 2
    assert dice(found, disc <= 1) > 0.97


def test_one_speck_on_an_empty_slide(data_dir):
    found = detect(tifffile.imread(data_dir / "slides/kidney-48-5.tif"), EIGHT)
    count, _, stats, centres = cv2.connectedComponentsWithStats(found.astype(np.uint8))
    assert count == 2
    assert 0.002 < found.mean() < 0.006
    assert centres[1] == pytest.approx((345, 525), abs=20)
    assert stats[1, cv2.CC_STAT_WIDTH] < 130


def test_fiducial_frame_on_grey_is_not_tissue(data_dir):
    found = detect(
        picture(data_dir / "artifacts/visium_mouse_tissue_lowres.png"), Spacing((12.0, 12.0))
    )
    y, x = np.nonzero(found)
    assert (y.min(), y.max(), x.min(), x.max()) == pytest.approx((125, 510, 90, 520), abs=12)
    assert not found[:110].any()
    assert not found[:, 535:].any()
    assert found[200:450, 150:480].mean() > 0.85


@pytest.mark.parametrize(
    ("name", "share"),
    [
        ("rat-kidney_/scale-5pc/Rat-Kidney_HE.jpg", 0.66),
        ("rat-kidney_/scale-5pc/Rat-Kidney_PanCytokeratin.jpg", 0.63),
        ("lesions_/scale-5pc/Izd2-29-041-w35_HE.jpg", 0.85),
        ("lesions_/scale-5pc/Izd2-29-041-w35_proSPC.jpg", 0.79),
    ],
)
def test_share_of_tissue_of_whole_sections(data_dir, name, share):
    """The shares were judged by eye, outline over picture; they may move by a tenth."""
    found = detect(picture(data_dir / "artifacts/cima_landmarks" / name), EIGHT)
    assert found.mean() == pytest.approx(share, rel=0.1)

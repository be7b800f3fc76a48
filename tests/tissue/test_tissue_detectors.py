"""Detectors on made pictures whose tissue is known exactly."""

import numpy as np
import pytest

from wsiseg.geometry import Spacing
from wsiseg.options import TissueOptions
from wsiseg.tissue import glass as glass_module
from wsiseg.tissue.detectors import ColorDetector, SaturationDetector, otsu
from wsiseg.tissue.find import detect
from wsiseg.tissue.glass import find_glass, glass_distance

EIGHT = Spacing((8.0, 8.0))
EOSIN, PALE_IHC, GLASS = (205, 130, 175), (205, 208, 219), (241, 239, 242)


def a_slide(stain=EOSIN, glass=GLASS, shape=(240, 320), seed=0):
    """Return a picture with two pieces of textured tissue on glass, and the truth."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: shape[0], : shape[1]]
    truth = ((y - 110) / 70) ** 2 + ((x - 90) / 60) ** 2 < 1
    truth |= (np.abs(y - 120) < 80) & (np.abs(x - 240) < 40)
    pixels = np.empty((*shape, 3))
    pixels[:] = glass
    texture = rng.normal(0, 9, shape)[..., None] * (1.0, 1.1, 0.9)
    pixels[truth] = (np.array(stain) + texture)[truth]
    return as_pixels(pixels), truth


def as_pixels(values):
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def dice(a, b):
    return 2 * (a & b).sum() / (a.sum() + b.sum())


def noisy(pixels, sigma):
    return as_pixels(pixels + np.random.default_rng(1).normal(0, sigma, pixels.shape))


def vignetted(pixels, strength):
    y, x = np.meshgrid(*(np.linspace(-1, 1, n) for n in pixels.shape[:2]), indexing="ij")
    return as_pixels(pixels * (1 - strength * (x * x + y * y) / 2)[..., None])


@pytest.mark.parametrize("detector", ["auto", "color", "saturation"])
def test_tissue_on_glass(detector):
    pixels, truth = a_slide()
    assert dice(detect(pixels, EIGHT, TissueOptions(detector=detector)), truth) > 0.97


@pytest.mark.parametrize(
    "change",
    [
        lambda p: noisy(p, 5),
        lambda p: vignetted(p, 0.4),
        lambda p: as_pixels(p * 0.72),
        lambda p: as_pixels(p * (1.0, 0.97, 0.9)),
        lambda p: as_pixels(255 - (255.0 - p) * 0.4),
    ],
    ids=["noise", "vignetting", "grey glass", "yellow lamp", "pale stain"],
)
def test_tissue_is_found_whatever_the_scanner_does(change):
    pixels, truth = a_slide()
    assert dice(detect(change(pixels), EIGHT), truth) > 0.95


def test_pale_ihc_is_found_by_its_texture():
    pixels, truth = a_slide(stain=PALE_IHC)
    assert dice(detect(pixels, EIGHT), truth) > 0.95


@pytest.mark.parametrize("color", [(255,) * 3, GLASS, (170, 172, 168), (230, 228, 214), (0,) * 3])
@pytest.mark.parametrize(
    "change", [lambda p: p, lambda p: noisy(p, 6), lambda p: vignetted(p, 0.3)]
)
@pytest.mark.parametrize("detector", ["auto", "saturation"])
def test_a_field_of_glass_has_no_tissue(color, change, detector):
    pixels = change(np.full((200, 300, 3), color, np.uint8))
    if detector == "saturation" and color == (230, 228, 214):
        pytest.skip("saturation takes yellowish glass with noise for tissue; auto does not")
    assert not detect(pixels, EIGHT, TissueOptions(detector=detector)).any()


@pytest.mark.parametrize("color", [EOSIN, (150, 90, 160), (190, 200, 222), (225, 200, 215)])
@pytest.mark.parametrize("detector", ["auto", "saturation"])
def test_a_field_of_tissue_is_not_split(color, detector):
    texture = np.random.default_rng(0).normal(0, 9, (200, 300, 1))
    pixels = as_pixels(np.array(color) + texture)
    assert detect(pixels, EIGHT, TissueOptions(detector=detector)).mean() > 0.99


@pytest.mark.parametrize("padding", [0, 255])
def test_padding_is_not_tissue(padding):
    pixels, truth = a_slide()
    wide = np.full((300, 420, 3), padding, np.uint8)
    wide[20:260, 50:370] = pixels
    mask = detect(wide, EIGHT)
    assert dice(mask[20:260, 50:370], truth) > 0.97
    mask[20:260, 50:370] = False
    assert not mask.any()


def test_padding_around_a_field_of_tissue_is_not_tissue():
    pixels = np.zeros((300, 300, 3), np.uint8)
    texture = np.random.default_rng(0).normal(0, 9, (200, 200, 1))
    pixels[50:250, 50:250] = as_pixels(np.array(EOSIN) + texture)
    assert detect(pixels, EIGHT).mean() == pytest.approx((200 / 300) ** 2, rel=0.02)


def test_scratches_and_steps_of_the_glass_are_not_tissue():
    pixels, truth = a_slide()
    pixels[:, :20] = (214, 213, 215)  # a darker strip beyond the coverslip
    pixels[:, 20] = (90, 90, 90)  # its edge
    assert dice(detect(pixels, EIGHT), truth) > 0.97


@pytest.mark.parametrize(
    ("ink", "name"),
    [
        ((30, 150, 110), "green"),
        ((35, 90, 190), "blue"),
        ((205, 25, 25), "red"),
        ((12,) * 3, "black"),
    ],
)
def test_pen_is_not_tissue_unless_asked_for(ink, name):
    pixels, truth = a_slide()
    stroke = np.zeros(truth.shape, bool)
    stroke[205:230, 20:300] = True
    pixels[stroke] = ink
    assert not (detect(pixels, EIGHT) & stroke).any(), name
    assert dice(detect(pixels, EIGHT), truth) > 0.97
    if name != "black":  # black without texture is no tissue either way
        kept = detect(pixels, EIGHT, TissueOptions(exclude_pen=False))
        assert (kept & stroke).sum() > 0.9 * stroke.sum()


@pytest.mark.parametrize("stain", [(80, 120, 190), (90, 170, 140), (215, 45, 50)])
def test_a_stain_of_the_colour_of_ink_is_tissue(stain):
    pixels, truth = a_slide(stain=stain)
    rough = np.random.default_rng(2).normal(0, 14, truth.shape)[..., None]
    pixels[truth] = as_pixels(pixels + rough)[truth]
    assert dice(detect(pixels, EIGHT), truth) > 0.95


def distances(pixels, glass):
    """Return the distance from glass of a whole picture, and the number of its strips."""
    strips = [distance for _, distance, _ in glass_distance(pixels, glass)]
    return np.concatenate(strips), len(strips)


def test_strips_leave_no_seam(monkeypatch):
    pixels = np.tile(a_slide()[0], (5, 1, 1))
    glass = find_glass(pixels)
    whole, one = distances(pixels, glass)
    monkeypatch.setattr(glass_module, "STRIP_PIXELS", 50 * pixels.shape[1])
    cut, many = distances(pixels, glass)
    assert one < many
    np.testing.assert_allclose(whole, cut, atol=2e-2)


def test_glass_is_measured():
    pixels, truth = a_slide()
    glass = find_glass(pixels)
    assert glass.lightness == pytest.approx(94.6, abs=0.6)
    assert glass.share == pytest.approx(1 - truth.mean(), abs=0.05)
    assert find_glass(np.full((50, 50, 3), EOSIN, np.uint8)) is None


def test_otsu_against_every_threshold_tried():
    counts = np.random.default_rng(3).integers(0, 50, 40)
    values = np.repeat(np.arange(40), counts)

    def within(threshold):
        parts = values[values <= threshold], values[values > threshold]
        return sum(len(p) * p.var() for p in parts if len(p))

    best = min(range(39), key=within)
    assert otsu(counts).threshold == best


def test_a_valley_tells_two_modes_from_one():
    rng = np.random.default_rng(0)
    one = np.bincount(rng.normal(60, 8, 20_000).astype(int), minlength=256)
    skewed = np.bincount(np.abs(rng.normal(0, 9, 20_000)).astype(int), minlength=256)
    two = np.bincount(np.r_[rng.normal(8, 2, 5000), rng.normal(90, 9, 900)].clip(0).astype(int))
    assert otsu(two).valley < 0.05
    assert otsu(one).valley > 0.8
    assert otsu(skewed).valley > 0.8
    assert otsu(np.array([0, 7, 0])).valley == 1
    assert otsu(np.array([5])).valley == 1


def test_detectors_can_be_tuned():
    pixels, _ = a_slide()
    assert not ColorDetector(least=90, most=90)(pixels, EIGHT).any()
    assert not SaturationDetector(fixed=255)(np.full_like(pixels, 200), EIGHT).any()

"""What OpenSlide's source adds to OpenSlide: recovery, composition, exact windows, privacy."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import openslide
import pytest
from PIL import Image

from wsiseg.errors import DamagedFileError, SourceError, UnsupportedFormatError
from wsiseg.geometry import Box, Spacing
from wsiseg.source import openslide as module
from wsiseg.source._properties import technical
from wsiseg.source.openslide import OpenSlideSource
from wsiseg.testing import hostile
from wsiseg.testing.slides import make_svs, make_tiff_pyramid, tissue_disc

PIXELS, _ = tissue_disc((700, 900), seed=4)


class FakeSlide:
    """An OpenSlide handle whose properties and levels a test chooses."""

    def __init__(self, properties=(), alpha=255):
        self.properties = {"openslide.vendor": "mirax", **dict(properties)}
        self.level_dimensions = ((400, 300), (100, 75))
        self.level_downsamples = (1.0, 4.0)
        self.associated_images = {}
        self._alpha = alpha

    def read_region(self, location, level, size):
        return Image.new("RGBA", size, (10, 20, 30, self._alpha))


@pytest.fixture
def fake(monkeypatch):
    def install(**arguments):
        monkeypatch.setattr(module, "_open", lambda path: FakeSlide(**arguments))
        return OpenSlideSource("a.mrxs")

    return install


def test_a_damaged_region_does_not_spoil_the_rest(tmp_path: Path):
    good = make_svs(tmp_path / "a.svs", PIXELS, levels=(1,), tile=256)
    source = OpenSlideSource(hostile.damage_tile(good, tmp_path / "b.svs", tile=5))
    expected = OpenSlideSource(good).read(0, Box((0, 0), (256, 900)))
    for _ in range(3):
        with pytest.raises(DamagedFileError, match=r"b\.svs: level 0: the 10 x 12 .*; copy the"):
            source.read(0, Box((300, 300), (312, 310)))
        assert np.array_equal(source.read(0, Box((0, 0), (256, 900))), expected)


def test_threads_beside_a_damaged_region_are_not_harmed(tmp_path: Path):
    good = make_svs(tmp_path / "a.svs", PIXELS, levels=(1,), tile=256)
    source = OpenSlideSource(hostile.damage_tile(good, tmp_path / "b.svs", tile=5))
    intact = Box((0, 0), (256, 900))
    expected = OpenSlideSource(good).read(0, intact)

    def work(index: int) -> bool:
        if index % 2:
            return np.array_equal(source.read(0, intact), expected)
        with pytest.raises(DamagedFileError):
            source.read(0, Box((300, 300), (310, 310)))
        return True

    with ThreadPoolExecutor(6) as pool:
        assert all(pool.map(work, range(40)))


@pytest.mark.realdata
def test_the_unreadable_real_slide(data_dir: Path):
    """Its thumbnail spoils the handle while it opens; that must be an error of ours."""
    path = data_dir / "slides/openslide-python/unreadable.svs"
    with pytest.raises(SourceError, match=r"unreadable\.svs"):
        OpenSlideSource(path).read(0, Box((0, 0), (16, 16)))


def test_levels_of_broken_downsample_are_near_the_direct_path(tmp_path: Path):
    """OpenSlide interpolates between pixels there: the same picture, not the same bytes."""
    from wsiseg.source.tiff import TiffSource

    path = make_svs(tmp_path / "a.svs", PIXELS, levels=(1, 2.3))
    slow, fast = OpenSlideSource(path), TiffSource(path)
    assert slow.levels == fast.levels
    box = Box.of_shape(slow.levels[1].shape)
    assert np.abs(slow.read(1, box).astype(int) - fast.read(1, box)).mean() < 3


def test_bounds_and_background_come_from_the_file(fake):
    properties = {
        "openslide.bounds-x": "12", "openslide.bounds-y": "34",
        "openslide.bounds-width": "200", "openslide.bounds-height": "100",
        "openslide.background-color": "E0F0FA", "openslide.mpp-x": "0.25", "openslide.mpp-y": "0.3",
        "openslide.objective-power": "20",
    }  # fmt: skip
    metadata = fake(properties=properties).metadata
    assert metadata.bounds == Box((34, 12), (134, 212))
    assert metadata.background == (0xE0, 0xF0, 0xFA)
    assert metadata.spacing == Spacing((0.3, 0.25))
    assert metadata.objective_power == 20
    del properties["openslide.bounds-x"]
    assert fake(properties=properties).metadata.bounds is None


@pytest.mark.parametrize("vendor", ["generic-tiff", "argos"])
def test_bounds_that_viewers_do_not_apply_are_left_out(fake, vendor):
    properties = {f"openslide.bounds-{key}": "10" for key in ("x", "y", "width", "height")}
    properties["openslide.vendor"] = vendor
    assert fake(properties=properties).metadata.bounds is None


@pytest.mark.parametrize(("alpha", "shown"), [(255, (10, 20, 30)), (0, (255, 255, 255))])
def test_transparency_shows_the_background(fake, alpha, shown):
    source = fake(alpha=alpha)
    for level in (0, 1):
        assert (source.read(level, Box((0, 0), (5, 5))) == shown).all()


def test_half_transparency_is_mixed(fake):
    pixels = fake(alpha=51).read(0, Box((0, 0), (1, 1)))
    assert pixels[0, 0].tolist() == [206, 208, 210]  # a fifth of the colour, four of white


def test_print_resolutions_are_no_pixel_size(tmp_path: Path):
    path = make_tiff_pyramid(tmp_path / "a.tif", PIXELS, mpp=352.8)
    with openslide.OpenSlide(path) as slide:
        assert float(slide.properties["openslide.mpp-x"]) == pytest.approx(352.8)
    assert OpenSlideSource(path).metadata.spacing is None
    path = make_tiff_pyramid(tmp_path / "b.tif", PIXELS, mpp=0.5)
    assert OpenSlideSource(path).metadata.spacing.um == pytest.approx((0.5, 0.5))


def test_what_openslide_does_not_know_is_refused(tmp_path: Path):
    path = tmp_path / "a.svs"
    path.write_bytes(b"nothing" * 100)
    with pytest.raises(UnsupportedFormatError, match=r"a\.svs: needed a slide format"):
        OpenSlideSource(path)
    with pytest.raises(SourceError, match=r"b\.svs"):
        OpenSlideSource(tmp_path / "b.svs")


def test_only_known_technical_keys_are_kept():
    properties = {
        "openslide.mpp-x": "0.25",
        "openslide.level[0].width": "100",
        "openslide.comment": "Jane Doe",
        "openslide.barcode": "S12-345",
        "aperio.MPP": "0.25",
        "aperio.User": "jdoe",
        "aperio.Date": "01/02/23",
        "aperio.Filename": "Jane Doe",
        "aperio.Barcode": "S12-345",
        "hamamatsu.Created": "2020/01/01",
        "hamamatsu.SourceLens": "20",
        "hamamatsu.Reference": "S12-345",
        "mirax.GENERAL.SLIDE_NAME": "Jane Doe",
        "mirax.GENERAL.OBJECTIVE_MAGNIFICATION": "20",
        "mirax.GENERAL.SLIDE_CREATIONDATETIME": "01/02/2023",
        "philips.PIM_DP_UFS_BARCODE": "S12-345",
        "tiff.ImageDescription": "Jane Doe",
        "tiff.Artist": "Jane Doe",
        "tiff.DateTime": "2020",
        "leica.creation-date": "2020",
        "leica.objective": "20",
        "ventana.OperatorID": "jdoe",
        "dicom.PatientName": "Jane Doe",
        "some.new.vendor.key": "Jane Doe",
    }
    assert set(technical(properties)) == {
        "openslide.mpp-x", "openslide.level[0].width", "aperio.MPP", "hamamatsu.SourceLens",
        "mirax.GENERAL.OBJECTIVE_MAGNIFICATION", "leica.objective",
    }  # fmt: skip


def test_after_damage_the_shared_handle_is_good_again(tmp_path: Path, monkeypatch):
    good = make_svs(tmp_path / "a.svs", PIXELS, levels=(1,), tile=256)
    source = OpenSlideSource(hostile.damage_tile(good, tmp_path / "b.svs", tile=5))
    with pytest.raises(DamagedFileError):
        source.read(0, Box((300, 300), (310, 310)))
    opened = []
    monkeypatch.setattr(module, "_open", opened.append)
    source.read(0, Box((0, 0), (256, 900)))
    assert not opened

"""Plain images: composed on white, 8 bits, one frame, of a bounded size."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from wsiseg.errors import DamagedFileError, UnsupportedFormatError
from wsiseg.geometry import Box
from wsiseg.source.image import ImageSource, read_image
from wsiseg.testing.slides import tissue_disc

PIXELS, _ = tissue_disc((60, 80))


def test_colours_are_kept(tmp_path: Path):
    for mode, kind in (("RGB", "png"), ("RGB", "bmp"), ("L", "png"), ("1", "png"), ("P", "png")):
        image = Image.fromarray(PIXELS).convert(mode)
        path = tmp_path / f"{mode}.{kind}"
        image.save(path)
        assert np.array_equal(read_image(path), np.asarray(image.convert("RGB")))


def test_transparency_is_white(tmp_path: Path):
    rgba = np.zeros((4, 4, 4), dtype=np.uint8)
    rgba[0, 0] = (200, 100, 50, 255)
    rgba[1, 1] = (0, 0, 0, 51)
    Image.fromarray(rgba).save(tmp_path / "a.png")
    pixels = read_image(tmp_path / "a.png")
    assert pixels[0, 0].tolist() == [200, 100, 50]
    assert pixels[1, 1].tolist() == [204, 204, 204]
    assert (pixels[2:] == 255).all()


def test_a_transparent_palette_colour_is_white(tmp_path: Path):
    image = Image.new("P", (2, 1), 0)
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putpixel((1, 0), 1)
    image.save(tmp_path / "a.png", transparency=1)
    assert read_image(tmp_path / "a.png").tolist() == [[[10, 20, 30], [255, 255, 255]]]


def test_the_orientation_tag_does_not_turn_the_pixels(tmp_path: Path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(PIXELS).save(tmp_path / "a.png", exif=exif)
    assert np.array_equal(read_image(tmp_path / "a.png"), PIXELS)


def test_print_resolution_is_no_pixel_size(tmp_path: Path):
    Image.fromarray(PIXELS).save(tmp_path / "a.png", dpi=(101_600, 101_600))
    source = ImageSource(tmp_path / "a.png")
    assert source.metadata.spacing is None
    assert source.metadata.reader == "image"
    assert source.read(0, Box((0, 0), (60, 80))).shape == (60, 80, 3)


@pytest.mark.parametrize("mode", ["I;16", "F", "I", "CMYK"])
def test_other_sample_types_are_refused(tmp_path: Path, mode):
    path = tmp_path / "a.tif"
    Image.new(mode, (8, 8)).save(path)
    with pytest.raises(UnsupportedFormatError, match=r"a\.tif: needed 8-bit.*mode"):
        read_image(path)


def test_sixteen_bit_png_is_refused(tmp_path: Path):
    import cv2

    path = tmp_path / "a.png"
    cv2.imwrite(str(path), PIXELS.astype(np.uint16) * 257)
    with pytest.raises(UnsupportedFormatError, match="found 16 bits"):
        read_image(path)


def test_animations_are_refused(tmp_path: Path):
    frames = [Image.fromarray(PIXELS), Image.fromarray(255 - PIXELS)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    with pytest.raises(UnsupportedFormatError, match="found 2 frames"):
        read_image(tmp_path / "a.gif")


@pytest.mark.parametrize("share", [1.01, 2.5])
def test_huge_images_are_refused_unread(tmp_path: Path, monkeypatch, share):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", int(60 * 80 / share))
    Image.fromarray(PIXELS).save(tmp_path / "a.png")
    with pytest.raises(UnsupportedFormatError, match="needed at most"):
        read_image(tmp_path / "a.png")


@pytest.mark.parametrize("kind", ["png", "jpg", "webp", "jp2"])
def test_cut_images_are_damaged(tmp_path: Path, kind):
    path = tmp_path / f"a.{kind}"
    Image.fromarray(PIXELS).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises((DamagedFileError, UnsupportedFormatError), match=rf"a\.{kind}"):
        read_image(path)

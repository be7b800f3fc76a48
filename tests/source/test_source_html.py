"""What a notebook shows: complete, escaped, and nothing personal."""

import base64
import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from wsiseg.errors import DamagedFileError
from wsiseg.geometry import Spacing
from wsiseg.source.array import ArraySource
from wsiseg.source.html import repr_html
from wsiseg.source.pyramid import Pyramid

RED = np.zeros((600, 1000, 3), np.uint8)
RED[:300, :, 0] = 200


class Slide(ArraySource):
    """A slide whose label must never be looked at."""

    damaged = False

    @property
    def associated_names(self):
        return ("label", "macro")

    def read_associated(self, name):
        raise AssertionError(f"{name} was read")

    def read(self, level, box):
        if self.damaged:
            raise DamagedFileError("a.svs: <tile> 3 cannot be decoded")
        return super().read(level, box)


def make(name="a.svs", spacing=Spacing((0.5, 0.25))):  # noqa: B008 - a frozen value
    return Pyramid(Slide([RED, RED[::4, ::4]], name=name, spacing=spacing))


class _Text(HTMLParser):
    """Collects text and attributes, and checks that elements nest."""

    def __init__(self):
        super().__init__()
        self.open, self.text, self.images, self.rows = [], [], [], 0

    def handle_starttag(self, tag, attributes):
        if tag == "img":
            self.images.append(dict(attributes))
        elif tag != "br":
            self.open.append(tag)
        self.rows += tag == "tr"

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.text.append(data)


def parse(pyramid):
    parser = _Text()
    parser.feed(repr_html(pyramid))
    parser.close()
    assert not parser.open
    return parser


def test_the_thumbnail_shows_the_slide():
    (image,) = parse(make()).images
    kind, _, data = image["src"].partition(",")
    assert kind == "data:image/jpeg;base64"
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))
    assert max(pixels.shape) <= 256
    assert (int(image["height"]), int(image["width"])) == pixels.shape[:2]
    assert pixels.shape[1] / pixels.shape[0] == pytest.approx(1000 / 600, rel=0.02)
    assert abs(pixels[10, 10].astype(int) - (200, 0, 0)).max() < 12
    assert pixels[-10, 10].max() < 12
    assert image["alt"] == "Thumbnail of a.svs"


def test_the_table_tells_the_levels():
    parsed = parse(make())
    text = " ".join(parsed.text)
    assert parsed.rows == 3
    assert "1000 x 600 px" in text
    assert "0.25 (x), 0.5 (y) µm/px" in text
    assert "0.25 x 0.3 mm" in text
    assert "read by array" in text
    assert "1,000 x 600" in text
    assert "250 x 150" in text
    assert "1 x 2" in text  # µm per pixel of level 1


def test_a_missing_pixel_size_names_the_remedy():
    text = " ".join(parse(make(spacing=None)).text)
    assert "pixel size missing: pass mpp" in text
    assert "mm;" not in text


@pytest.mark.parametrize("name", ["<script>alert(1)</script>.svs", 'a"onerror="x.svs', "a&b'.svs"])
def test_names_are_escaped(name):
    parsed = parse(make(name))
    assert name in parsed.text
    assert parsed.images[0]["alt"] == f"Thumbnail of {name}"
    assert "<script" not in repr_html(make(name))


def test_unreadable_pixels_leave_the_table():
    slide = make()
    slide.source.damaged = True
    parsed = parse(slide)
    assert not parsed.images
    assert parsed.rows == 3
    assert "no thumbnail: a.svs: <tile> 3 cannot be decoded" in parsed.text


def test_it_is_small_and_loads_nothing():
    page = repr_html(make())
    assert len(page) < 40_000
    assert not re.search(r"https?://|<script|<link|@import", page)


def test_no_colour_of_text_or_page_is_fixed():
    style = re.search(r"<style>(.*?)</style>", repr_html(make()), re.DOTALL).group(1)
    assert not re.search(r"#[0-9a-f]{3}", style)
    assert "color:inherit" in style


def test_pyramids_show_it_themselves():
    assert make()._repr_html_() == repr_html(make())

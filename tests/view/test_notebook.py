"""What notebooks show: pictures and tables, complete in themselves, figures with scale bars."""

import re
from html.parser import HTMLParser

import numpy as np
import pytest

import wsiseg
from wsiseg.draw.colormap import color_labels, color_values
from wsiseg.draw.notebook import panel, swatch, text_table
from wsiseg.errors import HeatmapError, UsageError
from wsiseg.geometry import Box, Spacing
from wsiseg.scans import segment_scan
from wsiseg.source.volumes.picture import middle_planes
from wsiseg.stitch import HeatmapStore, LabelClass, LabelStore, Placement
from wsiseg.testing.models import make_colour_model
from wsiseg.testing.scan_models import make_scan_model
from wsiseg.testing.slides import make_svs, tissue_disc

EVIL = "<script>alert(1)</script>"


class Nested(HTMLParser):
    """Checks that elements nest, and counts them."""

    def __init__(self, text):
        super().__init__()
        self.open, self.counts = [], {}
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.counts[tag] = self.counts.get(tag, 0) + 1
        if tag not in {"img", "br"}:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    folder = tmp_path_factory.mktemp("notebook")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WSISEG_HOME", str(folder / "home"))
        model = wsiseg.load_model(make_colour_model(folder / "model"))
        pixels, _ = tissue_disc((500, 700), radius=180.0)
        path = make_svs(folder / "disc.svs", pixels, levels=(1, 4), mpp=0.5)
        yield wsiseg.segment(path, model)


@pytest.mark.parametrize(
    ("name", "pictures"),
    [
        ("slide", 1),
        ("level", 1),
        ("tissue", 1),
        ("model", 0),
        ("card", 0),
        ("heatmap", 1),
        ("labels", 1),
        ("annotations", 0),
        ("result", 1),
    ],
)
def test_everything_shows_itself(result, name, pictures):
    shown = {
        "slide": result.slide,
        "level": result.slide.levels[0],
        "tissue": result.tissue,
        "model": result.model,
        "card": result.model.card,
        "heatmap": result.heatmap,
        "labels": result.labels,
        "annotations": result.annotations,
        "result": result,
    }[name]
    page = shown._repr_html_()
    counts = Nested(page).counts
    assert counts.get("img", 0) == pictures
    assert len(page) < 200_000
    assert not re.search(r"https?://[^\s]*\.(js|css)|<script|<link|@import", page)
    assert repr(shown)[0] in "<AM"  # words, no dump of fields
    assert len(repr(shown)) < 2000 or name == "card"


def test_a_heatmap_in_colours(result):
    page = result.heatmap._repr_html_()
    assert "Tumor" in page
    assert result.heatmap.path.name in page


@pytest.mark.parametrize("name", ["slide", "tissue", "heatmap", "labels", "result"])
def test_figures_have_a_scale_bar(result, name):
    figure = ({"result": result}.get(name) or getattr(result, name)).plot()
    axes = figure.axes[0]
    words = [text.get_text() for text in axes.texts]
    if name != "result":  # whose overview has one in its pixels
        assert any("µm" in word or "mm" in word for word in words)
    assert len(axes.images) == 1


def test_a_heatmap_is_drawn_at_its_place_and_nodata_is_paper(tmp_path):
    values = np.zeros((40, 60, 1), np.uint8)
    values[:20, :30] = 255
    values[:20, 30:] = 1  # probability 0
    place = Placement((40, 60), Spacing((2.0, 2.0)), (4.0, 4.0))
    with HeatmapStore.create(tmp_path / "h.zarr", place, channels=["a"]) as writer:
        writer.write(Box.of_shape(place.shape), values)
        store = writer.finish()
    pixels = store.plot().axes[0].images[0].get_array()
    assert tuple(pixels[5, 5]) == (253, 231, 37)  # the bright end of viridis
    assert tuple(pixels[5, 50]) == (68, 1, 84)  # and the dark one
    assert tuple(pixels[30, 30]) == (255, 255, 255)
    assert store.plot("a").axes[0].get_title() == "h: a"
    with pytest.raises(HeatmapError, match="no channel 'b': there are a"):
        store.plot("b")
    with pytest.raises(HeatmapError, match="no channel 3"):
        store.plot(3)


def test_labels_in_the_colours_of_their_classes(tmp_path):
    place = Placement((30, 30), Spacing((2.0, 2.0)), (4.0, 4.0))
    classes = [LabelClass("none", (1, 1, 1)), LabelClass("x", (9, 90, 200))]
    labels = np.zeros((30, 30), np.uint8)
    labels[10:20, 5:9] = 1
    with LabelStore.create(tmp_path / "l.zarr", place, classes=classes) as writer:
        writer.write(Box.of_shape(place.shape), labels)
        store = writer.finish()
    axes = store.plot().axes[0]
    pixels = axes.images[0].get_array()
    assert tuple(pixels[15, 6]) == (9, 90, 200)
    assert tuple(pixels[0, 0]) == (255, 255, 255)
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["x"]
    assert "rgb(9, 90, 200)" in store._repr_html_()


def test_large_stores_are_read_at_a_coarse_level(tmp_path):
    place = Placement((3000, 2000), Spacing((2.0, 2.0)), (4.0, 4.0))
    with LabelStore.create(
        tmp_path / "l.zarr", place, classes=[LabelClass("n", (0, 0, 0)), LabelClass("x", (1, 2, 3))]
    ) as writer:
        for top in range(0, 3000, 100):
            writer.write(Box((top, 0), (top + 100, 2000)), np.ones((100, 2000), np.uint8))
        store = writer.finish()
    pixels = store.plot(size=300).axes[0].images[0].get_array()
    assert 300 <= max(pixels.shape) <= 800


def test_colours_of_values():
    values = np.array([[0.0, 1.0, np.nan, 2.0, 0.5]])
    covered = np.array([[True, True, True, True, False]])
    pixels = color_values(values, covered)
    assert pixels[0, :, 3].tolist() == [255, 255, 255, 255, 0]
    np.testing.assert_array_equal(pixels[0, 1], pixels[0, 3])
    np.testing.assert_array_equal(pixels[0, 0], pixels[0, 2])


def test_label_0_is_transparent():
    pixels = color_labels(np.array([[0, 1, 7]], np.uint8), [(1, 2, 3), (4, 5, 6)])
    assert pixels.tolist() == [[[1, 2, 3, 0], [4, 5, 6, 255], [0, 0, 0, 255]]]


def test_all_that_is_shown_is_escaped():
    page = panel(EVIL, EVIL, text_table([(EVIL, swatch((1, 2, 3), EVIL))], heads=(EVIL,)))
    assert "<script" not in page
    Nested(page)


def test_a_scan_shows_itself_and_any_place_of_it(tmp_path):
    values = np.zeros((10, 20, 30), np.int16)
    values[6:9, 2:6, 23:28] = 1000
    scan = wsiseg.open_volume(values, affine=wsiseg.Affine.from_spacing((3.0, 1.0, 1.0)))
    page = scan._repr_html_()
    assert Nested(page).counts["img"] == 1
    assert "30 x 20 x 10" in page
    bright = scan.affine.world([[7, 4, 25]])[0]
    there, elsewhere = (middle_planes(scan, 60, at)[0] for at in (bright, None))
    assert (there > 200).all(axis=-1).sum() > (elsewhere > 200).all(axis=-1).sum()
    figure = scan.plot(bright)
    assert figure.axes[0].texts[0].get_text().endswith("mm")
    with pytest.raises(UsageError, match="outside of the scan"):
        scan.plot((1e3, 0, 0))


def test_planes_have_true_proportions_and_show_the_patients_right_on_the_left():
    values = np.zeros((4, 20, 20), np.float32)
    values[:, :, :5] = 100  # x grows to the right: the patient's left
    values[:, :, -1] = 1
    scan = wsiseg.open_volume(values, affine=wsiseg.Affine.from_spacing((5.0, 1.0, 1.0)))
    pixels, mm = middle_planes(scan, 40)
    assert mm == pytest.approx(0.5)
    axial = pixels[:, :40, 0]
    assert axial.shape[0] == 40
    assert axial[5, 35] > 200
    assert axial[5, 5] < 50


def test_the_result_of_a_scan_shows_itself(tmp_path):
    values = np.zeros((8, 24, 24), np.float32)
    values[2:6, 8:16, 8:16] = 1
    scan = wsiseg.open_volume(values, affine=wsiseg.Affine.from_spacing((2.0, 1.0, 1.0)))
    result = segment_scan(scan, make_scan_model(tmp_path / "m"))
    page = result._repr_html_()
    assert Nested(page).counts["img"] == 1
    assert "_ml" in page
    assert result.plot().axes[0].images

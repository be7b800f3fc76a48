"""Pictures: what is drawn where, and that nothing is written over the slide."""

import io
import sys

import numpy as np
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from wsiseg.draw import (
    DrawnClass,
    ScaleBar,
    class_color,
    fill,
    outline,
    overlay,
    overview,
    plot_image,
    save_png,
    scale_bar,
)
from wsiseg.draw.canvas import line_height, shortened, text_width, write_text
from wsiseg.errors import AnnotationError, LabelError, RunError

GREY = (120, 120, 120)
RED = (200, 0, 0)


def plain(height, width, color=GREY):
    return np.full((height, width, 3), color, np.uint8)


def changed(before, after):
    return (before != after).any(axis=-1)


# --- overlay ---------------------------------------------------------------------------------


def test_overlay_blends_the_inside_and_draws_the_edge():
    labels = np.zeros((9, 9), np.uint8)
    labels[2:7, 2:7] = 1
    out = overlay(plain(9, 9), labels, [RED], opacity=0.25)
    assert out[4, 4].tolist() == [140, 90, 90]
    assert out[2, 4].tolist() == list(RED)
    assert (out[labels == 0] == 120).all()
    assert overlay(plain(9, 9), labels, [RED], outlined=False)[2, 4].tolist() == [148, 78, 78]


def test_overlay_of_a_bool_mask_uses_the_palette_and_leaves_its_input():
    pixels = plain(4, 4)
    out = overlay(pixels, np.eye(4, dtype=bool), opacity=1.0)
    assert out[1, 1].tolist() == list(class_color(0))
    assert (pixels == 120).all()


@given(st.integers(0, 4), st.integers(0, 10_000))
def test_overlay_changes_labelled_pixels_only(classes, seed):
    labels = np.random.default_rng(seed).integers(0, classes + 1, (7, 11))
    out = overlay(plain(7, 11, (1, 250, 3)), labels)
    assert (changed(plain(7, 11, (1, 250, 3)), out) == (labels > 0)).all()


def test_overlay_names_what_does_not_fit():
    with pytest.raises(LabelError, match="run from 0 to 3, colours are known for 0 to 1"):
        overlay(plain(2, 2), np.array([[0, 1], [3, 0]]), [RED])
    with pytest.raises(LabelError, match="run from -1"):
        overlay(plain(2, 2), np.array([[0, -1], [0, 0]]))
    with pytest.raises(AnnotationError, match=r"\(3, 2\) do not fit pixels of \(2, 2\)"):
        overlay(plain(2, 2), np.zeros((3, 2), int))
    for wrong in (np.zeros((2, 2), np.uint8), np.zeros((2, 2, 3)), np.zeros((0, 2, 3), np.uint8)):
        with pytest.raises(AnnotationError, match="uint8"):
            overlay(wrong, np.zeros((2, 2), int))


# --- polygons --------------------------------------------------------------------------------


def test_fill_covers_the_pixels_of_the_polygon_and_not_its_hole():
    polygon = shapely.box(5, 10, 25, 30).difference(shapely.box(10, 15, 20, 25))
    out = fill(plain(40, 40), [polygon], RED, opacity=1.0)
    solid = (out == RED).all(axis=-1)
    assert solid[11:14, 6:24].all()
    assert not changed(plain(40, 40), out)[17:23, 12:18].any()
    assert not changed(plain(40, 40), out)[:9].any()
    # the middles of the first and last pixel row and column are inside
    assert solid.sum() == pytest.approx(polygon.area, rel=0.05)


def test_fill_takes_rings_multipolygons_and_nothing():
    ring = np.array([[5.0, 5.0], [15.0, 5.0], [15.0, 15.0], [5.0, 15.0]])
    many = shapely.MultiPolygon([shapely.box(5, 5, 15, 15), shapely.box(20, 20, 30, 30)])
    by_ring, by_many = (fill(plain(40, 40), [s], RED, opacity=1.0) for s in (ring, many))
    for out in (by_ring, by_many):
        assert (out[6:14, 6:14] == RED).all()
        assert not changed(plain(40, 40), out)[17:19].any()
    assert not changed(plain(40, 40), by_ring)[17:].any()
    assert changed(plain(40, 40), by_many)[22:28, 22:28].all()
    np.testing.assert_array_equal(fill(plain(4, 4), [], RED), plain(4, 4))
    np.testing.assert_array_equal(outline(plain(4, 4), [], RED), plain(4, 4))


def test_overlapping_polygons_do_not_cancel():
    boxes = [shapely.box(0, 0, 20, 20), shapely.box(5, 5, 15, 15)]
    assert (fill(plain(20, 20), boxes, RED, opacity=1.0)[8:12, 8:12] == RED).all()


def test_outline_follows_the_edge_with_a_casing():
    out = outline(plain(40, 40), [shapely.box(10, 10, 30, 30)], RED, width=2, casing=(255,) * 3)
    assert out[20, 10].tolist() == list(RED)
    assert (out[20, 7:10] > 150).any(axis=-1).any()
    assert not changed(plain(40, 40), out)[15:25, 15:25].any()


def test_shapes_beyond_the_picture_are_cut():
    out = fill(plain(10, 10), [shapely.box(-500, -500, 5, 500)], RED, opacity=1.0)
    assert (out[:, :4] == RED).all()
    assert not changed(plain(10, 10), out)[:, 7:].any()


def test_what_is_no_polygon_is_refused():
    with pytest.raises(AnnotationError, match=r"needed to draw, found \['Point'\]"):
        fill(plain(4, 4), [shapely.Point(1, 1)], RED)
    with pytest.raises(AnnotationError, match=r"\(n, 2\), found \(3, 3\)"):
        fill(plain(4, 4), [np.zeros((3, 3))], RED)


# --- scale bar -------------------------------------------------------------------------------


@given(st.floats(0.02, 5000), st.floats(1, 4000))
def test_bar_is_round_fits_and_is_not_too_short(um, longest):
    bar = ScaleBar.fitting(um, longest)
    digits = f"{bar.um:.3e}".split("e")[0]
    assert digits in {"1.000", "2.000", "5.000"}
    assert bar.um <= um * longest * 1.000001
    assert bar.um >= um * longest * 0.4 * 0.999
    assert abs(bar.pixels - bar.um / um) <= 0.5 or bar.pixels == 1


@pytest.mark.parametrize(
    ("um", "label"),
    [(0.001, "100 nm"), (0.25, "20 µm"), (8.0, "500 µm"), (10.0, "1 mm"), (2e3, "200 mm")],
)
def test_bar_speaks_in_fitting_units(um, label):
    assert ScaleBar.fitting(um, 100).label == label


@pytest.mark.parametrize("um", [0.0, -1.0, float("nan"), float("inf")])
def test_bar_needs_a_pixel_size(um):
    with pytest.raises(AnnotationError, match="above 0"):
        ScaleBar.fitting(um, 100)


@pytest.mark.parametrize("ground", [(255, 255, 255), (0, 0, 0), GREY, (180, 60, 140)])
def test_bar_is_as_long_as_it_says_and_stands_out(ground):
    pixels = plain(300, 400, ground)
    out = scale_bar(pixels, 0.5)
    bar = ScaleBar.fitting(0.5, 100)
    contrast = np.abs(out.astype(int) - pixels).max(axis=-1)
    strong = contrast > 90
    assert strong.any()
    assert not strong[:200].any()
    assert max(strong.sum(axis=1)) == pytest.approx(bar.pixels, abs=8)


def test_bar_is_left_out_where_its_letters_do_not_fit():
    for shape in ((40, 60), (1000, 20), (10, 1000)):
        np.testing.assert_array_equal(scale_bar(plain(*shape), 0.5), plain(*shape))


# --- text ------------------------------------------------------------------------------------


def test_letters_that_slides_need_are_in_the_font():
    def drawn(text):
        canvas = plain(40, 60)
        write_text(canvas, text, (5, 5), 20)
        return canvas

    missing = drawn("\U0010fffe")
    for letter in "µ²éßøŁΑЖ…":
        assert changed(drawn(letter), missing).any(), letter


def test_long_text_is_shortened_to_fit():
    text = shortened("a very long class name indeed", 16, 100)
    assert text.endswith("…")
    assert text_width(text, 16) <= 100
    assert shortened("short", 16, 100) == "short"


# --- overview --------------------------------------------------------------------------------

CLASSES = [
    DrawnClass("Tumor", RED, [shapely.box(12, 8, 30, 25)], note="1.2 mm²"),
    DrawnClass("Stroma with a rather long name", None, [shapely.box(30, 20, 50, 35)]),
]


@pytest.mark.parametrize("shape", [(40, 60), (60, 40), (1, 1), (20, 1100), (1100, 20), (700, 900)])
@pytest.mark.parametrize("classes", [[], CLASSES, CLASSES * 6])
def test_slide_stays_free_of_text_and_the_panel_holds_everything(shape, classes):
    pixels = plain(*shape)
    bare = [DrawnClass(c.name, c.color, note=c.note) for c in classes]
    out = overview(pixels, 8.0, classes=bare, tissue_note="3 mm²")
    zoom = max(1, -(-480 // max(shape)))
    height, width = shape[0] * zoom, shape[1] * zoom
    left = (out.shape[1] - width) // 2
    assert (out[:height, left : left + width] == 120).all()
    panel = out[height:]
    assert out.shape[1] == max(320, width)
    for edge in (panel[:3], panel[-3:], panel[:, :5], panel[:, -5:]):
        assert (edge == 255).all()


def test_overview_enlarges_the_shapes_with_the_picture():
    out = overview(plain(40, 60), 8.0, classes=CLASSES[:1])
    assert changed(plain(320, 480), out[:320])[
        8 * 8 + 2 : 25 * 8 - 2, 12 * 8 + 2 : 30 * 8 - 2
    ].all()
    assert not changed(plain(320, 480), out[:320])[: 8 * 8 - 4].any()


def test_entries_of_the_panel_do_not_touch():
    """Between two entries of a row there is more white than inside one."""
    one = overview(plain(500, 900), 8.0)[500:]
    row = 500 + one.shape[0]
    two = overview(plain(500, 900), 8.0, classes=[DrawnClass("A", RED)])
    assert two.shape[0] == row
    used = (two[500:] < 250).any(axis=(0, 2))
    bar_end = np.flatnonzero((one < 250).any(axis=(0, 2)))[-1]
    assert used[: bar_end + 1].any()
    assert not used[bar_end + 1 : bar_end + 20].any()
    assert used[bar_end + 20 :].any()


def test_tissue_is_outlined_not_filled():
    out = overview(plain(600, 600), 8.0, tissue=[shapely.box(100, 100, 500, 500)])
    assert out[300, 97:103].min() < 100
    assert out[300, 97:103].max() > 200
    assert (out[150:450, 150:450] == 120).all()


def test_many_classes_wrap_into_rows():
    few = overview(plain(500, 500), 8.0, classes=[DrawnClass(f"class {i}") for i in range(2)])
    many = overview(plain(500, 500), 8.0, classes=[DrawnClass(f"class {i}") for i in range(20)])
    assert many.shape[0] > few.shape[0] + 3 * line_height(12)


def test_palette_goes_on_beyond_its_eight():
    colors = [class_color(i) for i in range(15)]
    assert len(set(colors)) == 15
    assert all(0 <= value <= 255 for color in colors for value in color)


# --- files and figures -----------------------------------------------------------------------


def test_png_is_the_same_bytes_each_time_and_reads_back(tmp_path):
    pixels = overview(plain(50, 70), 1.0, classes=CLASSES)
    save_png(tmp_path / "a.png", pixels)
    save_png(str(tmp_path / "b.png"), pixels)
    data = (tmp_path / "a.png").read_bytes()
    assert data == (tmp_path / "b.png").read_bytes()
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(data))), pixels)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.png", "b.png"]


def test_png_that_cannot_be_written_leaves_the_old_one(tmp_path):
    target = tmp_path / "a.png"
    target.write_bytes(b"old")
    with pytest.raises(AnnotationError, match="uint8"):
        save_png(target, np.zeros((2, 2)))
    assert target.read_bytes() == b"old"
    with pytest.raises(RunError, match="cannot be written: No such file"):
        save_png(tmp_path / "none" / "a.png", plain(2, 2))
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(RunError, match="cannot be written"):
        save_png(tmp_path / "folder.png", plain(2, 2))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.png", "folder.png"]


def test_figure_has_picture_bar_and_title():
    figure = plot_image(plain(300, 400), 8.0, title="case.svs")
    axes = figure.axes[0]
    (line,) = axes.lines
    assert np.ptp(line.get_xdata()) == ScaleBar.fitting(8.0, 100).pixels
    assert [t.get_text() for t in axes.texts] == ["500 µm"]
    assert axes.get_title() == "case.svs"
    figure.savefig(io.BytesIO(), format="png")
    assert not plot_image(plain(2, 900)).axes[0].lines


def test_polygons_drawn_in_parts_are_those_drawn_at_once(monkeypatch):
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (60, 80, 3), dtype=np.uint8)
    shapes = [shapely.Point(x, y).buffer(r) for x, y, r in random.uniform(5, 50, (20, 3))]
    shapes[3] = shapes[3].difference(shapely.Point(shapes[3].centroid).buffer(2))
    casing = (255, 255, 255)

    def drawn():
        filled = fill(pixels, shapes, (200, 0, 0))
        return outline(filled, iter(shapes), (0, 90, 0), casing=casing)

    whole = drawn()
    module = sys.modules["wsiseg.draw.overlay"]  # the name is that of a function, too
    monkeypatch.setattr(module, "DRAWN_AT_ONCE", 3)
    monkeypatch.setattr(module, "BLENDED_ROWS", 7)
    np.testing.assert_array_equal(drawn(), whole)

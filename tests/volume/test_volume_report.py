"""Pictures show every plane the right way round; reports say what the figures say."""

import base64
import csv
import io
import json
import re

import numpy as np
import pytest
from phantoms import ellipsoid, tilted
from PIL import Image

from wsiseg.draw.planes import HU_WINDOW, NAMES, grey_window
from wsiseg.errors import UsageError
from wsiseg.geometry import Affine
from wsiseg.volume.planes import ScanView, widest_slices
from wsiseg.volume.preview import LONGEST_SIDE, class_colors, lesion_picture, preview
from wsiseg.volume.report import REPORT_FILES, STATISTICS_FILES, scan_report
from wsiseg.volume.statistics import ScanClass, StatisticsOptions, scan_statistics

CLASSES = [
    ScanClass(1, "tumour <b>", (255, 0, 0)),
    ScanClass(2, "lymph nodes"),
    ScanClass(3, "cyst"),
]


def scene(affine=None, shape=(24, 60, 50)):
    """Return an image with a ball to the right, in front, above, and its labels."""
    affine = affine or Affine.from_spacing((3.0, 1.0, 1.0))
    labels = np.zeros(shape, np.uint8)
    labels[14:20, 35:50, 30:45] = 1
    labels[4:8, 10:24, 5:20] = 2
    image = np.full(shape, -1000, np.int16)
    image[2:-2, 5:-5, 5:-5] = 40
    image[labels > 0] = 100
    return image, labels, affine


@pytest.mark.parametrize("orientation", ["RAS", "LPS", "SAR", "PIL"])
def test_planes_are_upright_in_radiological_convention(orientation):
    image, labels, affine = scene()
    turn = affine.turn_to(orientation)
    view = ScanView.of(turn.apply(image), turn.apply(labels), affine.turned(turn, image.shape))
    axial, coronal, sagittal = (
        view.plane(name, at) for name, at in zip(NAMES, (16, 40, 35), strict=True)
    )
    # the patient's right is on the left, anterior above, superior above, anterior on the left
    for plane in (axial, coronal, sagittal):
        rows, columns = np.nonzero(plane.labels == 1)
        height, width = plane.labels.shape
        assert rows.mean() < height / 2, plane.name
        assert columns.mean() < width / 2, plane.name
    assert axial.sides == ("R", "L", "A", "P")
    assert coronal.spacing_mm == (3.0, 1.0)
    assert sagittal.scaled(0.5).labels.shape == (24 * 6, 60 * 2)


def test_the_slices_with_most_voxels_are_chosen():
    labels = np.zeros((10, 11, 12), np.uint8)
    labels[3, 2:9, 2:9] = 1
    labels[3:8, 4, 2:9] = 2
    assert widest_slices(labels) == (3, 4, 2)
    assert widest_slices(labels, 2) == (3, 4, 2)
    assert widest_slices(np.zeros((10, 11, 12), np.uint8)) == (5, 5, 6)


def test_ct_has_its_window_and_mr_percentiles():
    image, labels, affine = scene()
    planes = [ScanView.of(image, labels, affine).plane("axial", 10)]
    assert grey_window(planes, "CT") == grey_window(planes, None) == HU_WINDOW
    assert grey_window(planes, "MR") == (-1000, 40)
    flat = [ScanView.of(image * 0, labels, affine).plane("axial", 10)]
    assert grey_window(flat, None) == (0, 1)


def test_the_preview_shows_classes_in_true_proportions():
    image, labels, affine = scene()
    picture = preview(image, labels, affine, CLASSES, notes={2: "1.2 ml"}, caption="a scan")
    reds = (picture[..., 0].astype(int) - picture[..., 1] > 60).nonzero()
    assert len(reds[0]) > 1000
    assert picture.shape[0] > 24 * 3 / 72 * LONGEST_SIDE * 0.9
    again = preview(image, labels, affine, CLASSES, notes={2: "1.2 ml"}, caption="a scan")
    np.testing.assert_array_equal(picture, again)
    with pytest.raises(UsageError, match="the scan has"):
        preview(image[1:], labels, affine, CLASSES)


def test_nothing_found_is_shown_too():
    image, labels, affine = scene()
    assert preview(image, labels * 0, affine, []).ndim == 3
    report = scan_report(image, labels * 0, affine, CLASSES)
    assert "Not found: tumour <b>, lymph nodes, cyst." in report.to_text()
    assert "No class was found" in report.to_html()


def test_many_classes_do_not_flood_the_legend():
    labels = np.arange(40 * 40).reshape(1, 40, 40).repeat(3, axis=0) % 41
    classes = [ScanClass(value, f"class {value}") for value in range(1, 41)]
    picture = preview(labels, labels, Affine.from_spacing((1, 1, 1)), classes)
    assert picture.shape[0] < 2 * LONGEST_SIDE
    assert len(set(class_colors(classes).values())) == 40


def test_axes_are_drawn_where_they_were_measured():
    affine = tilted((2.0, 1.0, 1.0), degrees=8)
    mask = ellipsoid(affine, (20, 10, 12)).astype(np.uint8)
    lesion = scan_statistics(mask, affine, [CLASSES[0]]).classes[0].lesions[0]
    picture = lesion_picture(mask * 0, mask, affine, lesion, (255, 0, 0), value=1)
    white = np.argwhere((picture > 240).all(axis=2))[:, 1]
    red = np.argwhere(picture[..., 0] > picture[..., 1] + 60)[:, 1]
    assert abs(white.min() - red.min()) < 8  # the long axis reaches from side to side
    assert abs(white.max() - red.max()) < 8


@pytest.fixture(scope="module")
def report():
    image, labels, affine = scene()
    options = StatisticsOptions(shells=True, shape=True)
    about = {"scan": "a.nii.gz", "model": "m 1"}
    return scan_report(image, labels, affine, CLASSES, about=about, options=options)


def test_all_files_say_the_same(report, tmp_path):
    written = report.write(tmp_path / "out")
    assert {path.name for path in written} == {*STATISTICS_FILES, *REPORT_FILES}
    known = json.loads((tmp_path / "out" / "report.json").read_bytes())
    tumour = known["classes"][0]
    assert tumour["volume_ml"] == pytest.approx(6 * 15 * 15 * 3 / 1000)
    rows = list(csv.DictReader(io.StringIO((tmp_path / "out" / "statistics.csv").read_text())))
    assert [row["lesion"] for row in rows] == ["", "1", "", "1", ""]
    assert float(rows[1]["long_axis_mm"]) == pytest.approx(
        tumour["lesions"][0]["long_axis_mm"], rel=1e-5
    )
    assert rows[2]["enlarged"] == rows[3]["enlarged"] == "1"
    text = report.to_text()
    assert "Volume 4.050 ml in 1 part" in text
    assert "1 of 1 lymph nodes enlarged" in text
    assert "nan" not in text
    assert report.to_json() == (tmp_path / "out" / "report.json").read_bytes()


def test_the_page_is_whole_and_escaped(report):
    page = report.to_html()
    assert "tumour &lt;b&gt;" in page
    assert "tumour <b>" not in page
    assert not re.search(r'(src|href)="(?!data:)', page)
    images = re.findall(r"data:image/png;base64,([^\"]+)", page)
    assert len(images) == 3  # the planes, and the largest part of two classes
    for image in images:
        assert min(Image.open(io.BytesIO(base64.b64decode(image))).size) > 100
    assert "4.050" in page


def test_empty_values_become_null(report):
    assert b"NaN" not in report.to_json()
    assert json.loads(report.to_json())["classes"][2]["left_percent"] is None

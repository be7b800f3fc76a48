"""DICOM SEG and ANN, read back by highdicom, on slides that are DICOM."""

import copy
import json
import sys

import numpy as np
import pytest
import shapely
from made_results import CLASSES, ODD, SIZE, make_result, mask_area

from wsiseg.errors import RunError, UsageError, WsisegError
from wsiseg.exchange import ExportRequest, FinishedResult, export_result

pytestmark = [
    pytest.mark.realdata,
    pytest.mark.filterwarnings("ignore::UserWarning:pydicom"),
    pytest.mark.filterwarnings("ignore::UserWarning:highdicom"),
]


@pytest.fixture(scope="module")
def source(data_dir, tmp_path_factory):
    """The header of a real layout, as of a slide of the size of the made results."""
    pydicom = pytest.importorskip("pydicom")
    header = pydicom.dcmread(data_dir / "slides" / "highdicom" / "sm_image.dcm")
    header.TotalPixelMatrixRows, header.TotalPixelMatrixColumns = SIZE
    path = tmp_path_factory.mktemp("slide") / "slide.dcm"
    header.save_as(path)
    return path, header


@pytest.fixture(scope="module")
def result(tmp_path_factory, source):
    return on_dicom(tmp_path_factory.mktemp("dicom") / "case", source)


def on_dicom(folder, source):
    """Return a made result of the slide."""
    make_result(folder)
    record = json.loads((folder / "run.json").read_text())
    record["slide"] |= {"path": str(source[0]), "reader": "dicom"}
    (folder / "run.json").write_text(json.dumps(record))
    return folder


def test_a_seg_holds_the_mask_where_it_lies(result, source, tmp_path):
    hd = pytest.importorskip("highdicom")
    (path,) = export_result(result, "dicom-seg", tmp_path).files
    seg = hd.seg.segread(path)
    labels = np.asarray(FinishedResult(result).mask.labels)
    _, header = source
    assert len(np.unique(labels)) == 3
    read = seg.get_total_pixel_matrix(combine_segments=True)
    assert np.array_equal(read, labels)
    assert [s.SegmentLabel for s in seg.SegmentSequence] == [c.name for c in CLASSES[1:]]
    assert seg.FrameOfReferenceUID == header.FrameOfReferenceUID
    measures = seg.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    assert [float(v) for v in measures.PixelSpacing] == [0.001, 0.001]
    # The corner of the mask is the corner of the slide.
    origin, own = header.TotalPixelMatrixOriginSequence[0], seg.TotalPixelMatrixOriginSequence[0]
    along = np.array([float(v) for v in header.ImageOrientationSlide])
    corners = []
    for place, (um_y, um_x) in ((origin, (0.5, 0.25)), (own, (1.0, 1.0))):
        centre = [float(place[name].value) for name in (
            "XOffsetInSlideCoordinateSystem", "YOffsetInSlideCoordinateSystem")]  # fmt: skip
        half = (um_x * along[:2] + um_y * along[3:5]) / 2000
        corners.append(np.array(centre) - half)
    assert corners[0] == pytest.approx(corners[1], abs=1e-9)


def test_an_ann_holds_the_areas_of_the_mask(result, tmp_path):
    hd = pytest.importorskip("highdicom")
    report = export_result(result, "dicom-ann", tmp_path)
    ann = hd.ann.annread(report.files[0])
    found = {}
    for group in ann.get_annotation_groups():
        outlines = group.get_graphic_data(coordinate_type="2D")
        areas = [shapely.Polygon(outline).area for outline in outlines]
        _, values, units = group.get_measurements()
        assert values[:, 0] == pytest.approx(np.array(areas) * 0.125, rel=1e-6)
        assert units[0].value == "um2"
        found[group.label] = sum(areas)
    assert found == pytest.approx(mask_area(result), rel=1e-12)
    assert report.notes["outlines cut into pieces without holes"] > 0


def test_classes_of_any_name(source, tmp_path, monkeypatch):
    hd = pytest.importorskip("highdicom")
    monkeypatch.setattr("made_results.CLASSES", ODD)
    folder = on_dicom(tmp_path / "odd", source)
    names = [item.name.replace("\\", "/") for item in ODD[1:]]
    (path,) = export_result(folder, "dicom-seg", tmp_path).files
    seg = hd.seg.segread(path)
    assert [s.SegmentLabel for s in seg.SegmentSequence] == names
    (path,) = export_result(folder, "dicom-ann", tmp_path).files
    groups = hd.ann.annread(path).get_annotation_groups()
    assert sorted(group.label for group in groups) == sorted(names)


def test_uids_stay(result, tmp_path):
    hd = pytest.importorskip("highdicom")
    uids = set()
    for name in "ab":
        (path,) = export_result(result, "dicom-seg", tmp_path / name).files
        uids.add(hd.seg.segread(path).SOPInstanceUID)
    assert len(uids) == 1


@pytest.mark.parametrize("to", ["dicom-seg", "dicom-ann"])
def test_a_slide_that_is_no_dicom_is_refused(result, tmp_path, to):
    folder = make_result(tmp_path / "svs")
    record = {"slide": {"name": "a.svs", "path": "/none/a.svs", "reader": "tiff"}}
    (folder / "run.json").write_text(json.dumps(record))
    with pytest.raises(UsageError, match="needed a DICOM slide"):
        export_result(folder, to, tmp_path)
    with pytest.raises(RunError, match="needs its DICOM slide"):
        export_result(FinishedResult(folder, tmp_path / "none.dcm"), to, tmp_path)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("highdicom/sm_image.dcm", "needed an image of 2439 x 1399"),
        ("google_ezwsi_test_wsi.dcm", "needed the pixels of a slide"),
    ],
)
def test_another_slide_is_refused(result, data_dir, tmp_path, name, said):
    other = FinishedResult(result, data_dir / "slides" / name)
    with pytest.raises(WsisegError, match=said):
        export_result(other, "dicom-seg", tmp_path)


def test_a_header_without_its_place_on_the_glass_is_refused(result, source, tmp_path):
    _, header = source
    lost = copy.deepcopy(header)
    del lost.TotalPixelMatrixOriginSequence
    lost.save_as(tmp_path / "lost.dcm")
    with pytest.raises(RunError, match="where it lies on the glass"):
        export_result(FinishedResult(result, tmp_path / "lost.dcm"), "dicom-seg", tmp_path)


def test_points_are_refused(result, tmp_path):
    with pytest.raises(UsageError, match="found points"):
        export_result(result, "dicom-ann", tmp_path, request=ExportRequest(kind="points"))


def test_a_missing_highdicom_is_named(result, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "highdicom", None)
    with pytest.raises(RunError, match=r"wsiseg\[dicom\]"):
        export_result(result, "dicom-seg", tmp_path)

"""Which DICOM files of a folder are listed."""

import warnings

import pytest

from wsiseg.errors import WsisegWarning
from wsiseg.run.inputs import list_slides

pydicom = pytest.importorskip("pydicom")

from pydicom.dataset import FileDataset, FileMetaDataset  # noqa: E402
from pydicom.uid import (  # noqa: E402
    ExplicitVRLittleEndian,
    MicroscopyBulkSimpleAnnotationsStorage,
    SegmentationStorage,
    VLWholeSlideMicroscopyImageStorage,
    generate_uid,
)


def write(
    path,
    *,
    sop_class=VLWholeSlideMicroscopyImageStorage,
    series="1.2.3",
    flavor="VOLUME",
    side=100,
    **attributes,
):
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = sop_class
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    data.SOPClassUID = sop_class
    data.SOPInstanceUID = meta.MediaStorageSOPInstanceUID = generate_uid()
    data.SeriesInstanceUID = series
    data.ImageType = ["ORIGINAL", "PRIMARY", flavor, "NONE"]
    data.TotalPixelMatrixColumns = data.TotalPixelMatrixRows = side
    for name, value in attributes.items():
        setattr(data, name, value)
    data.save_as(path, enforce_file_format=True)


def listed(folder):
    return [job.output for job in list_slides([str(folder)], recursive=True)]


def test_what_is_no_slide_is_left_out_with_one_line(tmp_path):
    (tmp_path / "sub").mkdir()
    write(tmp_path / "a-seg.dcm", sop_class=SegmentationStorage, series="1.2.9")
    write(tmp_path / "b.dcm")
    write(tmp_path / "c.dcm", side=50)
    write(tmp_path / "sub" / "d-ann.dcm", sop_class=MicroscopyBulkSimpleAnnotationsStorage)
    (tmp_path / "e.dcm").write_text("not DICOM: the reader says so")
    with pytest.warns(WsisegWarning, match="2 DICOM files are left out") as heard:
        assert listed(tmp_path) == ["b", "e"]
    assert len(heard) == 1


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"ContainerIdentifier": "S1"}, {"ContainerIdentifier": "S2", "side": 50}),
        ({"side": 100}, {"side": 100}),
    ],
)
def test_two_slides_under_one_series_are_not_dropped_silently(tmp_path, one, other):
    write(tmp_path / "a.dcm", **one)
    write(tmp_path / "b.dcm", **other)
    with pytest.warns(WsisegWarning, match=r"b.dcm: has the series of a.dcm.* another slide"):
        assert listed(tmp_path) == ["a"]


def test_levels_labels_and_parts_of_one_slide_are_one(tmp_path):
    same = {"ContainerIdentifier": "S1"}
    write(tmp_path / "a.dcm", side=100, ConcatenationUID="1.2.7", **same)
    write(tmp_path / "b.dcm", side=100, ConcatenationUID="1.2.7", **same)
    write(tmp_path / "c.dcm", side=50, **same)
    write(tmp_path / "d.dcm", side=50, flavor="LABEL")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert listed(tmp_path) == ["a"]

"""Results of scans for other programs: at the same place, with the same voxels."""

import json

import highdicom
import nibabel
import numpy as np
import pydicom
import pytest
import shapely
import zarr
from made_scans import CLASSES, SIGNS, dicom_result, scan_result, series_lps, some_labels
from ome_zarr.io import parse_url  # type: ignore[import-untyped]
from ome_zarr.reader import Reader  # type: ignore[import-untyped]
from typer.testing import CliRunner
from wsiseg_cli.main import app

from wsiseg.errors import RunError, UsageError
from wsiseg.exchange import ExportRequest, FinishedScan, export_result, find_results
from wsiseg.exchange.finished_scan import is_scan_result
from wsiseg.geometry import Affine
from wsiseg.source import open_volume
from wsiseg.volume.arrays import VolumeArray

SAME_MM = 0.01


def world_points(labels, lps, value):
    """Return the places (n, 3) in LPS of all voxels of a label, sorted."""
    places = np.argwhere(labels == value)[:, ::-1] @ lps[:3, :3].T + lps[:3, 3]
    return places[np.lexsort(np.round(places, 3).T)]


def seg_points(path):
    """Return label -> places (n, 3) in LPS of all voxels of a DICOM SEG."""
    seg = highdicom.seg.segread(path)
    found = {}
    for number in seg.segment_numbers:
        volume = seg.get_volume(segment_numbers=[number], combine_segments=False)
        indices = np.argwhere(volume.array[..., 0] > 0)
        places = volume.map_indices_to_reference(indices)
        name = seg.get_segment_description(number).segment_label
        found[name] = places[np.lexsort(np.round(places, 3).T)]
    return found


def rt_points(path, lps, shape):
    """Return label -> places of all voxels whose centre lies in a contour of an RTSTRUCT."""
    rt = pydicom.dcmread(path)
    names = {roi.ROINumber: roi.ROIName for roi in rt.StructureSetROISequence}
    inverse = np.linalg.inv(lps)
    rows, columns = np.mgrid[: shape[1], : shape[2]]
    found = {}
    for roi in rt.ROIContourSequence:
        labels = np.zeros(shape, np.uint8)
        for contour in roi.ContourSequence:
            points = np.array(contour.ContourData, float).reshape(-1, 3)
            assert len(points) == contour.NumberOfContourPoints
            index = points @ inverse[:3, :3].T + inverse[:3, 3]
            z = int(np.rint(index[0, 2]))
            np.testing.assert_allclose(index[:, 2], z, atol=1e-3)  # planar
            inside = shapely.contains_xy(shapely.Polygon(index[:, :2]), columns, rows)
            labels[z] ^= inside.astype(np.uint8)
        found[names[roi.ReferencedROINumber]] = world_points(labels, lps, 1)
    return found


@pytest.mark.parametrize("signs", SIGNS)
@pytest.mark.parametrize("orientation", [None, "RAS", "SPL"])
def test_seg_and_rtstruct_lie_where_the_labels_are(tmp_path, signs, orientation):
    folder = dicom_result(tmp_path, signs, orientation=orientation)
    lps, labels = series_lps(signs), some_labels()
    (seg,) = export_result(folder, "dicom-seg", tmp_path / "export").files
    (rt,) = export_result(folder, "rtstruct", tmp_path / "export").files
    for found in (seg_points(seg), rt_points(rt, lps, labels.shape)):
        assert set(found) == {"liver", "Läsion / 病変"}
        for value, name in ((1, "liver"), (2, "Läsion / 病変")):
            expected = world_points(labels, lps, value)
            assert found[name].shape == expected.shape
            assert np.abs(found[name] - expected).max() < SAME_MM


def test_oblique_series_too(tmp_path):
    folder = dicom_result(tmp_path, (1, -1), tilt=0.3)
    lps, labels = series_lps((1, -1), tilt=0.3), some_labels()
    (seg,) = export_result(folder, "dicom-seg", tmp_path / "export").files
    (rt,) = export_result(folder, "rtstruct", tmp_path / "export").files
    for found in (seg_points(seg), rt_points(rt, lps, labels.shape)):
        expected = world_points(labels, lps, 1)
        assert np.abs(found["liver"] - expected).max() < SAME_MM


def test_references_are_those_of_the_series(tmp_path):
    folder = dicom_result(tmp_path)
    (seg,) = export_result(folder, "dicom-seg", tmp_path / "export").files
    report = export_result(folder, "rtstruct", tmp_path / "export")
    images = {h.SOPInstanceUID: h for h in map(pydicom.dcmread, (tmp_path / "series").iterdir())}
    base = next(iter(images.values()))
    seg, rt = pydicom.dcmread(seg), pydicom.dcmread(report.files[0])
    for made in (seg, rt):
        for name in ("PatientID", "StudyInstanceUID", "FrameOfReferenceUID"):
            assert made[name].value == base[name].value
        assert made.SeriesInstanceUID != base.SeriesInstanceUID
    (frame,) = rt.ReferencedFrameOfReferenceSequence
    (listed,) = frame.RTReferencedStudySequence[0].RTReferencedSeriesSequence
    assert listed.SeriesInstanceUID == base.SeriesInstanceUID
    assert {i.ReferencedSOPInstanceUID for i in listed.ContourImageSequence} == set(images)
    for roi in rt.ROIContourSequence:
        for contour in roi.ContourSequence:
            assert contour.ContourGeometricType == "CLOSED_PLANAR"
            image = images[contour.ContourImageSequence[0].ReferencedSOPInstanceUID]
            z = float(contour.ContourData[2])
            assert z == pytest.approx(float(image.ImagePositionPatient[2]), abs=SAME_MM)
    assert report.notes == {"outlines cut into pieces without holes": 2}
    segment = seg.SegmentSequence[0]
    assert segment.SegmentedPropertyTypeCodeSequence[0].CodeValue == "10200004"
    assert seg.ReferencedSeriesSequence[0].SeriesInstanceUID == base.SeriesInstanceUID


def test_the_same_result_gives_the_same_rtstruct(tmp_path):
    folder = dicom_result(tmp_path)
    made = [
        export_result(folder, "rtstruct", tmp_path / name).files[0].read_bytes() for name in "ab"
    ]
    assert made[0] == made[1]


def test_what_is_no_dicom_or_another_series_is_refused(tmp_path):
    other = scan_result(
        tmp_path / "out" / "b", some_labels(), Affine.from_spacing((2, 1, 1)), scan=tmp_path
    )
    with pytest.raises(RunError, match="needed the DICOM series"):
        export_result(other, "dicom-seg", tmp_path / "export")
    gone = scan_result(
        tmp_path / "out" / "c",
        some_labels(),
        Affine.from_spacing((2, 1, 1)),
        scan=tmp_path / "gone",
    )
    with pytest.raises(RunError, match="needs its scan"):
        export_result(gone, "rtstruct", tmp_path / "export")
    dicom = dicom_result(tmp_path / "d")
    shifted = scan_result(
        tmp_path / "out" / "e",
        some_labels(),
        Affine.from_lps(series_lps((1, 1))).cropped((0, 0, 1)),
        scan=tmp_path / "d" / "series",
    )
    with pytest.raises(RunError, match="6 x 20 x 24"):
        export_result(shifted, "rtstruct", tmp_path / "export")
    empty = scan_result(
        tmp_path / "out" / "f",
        some_labels() * 0,
        Affine.from_lps(series_lps((1, 1))),
        scan=tmp_path / "d" / "series",
    )
    for kind in ("rtstruct", "dicom-seg", "stl"):
        with pytest.raises(RunError, match="nothing was found"):
            export_result(empty, kind, tmp_path / "export")
    with pytest.raises(UsageError, match="is one of slides"):
        export_result(dicom, "qupath", tmp_path / "export")
    assert not (tmp_path / "export").exists() or not list((tmp_path / "export").iterdir())


def test_real_series(data_dir, tmp_path):
    """A CT whose labels dcmqi wrote as DICOM SEG: ours lie on the same points."""
    folder = data_dir / "volumes" / "dcmqi"
    truth = seg_points(folder / "liver.dcm")
    scan = open_volume(folder / "ct-3slice")
    theirs = highdicom.seg.segread(folder / "liver.dcm").get_volume(combine_segments=True)
    labels = np.zeros(scan.shape, np.uint8)
    ras = theirs.map_indices_to_reference(np.argwhere(theirs.array > 0)) * (-1, -1, 1)
    index = np.rint(scan.affine.voxel(ras)).astype(int)
    assert len(index) > 1000
    labels[tuple(index.T)] = 1
    result = scan_result(tmp_path / "case", labels, scan.affine, scan=folder / "ct-3slice")
    (seg,) = export_result(result, "dicom-seg", tmp_path / "export").files
    (found,), (expected,) = seg_points(seg).values(), truth.values()
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() < SAME_MM
    (rt,) = export_result(result, "rtstruct", tmp_path / "export").files
    (found,) = rt_points(rt, scan.affine.to_lps(), scan.shape).values()
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() < SAME_MM


def test_enhanced_multi_frame_series(data_dir, tmp_path):
    path = data_dir / "volumes" / "dicom2nifti" / "philips_enhanced" / "anatomical"
    scan = open_volume(next(p for p in path.iterdir() if p.is_dir()))
    labels = np.zeros(scan.shape, np.uint8)
    labels[1:-1, 100:120, 90:140] = 1
    result = scan_result(tmp_path / "case", labels, scan.affine, scan=scan.path)
    expected = world_points(labels, scan.affine.to_lps(), 1)
    (seg,) = export_result(result, "dicom-seg", tmp_path / "export").files
    (rt,) = export_result(result, "rtstruct", tmp_path / "export").files
    for found in (seg_points(seg), rt_points(rt, scan.affine.to_lps(), scan.shape)):
        (points,) = found.values()
        assert points.shape == expected.shape
        assert np.abs(points - expected).max() < SAME_MM


@pytest.fixture
def nifti_result(tmp_path):
    rng = np.random.default_rng(0)
    affine = Affine.from_spacing((3.0, 1.0, 1.0), origin=(-10, 20, 30))
    turn = affine.turn_to("LPS")
    labels = np.zeros((40, 130, 120), np.uint8)
    labels[10:20, 30:70, 20:60] = 1
    labels[25:30, 30:70, 50:90] = 2
    scan = rng.integers(0, 1000, labels.shape).astype(np.int16)
    turned = affine.turned(turn, labels.shape)
    image = nibabel.Nifti1Image(turn.apply(scan).T, turned.to_nifti())
    nibabel.save(image, tmp_path / "scan.nii.gz")
    return (
        scan_result(
            tmp_path / "out" / "case", turn.apply(labels), turned, scan=tmp_path / "scan.nii.gz"
        ),
        scan,
        labels,
    )


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_ome_zarr_in_millimetres(tmp_path, nifti_result, version):
    folder, scan, labels = nifti_result
    (path,) = export_result(
        folder, "ome-zarr", tmp_path / "export", request=ExportRequest(ngff=version)
    ).files
    group = zarr.open_group(path, mode="r")
    told = group.attrs["ome"] if version == "0.5" else group.attrs
    (scales,) = told["multiscales"]
    assert [axis["unit"] for axis in scales["axes"]] == ["millimeter"] * 3
    first, second = (d["coordinateTransformations"] for d in scales["datasets"])
    assert (first[0]["scale"], first[1]["translation"]) == ([3, 1, 1], [30, 20, -10])
    assert (second[0]["scale"], second[1]["translation"]) == ([3, 2, 2], [30, 20.5, -9.5])
    np.testing.assert_array_equal(group["0"][:], scan)  # turned to superior, anterior, right
    mean = scan.reshape(40, 65, 2, 60, 2).mean(axis=(2, 4))
    assert np.abs(group["1"][:] - mean).max() <= 1
    np.testing.assert_array_equal(group["labels/classes/0"][:], labels)
    np.testing.assert_array_equal(group["labels/classes/1"][:], labels[:, ::2, ::2])
    with open_volume(path) as again:  # without a warning: the axes say where they lead
        assert again.affine.is_close(Affine.from_spacing((3, 1, 1), origin=(-10, 20, 30)))
        np.testing.assert_array_equal(VolumeArray(again)[:], scan)
    nodes = list(Reader(parse_url(path))())
    assert nodes[0].data[0].shape == labels.shape
    assert any("classes" in str(node.zarr) for node in nodes)


def test_meshes_nifti_and_overwriting(tmp_path, nifti_result):
    folder, _, _ = nifti_result
    out = tmp_path / "export"
    for kind in ("stl", "ply", "obj"):
        files = export_result(folder, kind, out).files
        assert [file.name for file in files] == [f"case.liver.{kind}", f"case.Läsion-病変.{kind}"]
    corners = np.loadtxt(
        [x[2:] for x in (out / "case.liver.obj").read_text().splitlines() if x[0] == "v"]
    )
    np.testing.assert_allclose(corners.min(axis=0), (9.5, 49.5, 58.5))
    np.testing.assert_allclose(corners.max(axis=0), (49.5, 89.5, 88.5))
    (path,) = export_result(folder, "nifti", out).files
    assert path.read_bytes() == (folder / "labels.nii.gz").read_bytes()
    with pytest.raises(RunError, match="is there already"):
        export_result(folder, "nifti", out)
    export_result(folder, "nifti", out, request=ExportRequest(overwrite=True))


def test_names_come_from_the_files_beside(tmp_path, nifti_result):
    folder, _, _ = nifti_result
    assert is_scan_result(folder)
    assert find_results(folder.parent) == [folder]
    assert [one.name for one in FinishedScan(folder).classes][:2] == ["liver", CLASSES[1]["name"]]
    (folder / "run.json").unlink()
    assert [one.name for one in FinishedScan(folder).classes] == ["label 1", "label 2"]
    (folder / "statistics.json").write_text(json.dumps({"classes": [{"value": 2, "name": "x"}]}))
    assert [one.name for one in FinishedScan(folder).classes] == ["x"]
    assert VolumeArray(open_volume(folder / "labels.nii.gz")).shape == (40, 130, 120)


def test_the_command(tmp_path, nifti_result):
    folder, _, _ = nifti_result
    run = CliRunner()
    asked = ["export", str(folder.parent), "--to", "ply", "--out", str(tmp_path / "e")]
    done = run.invoke(app, asked)
    assert done.exit_code == 0, done.output
    assert "case.liver.ply" in done.output
    moved = tmp_path / "moved.nii.gz"
    (tmp_path / "scan.nii.gz").rename(moved)
    asked = ["export", str(folder), "--to", "ome-zarr", "--out", str(tmp_path / "e")]
    assert run.invoke(app, asked).exit_code == 1
    assert run.invoke(app, [*asked, "--slide", str(moved)]).exit_code == 0

"""Labels of a scan as DICOM RTSTRUCT: closed contours in the planes of the series.

DICOM PS3.3, A.19 and C.8.8.5 to C.8.8.8.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from wsiseg import __version__
from wsiseg.annotations.trace import trace_labels
from wsiseg.errors import RunError
from wsiseg.exchange._dicom import CHARACTERS, MAKER, short_text
from wsiseg.exchange._writing import whole_file
from wsiseg.exchange.finished_scan import FinishedScan
from wsiseg.exchange.pieces import without_holes
from wsiseg.exchange.request import ExportReport, ExportRequest
from wsiseg.exchange.scan_series import SeriesSlice, SourceSeries, find_series
from wsiseg.exchange.scan_to_dicom_seg import scan_uid
from wsiseg.volume.statistics import ScanClass

__all__ = ["scan_to_rtstruct"]

SERIES_NUMBER = 9103
RT_STRUCTURE_SET = "1.2.840.10008.5.1.4.1.1.481.3"
DETACHED_STUDY = "1.2.840.10008.3.1.2.3.1"
"""Class UID by which the referenced study is told (retired, but what readers expect)."""

KEPT = (
    *("PatientName", "PatientID", "PatientBirthDate", "PatientSex"),
    *("StudyInstanceUID", "StudyDate", "StudyTime", "StudyID", "AccessionNumber"),
    "ReferringPhysicianName",
)
"""Of the series: patient and study, which DICOM demands to be the same."""


@dataclass(frozen=True, slots=True, eq=False)
class _Contour:
    """A closed line in one image."""

    value: int
    image: SeriesSlice
    lps_mm: NDArray[np.float64]
    """Corners (n, 3), the first not repeated."""


def scan_to_rtstruct(result: FinishedScan, out: Path, request: ExportRequest) -> ExportReport:
    """Write `<name>.rtstruct.dcm`: a region per class that was found, its exact outlines.

    Contours run along the edges of pixels, so that filling them gives back the labels. Contours
    know no holes: outlines with holes are cut apart, which the report counts.

    Raises
    ------
    RunError
        If pydicom is not installed, no DICOM series has the grid of the labels, nothing was found,
        or the file is there and not to be overwritten.
    DiskFullError
        If there is no room left.
    """
    series = _series(result)
    notes = {"outlines cut into pieces without holes": 0, **series.notes}
    contours = list(_contours(result, series, notes))
    found = [one for one in result.classes if any(c.value == one.value for c in contours)]
    if not found:
        raise RunError(f"{result.folder}: nothing was found, which RTSTRUCT cannot say")
    path = out / f"{result.name}.rtstruct.dcm"
    with whole_file(path, overwrite=request.overwrite) as part:
        try:
            made = _structure_set(result, series, found, contours)
        except AttributeError as error:
            raise RunError(
                f"{result.scan_file}: the headers of the series lack something that DICOM demands "
                f"of an RTSTRUCT: {error}"
            ) from error
        # implicit: lengths of 32 bits, since contours exceed the 16 bits of explicit VRs
        made.save_as(part, implicit_vr=True, little_endian=True, enforce_file_format=True)
    return ExportReport((path,), len(contours), {k: v for k, v in notes.items() if v})


def _series(result: FinishedScan) -> SourceSeries:
    try:
        return find_series(result.scan_file, result.labels, result.affine)
    except ImportError as error:
        raise RunError(
            'pydicom is not installed; install it with: pip install "wsiseg[dicom]"'
        ) from error


def _contours(
    result: FinishedScan, series: SourceSeries, notes: dict[str, int]
) -> Iterator[_Contour]:
    arranged: Any = series.arranged(result.labels, result.affine)
    for index, image in enumerate(series.slices):
        plane = np.asarray(arranged[index : index + 1][0])
        if not plane.any():
            continue
        traced = trace_labels(plane.astype(np.int32))
        for value, polygon in zip(traced.values.tolist(), traced.geometries, strict=True):
            pieces = without_holes(polygon, at_edges=True)
            notes["outlines cut into pieces without holes"] += len(pieces) > 1
            for piece in pieces:
                x, y = shapely.get_coordinates(piece)[:-1].T - 0.5  # corners to centres
                places = np.stack([np.full_like(x, index), y, x], axis=1)
                world = series.affine.world(places) * (-1, -1, 1)
                yield _Contour(value, image, world)


def _structure_set(
    result: FinishedScan,
    series: SourceSeries,
    classes: list[ScanClass],
    contours: list[_Contour],
) -> Any:  # noqa: ANN401
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import UID, ImplicitVRLittleEndian

    base = series.headers[0]
    made = Dataset()
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    made.SpecificCharacterSet = CHARACTERS
    for name in KEPT:
        if name in base:
            made[name] = base[name]
        else:
            setattr(made, name, None)
    uid = UID(scan_uid(result, base, "rtstruct", "instance"))
    made.SOPClassUID = made.file_meta.MediaStorageSOPClassUID = UID(RT_STRUCTURE_SET)
    made.SOPInstanceUID = made.file_meta.MediaStorageSOPInstanceUID = uid
    made.Modality = "RTSTRUCT"
    made.SeriesInstanceUID = scan_uid(result, base, "rtstruct", "series")
    made.SeriesNumber = SERIES_NUMBER
    made.SeriesDescription = f"Segmentation by {MAKER}"
    made.OperatorsName = None
    made.Manufacturer = made.ManufacturerModelName = MAKER
    made.SoftwareVersions = __version__
    made.InstanceNumber = 1
    made.FrameOfReferenceUID = base.FrameOfReferenceUID
    made.PositionReferenceIndicator = None
    made.StructureSetLabel = "LABELS"
    made.StructureSetDate = made.StructureSetTime = None
    made.ApprovalStatus = "UNAPPROVED"
    made.ReferencedFrameOfReferenceSequence = [_frame_of_reference(series)]
    frame = base.FrameOfReferenceUID
    numbered = list(enumerate(classes, start=1))
    made.StructureSetROISequence = [_roi(number, one, frame) for number, one in numbered]
    made.ROIContourSequence = [
        _roi_contour(number, one, [c for c in contours if c.value == one.value])
        for number, one in numbered
    ]
    made.RTROIObservationsSequence = [_observation(number, one) for number, one in numbered]
    return made


def _frame_of_reference(series: SourceSeries) -> Any:  # noqa: ANN401
    """Return which study, series and images the contours refer to."""
    from pydicom.dataset import Dataset

    base = series.headers[0]
    images = Dataset()
    images.SeriesInstanceUID = base.SeriesInstanceUID
    images.ContourImageSequence = [
        _reference(SeriesSlice(h, 0, np.zeros(3))) for h in series.headers
    ]
    study = Dataset()
    study.ReferencedSOPClassUID = DETACHED_STUDY
    study.ReferencedSOPInstanceUID = base.StudyInstanceUID
    study.RTReferencedSeriesSequence = [images]
    frame = Dataset()
    frame.FrameOfReferenceUID = base.FrameOfReferenceUID
    frame.RTReferencedStudySequence = [study]
    return frame


def _reference(image: SeriesSlice) -> Any:  # noqa: ANN401
    from pydicom.dataset import Dataset

    reference = Dataset()
    reference.ReferencedSOPClassUID = image.header.SOPClassUID
    reference.ReferencedSOPInstanceUID = image.header.SOPInstanceUID
    if image.frame:
        reference.ReferencedFrameNumber = image.frame
    return reference


def _roi(number: int, one: ScanClass, frame: str) -> Any:  # noqa: ANN401
    from pydicom.dataset import Dataset

    roi = Dataset()
    roi.ROINumber = number
    roi.ReferencedFrameOfReferenceUID = frame
    roi.ROIName = short_text(one.name)
    roi.ROIGenerationAlgorithm = "AUTOMATIC"
    return roi


def _roi_contour(number: int, one: ScanClass, contours: list[_Contour]) -> Any:  # noqa: ANN401
    from pydicom.dataset import Dataset

    roi = Dataset()
    roi.ROIDisplayColor = list(one.color or (128, 128, 128))
    roi.ReferencedROINumber = number
    roi.ContourSequence = []
    for index, contour in enumerate(contours, start=1):
        item = Dataset()
        item.ContourNumber = index
        item.ContourImageSequence = [_reference(contour.image)]
        item.ContourGeometricType = "CLOSED_PLANAR"
        item.NumberOfContourPoints = len(contour.lps_mm)
        item.ContourData = [_decimal(value) for value in contour.lps_mm.ravel().tolist()]
        roi.ContourSequence.append(item)
    return roi


def _decimal(value: float) -> str:
    """Return a number of at most 16 characters, to 0.0001 mm."""
    return f"{value:.4f}".rstrip("0").rstrip(".")


def _observation(number: int, one: ScanClass) -> Any:  # noqa: ANN401
    from pydicom.dataset import Dataset

    observation = Dataset()
    observation.ObservationNumber = number
    observation.ReferencedROINumber = number
    observation.ROIObservationLabel = one.name[:16]
    observation.RTROIInterpretedType = None
    observation.ROIInterpreter = None
    return observation

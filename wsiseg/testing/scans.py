"""DICOM series made on the spot: one file per slice, or one file of all, with any defect."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsiseg.geometry import Affine

__all__ = ["SERIES", "write_multiframe", "write_series"]

SERIES = "1.2.826.0.1.3680043.10.1.7"
"""Series instance UID of what is written here."""

_CLASSES = {"CT": "1.2.840.10008.5.1.4.1.1.2", "MR": "1.2.840.10008.5.1.4.1.1.4"}
_ENHANCED_MR = "1.2.840.10008.5.1.4.1.1.4.1"


def write_series(
    folder: Path,
    voxels: NDArray[Any],
    affine: Affine,
    *,
    modality: str = "CT",
    series: str = SERIES,
    slope: float = 1.0,
    intercept: float = 0.0,
    edit: Callable[[Any, int], object] | None = None,
) -> list[Path]:
    """Write one file per slice; return their paths in the order of the slices.

    Parameters
    ----------
    folder
        Made if it is not there.
    voxels
        Stored numbers `(z, y, x)` of 16 bits; or `(z, y, x, 3)` uint8 of colour.
    affine
        Where they are; a sheared one makes a tilted stack.
    modality, series, slope, intercept
        What the headers say.
    edit
        Called with each data set and the index of its slice before it is written. Where it returns
        `False`, the slice is left out.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for index, plane in enumerate(voxels):
        header = _header(plane, modality, series, f"{series}.{index + 1}")
        _place(header, header, affine, index)
        header.InstanceNumber = index + 1
        header.RescaleSlope, header.RescaleIntercept = slope, intercept
        header.PixelData = np.ascontiguousarray(plane).tobytes()
        if edit is not None and edit(header, index) is False:
            continue
        path = folder / f"{index + 1:04}.dcm"
        header.save_as(path, enforce_file_format=True)
        written.append(path)
    return written


def write_multiframe(
    path: Path,
    voxels: NDArray[Any],
    affine: Affine,
    *,
    slopes: Sequence[float] | None = None,
    edit: Callable[[Any], object] | None = None,
) -> Path:
    """Write all slices as the frames of one enhanced MR file.

    Parameters
    ----------
    path, voxels, affine
        As for `write_series`.
    slopes
        Of each frame.
    edit
        Called with the data set before it is written.
    """
    from pydicom.dataset import Dataset

    header = _header(voxels[0], "MR", SERIES, f"{SERIES}.1")
    header.SOPClassUID = header.file_meta.MediaStorageSOPClassUID = _ENHANCED_MR
    header.NumberOfFrames = len(voxels)
    shared = Dataset()
    frames = []
    for index in range(len(voxels)):
        frame, place = Dataset(), Dataset()
        measures = Dataset()
        _place(place, measures, affine, index)
        for sequence, keyword, source in (
            ("PlanePositionSequence", "ImagePositionPatient", place),
            ("PlaneOrientationSequence", "ImageOrientationPatient", place),
            ("PixelMeasuresSequence", "PixelSpacing", measures),
        ):
            item = Dataset()
            setattr(item, keyword, getattr(source, keyword))
            owner = frame if sequence == "PlanePositionSequence" else shared
            setattr(owner, sequence, [item])
        if slopes is not None:
            values = Dataset()
            values.RescaleSlope, values.RescaleIntercept = slopes[index], 0.0
            frame.PixelValueTransformationSequence = [values]
        frames.append(frame)
    header.SharedFunctionalGroupsSequence = [shared]
    header.PerFrameFunctionalGroupsSequence = frames
    header.PixelData = np.ascontiguousarray(voxels).tobytes()
    if edit is not None:
        edit(header)
    path.parent.mkdir(parents=True, exist_ok=True)
    header.save_as(path, enforce_file_format=True)
    return path


def _header(plane: NDArray[Any], modality: str, series: str, instance: str) -> Any:  # noqa: ANN401
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import UID, ExplicitVRLittleEndian

    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = UID(_CLASSES[modality])
    meta.MediaStorageSOPInstanceUID = UID(instance)
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    header = Dataset()
    header.file_meta = meta
    header.SOPClassUID, header.SOPInstanceUID = meta.MediaStorageSOPClassUID, instance
    header.SeriesInstanceUID, header.StudyInstanceUID = series, "1.2.826.0.1.3680043.10.1"
    header.FrameOfReferenceUID = "1.2.826.0.1.3680043.10.2"
    header.Modality, header.SeriesNumber = modality, 1
    header.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    header.PatientName, header.PatientID = "Nobody^Really", "secret-id"
    header.InstitutionName, header.OperatorsName = "Some Hospital", "An Operator"
    header.SeriesDescription = "what somebody typed"
    header.Rows, header.Columns = plane.shape[:2]
    is_colour = plane.ndim == 3
    header.SamplesPerPixel = 3 if is_colour else 1
    header.PhotometricInterpretation = "RGB" if is_colour else "MONOCHROME2"
    if is_colour:
        header.PlanarConfiguration = 0
    bits = plane.dtype.itemsize * 8
    header.BitsAllocated, header.BitsStored, header.HighBit = bits, bits, bits - 1
    header.PixelRepresentation = int(plane.dtype.kind == "i")
    return header


def _place(place: Any, measures: Any, affine: Affine, index: int) -> None:  # noqa: ANN401
    """Write where slice `index` is: in DICOM's frame, x to the left, y to posterior."""
    lps = np.diag([-1.0, -1.0, 1.0])
    _, down, along = (lps @ column for column in affine.columns)
    between_rows, between_columns = np.linalg.norm(down), np.linalg.norm(along)
    origin = lps @ affine.world([[index, 0, 0]])[0]
    place.ImagePositionPatient = [f"{value:.9g}" for value in origin]
    directions = [*(along / between_columns), *(down / between_rows)]
    place.ImageOrientationPatient = [f"{value:.10f}"[:16] for value in directions]
    measures.PixelSpacing = [f"{between_rows:.9g}", f"{between_columns:.9g}"]

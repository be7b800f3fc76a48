"""DICOM series made for tests, and results of scans as `wsiseg segment` leaves them."""

import json
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from wsiseg.geometry import Affine
from wsiseg.volume.nifti import write_nifti

CLASSES = [
    {"value": 1, "name": "liver", "color": [213, 94, 0]},
    {"value": 2, "name": "Läsion \\ 病変", "color": [0, 114, 178]},
    {"value": 7, "name": "never found", "color": [0, 158, 115]},
]

SIGNS = [(1, 1), (1, -1), (-1, 1), (-1, -1)]
"""Of the directions of rows and columns along L and P."""


def series_lps(signs, *, spacing=(2.5, 0.9, 0.7), tilt=0.0):
    """Return the 4 x 4 matrix (column, row, slice) to LPS of an axial series."""
    right, down = signs
    matrix = np.eye(4)
    row = np.array([right, 0, 0.0])
    column = np.array([0, down * np.cos(tilt), down * np.sin(tilt)])
    normal = np.cross(row, column)
    matrix[:3, :3] = np.column_stack([row * spacing[2], column * spacing[1], normal * spacing[0]])
    matrix[:3, 3] = -83.25 * right, -112.5 * down, 417.125
    return matrix


def write_series(folder, matrix, shape=(6, 20, 24), *, values=None):
    """Write a CT series whose slices are named in no order; return its folder."""
    folder.mkdir(parents=True)
    uids = {name: generate_uid(entropy_srcs=[str(folder), name]) for name in ("st", "se", "fr")}
    values = np.zeros(shape, np.int16) if values is None else values
    steps = np.linalg.norm(matrix[:3, :3], axis=0)
    for index in range(shape[0]):
        image = Dataset()
        image.file_meta = FileMetaDataset()
        image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        image.file_meta.MediaStorageSOPClassUID = image.SOPClassUID = CTImageStorage
        uid = generate_uid(entropy_srcs=[str(folder), str(index)])
        image.file_meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID = uid
        image.StudyInstanceUID, image.SeriesInstanceUID = uids["st"], uids["se"]
        image.FrameOfReferenceUID, image.Modality = uids["fr"], "CT"
        image.PatientName, image.PatientID = "Phantom^Made", "P1"
        image.PatientBirthDate, image.PatientSex = "19700101", "O"
        image.StudyDate, image.StudyTime, image.StudyID = "20260101", "120000", "1"
        image.AccessionNumber = image.ReferringPhysicianName = ""
        image.SeriesNumber, image.InstanceNumber = 3, index + 1
        image.ImageOrientationPatient = [*(matrix[:3, 0] / steps[0]), *(matrix[:3, 1] / steps[1])]
        place = matrix[:3, 3] + index * matrix[:3, 2]
        image.ImagePositionPatient = [float(v) for v in place]
        image.PixelSpacing = [float(steps[1]), float(steps[0])]
        image.SliceThickness = float(steps[2])
        image.Rows, image.Columns = shape[1:]
        image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
        image.BitsAllocated, image.BitsStored, image.HighBit = 16, 16, 15
        image.PixelRepresentation = 1
        image.RescaleSlope, image.RescaleIntercept = 1, 0
        image.PixelData = values[index].astype("<i2").tobytes()
        name = f"{(index * 7) % 11:02d}-{index}.dcm"
        image.save_as(folder / name, enforce_file_format=True)
    return folder


def some_labels(shape=(6, 20, 24)):
    """Return labels with two holes, two touching corners, and a second class."""
    labels = np.zeros(shape, np.uint8)
    labels[1:4, 3:12, 4:15] = 1
    labels[2, 6:9, 7:10] = 0  # a hole in one slice
    labels[3, 12, 15] = 1  # meets the rest at a corner
    labels[2:5, 14:18, 2:9] = 2
    labels[4, 15, 5] = 1
    return labels


def scan_result(folder, labels, affine, *, scan: Path | None = None, like=None):
    """Write what `wsiseg segment` leaves of a scan; return its folder."""
    folder.mkdir(parents=True)
    write_nifti(folder / "labels.nii.gz", labels, affine, like=like)
    record = {
        "wsiseg": "0",
        "scan": {"name": "scan", "path": str(scan) if scan else None},
        "model": {"name": "organs", "version": "1.2", "digest": "0" * 64},
        "classes": CLASSES,
    }
    (folder / "run.json").write_text(json.dumps(record))
    return folder


def dicom_result(tmp_path, signs=(1, 1), *, tilt=0.0, orientation=None):
    """Return the result of a made series; its labels may be stored in another orientation."""
    matrix = series_lps(signs, tilt=tilt)
    series = write_series(tmp_path / "series", matrix)
    labels, affine = some_labels(), Affine.from_lps(matrix)
    if orientation:
        turn = affine.turn_to(orientation)
        labels, affine = turn.apply(labels), affine.turned(turn, labels.shape)
    return scan_result(tmp_path / "out" / "case", labels, affine, scan=series)

"""The DICOM series that a scan was read from, as SEG and RTSTRUCT refer to it."""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsiseg.errors import GridError, MissingSpacingError, RunError
from wsiseg.geometry import Affine
from wsiseg.volume.arrays import Turned, VoxelArray

__all__ = ["SeriesSlice", "SourceSeries", "find_series"]

SAME_MM = 0.01
"""Labels lie on the grid of a series if no voxel is farther from its place."""

MAY_BE_EMPTY = (
    *("PatientName", "PatientID", "PatientBirthDate", "PatientSex"),
    *("StudyDate", "StudyTime", "StudyID", "AccessionNumber", "ReferringPhysicianName"),
)
"""Of patient and study: must be there, may be empty (type 2)."""

NOT_IMAGES = frozenset({"SEG", "RTSTRUCT", "RTDOSE", "PR", "SR", "KO", "REG"})


@dataclass(frozen=True, slots=True, eq=False)
class SeriesSlice:
    """One image: a file, or a frame of one."""

    header: Any
    """pydicom's data set, without pixels."""

    frame: int
    """Number of the frame in the file, from 1; 0 where the file is one image."""

    lps_mm: NDArray[np.float64]
    """Centre of the first pixel (3,), DICOM's x, y, z."""


@dataclass(frozen=True, slots=True, eq=False)
class SourceSeries:
    """Images of one series, stacked along their normal."""

    slices: tuple[SeriesSlice, ...]
    affine: Affine
    """Of an array (slice, row, column) in this order."""

    shape: tuple[int, int, int]

    notes: Mapping[str, int] = field(default_factory=dict)
    """What its headers lacked -> how often."""

    @property
    def headers(self) -> list[Any]:
        """The files, in the order of the slices, each once."""
        return list({id(one.header): one.header for one in self.slices}.values())

    def arranged(self, labels: VoxelArray, affine: Affine) -> VoxelArray | None:
        """Return labels as (slice, row, column) of the series; `None` if they lie elsewhere."""
        turn = affine.turn_to(self.affine.orientation)
        turned = Turned(labels, turn)
        if turned.shape != self.shape:
            return None
        corners = np.array(np.meshgrid(*((0, n - 1) for n in self.shape))).reshape(3, -1).T
        there = affine.turned(turn, labels.shape).world(corners)
        away = np.abs(there - self.affine.world(corners)).max()
        return turned if away <= SAME_MM else None


def find_series(path: Path, labels: VoxelArray, affine: Affine) -> SourceSeries:
    """Return the series at a path on whose grid the labels lie.

    Parameters
    ----------
    path
        The folder that was segmented, or a file in it.
    labels
        Integers (z, y, x).
    affine
        Of the labels.

    Raises
    ------
    RunError
        If there is no DICOM series, or none with this grid.
    """
    found = []
    for series in _all_series(path if path.is_dir() else path.parent):
        if series.arranged(labels, affine) is not None:
            return series
        found.append(" x ".join(map(str, series.shape)))
    what = f"series of {', '.join(found)} voxels (slice, row, column)" if found else "no series"
    raise RunError(
        f"{path}: needed the DICOM series on whose grid {tuple(labels.shape)} labels lie, found "
        f"{what}; name its folder with --slide"
    )


def _all_series(folder: Path) -> Iterator[SourceSeries]:
    from pydicom import dcmread
    from pydicom.errors import InvalidDicomError

    from wsiseg.source._dicom_files import BROKEN

    by_series: dict[str, list[Any]] = defaultdict(list)
    for file in sorted(p for p in folder.rglob("*") if p.is_file()):
        try:
            header = dcmread(file, stop_before_pixels=True)
        except (InvalidDicomError, OSError, *BROKEN):
            continue  # something else that lies there
        if header.get("Modality") not in NOT_IMAGES and "Rows" in header:
            by_series[str(header.get("SeriesInstanceUID"))].append(header)
    for uid, headers in by_series.items():
        made_up = sum(_completed(header, uid) for header in headers)
        series = _stacked([one for header in headers for one in _slices(header)])
        if series is not None and made_up:
            yield replace(series, notes={"images without a frame of reference, given one": made_up})
        elif series is not None:
            yield series


def _completed(header: Any, series_uid: str) -> bool:  # noqa: ANN401
    """Add what must be there; return whether a frame of reference had to be made up."""
    from pydicom.uid import generate_uid

    for name in MAY_BE_EMPTY:
        if name not in header:
            setattr(header, name, None)
    if "SpecificCharacterSet" in header and not header.SpecificCharacterSet:
        del header.SpecificCharacterSet
    if "PerFrameFunctionalGroupsSequence" in header:
        shared = header.SharedFunctionalGroupsSequence[0]
        for name in ("PixelMeasuresSequence", "PlaneOrientationSequence"):
            # the frames of a stack have these in common, and highdicom looks there for them
            if name not in shared and name in header.PerFrameFunctionalGroupsSequence[0]:
                shared[name] = header.PerFrameFunctionalGroupsSequence[0][name]
    if header.get("FrameOfReferenceUID"):
        return False
    header.FrameOfReferenceUID = generate_uid(entropy_srcs=["frame of reference", series_uid])
    return True


def _slices(header: Any) -> Iterator[SeriesSlice]:  # noqa: ANN401
    """Yield the images of a file that say where they are."""
    if "PerFrameFunctionalGroupsSequence" not in header:
        if "ImagePositionPatient" in header and "ImageOrientationPatient" in header:
            yield SeriesSlice(header, 0, np.array(header.ImagePositionPatient, np.float64))
        return
    for number, groups in enumerate(header.PerFrameFunctionalGroupsSequence, start=1):
        if "PlanePositionSequence" in groups:
            position = groups.PlanePositionSequence[0].ImagePositionPatient
            yield SeriesSlice(header, number, np.array(position, np.float64))


def _plane(one: SeriesSlice) -> tuple[list[float], list[float]]:
    """Return orientation (6) and pixel spacing (down, across) of an image."""
    header = one.header
    if not one.frame:
        return list(header.ImageOrientationPatient), list(header.PixelSpacing)
    shared = header.SharedFunctionalGroupsSequence[0]
    return (
        list(shared.PlaneOrientationSequence[0].ImageOrientationPatient),
        list(shared.PixelMeasuresSequence[0].PixelSpacing),
    )


def _stacked(slices: list[SeriesSlice]) -> SourceSeries | None:
    """Return slices in the order of their places; `None` if they make no grid."""
    if not slices:
        return None
    try:
        orientation, (down, across) = _plane(slices[0])
    except (AttributeError, IndexError, ValueError):
        return None
    right, below = np.array(orientation[:3], float), np.array(orientation[3:], float)
    normal = np.cross(right, below)
    ordered = sorted(slices, key=lambda one: float(one.lps_mm @ normal))
    step = normal * float(slices[0].header.get("SliceThickness") or 1.0)
    if len(ordered) > 1:
        step = (ordered[-1].lps_mm - ordered[0].lps_mm) / (len(ordered) - 1)
    matrix = np.eye(4)
    matrix[:3, :3] = np.column_stack([right * across, below * down, step])
    matrix[:3, 3] = ordered[0].lps_mm
    header = slices[0].header
    try:
        affine = Affine.from_lps(matrix)
    except (GridError, MissingSpacingError):
        return None
    return SourceSeries(tuple(ordered), affine, (len(ordered), header.Rows, header.Columns))

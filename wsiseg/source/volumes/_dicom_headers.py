"""What the headers of DICOM images say, as far as a volume needs it; nothing about people."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydicom import Dataset, dcmread
from pydicom.config import IGNORE, disable_value_validation
from pydicom.errors import InvalidDicomError
from pydicom.uid import UID, VLWholeSlideMicroscopyImageStorage

from wsiseg.errors import DamagedFileError, SourceError
from wsiseg.source._dicom_files import BROKEN, PYDICOM_SETTINGS

__all__ = ["Frame", "PixelKind", "Series", "is_dicom", "read_folder", "read_frames"]

TAGS = (
    "SOPClassUID", "SOPInstanceUID", "ImageType", "Modality", "SeriesInstanceUID", "SeriesNumber",
    "InstanceNumber", "FrameOfReferenceUID", "ImagePositionPatient", "ImageOrientationPatient",
    "PixelSpacing", "SliceThickness", "SpacingBetweenSlices", "Rows", "Columns", "NumberOfFrames",
    "SamplesPerPixel", "PhotometricInterpretation", "BitsAllocated", "BitsStored", "HighBit",
    "PixelRepresentation", "RescaleSlope", "RescaleIntercept", "ModalityLUTSequence",
    "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence",
    "TemporalPositionIdentifier", "EchoNumbers", "EchoTime", "InversionTime", "TriggerTime",
    "DiffusionBValue", "AcquisitionNumber", "AcquisitionTime", "ConvolutionKernel",
)  # fmt: skip

DIFFERENCES = (
    "TemporalPositionIdentifier", "EchoNumbers", "EchoTime", "InversionTime", "TriggerTime",
    "DiffusionBValue", "AcquisitionNumber", "AcquisitionTime", "ConvolutionKernel", "ImageType",
)  # fmt: skip
"""What images of one place may differ in: the reason that there are several."""

DERIVED = frozenset({"SEG", "RTDOSE", "PR", "SM"})
"""Modalities of objects about scans, not scans."""

SCANS = frozenset({"CT", "MR", "PT"})

DICOM_AT = slice(128, 132)


@dataclass(frozen=True, slots=True)
class PixelKind:
    """How the pixels of an image are stored."""

    rows: int
    columns: int
    samples: int
    photometric: str
    allocated: int
    stored: int
    high_bit: int
    is_signed: bool
    is_float: bool


@dataclass(frozen=True, slots=True)
class Frame:
    """One image: a file, or a frame of one."""

    path: Path
    index: int
    """Of the frame in its file."""

    instance: str
    number: int | None
    """Instance number, or that of the frame, counted from 1."""

    kind: PixelKind
    transfer_syntax: str
    position: tuple[float, ...] | None
    """Centre of the first pixel, (x, y, z) in mm, LPS."""

    orientation: tuple[float, ...] | None
    """Directions along a row, and along a column."""

    spacing: tuple[float, ...] | None
    """mm between rows, and between columns."""

    depth: float | None
    """Distance between slices in mm as stated, else their thickness."""

    slope: float
    intercept: float
    has_table: bool
    """Whether values are told by a table instead of a slope."""

    frame_of_reference: str
    is_localizer: bool
    differences: tuple[str, ...]
    """Values of `DIFFERENCES`."""

    @property
    def has_place(self) -> bool:
        """Whether it says where it is."""
        return None not in (self.position, self.orientation, self.spacing)

    @property
    def label(self) -> str:
        """What messages call it."""
        number = "?" if self.number is None else self.number
        place = "" if self.position is None else f" at z {self.position[2]:.2f} mm"
        return f"slice {number}{place} ({self.path.name})"


@dataclass(frozen=True, slots=True)
class Series:
    """The images of one series, in the order of their files."""

    uid: str
    number: int | None
    modality: str
    sop_class: str
    """Name of the kind of object."""

    frames: tuple[Frame, ...]
    files: int

    @property
    def is_candidate(self) -> bool:
        """Whether it may be a volume: it has images that are placed, and not all localisers."""
        placed = [frame for frame in self.frames if frame.has_place]
        return any(not frame.is_localizer for frame in placed)

    @property
    def is_scan(self) -> bool:
        """Whether its images are of a scanner, by modality or since they say where they are."""
        return self.modality in SCANS or any(frame.has_place for frame in self.frames)


def is_dicom(path: Path) -> bool:
    """Return whether a file is DICOM with its preamble."""
    with path.open("rb") as file:
        return file.read(DICOM_AT.stop)[DICOM_AT] == b"DICM"


def read_folder(folder: Path) -> list[Series]:
    """Return the series of the DICOM images that lie in a folder, slides left out.

    Raises
    ------
    DamagedFileError
        If a header cannot be read.
    """
    paths = sorted(entry for entry in folder.iterdir() if entry.is_file())
    return _group(one for path in paths for one in _read(path))


def read_frames(path: Path) -> list[Series]:
    """Return the series of a file, of one file or of none (where it is no DICOM image)."""
    return _group(_read(path))


@dataclass(frozen=True, slots=True)
class _File:
    uid: str
    number: int | None
    modality: str
    sop_class: str
    frames: tuple[Frame, ...]


def _group(files: Iterator[_File]) -> list[Series]:
    groups: dict[str, list[_File]] = {}
    for file in files:
        groups.setdefault(file.uid, []).append(file)
    return [
        Series(
            uid=uid,
            number=group[0].number,
            modality=group[0].modality,
            sop_class=group[0].sop_class,
            frames=tuple(frame for file in group for frame in file.frames),
            files=len(group),
        )
        for uid, group in groups.items()
    ]


def _read(path: Path) -> Iterator[_File]:
    """Yield what a file's header says; nothing where it is no DICOM image."""
    try:
        if not is_dicom(path):
            if path.suffix.lower() == ".dcm":
                raise _damaged(path, "it does not begin as DICOM files do")
            return
        with PYDICOM_SETTINGS, disable_value_validation():
            header = dcmread(path, stop_before_pixels=True, specific_tags=list(TAGS))
            file = _file(path, header)
    except InvalidDicomError as error:
        raise _damaged(path, str(error)) from error
    except BROKEN as error:
        raise _damaged(path, str(error) or type(error).__name__) from error
    except OSError as error:
        if isinstance(error, SourceError):
            raise
        raise SourceError(f"{path.name}: cannot be opened ({error.strerror})", path=path) from error
    if file is not None:
        yield file


def _damaged(path: Path, reason: str) -> DamagedFileError:
    return DamagedFileError(
        f"{path.name}: the DICOM header cannot be read ({reason}); copy the file anew, or move it "
        "away if it is not part of the scan",
        path=path,
    )


def _file(path: Path, header: Dataset) -> _File | None:
    sop_class = UID(header.get("SOPClassUID", ""), validation_mode=IGNORE)
    if sop_class == VLWholeSlideMicroscopyImageStorage or "Rows" not in header:
        return None
    modality = str(header.get("Modality", ""))
    uid = str(header.get("SeriesInstanceUID", ""))
    syntax = str(header.file_meta.TransferSyntaxUID)
    groups = header.get("PerFrameFunctionalGroupsSequence")
    shared = _first(header, "SharedFunctionalGroupsSequence")
    count = int(header.get("NumberOfFrames") or 1)
    frames: tuple[Frame, ...] = ()
    if groups is None and modality not in DERIVED:
        frames = (_frame(path, header, None, None, 0, syntax),)
    elif groups is not None and modality not in DERIVED:
        if len(groups) != count:
            raise ValueError(f"{count} frames are stated, {len(groups)} described")
        frames = tuple(
            _frame(path, header, shared, group, index, syntax) for index, group in enumerate(groups)
        )
    number = header.get("SeriesNumber")
    return _File(uid, None if number is None else int(number), modality, sop_class.name, frames)


def _frame(
    path: Path,
    header: Dataset,
    shared: Dataset | None,
    own: Dataset | None,
    index: int,
    syntax: str,
) -> Frame:
    """Return one frame; what its own group does not say stands in the shared one, or the header."""
    is_multi = own is not None

    def found(sequence: str, keyword: str) -> Any:  # noqa: ANN401 - any DICOM value
        for group in (own, shared):
            item = None if group is None else _first(group, sequence)
            if item is not None and item.get(keyword) not in (None, ""):
                return item.get(keyword)
        return header.get(keyword)

    slope = found("PixelValueTransformationSequence", "RescaleSlope")
    intercept = found("PixelValueTransformationSequence", "RescaleIntercept")
    depth = found("PixelMeasuresSequence", "SpacingBetweenSlices")
    thickness = found("PixelMeasuresSequence", "SliceThickness")
    image_type = [str(one) for one in _list(header.get("ImageType"))]
    number = header.get("InstanceNumber")
    # The position of a file with several frames, but none described, is that of none of them.
    placed = is_multi or int(header.get("NumberOfFrames") or 1) == 1
    return Frame(
        path=path,
        index=index,
        instance=str(header.get("SOPInstanceUID", "")),
        number=index + 1 if is_multi else (None if number is None else int(number)),
        kind=_kind(header),
        transfer_syntax=syntax,
        position=_floats(found("PlanePositionSequence", "ImagePositionPatient"), 3)
        if placed
        else None,
        orientation=_floats(found("PlaneOrientationSequence", "ImageOrientationPatient"), 6),
        spacing=_floats(found("PixelMeasuresSequence", "PixelSpacing"), 2),
        depth=_positive(depth) or _positive(thickness),
        slope=1.0 if slope is None else float(slope),
        intercept=0.0 if intercept is None else float(intercept),
        has_table="ModalityLUTSequence" in header,
        frame_of_reference=str(header.get("FrameOfReferenceUID", "")),
        is_localizer="LOCALIZER" in image_type or "SCOUT" in image_type,
        differences=_differences(header, own),
    )


def _kind(header: Dataset) -> PixelKind:
    allocated = int(header.get("BitsAllocated") or 0)
    stored = int(header.get("BitsStored") or allocated)
    high_bit = header.get("HighBit")
    return PixelKind(
        rows=int(header.Rows),
        columns=int(header.Columns),
        samples=int(header.get("SamplesPerPixel") or 1),
        photometric=str(header.get("PhotometricInterpretation", "")),
        allocated=allocated,
        stored=stored,
        high_bit=stored - 1 if high_bit is None else int(high_bit),
        is_signed=bool(header.get("PixelRepresentation") or 0),
        is_float="BitsStored" not in header,
    )


def _differences(header: Dataset, own: Dataset | None) -> tuple[str, ...]:
    values = []
    for keyword in DIFFERENCES:
        value = header.get(keyword)
        values.append("" if value is None else str(value))
    if own is not None:
        content = _first(own, "FrameContentSequence")
        echo = _first(own, "MREchoSequence")
        diffusion = _first(own, "MRDiffusionSequence")
        for at, item, keyword in (
            (0, content, "TemporalPositionIndex"),
            (2, echo, "EffectiveEchoTime"),
            (5, diffusion, "DiffusionBValue"),
        ):
            if item is not None and item.get(keyword) is not None:
                values[at] = str(item.get(keyword))
    return tuple(values)


def _first(group: Dataset, sequence: str) -> Dataset | None:
    items = group.get(sequence)
    return items[0] if items else None


def _list(value: Any) -> Sequence[Any]:  # noqa: ANN401 - any DICOM value
    if value is None:
        return ()
    return (value,) if isinstance(value, str) else list(value)


def _floats(value: Any, count: int) -> tuple[float, ...] | None:  # noqa: ANN401 - any DICOM value
    if value in (None, "") or isinstance(value, str | float | int) or len(value) != count:
        return None
    return tuple(float(one) for one in value)


def _positive(value: Any) -> float | None:  # noqa: ANN401 - any DICOM value
    if value in (None, ""):
        return None
    number = abs(float(value))
    return number if number > 0 else None

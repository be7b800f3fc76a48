"""Which DICOM files make up one slide: the files of a series, told apart by their headers."""

import struct
import threading
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from pydicom import Dataset
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.filereader import read_partial
from pydicom.tag import BaseTag, Tag
from pydicom.uid import UID, VLWholeSlideMicroscopyImageStorage

from wsiseg.errors import (
    DamagedFileError,
    IncompleteSlideWarning,
    SourceError,
    UnsupportedFormatError,
)

__all__ = ["BROKEN", "PYDICOM_SETTINGS", "DicomFile", "objective_power", "slide_files"]

HEADER_TAGS = (
    "SOPClassUID", "SOPInstanceUID", "ImageType", "Modality", "Manufacturer",
    "ManufacturerModelName", "SeriesInstanceUID", "SamplesPerPixel", "PhotometricInterpretation",
    "BitsStored",
)  # fmt: skip

VOLUME_MODALITIES = frozenset({"CT", "MR", "PT"})

JPEG_PREFIX = "1.2.840.10008.1.2.4."
"""Transfer syntaxes of the JPEG family, whose decoders undo YCbCr."""

BROKEN = (
    ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RuntimeError, EOFError,
    struct.error, BytesLengthException, MemoryError,
)  # fmt: skip
"""What pydicom raises on a malformed header; memory runs out where a length is nonsense."""


PYDICOM_SETTINGS = threading.Lock()
"""Held while pydicom's settings are changed, which belong to the whole process."""


@dataclass(frozen=True, slots=True)
class DicomFile:
    """What the header of one file says; nothing about the patient."""

    path: Path
    sop_class: UID
    modality: str
    flavor: str
    """`VOLUME`, `LABEL`, `OVERVIEW` or `THUMBNAIL`; empty where the file is no slide."""

    series: str
    instance: str
    transfer_syntax: UID
    pixels: str
    """Samples, photometric interpretation and bits, such as `3 x 8 bit RGB`."""

    readable: bool
    """Whether the pixels are 8-bit RGB or grey, or YCbCr that its codec turns into RGB."""

    maker: str
    model: str


def slide_files(path: Path) -> list[DicomFile]:
    """Return the files of the slide at `path`: all files of one series.

    Parameters
    ----------
    path
        A file, whose series is looked for in its folder, or a folder that holds one series.

    Raises
    ------
    UnsupportedFormatError
        If there is no whole-slide image, or none with 8-bit RGB or grey pixels.
    DamagedFileError
        If a header cannot be read.
    SourceError
        If a folder holds several slides, or only a label.
    """
    if path.is_dir():
        files = _read_folder(path)
        slides = [file for file in files if _is_slide(file)]
        _check_found(path, files, slides)
        series = {file.series: file for file in slides}
        if len(series) > 1:
            names = ", ".join(sorted(file.path.name for file in series.values())[:4])
            raise SourceError(
                f"{path.name}: needed a folder of one DICOM series, found {len(series)}; "
                f"open one file of the series, such as {names}",
                path=path,
            )
    else:
        named = _read_header(path)
        if named is None:
            raise UnsupportedFormatError(
                f"{path.name}: needed a DICOM file, found another; open the SM instances of a "
                "series",
                path=path,
            )
        _check_found(path, [named], [named] if _is_slide(named) else [])
        others = _read_others(path, named.series)
        slides = [named, *(f for f in others if _is_slide(f) and f.series == named.series)]
        slides = [f for f in slides if f is named or f.instance != named.instance]
    _check_pixels(path, slides)
    _check_copies(path, slides)
    return slides


def objective_power(file: DicomFile) -> float | None:
    """Return the nominal magnification in a file's first optical path, if it is there."""
    try:
        with file.path.open("rb") as stream:
            paths = _read_until(
                stream, "PerFrameFunctionalGroupsSequence", ("OpticalPathSequence",)
            )
        power = paths.OpticalPathSequence[0].ObjectiveLensPower
        return float(power) if power else None
    except BROKEN:
        return None


def _is_slide(file: DicomFile) -> bool:
    return file.sop_class == VLWholeSlideMicroscopyImageStorage


def _read_folder(folder: Path) -> list[DicomFile]:
    headers = (_read_header(entry) for entry in sorted(folder.iterdir()) if entry.is_file())
    return [header for header in headers if header is not None]


def _read_others(path: Path, series: str) -> list[DicomFile]:
    """Return the other files of a folder; damaged ones are left out unless they are of a series.

    Warns
    -----
    IncompleteSlideWarning
        If a file is so damaged that its series is not known.

    Raises
    ------
    DamagedFileError
        If a file of the series cannot be read.
    """
    found = []
    for entry in sorted(path.parent.iterdir()):
        if entry == path or not entry.is_file():
            continue
        try:
            header = _read_header(entry)
        except DamagedFileError as error:
            other = _series_of(entry)
            if other == series:
                raise
            if not other:
                warnings.warn(
                    f"{path.name}: left out {error}", IncompleteSlideWarning, stacklevel=2
                )
        else:
            found += [header] if header is not None else []
    return found


def _series_of(path: Path) -> str:
    """Return the series of a file whose header cannot be read in full; empty: not even that."""
    try:
        with path.open("rb") as stream:
            header = _read_until(stream, "StudyID", ("SeriesInstanceUID",))
        return str(header.get("SeriesInstanceUID", "") or "")
    except (InvalidDicomError, OSError, *BROKEN):
        return ""


def _read_header(path: Path) -> DicomFile | None:
    """Return what a file's header says, or `None` where it is no DICOM file."""
    try:
        with path.open("rb") as stream:
            header = _read_until(stream, "HighBit", HEADER_TAGS)
        sop_class = UID(header.get("SOPClassUID", ""))
        if sop_class == VLWholeSlideMicroscopyImageStorage and "BitsStored" not in header:
            raise EOFError("it ends early")
        transfer_syntax = UID(header.file_meta.TransferSyntaxUID)
        image_type = [*header.get("ImageType", ()), "", "", ""]
        return DicomFile(
            path=path,
            sop_class=sop_class,
            modality=str(header.get("Modality", "")),
            flavor=str(image_type[2]) if len(image_type) > 5 else "",
            series=str(header.get("SeriesInstanceUID", "")),
            instance=str(header.get("SOPInstanceUID", "")),
            transfer_syntax=transfer_syntax,
            pixels=_pixels(header),
            readable=_is_readable(header, transfer_syntax),
            maker=str(header.get("Manufacturer", "")),
            model=str(header.get("ManufacturerModelName", "")),
        )
    except InvalidDicomError:
        return None
    except BROKEN as error:
        raise DamagedFileError(
            f"{path.name}: the DICOM header cannot be read ({error}); copy the file anew, or move "
            "it away if it is not part of the slide",
            path=path,
        ) from error
    except OSError as error:
        raise SourceError(f"{path.name}: cannot be opened ({error.strerror})", path=path) from error


def _read_until(stream: BinaryIO, keyword: str, keywords: Sequence[str]) -> Dataset:
    """Read the elements named `keywords`, which all lie before the one named `keyword`."""
    end = Tag(keyword)

    def stop(tag: BaseTag, vr: str | None, length: int) -> bool:
        return bool(tag >= end)

    return read_partial(stream, stop, specific_tags=[Tag(name) for name in keywords])


def _pixels(header: Dataset) -> str:
    samples, bits = header.get("SamplesPerPixel", "?"), header.get("BitsStored", "?")
    return f"{samples} x {bits} bit {header.get('PhotometricInterpretation', '?')}"


def _is_readable(header: Dataset, transfer_syntax: str) -> bool:
    photometric = str(header.get("PhotometricInterpretation", ""))
    decoded = photometric in {"RGB", "MONOCHROME2"} or (
        photometric.startswith("YBR_") and transfer_syntax.startswith(JPEG_PREFIX)
    )
    return decoded and header.get("BitsStored") == 8


def _check_found(path: Path, files: Sequence[DicomFile], slides: Sequence[DicomFile]) -> None:
    if slides:
        return
    if not files:
        raise UnsupportedFormatError(
            f"{path.name}: needed DICOM files, found none; open the SM instances of a series, or "
            "their folder",
            path=path,
        )
    sop_class = files[0].sop_class
    found = sop_class.name if sop_class.name != sop_class else "another kind of DICOM object"
    remedy = "open the SM instances of the series"
    if any(file.modality in VOLUME_MODALITIES for file in files):
        remedy = "this is a volume: open it with wsiseg.open_volume"
    raise UnsupportedFormatError(
        f"{path.name}: needed a DICOM whole-slide image, found {found}; {remedy}", path=path
    )


def _check_copies(path: Path, slides: Sequence[DicomFile]) -> None:
    seen: dict[str, Path] = {}
    for file in (file for file in slides if file.flavor == "VOLUME"):
        first = seen.setdefault(file.instance, file.path)
        if first is not file.path:
            raise SourceError(
                f"{path.name}: {first.name} and {file.path.name} claim to be the same image; "
                "remove one, or open the one to use",
                path=path,
            )


def _check_pixels(path: Path, slides: Sequence[DicomFile]) -> None:
    levels = [file for file in slides if file.flavor == "VOLUME"]
    if not levels:
        flavors = ", ".join(sorted({file.flavor or "unknown" for file in slides}))
        raise UnsupportedFormatError(
            f"{path.name}: needed the pixels of a slide (image type VOLUME), found only {flavors}; "
            "put the other files of the series beside it",
            path=path,
        )
    for file in levels:
        if not file.readable:
            raise UnsupportedFormatError(
                f"{file.path.name}: needed 8-bit RGB or grey pixels, found {file.pixels} in "
                f"{file.transfer_syntax.name}; convert it",
                path=path,
            )

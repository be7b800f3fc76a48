"""Which DICOM files of a folder stand for a slide: one of each series of whole-slide images."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from wsiseg.errors import WsisegWarning

__all__ = ["first_of_series"]

TAGS = (
    "SOPClassUID", "SeriesInstanceUID", "ImageType", "ContainerIdentifier", "ConcatenationUID",
    "TotalPixelMatrixColumns", "TotalPixelMatrixRows",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Header:
    """What tells instances apart."""

    path: Path
    is_slide: bool
    series: str
    is_volume: bool
    container: str
    """The glass slide."""

    concatenation: str
    size: tuple[int, int]


def first_of_series(paths: Sequence[Path], left_out: list[Path]) -> list[Path]:
    """Return the first file of each series; files that cannot be read stand for themselves.

    Parameters
    ----------
    paths
        The DICOM files of a folder.
    left_out
        Gets the files that are no whole-slide images: segmentations, annotations and so on.

    Warns
    -----
    WsisegWarning
        If two files of one series look like different slides.
    """
    chosen: list[Path] = []
    series: dict[str, list[_Header]] = {}
    for path in paths:
        header = _read(path)
        if header is not None and not header.is_slide:
            left_out.append(path)
        elif header is None or not header.series:
            chosen.append(path)
        elif header.series in series:
            series[header.series].append(header)
        else:
            series[header.series] = [header]
            chosen.append(path)
    for headers in series.values():
        _warn_of_others(headers)
    return chosen


def _read(path: Path) -> _Header | None:
    try:
        import pydicom
        from pydicom.uid import VLWholeSlideMicroscopyImageStorage

        from wsiseg.source._dicom_files import BROKEN
    except ImportError:
        return None
    try:
        header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=list(TAGS))
        return _Header(
            path=path,
            is_slide=header.get("SOPClassUID", "") in ("", VLWholeSlideMicroscopyImageStorage),
            series=str(header.get("SeriesInstanceUID", "")),
            is_volume="VOLUME" in (header.get("ImageType") or ()),
            container=str(header.get("ContainerIdentifier") or ""),
            concatenation=str(header.get("ConcatenationUID") or ""),
            size=(
                int(header.get("TotalPixelMatrixColumns") or 0),
                int(header.get("TotalPixelMatrixRows") or 0),
            ),
        )
    except (pydicom.errors.InvalidDicomError, OSError, *BROKEN):
        return None


def _warn_of_others(headers: Sequence[_Header]) -> None:
    """Warn of images of one series that cannot be levels of one pyramid."""
    volumes = [header for header in headers if header.is_volume]
    for index, header in enumerate(volumes):
        for earlier in volumes[:index]:
            if _differ(earlier, header):
                warnings.warn(
                    f"{header.path}: has the series of {earlier.path.name}, but looks like another "
                    f"slide; only {headers[0].path.name} is taken: name {header.path.name} itself "
                    "to take it, too",
                    WsisegWarning,
                    stacklevel=2,
                )
                break


def _differ(one: _Header, other: _Header) -> bool:
    if one.container and other.container and one.container != other.container:
        return True
    in_parts = one.concatenation and one.concatenation == other.concatenation
    return not in_parts and one.size == other.size != (0, 0)

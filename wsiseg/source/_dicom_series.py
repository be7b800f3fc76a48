"""A DICOM series opened by wsidicom, and which of its instances are the levels of the slide."""

import logging
import struct
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from pydicom.config import disable_value_validation
from pydicom.errors import BytesLengthException
from wsidicom import Settings, WsiInstance, use_settings  # type: ignore[import-untyped]
from wsidicom import errors as wsidicom_errors
from wsidicom.file import WsiDicomFileSource  # type: ignore[import-untyped]

from wsiseg.errors import DamagedFileError, SourceError, UnsupportedFormatError
from wsiseg.source._dicom_files import PYDICOM_SETTINGS, DicomFile, slide_files

__all__ = ["READ_ERRORS", "DicomSeries", "open_series"]

SAME_ORIGIN_MM = 0.02
"""Levels of one scan may state origins that differ by this much, or by one of their pixels."""

READ_ERRORS: tuple[type[Exception], ...] = (
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    BytesLengthException,
    RuntimeError,
    AttributeError,
    EOFError,
    OSError,
    struct.error,
    *(
        error
        for error in vars(wsidicom_errors).values()
        if isinstance(error, type) and issubclass(error, Exception)
    ),
)
"""What malformed files make pydicom, the codecs and wsidicom raise; the last has no root error."""


@dataclass(frozen=True, slots=True)
class DicomSeries:
    """What one slide consists of; instances are wsidicom's."""

    files: list[DicomFile]
    source: WsiDicomFileSource
    levels: list[tuple[WsiInstance, float]]
    """The instance and the focal plane of each level, largest first."""

    associated: dict[str, WsiInstance]
    """Instances of the label, the macro and the thumbnail image, where there are any."""


def open_series(path: Path) -> DicomSeries:
    """Open the files of the slide at `path`, and choose the instances to read.

    Parameters
    ----------
    path
        A file, or a folder with one series. Where instances compete, a file named here wins.

    Raises
    ------
    UnsupportedFormatError, SourceError
        If the files do not make up exactly one slide of a supported kind.
    DamagedFileError
        If a file of the series cannot be read.
    """
    settings = Settings(
        strict_tile_size_check=False, decoded_frame_cache_size=0, encoded_frame_cache_size=0
    )
    # Values longer than the standard allows are common and harmless.
    with PYDICOM_SETTINGS, disable_value_validation(), use_settings(settings), _logged() as errors:
        files = slide_files(path)
        try:
            source = WsiDicomFileSource.open([file.path for file in files])
        except READ_ERRORS as error:
            raise _unreadable(path, [*errors, error]) from error
        with ExitStack() as stack:
            stack.callback(source.close)
            levels = sum(reader.image_type.value == "VOLUME" for reader in source.readers)
            if levels != sum(file.flavor == "VOLUME" for file in files):
                raise _unreadable(path, errors)
            try:
                series = _choose(path, files, source)
            except READ_ERRORS as error:
                raise _unreadable(path, [error]) from error
            stack.pop_all()
    return series


def _choose(path: Path, files: list[DicomFile], source: WsiDicomFileSource) -> DicomSeries:
    scan = sorted(_one_scan(list(source.level_instances), path), key=_shape, reverse=True)
    groups = {
        "label": list(source.label_instances),
        "macro": list(source.overview_instances),
        "thumbnail": list(source.thumbnail_instances),
    }
    return DicomSeries(
        files=files,
        source=source,
        levels=[_choose_plane(list(group), path) for _, group in groupby(scan, key=_shape)],
        associated={name: instances[0] for name, instances in groups.items() if instances},
    )


def _one_scan(instances: Sequence[WsiInstance], named: Path) -> list[WsiInstance]:
    """Return the instances that show one field; a series may hold several scans of a slide."""
    scans: list[list[WsiInstance]] = []
    for instance in sorted(instances, key=_shape, reverse=True):
        for scan in scans:
            if _same_field(scan[0], instance):
                scan.append(instance)
                break
        else:
            scans.append([instance])
    if len(scans) > 1:
        scans = [scan for scan in scans if named.absolute() in _files(scan)] or scans
    if len(scans) != 1:
        names = ", ".join(_files([scan[0]])[0].name for scan in scans)
        raise SourceError(
            f"{named.name}: needed one scan, found {len(scans)} at different places of the slide; "
            f"open one by its file: {names}"
        )
    return scans[0]


def _choose_plane(instances: list[WsiInstance], named: Path) -> tuple[WsiInstance, float]:
    """Return the instance that holds the middle focal plane of one level, and that plane."""
    planes = sorted({plane for instance in instances for plane in instance.focal_planes})
    middle = planes[len(planes) // 2]
    having = [instance for instance in instances if middle in instance.focal_planes]
    if len(having) > 1:
        having = [one for one in having if named.absolute() in _files([one])] or having
    if len(having) != 1:
        names = ", ".join(file.name for file in _files(having))
        raise SourceError(
            f"{named.name}: needed one image per level, found {len(having)} of one size; "
            f"open one by its file: {names}"
        )
    if len(having[0].optical_paths) != 1:
        raise UnsupportedFormatError(
            f"{named.name}: needed one optical path (RGB or grey), found "
            f"{len(having[0].optical_paths)}; export the one to segment"
        )
    return having[0], middle


def _same_field(base: WsiInstance, instance: WsiInstance) -> bool:
    one, other = base.image_coordinate_system, instance.image_coordinate_system
    if one is None or other is None:
        return True
    pixel_mm = instance.pixel_spacing.width if instance.pixel_spacing else 0.0
    tolerance = max(SAME_ORIGIN_MM, pixel_mm)
    return bool(one.origin_and_rotation_match(other, origin_threshold=tolerance))


def _shape(instance: WsiInstance) -> tuple[int, int]:
    return instance.size.height, instance.size.width


def _files(instances: Sequence[WsiInstance]) -> list[Path]:
    return [Path(f).absolute() for instance in instances for f in instance.image_data.files]


def _unreadable(path: Path, errors: Sequence[BaseException]) -> DamagedFileError:
    reason = str(errors[0]) if errors else "it lacks what a whole-slide image must state"
    return DamagedFileError(
        f"{path.name}: a file of the series cannot be read: {reason}; copy it anew", path=path
    )


@contextmanager
def _logged() -> Iterator[list[BaseException]]:
    """Collect the errors that wsidicom logs, with their tracebacks, instead of raising them."""
    errors: list[BaseException] = []

    def collect(record: logging.LogRecord) -> bool:
        if record.exc_info and record.exc_info[1]:
            errors.append(record.exc_info[1])
        return False

    logger = logging.getLogger("wsidicom.file.wsidicom_file_source")
    logger.addFilter(collect)
    try:
        yield errors
    finally:
        logger.removeFilter(collect)

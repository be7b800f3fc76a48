"""Labels of a scan as DICOM SEG that refers to the series it was read from."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsiseg import __version__
from wsiseg.annotations import AnnotationClass
from wsiseg.errors import RunError
from wsiseg.exchange._dicom import (
    CHARACTERS,
    MAKER,
    algorithm,
    kind,
    load_highdicom,
    short_text,
)
from wsiseg.exchange._writing import whole_file
from wsiseg.exchange.finished_scan import FinishedScan
from wsiseg.exchange.request import ExportReport, ExportRequest
from wsiseg.exchange.scan_series import SourceSeries, find_series

__all__ = ["scan_to_dicom_seg", "scan_uid"]

SERIES_NUMBER = 9101


def scan_to_dicom_seg(result: FinishedScan, out: Path, request: ExportRequest) -> ExportReport:
    """Write `<name>.seg.dcm`: a binary segmentation, a segment per class that was found.

    Its frames lie exactly on the images of the series; patient and study are those of the series,
    as DICOM demands.

    Raises
    ------
    RunError
        If highdicom is not installed, no DICOM series has the grid of the labels, nothing was
        found, or the file is there and not to be overwritten.
    DiskFullError
        If there is no room left.
    """
    highdicom = load_highdicom()
    series = find_series(result.scan_file, result.labels, result.affine)
    pixels, found = _segments(result, series)
    if not found:
        raise RunError(f"{result.folder}: nothing was found, which DICOM SEG cannot say")
    base = series.headers[0]
    path = out / f"{result.name}.seg.dcm"
    with whole_file(path, overwrite=request.overwrite) as part, warnings.catch_warnings():
        # names of patients are what they are
        warnings.filterwarnings("ignore", "The string .* is unlikely to represent", UserWarning)
        try:
            made = highdicom.seg.Segmentation(
                source_images=series.headers,
                pixel_array=pixels,
                segmentation_type="BINARY",
                segment_descriptions=[
                    highdicom.seg.SegmentDescription(
                        segment_number=number,
                        segment_label=short_text(item.name),
                        **kind(item, number, "segmented_property"),
                        algorithm_type="AUTOMATIC",
                        algorithm_identification=algorithm(highdicom, result.record),
                        display_color=highdicom.color.CIELabColor.from_rgb(*item.color),
                    )
                    for number, item in enumerate(found, start=1)
                ],
                series_instance_uid=scan_uid(result, base, "seg", "series"),
                series_number=SERIES_NUMBER,
                sop_instance_uid=scan_uid(result, base, "seg", "instance"),
                instance_number=1,
                manufacturer=MAKER,
                manufacturer_model_name=MAKER,
                software_versions=__version__,
                device_serial_number="0",
                specific_character_set=CHARACTERS,
                content_label="LABELS",
                series_description=f"Segmentation by {MAKER}",
            )
        except (AttributeError, ValueError, TypeError, KeyError) as error:
            raise RunError(
                f"{result.scan_file}: the headers of the series lack something that DICOM demands "
                f"of a SEG: {error}"
            ) from error
        made.save_as(part)
    return ExportReport((path,), len(found), series.notes)


def _segments(
    result: FinishedScan, series: SourceSeries
) -> tuple[NDArray[np.uint16], list[AnnotationClass]]:
    """Return segment numbers from 1 (frame, row, column), and the classes that were found."""
    arranged: Any = series.arranged(result.labels, result.affine)
    pixels = np.empty(series.shape, np.uint16)
    numbers = np.zeros(1 << 16, np.uint16)
    order = [one.frame - 1 for one in series.slices]  # in one file, frames have its order
    at = order if len(series.headers) == 1 and min(order) >= 0 else list(range(len(order)))
    seen = np.zeros(1 << 16, bool)
    for index, place in enumerate(at):
        pixels[place] = arranged[index : index + 1][0]
        seen[np.unique(pixels[place])] = True
    found = [one for one in result.classes if seen[one.value]]
    numbers[[one.value for one in found]] = np.arange(1, len(found) + 1)
    items = [AnnotationClass(one.name, one.color or (128, 128, 128)) for one in found]
    return numbers[pixels], items


def scan_uid(result: FinishedScan, base: Any, *parts: str) -> str:  # noqa: ANN401
    """Return a UID that is the same each time for one scan and model."""
    from pydicom.uid import generate_uid

    digest = str(result.record.get("model", {}).get("digest"))
    sources = [MAKER, result.name, str(base.SeriesInstanceUID), digest, *parts]
    return str(generate_uid(entropy_srcs=sources))

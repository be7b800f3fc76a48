"""Which format is written by what."""

from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import cast

from wsiseg.errors import UsageError
from wsiseg.exchange.finished import FinishedResult
from wsiseg.exchange.request import ExportReport, ExportRequest

__all__ = ["FORMATS", "export_result"]

Exporter = Callable[[FinishedResult, Path, ExportRequest], ExportReport]

FORMATS: Mapping[str, str] = {
    "qupath": "to_qupath.to_qupath",
    "wsinfer": "to_wsinfer.to_wsinfer",
    "ome-tiff": "to_ome_tiff.to_ome_tiff",
    "ome-zarr": "to_ome_zarr.to_ome_zarr",
    "clam": "to_clam.to_clam",
    "geoparquet": "to_geoparquet.to_geoparquet",
    "coco": "to_coco.to_coco",
    "dicom-seg": "to_dicom.to_dicom_seg",
    "dicom-ann": "to_dicom.to_dicom_ann",
}
"""Name -> the module and the function in it; loaded when it is asked for."""

DEFAULTS = ExportRequest()


def export_result(
    result: FinishedResult | Path | str,
    to: str,
    out: Path | str,
    *,
    request: ExportRequest = DEFAULTS,
) -> ExportReport:
    """Write a finished result in the format of another program.

    Parameters
    ----------
    result
        A result folder of `wsiseg segment`.
    to
        One of `FORMATS`.
    out
        Folder for the files, which are called after the result's folder; made if absent.
    request
        What to make of it.

    Raises
    ------
    UsageError
        If there is no such format, or the request makes no sense for it.
    RunError
        If the result lacks what the format needs, a package is not installed, or a file is there
        and not to be overwritten.
    AnnotationError, HeatmapError
        If a file of the result cannot be read.
    DiskFullError
        If there is no room left.
    """
    if to not in FORMATS:
        raise UsageError(f"format {to!r}: needed one of {', '.join(FORMATS)}")
    if not isinstance(result, FinishedResult):
        result = FinishedResult(Path(result))
    module, _, name = FORMATS[to].partition(".")
    exporter = cast("Exporter", getattr(import_module(f"wsiseg.exchange.{module}"), name))
    return exporter(result, Path(out), request)

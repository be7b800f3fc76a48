"""Which format is written by what."""

from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, cast

from wsiseg.errors import UsageError
from wsiseg.exchange.finished import FinishedResult
from wsiseg.exchange.finished_scan import FinishedScan, is_scan_result
from wsiseg.exchange.request import ExportReport, ExportRequest

__all__ = [
    "EXPORTERS",
    "FORMATS",
    "SCAN_FORMATS",
    "Exporter",
    "check_format",
    "export_result",
    "find_exporter",
]

Exporter = Callable[[Any, Path, ExportRequest], ExportReport]
"""Takes a `FinishedResult` (a slide's) or a `FinishedScan`."""

FORMATS: Mapping[str, str] = {
    "qupath": "to_qupath.to_qupath",
    "wsinfer": "to_wsinfer.to_wsinfer",
    "ome-tiff": "to_ome_tiff.to_ome_tiff",
    "ome-zarr": "to_ome_zarr.to_ome_zarr",
    "spatialdata": "to_spatialdata.to_spatialdata",
    "clam": "to_clam.to_clam",
    "geoparquet": "to_geoparquet.to_geoparquet",
    "coco": "to_coco.to_coco",
    "ro-crate": "to_ro_crate.to_ro_crate",
    "dicom-seg": "to_dicom.to_dicom_seg",
    "dicom-ann": "to_dicom.to_dicom_ann",
}
"""Of slides: name -> the module and the function in it; loaded when it is asked for."""

SCAN_FORMATS: Mapping[str, str] = {
    "nifti": "scan_to_nifti.scan_to_nifti",
    "dicom-seg": "scan_to_dicom_seg.scan_to_dicom_seg",
    "rtstruct": "scan_to_rtstruct.scan_to_rtstruct",
    "stl": "scan_to_mesh.scan_to_stl",
    "ply": "scan_to_mesh.scan_to_ply",
    "obj": "scan_to_mesh.scan_to_obj",
    "ome-zarr": "scan_to_ome_zarr.scan_to_ome_zarr",
}
"""Of scans."""

EXPORTERS = "wsiseg.exporters"
"""Entry points of installed packages that add formats: callables that take a `FinishedResult`, the
output folder and an `ExportRequest`, and return an `ExportReport`. Built-in names come first."""

DEFAULTS = ExportRequest()


def export_result(
    result: FinishedResult | FinishedScan | Path | str,
    to: str,
    out: Path | str,
    *,
    request: ExportRequest = DEFAULTS,
) -> ExportReport:
    """Write a finished result in the format of another program.

    Parameters
    ----------
    result
        A result folder of `wsiseg segment`, of a slide or a scan.
    to
        One of `FORMATS` (of scans: `SCAN_FORMATS`), or a format of an installed package.
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
    if not isinstance(result, FinishedResult | FinishedScan):
        result = FinishedResult(Path(result))
    if isinstance(result, FinishedResult) and is_scan_result(result.folder):
        result = FinishedScan(result.folder, result.slide_path)
    exporter = find_exporter(to, scan=isinstance(result, FinishedScan))
    return exporter(result, Path(out), request)


def check_format(to: str) -> None:
    """Refuse a format that neither slides nor scans have.

    Raises
    ------
    UsageError
        If there is no such format; it names those there are.
    """
    if to not in SCAN_FORMATS:
        find_exporter(to)


def find_exporter(to: str, *, scan: bool = False) -> Exporter:
    """Return what writes a format of slides, or of scans.

    Raises
    ------
    UsageError
        If there is no such format; it names those there are.
    """
    formats = SCAN_FORMATS if scan else FORMATS
    if to in formats:
        module, _, name = formats[to].partition(".")
        return cast("Exporter", getattr(import_module(f"wsiseg.exchange.{module}"), name))
    from importlib.metadata import entry_points  # slow to import, and seldom needed

    added = {point.name: point for point in entry_points(group=EXPORTERS)}
    if to in added:
        return cast("Exporter", added[to].load())
    known = ", ".join([*formats, *sorted(added)])
    others = FORMATS if scan else SCAN_FORMATS
    if to in others:
        raise UsageError(
            f"format {to!r} is one of {'slides' if scan else 'scans'}, and this is the result of a "
            f"{'scan' if scan else 'slide'}: needed one of {known}"
        )
    raise UsageError(f"format {to!r}: needed one of {known}; of scans {', '.join(SCAN_FORMATS)}")

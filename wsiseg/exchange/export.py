"""Which format is written by what."""

from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import cast

from wsiseg.errors import UsageError
from wsiseg.exchange.finished import FinishedResult
from wsiseg.exchange.request import ExportReport, ExportRequest

__all__ = ["EXPORTERS", "FORMATS", "Exporter", "export_result", "find_exporter"]

Exporter = Callable[[FinishedResult, Path, ExportRequest], ExportReport]

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
"""Name -> the module and the function in it; loaded when it is asked for."""

EXPORTERS = "wsiseg.exporters"
"""Entry points of installed packages that add formats: callables that take a `FinishedResult`, the
output folder and an `ExportRequest`, and return an `ExportReport`. Built-in names come first."""

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
        One of `FORMATS`, or a format of an installed package.
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
    exporter = find_exporter(to)
    if not isinstance(result, FinishedResult):
        result = FinishedResult(Path(result))
    return exporter(result, Path(out), request)


def find_exporter(to: str) -> Exporter:
    """Return what writes a format.

    Raises
    ------
    UsageError
        If there is no such format; it names those there are.
    """
    if to in FORMATS:
        module, _, name = FORMATS[to].partition(".")
        return cast("Exporter", getattr(import_module(f"wsiseg.exchange.{module}"), name))
    from importlib.metadata import entry_points  # slow to import, and seldom needed

    added = {point.name: point for point in entry_points(group=EXPORTERS)}
    if to not in added:
        raise UsageError(f"format {to!r}: needed one of {', '.join([*FORMATS, *sorted(added)])}")
    return cast("Exporter", added[to].load())

"""A scan with its labels as one OME-Zarr in millimetres."""

from contextlib import ExitStack
from pathlib import Path

from wsiseg.exchange._writing import whole_folder
from wsiseg.exchange.finished_scan import FinishedScan
from wsiseg.exchange.request import ExportReport, ExportRequest
from wsiseg.volume.arrays import VolumeArray
from wsiseg.volume.ome_zarr import write_ome_zarr

__all__ = ["scan_to_ome_zarr"]


def scan_to_ome_zarr(result: FinishedScan, out: Path, request: ExportRequest) -> ExportReport:
    """Write `<name>.ome.zarr`: the scan as image, and in `labels/classes` its labels.

    Raises
    ------
    RunError
        If the scan is not there, or the folder is there and not to be overwritten.
    DiskFullError
        If there is no room left.
    """
    path = out / f"{result.name}.ome.zarr"
    with ExitStack() as stack, whole_folder(path, overwrite=request.overwrite) as part:
        scan = result.scan(stack)
        write_ome_zarr(
            part,
            VolumeArray(scan),
            result.labels,
            result.affine,
            result.classes,
            name=result.name,
            version=request.ngff,
        )
    return ExportReport((path,), len(result.classes))

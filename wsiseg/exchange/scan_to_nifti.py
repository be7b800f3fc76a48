"""Labels of scans as NIfTI files beside each other, called after their scans."""

from pathlib import Path

from wsiseg.exchange._writing import whole_file
from wsiseg.exchange.finished_scan import LABELS, FinishedScan
from wsiseg.exchange.request import ExportReport, ExportRequest

__all__ = ["scan_to_nifti"]


def scan_to_nifti(result: FinishedScan, out: Path, request: ExportRequest) -> ExportReport:
    """Write `<name>.nii.gz`, the labels as they are.

    Raises
    ------
    RunError
        If the file is there and not to be overwritten.
    DiskFullError
        If there is no room left.
    """
    path = out / f"{result.name}.nii.gz"
    with whole_file(path, overwrite=request.overwrite) as part:
        part.write_bytes((result.folder / LABELS).read_bytes())
    return ExportReport((path,), len(result.classes))

"""Classes of a scan as surfaces: STL, PLY or OBJ, a file per class."""

import re
from pathlib import Path

from wsiseg.errors import RunError
from wsiseg.exchange._writing import whole_file
from wsiseg.exchange.finished_scan import FinishedScan
from wsiseg.exchange.request import ExportReport, ExportRequest
from wsiseg.volume.arrays import class_boxes
from wsiseg.volume.mesh import MeshFormat, mesh_bytes, surface_mesh

__all__ = ["scan_to_obj", "scan_to_ply", "scan_to_stl"]


def scan_to_stl(result: FinishedScan, out: Path, request: ExportRequest) -> ExportReport:
    """Write `<name>.<class>.stl`, see `scan_to_mesh`."""
    return scan_to_mesh(result, out, request, "stl")


def scan_to_ply(result: FinishedScan, out: Path, request: ExportRequest) -> ExportReport:
    """Write `<name>.<class>.ply`, see `scan_to_mesh`."""
    return scan_to_mesh(result, out, request, "ply")


def scan_to_obj(result: FinishedScan, out: Path, request: ExportRequest) -> ExportReport:
    """Write `<name>.<class>.obj`, see `scan_to_mesh`."""
    return scan_to_mesh(result, out, request, "obj")


def scan_to_mesh(
    result: FinishedScan, out: Path, request: ExportRequest, kind: MeshFormat
) -> ExportReport:
    """Write a closed surface per class that was found, in mm of the scan's frame (RAS).

    Raises
    ------
    RunError
        If nothing was found, or a file is there and not to be overwritten.
    DiskFullError
        If there is no room left.
    """
    boxes = class_boxes(result.labels)
    files = []
    for one in result.classes:
        if one.value not in boxes:
            continue
        mesh = surface_mesh(result.labels, result.affine, one.value, box=boxes[one.value])
        path = out / f"{result.name}.{file_part(one.name)}.{kind}"
        with whole_file(path, overwrite=request.overwrite) as part:
            part.write_bytes(mesh_bytes(mesh, kind))
        files.append(path)
    if not files:
        raise RunError(f"{result.folder}: nothing was found, so there is no surface")
    return ExportReport(tuple(files), len(files))


def file_part(name: str) -> str:
    """Return the name of a class as part of a file's name."""
    return re.sub(r"[^\w.-]+", "-", name).strip("-.") or "class"

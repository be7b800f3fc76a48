"""The files of a scan's result, as NiiVue takes them: NIfTI, also of scans that are none."""

import hashlib
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wsiseg.draw.palette import class_color
from wsiseg.errors import RunError, WsisegError
from wsiseg.source import is_volume, open_recorded
from wsiseg.view.results import LABELS, Shown

__all__ = ["describe_volume", "volume_file"]

NIFTI = (".nii", ".nii.gz")

CONVERTING = threading.Lock()
"""One scan is written at a time."""


def volume_file(shown: Shown, kind: str) -> Path | None:
    """Return the file of the `labels`, or of the `scan`, written as NIfTI first if it is none.

    Raises
    ------
    WsisegError
        If the scan cannot be read.
    """
    if kind == "labels":
        return shown.result.folder / LABELS
    scan = _scan_path(shown) if kind == "scan" else None
    if scan is None or not scan.exists():
        return None
    return scan if scan.name.lower().endswith(NIFTI) else _as_nifti(shown, scan)


def _as_nifti(shown: Shown, scan: Path) -> Path:
    from wsiseg.volume.arrays import VolumeArray
    from wsiseg.volume.nifti import write_nifti

    name = hashlib.sha256(str(shown.result.folder).encode()).hexdigest()[:16]
    path = shown.workspace / f"{name}.nii"
    with CONVERTING:
        if not path.exists():
            with open_recorded(scan, shown.result.record.get("scan")) as volume:
                write_nifti(path, VolumeArray(volume), volume.affine)
    return path


def describe_volume(shown: Shown) -> dict[str, Any]:
    """Return what the page needs to show a scan and its labels.

    Raises
    ------
    RunError
        If the labels are gone.
    """
    if not (shown.result.folder / LABELS).is_file():
        raise RunError(f"{shown.name}: {LABELS} is gone; run the scan again")
    files = {"labels": LABELS}
    scan = _scan_path(shown)
    missing = _trouble(scan)
    if scan is not None and missing is None:
        files["scan"] = "scan.nii.gz" if scan.name.lower().endswith(".gz") else "scan.nii"
    said = shown.result.record.get("scan", {})
    return {
        "files": files,
        "modality": said.get("modality") if isinstance(said, dict) else None,
        "classes": _classes(shown),
        "missing": missing,
    }


def _trouble(scan: Path | None) -> str | None:
    """Return why a scan is not shown."""
    if scan is None or not scan.exists():
        return f"the scan is not shown, as it is not at {scan or 'a place that is known'}"
    try:
        known = scan.name.lower().endswith(NIFTI) or is_volume(scan)
    except WsisegError as error:
        return f"the scan is not shown: {error}"
    return None if known else f"the scan is not shown, as {scan.name} is none that can be read"


def _classes(shown: Shown) -> list[dict[str, Any]]:
    listed = shown.result.record.get("classes")
    found = []
    for place, item in enumerate(listed if isinstance(listed, list) else []):
        if isinstance(item, Mapping) and isinstance(item.get("value", place), int):
            value = item.get("value", place)
            color = item.get("color") or class_color(max(0, value - 1))
            name = str(item.get("name", value))
            found.append({"value": value, "name": name, "color": list(color)})
    return found


def _scan_path(shown: Shown) -> Path | None:
    if shown.result.slide_path is not None:
        return shown.result.slide_path
    said = shown.result.record.get("scan")
    path = said.get("path") if isinstance(said, Mapping) else said
    return Path(path) if isinstance(path, str) else None

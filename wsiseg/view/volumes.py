"""The files of a scan's result, as NiiVue takes them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wsiseg.draw.palette import class_color
from wsiseg.errors import RunError
from wsiseg.view.results import LABELS, Shown

__all__ = ["describe_volume", "volume_files"]

SCAN_ENDINGS = (".nii", ".nii.gz", ".nrrd", ".mha", ".mgz")
"""Formats of one file that the page reads by itself."""


def volume_files(shown: Shown) -> Mapping[str, Path]:
    """Return the files of a result by what they are: `labels`, and `scan` where it can be shown."""
    files = {"labels": shown.result.folder / LABELS}
    scan = _scan_path(shown)
    if scan is not None and scan.is_file() and _ending(scan):
        files["scan"] = scan
    return files


def describe_volume(shown: Shown) -> dict[str, Any]:
    """Return what the page needs to show a scan and its labels.

    Raises
    ------
    RunError
        If the labels are gone.
    """
    files = volume_files(shown)
    if not files["labels"].is_file():
        raise RunError(f"{shown.name}: {LABELS} is gone; run the scan again")
    scan = _scan_path(shown)
    said = shown.result.record.get("scan", {})
    return {
        "files": {kind: f"{kind}{_ending(path)}" for kind, path in files.items()},
        "modality": said.get("modality") if isinstance(said, dict) else None,
        "classes": _classes(shown),
        "missing": None
        if "scan" in files
        else f"the scan is not shown: {scan or 'its place is not known'}",
    }


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


def _ending(path: Path) -> str:
    """Return the ending of a file that the page reads; empty for others."""
    name = path.name.lower()
    return next((end for end in sorted(SCAN_ENDINGS, key=len)[::-1] if name.endswith(end)), "")

"""The result folder of a scan that a run left, opened piece by piece."""

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import orjson

from wsiseg.errors import RunError
from wsiseg.geometry import Affine
from wsiseg.source import Volume, open_recorded, open_volume
from wsiseg.volume.arrays import VolumeArray, VoxelArray, class_boxes
from wsiseg.volume.preview import class_colors
from wsiseg.volume.report import ScanReport, scan_report
from wsiseg.volume.statistics import ScanClass

__all__ = ["LABELS", "FinishedScan", "is_scan_result"]

LABELS = "labels.nii.gz"


def is_scan_result(path: Path) -> bool:
    """Return whether a folder is the result of a scan."""
    return (path / LABELS).is_file()


@dataclass(frozen=True)
class FinishedScan:
    """What `wsiseg segment` wrote for one scan.

    Parameters
    ----------
    folder
        The scan's own folder.
    scan_path
        Where the scan is, if not where it was.
    """

    folder: Path
    scan_path: Path | None = None

    @property
    def name(self) -> str:
        """The name of the folder, and of what is made of it."""
        return self.folder.resolve().name

    @cached_property
    def record(self) -> Mapping[str, Any]:
        """`run.json`; empty where there is none."""
        return self._json("run.json")

    @cached_property
    def _volume(self) -> Volume:
        return open_volume(self.folder / LABELS)

    @property
    def labels(self) -> VoxelArray:
        """The labels (z, y, x), as the file stores them."""
        return VolumeArray(self._volume)

    @property
    def affine(self) -> Affine:
        """Of the labels."""
        return self._volume.affine

    @cached_property
    def classes(self) -> tuple[ScanClass, ...]:
        """The classes of the labels, each with a colour.

        Names are those of `statistics.json` or `run.json`; without either they are the values.
        """
        told = self._json("statistics.json").get("classes") or self.record.get("classes") or ()
        colors = {entry["value"]: entry.get("color") for entry in self.record.get("classes", ())}
        known = [
            ScanClass(entry["value"], entry["name"], _color(colors.get(entry["value"])))
            for entry in told
            if entry["value"]
        ]
        if not known:
            known = [ScanClass(value, f"label {value}") for value in class_boxes(self.labels)]
        of_value = class_colors(known)
        return tuple(ScanClass(one.value, one.name, of_value[one.value]) for one in known)

    @property
    def scan_file(self) -> Path:
        """Where the scan is.

        Raises
        ------
        RunError
            If it is not where it was, and no other place is named.
        """
        path = self.scan_path or self.record.get("scan", {}).get("path")
        if path is None or not Path(path).exists():
            raise RunError(
                f"{self.folder}: needs its scan, found none at {path}; name it with --slide"
            )
        return Path(path)

    def scan(self, stack: ExitStack) -> Volume:
        """Return the scan, opened, its axes as those of the labels; the stack closes it.

        Raises
        ------
        RunError
            If it is not there, or lies on other voxels.
        """
        volume = stack.enter_context(open_recorded(self.scan_file, self.record.get("scan")))
        turned = volume.oriented(self.affine.orientation)
        if turned.shape != self._volume.shape or not turned.affine.is_close(self.affine, 0.01):
            raise RunError(
                f"{self.scan_file}: has voxels {turned.shape} at {turned.affine.origin}, the "
                f"labels {self._volume.shape} at {self.affine.origin}; name the scan they are of"
            )
        return turned

    def report(self) -> ScanReport:
        """Return figures and pictures of what was found.

        Raises
        ------
        RunError
            If the scan is not there, or lies on other voxels.
        """
        model = self.record.get("model", {})
        title = " ".join(str(model[key]) for key in ("name", "version") if key in model)
        with ExitStack() as stack:
            scan = self.scan(stack)
            return scan_report(
                VolumeArray(scan),
                self.labels,
                self.affine,
                self.classes,
                about={"scan": scan.name, **({"model": title} if title else {})},
                modality=scan.metadata.modality,
            )

    def _json(self, name: str) -> Mapping[str, Any]:
        path = self.folder / name
        if not path.exists():
            return {}
        try:
            content = orjson.loads(path.read_bytes())
        except (OSError, orjson.JSONDecodeError) as error:
            raise RunError(f"{path}: cannot be read: {error}; run the scan again") from error
        return content if isinstance(content, dict) else {}


def _color(value: Any) -> tuple[int, int, int] | None:  # noqa: ANN401
    return (int(value[0]), int(value[1]), int(value[2])) if value else None

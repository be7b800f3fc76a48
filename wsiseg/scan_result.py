"""What a segmentation of a scan gives: labels on its own voxels, and the files people open."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson
from numpy.typing import NDArray

from wsiseg.draw.canvas import Pixels
from wsiseg.engine import Publishing, StageReport, finished_folder
from wsiseg.engine.scan_export import ScanFiles
from wsiseg.engine.scan_focus import FocusedRun
from wsiseg.engine.scan_plan import ScanPlan
from wsiseg.engine.scan_record import scan_record
from wsiseg.model import Model
from wsiseg.options import RunOptions
from wsiseg.source import Volume
from wsiseg.stitch import HeatmapStore
from wsiseg.volume.arrays import Turned, VolumeArray
from wsiseg.volume.nifti import write_nifti
from wsiseg.volume.preview import class_colors, ml_text, preview
from wsiseg.volume.probabilities import MOST
from wsiseg.volume.report import STATISTICS_FILES, ScanReport, scan_report
from wsiseg.volume.scan import Scan
from wsiseg.volume.statistics import ScanClass, StatisticsOptions

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["ScanResult"]

LABELS, PROBABILITIES = "labels.nii.gz", "probabilities.nii.gz"

UNCOLOURED = (64, 64, 64)
"""Of classes whose card names no colour."""


@dataclass(frozen=True, repr=False)
class ScanResult:
    """The segmentation of one scan."""

    scan: Scan
    """In the frame of the model; the part looked at is its `box`."""

    model: Model
    options: RunOptions
    plan: ScanPlan
    files: ScanFiles
    """Labels and probabilities in the frame of the model; see `labels` and `probabilities`."""

    reports: tuple[StageReport, ...]
    seconds: float
    heatmaps: Mapping[str, HeatmapStore] = field(default_factory=dict)
    """Of earlier stages, by output name."""

    focus: FocusedRun | None = None
    """Where the last stage looked, if around what an earlier one found."""

    @property
    def volume(self) -> Volume:
        """The scan as it is stored."""
        return self.scan.volumes[0].as_stored()

    @property
    def labels(self) -> NDArray[np.uint8]:
        """Labels in the stored axes of the scan `(z, y, x)`: 0 background, k is class k."""
        return self.scan.turn.inverse().apply(self.files.labels.map())

    @property
    def probabilities(self) -> dict[str, NDArray[np.float32]]:
        """Probabilities in the stored axes of the scan `(z, y, x)`, of the classes asked for.

        Each array is made when it is asked for, four bytes per voxel.
        """
        back = self.scan.turn.inverse()
        return {
            name: back.apply(one).astype(np.float32) / np.float32(MOST)
            for name, one in zip(self.files.names, self._codes(), strict=True)
        }

    def _codes(self) -> NDArray[np.uint16]:
        """Return what the file of probabilities holds, (class, z, y, x)."""
        file = self.files.probabilities
        return np.empty((0, *self.scan.whole), np.uint16) if file is None else file.map()

    def __repr__(self) -> str:
        return f"<ScanResult {self.scan.name}: {self.model.card.name}>"

    def _repr_html_(self) -> str:
        from wsiseg.draw.notebook import data_image, panel, text_table

        rows = [(name, value) for name, value in self.summary().items() if name != "slide"]
        picture = data_image(self.preview(), f"Preview of {self.scan.name}")
        return panel(self.scan.name, "", text_table(rows, words=True), picture=picture)

    def volumes_ml(self) -> dict[str, float]:
        """Return the volume of each class in millilitres."""
        counts = np.zeros(256, np.int64)
        for plane in self.files.labels.map():
            counts += np.bincount(plane.reshape(-1), minlength=256)
        ml = self.scan.affine.voxel_mm3 / 1000
        names = [spec.name for spec in self.model.card.classes]
        return {name: float(counts[k] * ml) for k, name in enumerate(names) if k}

    def summary(self) -> dict[str, Any]:
        """Return one row of `summary.csv`: volumes in ml, windows and seconds."""
        mm = self.volume.affine.spacing_mm
        row: dict[str, Any] = {
            "slide": self.scan.name,
            "model": self.model.card.title,
            "voxels": " x ".join(map(str, self.volume.shape[::-1])),
            "spacing_mm": " x ".join(f"{value:.4g}" for value in mm[::-1]),
        }
        for name, ml in self.volumes_ml().items():
            key = f"{name}_ml"
            row[key if key not in row else f"class {key}"] = round(ml, 6)
        row["tiles"] = sum(report.tiles for report in self.reports)
        row["seconds"] = round(self.seconds, 2)
        return row

    def write(
        self,
        out: str | Path,
        *,
        name: str | None = None,
        publishing: Publishing = Publishing(),  # noqa: B008 - frozen
    ) -> Path:
        """Write the files of this scan to `out/<name>/` and return that folder.

        `labels.nii.gz` on the grid of the scan, `statistics.json` and `.csv`, `preview.png`, and
        `run.json`; `probabilities.nii.gz`, a volume per class, where that was asked for. The folder
        appears when everything in it is there.

        Raises
        ------
        RunError
            If the folder cannot be written, or holds something else.
        DiskFullError
            If there is no room left.
        """
        name = name or self.volume.stem
        record = self.provenance()
        own = record["scan"]["sha256_sampled"]
        with finished_folder(Path(out), name, slide=own, publishing=publishing) as folder:
            stored = self.volume
            like = Path(stored.path) if stored.path else None
            write_nifti(folder / LABELS, self.labels, stored.affine, like=like)
            if self.files.names:
                turned = Turned(np.moveaxis(self._codes(), 0, -1), self.scan.turn.inverse())
                path = folder / PROBABILITIES
                write_nifti(path, turned, stored.affine, like=like, one=MOST)
            self.report().write(folder, STATISTICS_FILES)
            (folder / "run.json").write_bytes(orjson.dumps(record, option=orjson.OPT_INDENT_2))
        return Path(out) / name

    @property
    def classes(self) -> tuple[ScanClass, ...]:
        """The classes of the labels without the background; colours where the card names any."""
        specs = enumerate(self.model.card.classes)
        return tuple(
            ScanClass(value, spec.name, None if spec.color == UNCOLOURED else spec.color)
            for value, spec in specs
            if value
        )

    def preview(self) -> Pixels:
        """Return a picture: three planes with the classes, legend and scale bar; (y, x, 3)."""
        stored = self.volume
        values = {one.name: one.value for one in self.classes}
        return preview(
            VolumeArray(stored),
            self.labels,
            stored.affine,
            self.classes,
            modality=stored.metadata.modality,
            notes={values[name]: ml_text(ml) for name, ml in self.volumes_ml().items()},
            caption=f"{stored.name}, {self.model.card.title}",
        )

    def plot(self) -> "Figure":
        """Return the preview as a matplotlib figure."""
        from wsiseg.draw import plot_image

        return plot_image(self.preview(), title=self.volume.name, width_inches=10)

    def report(self, *, options: StatisticsOptions | None = None) -> ScanReport:
        """Return figures and pictures of what was found; the scan must still be open."""
        stored = self.volume
        return scan_report(
            VolumeArray(stored),
            self.labels,
            stored.affine,
            self.classes,
            about={"scan": stored.name, "model": self.model.card.title},
            modality=stored.metadata.modality,
            options=options,
        )

    def provenance(self) -> dict[str, Any]:
        """Return where this result comes from: scan, model, options, plan, machine, times."""
        record = scan_record(
            self.scan,
            self.model,
            self.options,
            self.plan,
            self.reports,
            summary=self.summary(),
        )
        colors = class_colors(self.classes)
        told = [{"value": c.value, "name": c.name, "color": colors[c.value]} for c in self.classes]
        found = {**record, "classes": told}
        if self.files.names:
            found["options"]["export"] = {"probabilities": list(self.files.names)}
        if self.focus is not None:
            boxes = [[list(box.start), list(box.stop)] for box in self.focus.boxes]
            found["focus"] = {"boxes": boxes, "settled": self.focus.settled}
        return found

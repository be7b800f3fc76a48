"""The standard report of a segmented scan: JSON, CSV, text, and a page with pictures."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import orjson

from wsiseg.draw.canvas import Pixels, save_png
from wsiseg.errors import unwritable
from wsiseg.files import csv_table, write_whole
from wsiseg.geometry import Affine
from wsiseg.volume.arrays import VoxelArray
from wsiseg.volume.preview import class_colors, lesion_picture, ml_text, preview
from wsiseg.volume.report_page import Picture, report_page
from wsiseg.volume.report_text import report_text
from wsiseg.volume.statistics import (
    ScanClass,
    ScanStatistics,
    StatisticsOptions,
    scan_statistics,
)

__all__ = ["REPORT_FILES", "STATISTICS_FILES", "ScanReport", "scan_report"]

STATISTICS_FILES = ("statistics.json", "statistics.csv", "preview.png")
REPORT_FILES = ("report.html", "report.txt", "report.json", "report.csv")

MOST_PICTURES = 12
"""Classes whose largest lesion is shown."""


@dataclass(frozen=True, eq=False)
class ScanReport:
    """What is in a scan.

    Parameters
    ----------
    statistics
        The figures.
    about
        What else is known, name -> text: scan, model, versions; in the order shown.
    preview
        uint8 (h, w, 3).
    lesions
        Class -> picture of its largest lesion with both axes, uint8 (h, w, 3).
    """

    statistics: ScanStatistics
    about: Mapping[str, str]
    preview: Pixels
    lesions: Mapping[str, Pixels] = field(default_factory=dict)

    def to_json(self) -> bytes:
        """Return everything but pictures; figures that are not defined are null."""
        told = {"about": dict(self.about), **self.statistics.to_dict()}
        return orjson.dumps(told, option=orjson.OPT_INDENT_2 | orjson.OPT_SERIALIZE_NUMPY) + b"\n"

    def to_csv(self) -> bytes:
        """Return a row per class, followed by its lesions."""
        named = {"scan": self.about.get("scan", "")}
        return csv_table([{**named, **row} for row in self.statistics.rows()])

    def to_text(self) -> str:
        """Return the report as plain text."""
        return report_text(self.statistics, self.about)

    def to_html(self) -> str:
        """Return the report as one page that holds its pictures."""
        pictures = [Picture("The planes with most labelled voxels", _png(self.preview))]
        pictures += [
            Picture(f"{name}: long and short axis of the largest part", _png(pixels))
            for name, pixels in self.lesions.items()
        ]
        return report_page(self.statistics, self.about, pictures)

    def write(
        self, folder: Path | str, files: Sequence[str] = (*STATISTICS_FILES, *REPORT_FILES)
    ) -> list[Path]:
        """Write files of `STATISTICS_FILES` and `REPORT_FILES`; each appears when it is whole.

        Raises
        ------
        RunError
            If one cannot be written.
        DiskFullError
            If there is no room left.
        """
        folder = Path(folder)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise unwritable(error, folder) from error
        for name in files:
            if name.endswith(".png"):
                save_png(folder / name, self.preview)
            else:
                write_whole(folder / name, self._content(name.rpartition(".")[2]))
        return [folder / name for name in files]

    def _content(self, ending: str) -> bytes:
        if ending in {"json", "csv"}:
            return self.to_json() if ending == "json" else self.to_csv()
        return (self.to_html() if ending == "html" else self.to_text()).encode()


def scan_report(
    image: VoxelArray,
    labels: VoxelArray,
    affine: Affine,
    classes: Sequence[ScanClass],
    *,
    about: Mapping[str, str] | None = None,
    modality: str | None = None,
    options: StatisticsOptions | None = None,
) -> ScanReport:
    """Measure and draw a segmented scan.

    Parameters
    ----------
    image
        The scan (z, y, x), such as `VolumeArray(volume)`; read around lesions and in some slices.
    labels
        Integers (z, y, x) on the same voxels.
    affine
        Of both.
    classes
        Values, names and colours.
    about
        What the report says of scan and model, such as `{"scan": "a.nii.gz", "model": "..."}`.
    modality
        `CT`, `MR` or `None`, for the grey values shown.
    options
        What is measured.

    Raises
    ------
    UsageError
        If scan and labels do not fit.
    """
    about = about or {}
    statistics = scan_statistics(labels, affine, classes, image=image, options=options)
    colors = class_colors(classes)
    notes = {one.value: ml_text(one.volume_ml) for one in statistics.classes if one.voxels}
    shown = [one for one in statistics.classes if one.lesions][:MOST_PICTURES]
    return ScanReport(
        statistics,
        about,
        preview(
            image,
            labels,
            affine,
            classes,
            modality=modality,
            notes=notes,
            caption=", ".join(value for value in map(about.get, ("scan", "model")) if value),
        ),
        {
            one.name: lesion_picture(
                image,
                labels,
                affine,
                one.lesions[0],
                colors[one.value],
                value=one.value,
                modality=modality,
            )
            for one in shown
        },
    )


def _png(pixels: Pixels) -> bytes:
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, format="PNG", compress_level=6)
    return stream.getvalue()

"""The tissue of many slides, without a model."""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import shapely

from wsiseg.annotations import ImageRef, write_annotations
from wsiseg.draw import overview, save_png
from wsiseg.engine import annotate_tissue, fingerprint, finished_folder, ignore
from wsiseg.options import ExportOptions, FolderOptions, TissueOptions
from wsiseg.result import OVERVIEW_PIXELS
from wsiseg.run.devices import on_cpu
from wsiseg.run.folder import FolderReport, Slides, run_folder
from wsiseg.run.records import settings_of
from wsiseg.run.turns import Row, Turn, Work
from wsiseg.source import Pyramid
from wsiseg.tissue import find_tissue

__all__ = ["tissue_folder"]


def tissue_folder(
    jobs: Slides,
    out: str | Path,
    *,
    options: TissueOptions | None = None,
    folder: FolderOptions | None = None,
    slide_done: Callable[[object], None] = ignore,
) -> FolderReport:
    """Write `tissue.geojson` and `overview.png` of each slide into `out/<slide>/`.

    Results of `segment`, which have both, are refused and stay as they are.
    """
    work = TissueWork(options or TissueOptions())
    return run_folder(
        jobs, Path(out), work, options=folder, devices=on_cpu(folder), slide_done=slide_done
    )


@dataclass(frozen=True)
class TissueWork:
    """Finding the tissue of slides."""

    options: TissueOptions
    command = "tissue"

    def settings(self) -> dict[str, Any]:
        """Return what results are made from."""
        return settings_of(self.command, {"tissue": asdict(self.options)})

    def load(self, device: str = "", processes: int = 1) -> Work:
        """Return what finds the tissue of one slide."""
        return partial(_write_tissue, options=self.options)


def _write_tissue(slide: Pyramid, turn: Turn, *, options: TissueOptions) -> Row:
    """Write `tissue.geojson` and `overview.png` of a slide; return the row of the summary."""
    started = time.perf_counter()
    tissue = find_tissue(slide, options)
    annotations = annotate_tissue(tissue, ImageRef.of(slide), ExportOptions())
    pixels = slide.thumbnail(OVERVIEW_PIXELS)
    scale = pixels.shape[1] / slide.shape[1], pixels.shape[0] / slide.shape[0]
    outlines = shapely.transform(annotations.geometries, lambda points: points * scale)
    row: Row = {
        "slide": slide.name,
        "tissue_mm2": round(tissue.area_mm2, 6),
        "tissue_share": round(tissue.share, 6),
        "pieces": len(annotations),
    }
    with finished_folder(
        turn.ground.out,
        turn.job.output,
        kind="tissue",
        slide=fingerprint(slide.path) if slide.path else None,
        publishing=turn.publishing(row),
    ) as folder:
        write_annotations(folder, annotations, name="tissue")
        save_png(
            folder / "overview.png",
            overview(pixels, slide.spacing.um[1] / scale[0], tissue=outlines),
        )
        row["seconds"] = round(time.perf_counter() - started, 2)
    return row

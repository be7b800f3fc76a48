"""Tissue of one slide, written."""

import time

import shapely

from wsiseg.annotations import ImageRef, write_annotations
from wsiseg.draw import overview, save_png
from wsiseg.engine import annotate_tissue, fingerprint, finished_folder
from wsiseg.options import ExportOptions, TissueOptions
from wsiseg.result import OVERVIEW_PIXELS
from wsiseg.run.turns import Row, Turn
from wsiseg.source import Pyramid
from wsiseg.tissue import find_tissue

__all__ = ["write_tissue"]


def write_tissue(slide: Pyramid, turn: Turn, *, options: TissueOptions) -> Row:
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

"""What a segmentation gives: arrays and annotations in memory, and the files people open."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson
import shapely
from numpy.typing import NDArray

from wsiseg.annotations import Annotations, Polygons, write_annotations
from wsiseg.annotations.chunks import in_shapely
from wsiseg.draw import DrawnClass, overview, save_png
from wsiseg.engine import (
    Damage,
    Plan,
    Publishing,
    StageReport,
    fingerprint,
    finished_folder,
    link_tree,
    run_record,
    summary_head,
)
from wsiseg.engine.annotate import AREA, NUCLEUS_AREA
from wsiseg.geometry import Box, ceil_div
from wsiseg.machine import beside, release_memory
from wsiseg.model import Model
from wsiseg.options import SegmentOptions
from wsiseg.resample import area, target_shape
from wsiseg.source import Pyramid
from wsiseg.stitch import HeatmapStore, LabelStore
from wsiseg.tissue import TissueMask

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["OVERVIEW_PIXELS", "Result", "overview_pixels"]

OVERVIEW_PIXELS = 1280
"""Longest side of `overview.png`."""

NOTEBOOK_PIXELS = 480

DRAWN_BESIDE = 5_000
"""Up to so many objects the overview is drawn while they are written. The memory of the two adds up
(20,000 objects with holes: 55 MB and 30 MB), and of more than these a second does not count."""

PICTURE_TOLERANCE = 0.25
"""Pixels of a picture that outlines may be off: most of their vertices lie within one pixel."""


@dataclass(frozen=True, repr=False)
class Result:
    """The segmentation of one slide."""

    slide: Pyramid
    model: Model
    options: SegmentOptions
    plan: Plan
    tissue: TissueMask
    tissue_annotations: Annotations
    """Pieces of tissue, level-0 pixels."""

    heatmaps: Mapping[str, HeatmapStore]
    """By output name of the card's stages, in their order."""

    labels: LabelStore
    """The mask: 0 background or nodata, k is class k of the card."""

    annotations: Annotations
    """Objects of the mask, level-0 pixels."""

    reports: tuple[StageReport, ...]
    seconds: float
    uncertainty: Mapping[str, HeatmapStore] = field(default_factory=dict)
    """Layers asked for, by name: one channel, 0 to 1, on the grid of the heatmap."""

    damage: Damage = field(default_factory=Damage)
    """Blocks of the slide that could not be decoded, and the tissue they lie on."""

    corrupt: Annotations | None = None
    """Where that leaves no result, level-0 pixels; `None` where the slide is whole."""

    @property
    def heatmap(self) -> HeatmapStore:
        """Probabilities of the last stage."""
        return list(self.heatmaps.values())[-1]

    def __repr__(self) -> str:
        return (
            f"<Result {self.slide.name}: {len(self.annotations)} objects, "
            f"{self.tissue.area_mm2:.3g} mm² of tissue, {self.model.card.name}>"
        )

    def _repr_html_(self) -> str:
        from wsiseg.draw.notebook import data_image, panel, text_table

        rows = [(name, value) for name, value in self.summary().items() if name != "slide"]
        picture = data_image(self.overview(NOTEBOOK_PIXELS), f"Overview of {self.slide.name}")
        return panel(self.slide.name, "", text_table(rows, words=True), picture=picture)

    def summary(self) -> dict[str, Any]:
        """Return one row of `summary.csv`: areas in mm², counts and seconds."""
        row = summary_head(self.slide, self.model, self.tissue)
        row["objects"] = len(self.annotations)
        for known, area_mm2 in zip(self.annotations.classes, self._class_areas(), strict=True):
            name = f"{known.name}_mm2"
            row[name if name not in row else f"class {name}"] = round(area_mm2, 6)
        for name, mean in (self.reports[-1].uncertainty or {}).items():
            row[f"mean_{name}"] = None if mean is None else round(mean, 6)
        row["tiles"] = sum(report.tiles for report in self.reports)
        row |= self.damage.summary()
        if self.model.windows is not None:
            row["windows_px"] = "; ".join(
                f"{stage.stage} {' x '.join(map(str, stage.patch))}"
                for s, stage in enumerate(self.plan.stages)
                if len(self.model.patches(s)) > 1
            )
        row["seconds"] = round(self.seconds, 2)
        return row

    def _class_areas(self) -> list[float]:
        """Return the area of each class of the annotations in mm²."""
        measured, classes = self.annotations.measurements, self.annotations.classes
        areas = np.bincount(self.annotations.class_index, measured[AREA], len(classes))
        spec = self.model.card.instances
        if NUCLEUS_AREA in measured and spec is not None:  # they lie within their cells
            names = [known.name for known in classes]
            areas[names.index(str(spec.nucleus))] += np.nansum(measured[NUCLEUS_AREA])
        return [float(a) for a in areas]

    def overview(self, size: int = OVERVIEW_PIXELS) -> NDArray[np.uint8]:
        """Return a picture: slide, tissue outline, classes, legend and scale bar; (y, x, 3)."""
        pixels = overview_pixels(self.slide, self.tissue, size)
        scale = pixels.shape[1] / self.slide.shape[1], pixels.shape[0] / self.slide.shape[0]
        areas = zip(self.annotations.classes, self._class_areas(), strict=True)
        drawn = [
            DrawnClass(
                known.name,
                known.color,
                _scaled(self.annotations, index, scale),
                note=f"{area_mm2:.3g} mm²",
            )
            for index, (known, area_mm2) in enumerate(areas)
        ]
        if self.corrupt is not None and len(self.corrupt):
            lost = _scaled(self.corrupt, 0, scale)
            drawn.append(DrawnClass("Corrupt", self.corrupt.classes[0].color, lost))
        um = self.slide.spacing.um[1] / scale[0]
        return overview(
            pixels,
            um,
            tissue=_scaled(self.tissue_annotations, 0, scale),
            classes=drawn,
            tissue_note=f"{self.tissue.area_mm2:.3g} mm²",
            caption=f"{self.slide.name}, {self.model.card.title}",
        )

    def plot(self, size: int = OVERVIEW_PIXELS) -> "Figure":
        """Return the overview as a matplotlib figure."""
        from wsiseg.draw import plot_image

        return plot_image(self.overview(size), title=self.slide.name)

    def write(
        self,
        out: str | Path,
        *,
        name: str | None = None,
        publishing: Publishing = Publishing(),  # noqa: B008 - frozen
    ) -> Path:
        """Write the files of this slide to `out/<name>/` and return that folder.

        `annotations.geojson`, `tissue.geojson`, `heatmap.zarr`, `mask.zarr`, heatmaps of earlier
        stages, layers of uncertainty, `overview.png` and `run.json`; of a damaged slide also
        `corrupt.json`. The folder appears when everything in it is there; results of an earlier run
        are replaced; what else is in it stays.

        Raises
        ------
        RunError
            If the folder cannot be written, or holds something else.
        DiskFullError
            If there is no room left.
        """
        with finished_folder(
            Path(out), name or self.slide.stem, slide=self.fingerprint(), publishing=publishing
        ) as folder:
            heatmaps = (*self.heatmaps.values(), *self.uncertainty.values())
            paths = [*(store.path for store in heatmaps), self.labels.path]
            for path in paths:
                link_tree(path, folder / path.name)
            few = len(self.annotations) <= DRAWN_BESIDE
            with beside(lambda: self._draw(folder)) if few else nullcontext():
                self._write_annotations(folder)
                (folder / "run.json").write_bytes(_json(self.provenance()))
            if not few:
                release_memory()
                self._draw(folder)
            if self.damage.blocks:
                (folder / "corrupt.json").write_bytes(_json(self.damage.record()))
        return Path(out) / (name or self.slide.stem)

    def _draw(self, folder: Path) -> None:
        save_png(folder / "overview.png", self.overview())

    def _write_annotations(self, folder: Path) -> None:
        export = self.options.export
        for stem, annotations in (
            ("annotations", self._with_corrupt()),
            ("tissue", [self.tissue_annotations]),
        ):
            write_annotations(
                folder,
                annotations,
                name=stem,
                frame=export.frame,
                compress=export.compress,
                extra=self._origin(stem),
            )

    def _with_corrupt(self) -> list[Annotations]:
        """Return the objects and, after them, the places `Corrupt`, for whoever opens the file."""
        places = self.corrupt
        return [self.annotations] + ([places] if places is not None and len(places) else [])

    def _origin(self, stem: str) -> dict[str, str]:
        """Return what the collection says of the model whose objects these are."""
        if stem == "tissue":
            return {}
        intended = self.model.card.provenance.intended_use
        return {"model": self.model.card.title, "intended_use": intended}

    def fingerprint(self) -> str | None:
        """Return the hash that tells this slide from others; `None` for arrays and URLs."""
        return fingerprint(self.slide.path) if self.slide.path else None

    def provenance(self) -> dict[str, Any]:
        """Return where this result comes from: slide, model, options, spacing, machine, times."""
        run = (self.slide, self.model, self.options, self.plan, self.reports)
        damage = {"damage": self.damage.counts()} if self.damage.blocks else {}
        return run_record(*run, summary=self.summary()) | damage


def _json(record: dict[str, Any]) -> bytes:
    return orjson.dumps(record, option=orjson.OPT_INDENT_2)


class _Drawn:
    """Polygons in pixels of a picture, in columns; shapely objects of a part while it is drawn."""

    def __init__(self, parts: Sequence[Polygons]) -> None:
        self._parts = parts

    def __iter__(self) -> Iterator[Any]:
        for part in self._parts:
            yield from part.to_shapely()


def _scaled(annotations: Annotations, index: int, scale: tuple[float, float]) -> _Drawn:
    """Return the polygons of one class in pixels of a picture; `scale` is (x, y)."""
    parts = []
    for chunk, shapes in in_shapely(annotations.outlines):
        own = shapes[annotations.class_index[chunk] == index]
        exact = shapely.transform(own, lambda points: points * scale)
        plain = shapely.simplify(exact, PICTURE_TOLERANCE, preserve_topology=False)
        parts.append(Polygons.of(np.where(shapely.is_empty(plain), exact, plain)))
    return _Drawn(parts)


def overview_pixels(
    slide: Pyramid, tissue: TissueMask, size: int = OVERVIEW_PIXELS
) -> NDArray[np.uint8]:
    """Return the slide for an overview, from what the tissue detector saw where that does.

    It does where it is at least half as large. Else a level that is, or one reduced by a whole
    number, serves: averages over parts of pixels take five times as long.
    """
    seen = tissue.picture
    if seen is None or size > 2 * max(seen.shape):
        sides = [max(level.shape) for level in slide.levels]
        reduced = (ceil_div(n, ceil_div(n, size)) for n in sides)
        return slide.thumbnail(max((n for n in reduced if 2 * n >= size), default=size))
    ratio = (max(1.0, max(seen.shape) / size),) * 2
    whole = Box.of_shape(seen.shape[:2])
    return area(seen, whole, Box.of_shape(target_shape(whole.shape, ratio)), ratio, whole.shape)

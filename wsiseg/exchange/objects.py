"""The objects of a result as an export wants them: their kind, fewer of them, fewer vertices."""

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from wsiseg.annotations import AnnotationClass, Annotations, Polygons
from wsiseg.annotations.base import UNCLASSIFIED, ObjectType
from wsiseg.annotations.columns import usual_color
from wsiseg.annotations.measure import AREA, area_mm2, area_um2
from wsiseg.annotations.peaks import find_peaks
from wsiseg.annotations.simplify import simplify
from wsiseg.exchange.finished import FinishedResult
from wsiseg.exchange.request import ExportRequest
from wsiseg.exchange.tiles import BACKGROUND, HeatmapTiles, likeliest
from wsiseg.stitch import ChunkRows, HeatmapStore
from wsiseg.stitch.reduce import STEPS

__all__ = ["heatmap_peaks", "heatmap_tiles", "rectangles", "result_objects", "shaped"]

TYPES: dict[str, ObjectType] = {
    "annotations": "annotation",
    "detections": "detection",
    "cells": "cell",
    "points": "detection",
    "tiles": "tile",
    "peaks": "detection",
}
ROUNDS = 40
"""Doublings of the tolerance until an outline has few enough vertices."""

PEAK_DEPTH = 0.1
"""Probability by which the way between two peaks leads down."""

PEAK_PIXELS = 1 << 22
"""Heatmap pixels looked at once for peaks."""


def result_objects(
    result: FinishedResult, request: ExportRequest, notes: Counter[str]
) -> Iterator[Annotations]:
    """Yield the objects of a result, as many at a time as a file of it holds.

    With a tolerance all areas come at once, since those that touch are simplified together.
    """
    if request.kind in ("tiles", "peaks"):
        made = heatmap_tiles if request.kind == "tiles" else heatmap_peaks
        yield from made(result, request)
        return
    groups: Iterator[Annotations] = result.objects()
    if request.simplify_um:
        groups = iter(_united(list(groups)))
    numbers: Counter[str] = Counter()
    for group in groups:
        shown = group if group.are_points else shaped(group, request, notes)
        yield _as_kind(shown, request, numbers)


def shaped(annotations: Annotations, request: ExportRequest, notes: Counter[str]) -> Annotations:
    """Return the areas that are large enough, with as many vertices as asked for."""
    if not (request.min_area_um2 or request.simplify_um or request.max_vertices):
        return annotations
    pixel = annotations.image.spacing.um
    if request.min_area_um2:
        large = area_um2(annotations.geometries, pixel=pixel) >= request.min_area_um2
        notes["smaller than asked for"] += int(np.count_nonzero(~large))
        annotations = annotations.take(np.flatnonzero(large))
    before = annotations.geometries
    after = _simplified(before, request.simplify_um, pixel)
    if request.max_vertices:
        after = _with_few_vertices(after, request.max_vertices, notes)
    if after is before:
        return annotations
    measurements = dict(annotations.measurements)
    if AREA in measurements:
        measurements[AREA] = area_mm2(after, pixel=pixel)
    return replace(annotations, geometries=after, measurements=measurements)


def heatmap_tiles(result: FinishedResult, request: ExportRequest) -> Iterator[Annotations]:
    """Yield the tiles of a heatmap, a band of rows at a time, with a measurement per class.

    A tile has the class that is likeliest, and none where that is background.
    """
    image = result.image
    store = result.heatmap(request.heatmap)
    tiles = HeatmapTiles(store, image.shape, request.tile_um)
    background, colors = _mask_colors(result)
    names = [name for name in tiles.channels if name != background]
    classes = tuple(
        AnnotationClass(name, colors.get(name, usual_color(name, i)))
        for i, name in enumerate(names)
    )
    index_of = [names.index(n) if n in names else UNCLASSIFIED for n in tiles.channels]
    index_or_none = np.array([*index_of, UNCLASSIFIED])  # -1 is the last
    has_background = background in tiles.channels
    some = False
    for table in tiles:
        some = True
        best = likeliest(table.probabilities, has_background=has_background)
        columns = zip(tiles.channels, table.probabilities.T, strict=True)
        yield Annotations(
            rectangles(table.boxes),
            index_or_none[best],
            classes,
            image,
            {f"prob_{name}": np.round(column, 4) for name, column in columns},
            object_type="tile",
            is_locked=request.locked,
        )
    if not some:
        nothing = rectangles(np.empty((0, 4)))
        yield Annotations(nothing, np.empty(0, np.int64), classes, image, object_type="tile")


def heatmap_peaks(result: FinishedResult, request: ExportRequest) -> Iterator[Annotations]:
    """Yield the peaks of each class of a heatmap but the background, as points."""
    store = result.heatmap(request.heatmap)
    background, colors = _mask_colors(result)
    step = max(16, PEAK_PIXELS // store.shape[1])
    for i, name in enumerate(store.channels):
        if name == background:
            continue
        peaks = find_peaks(
            _Channel(store, i),
            least=1 + math.ceil(STEPS * request.least_peak),
            depth=round(STEPS * PEAK_DEPTH),
            block=step,
        )
        place = peaks.places * store.downsample + store.placement.origin
        yield Annotations(
            shapely.points(np.minimum(place, result.image.shape)[:, ::-1]),
            np.zeros(len(place), np.int64),
            (AnnotationClass(name, colors.get(name, usual_color(name, i))),),
            result.image,
            {f"prob_{name}": np.round((peaks.codes - 1) / STEPS, 4)},
            object_type="detection",
            is_locked=request.locked,
        )


class _Channel:
    """One channel of a heatmap, read in rows."""

    def __init__(self, store: HeatmapStore, channel: int) -> None:
        self._codes = ChunkRows(store.codes)
        self._channel = channel
        self.shape = self._codes.shape

    def __getitem__(self, rows: slice) -> NDArray[np.uint8]:
        return np.asarray(self._codes[rows][self._channel])


def _mask_colors(result: FinishedResult) -> tuple[str, dict[str, tuple[int, int, int]]]:
    """Return what background is called, and the colours of the classes."""
    if not (result.folder / "mask.zarr").is_dir():
        return BACKGROUND, {}
    background, *classes = result.mask_classes()
    return background.name, {item.name: item.color for item in classes}


def rectangles(boxes: NDArray[np.float64]) -> Polygons:
    """Return boxes (n, 4), x0, y0, x1, y1, as polygons."""
    corners = boxes[:, [0, 1, 2, 1, 2, 3, 0, 3, 0, 1]].reshape(-1, 2)
    return Polygons.of_outlines(corners, np.arange(0, len(corners) + 1, 5, dtype=np.int64))


def _united(groups: list[Annotations]) -> list[Annotations]:
    """Return areas of one type as one `Annotations`; points come last, as they are."""
    areas = [group for group in groups if not group.are_points]
    rest = [group for group in groups if group.are_points]
    united: dict[tuple[Any, ...], list[Annotations]] = {}
    for group in areas:
        united.setdefault((group.object_type, group.is_locked, group.frame), []).append(group)
    return [*(_concatenated(several) for several in united.values()), *rest]


def _concatenated(several: list[Annotations]) -> Annotations:
    """Return the objects of some `Annotations` of one image, frame and type."""
    first, *others = several
    if not others:
        return first
    colors: dict[str, AnnotationClass] = {}
    for group in several:
        for item in group.classes:
            colors.setdefault(item.name, item)
    classes = tuple(colors.values())
    place = {item.name: i for i, item in enumerate(classes)}
    index = [
        np.array([*(place[item.name] for item in group.classes), UNCLASSIFIED])[group.class_index]
        for group in several
    ]
    names = dict.fromkeys(name for group in several for name in group.measurements)
    return replace(
        first,
        geometries=np.concatenate([group.geometries for group in several]),
        class_index=np.concatenate(index).astype(np.int64),
        classes=classes,
        measurements={
            name: np.concatenate(
                [g.measurements.get(name, np.full(len(g), np.nan)) for g in several]
            )
            for name in names
        },
        ids=_column(several, "ids", b"", "S36"),
        names=_column(several, "names", None, object),
        nuclei=_column(several, "nuclei", None, object),
    )


def _column(several: list[Annotations], name: str, missing: object, dtype: Any) -> Any:  # noqa: ANN401
    columns = [getattr(group, name) for group in several]
    if all(column is None for column in columns):
        return None
    return np.concatenate(
        [
            np.full(len(group), missing, dtype) if column is None else column
            for group, column in zip(several, columns, strict=True)
        ]
    )


def _as_kind(
    annotations: Annotations, request: ExportRequest, numbers: Counter[str]
) -> Annotations:
    names = annotations.names
    if request.named:
        names = _numbered(annotations, numbers)
    geometries: Any = annotations.outlines
    if request.kind == "points" and not annotations.are_points:
        geometries = shapely.point_on_surface(annotations.geometries)
    return replace(
        annotations,
        geometries=geometries,
        object_type=TYPES.get(request.kind, annotations.object_type),
        names=names,
        is_locked=request.locked or annotations.is_locked,
    )


def _numbered(annotations: Annotations, numbers: Counter[str]) -> NDArray[np.object_]:
    """Return names such as `Tumor 1`, those that are there kept."""
    names = np.empty(len(annotations), object)
    if annotations.names is not None:
        names[:] = annotations.names
    classes = [*(item.name for item in annotations.classes), "Object"]
    for row, index in enumerate(annotations.class_index.tolist()):
        if names[row] is None:
            numbers[classes[index]] += 1
            names[row] = f"{classes[index]} {numbers[classes[index]]}"
    return names


def _simplified(
    geometries: NDArray[np.object_], tolerance_um: float, pixel: tuple[float, ...]
) -> NDArray[np.object_]:
    """Return simplified outlines; those of several parts stay together."""
    if not tolerance_um:
        return geometries
    parts, owner = shapely.get_parts(geometries, return_index=True)
    simple = simplify(parts, tolerance_um, pixel=pixel)
    if len(parts) == len(geometries):
        return simple
    result: NDArray[np.object_] = shapely.multipolygons(simple, indices=owner)
    return result


def _with_few_vertices(
    geometries: NDArray[np.object_],
    most: int,
    notes: Counter[str],
) -> NDArray[np.object_]:
    """Return outlines of at most so many vertices, as far as their parts and holes allow it."""
    many = np.flatnonzero(shapely.get_num_coordinates(geometries) > most)
    if not len(many):
        return geometries
    result = geometries.copy()
    notes["simplified to have fewer vertices"] += len(many)
    tolerance = 0.5
    for _ in range(ROUNDS):
        simple = shapely.simplify(geometries[many], tolerance, preserve_topology=True)
        usable = shapely.is_valid(simple) & (shapely.area(simple) > 0)
        result[many[usable]] = simple[usable]
        many = many[~usable | (shapely.get_num_coordinates(simple) > most)]
        if not len(many):
            return result
        tolerance *= 2
    notes["with more vertices than asked for: many holes or parts"] += len(many)
    return result

"""The objects as COCO JSON, written one by one."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import shapely

from wsiseg.annotations import AnnotationClass, Annotations
from wsiseg.annotations.prepared import prepared_polygons
from wsiseg.errors import UsageError
from wsiseg.exchange._writing import whole_file
from wsiseg.exchange.finished import FinishedResult
from wsiseg.exchange.objects import result_objects
from wsiseg.exchange.pieces import without_holes
from wsiseg.exchange.request import ExportReport, ExportRequest

__all__ = ["to_coco"]


def to_coco(result: FinishedResult, out: Path, request: ExportRequest) -> ExportReport:
    """Write `<name>.coco.json`: one image, the slide, in level-0 pixels.

    `segmentation` has polygons, whose union is the object: COCO knows no holes, so outlines with
    holes are cut apart. `area` and `bbox` are those of the object, `attributes` its measurements
    and its id in GeoJSON.

    Raises
    ------
    UsageError
        If points are asked for.
    RunError
        If the file is there and not to be overwritten.
    AnnotationError
        If the annotations cannot be read.
    DiskFullError
        If there is no room left.
    """
    if request.kind == "points":
        raise UsageError("COCO: needed areas, found points; leave --as out")
    path = out / f"{result.name}.coco.json"
    notes: Counter[str] = Counter()
    count = 0
    with whole_file(path, overwrite=request.overwrite) as part, part.open("wb") as file:
        categories = _Categories()
        if (result.folder / "mask.zarr").is_dir():  # the same numbers for all slides of a model
            categories.add(result.mask_classes()[1:])
        file.write(b'{"info":%b,"images":[%b],"annotations":[' % _head(result))
        for entry in _entries(result, request, notes, categories):
            file.write((b",\n" if count else b"\n") + orjson.dumps({"id": count + 1, **entry}))
            count += 1
        file.write(b'\n],"categories":%b}\n' % orjson.dumps(categories.entries()))
    return ExportReport((path,), count, dict(notes))


class _Categories:
    """Classes and their numbers, from 1."""

    def __init__(self) -> None:
        self._known: dict[str, AnnotationClass] = {}
        self._numbers: dict[str, int] = {}

    def add(self, classes: tuple[AnnotationClass, ...]) -> list[int]:
        """Return the numbers of classes; the last is that of objects without one."""
        for item in classes:
            self._number(item)
        return [self._numbers[item.name] for item in classes]

    def number_without_class(self) -> int:
        return self._number(AnnotationClass("Unclassified", (128, 128, 128)))

    def entries(self) -> list[dict[str, Any]]:
        return [
            {"id": self._numbers[item.name], "name": item.name, "color": list(item.color)}
            for item in self._known.values()
        ]

    def _number(self, item: AnnotationClass) -> int:
        self._known.setdefault(item.name, item)
        return self._numbers.setdefault(item.name, len(self._numbers) + 1)


def _head(result: FinishedResult) -> tuple[bytes, bytes]:
    image = result.image
    height, width = image.shape
    about = {"description": f"wsiseg: {result.name}", "mpp": list(image.spacing.um[::-1])}
    slide = {"id": 1, "file_name": image.name, "width": width, "height": height}
    return orjson.dumps(about), orjson.dumps(slide)


def _entries(
    result: FinishedResult,
    request: ExportRequest,
    notes: Counter[str],
    categories: _Categories,
) -> Iterator[dict[str, Any]]:
    for group in result_objects(result, request, notes):
        if group.are_points:
            notes["points, which COCO has no place for"] += len(group)
            continue
        yield from _of_group(group, categories, notes)


def _of_group(
    group: Annotations, categories: _Categories, notes: Counter[str]
) -> Iterator[dict[str, Any]]:
    numbers = categories.add(group.classes)
    for prepared in prepared_polygons(group, "level0", notes):
        bounds = shapely.bounds(prepared.geometries)
        areas = shapely.area(prepared.geometries)
        for i, row in enumerate(prepared.rows.tolist()):
            index = int(group.class_index[row])
            x0, y0, x1, y1 = bounds[i].tolist()
            yield {
                "image_id": 1,
                "category_id": (
                    numbers[index] if index >= 0 else categories.number_without_class()
                ),
                "iscrowd": 0,
                "area": round(float(areas[i]), 4),
                "bbox": [x0, y0, round(x1 - x0, 2), round(y1 - y0, 2)],
                "segmentation": [
                    np.round(shapely.get_coordinates(piece), 4).ravel().tolist()
                    for piece in without_holes(prepared.geometries[i])
                ],
                "attributes": {
                    "uuid": prepared.ids[i].decode(),
                    **{
                        name: float(values[row])
                        for name, values in group.measurements.items()
                        if np.isfinite(values[row])
                    },
                },
            }

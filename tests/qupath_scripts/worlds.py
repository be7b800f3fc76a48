"""Slides, results and projects for the tests, as wsiseg writes them and QuPath shows them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import shapely

from wsiseg.annotations import Annotations, write_annotations
from wsiseg.annotations.base import AnnotationClass, ImageRef
from wsiseg.geometry import Box, Spacing

TUMOR = AnnotationClass("Tumor", (200, 0, 0))
STROMA = AnnotationClass("Stroma", (150, 200, 150))


def square(x: float, y: float, side: float = 100) -> shapely.Polygon:
    return shapely.box(x, y, x + side, y + side)


def annotations(
    name: str,
    shapes: Sequence[shapely.Polygon],
    *,
    size: tuple[int, int] = (2220, 2967),
    kind: str = "annotation",
    classes: Sequence[int] | None = None,
    probability: float = 0.75,
    bounds: Box | None = None,
    vendor: str = "aperio",
) -> Annotations:
    """Return annotations in level-0 pixels of a slide of `size` (width, height)."""
    image = ImageRef(name, size[::-1], Spacing((0.5, 0.5)), vendor, bounds)
    geometries = np.empty(len(shapes), object)
    geometries[:] = list(shapes)
    return Annotations(
        geometries,
        np.array(classes or [0] * len(shapes), np.int64),
        (TUMOR, STROMA),
        image,
        {"wsiseg: Mean probability": np.full(len(shapes), probability)},
        object_type=kind,
    )


def result(out: Path, name: str, shapes: Sequence[shapely.Polygon], **options: Any) -> Path:
    """Write a result of a slide into `out/<stem>`, and return that folder."""
    folder = out / options.pop("folder", Path(name).stem)
    writing = {key: options.pop(key) for key in ("frame", "compress", "limits") if key in options}
    stem = options.pop("stem", "annotations")
    extra = {"model": options.pop("model", "breast-tumour-demo 1.0.0")}
    write_annotations(
        folder, annotations(name, shapes, **options), name=stem, extra=extra, **writing
    )
    return folder


def image(name: str, folder: str = "/slides", **told: Any) -> dict[str, Any]:
    """Return an image of QuPath."""
    uri = (Path(folder) / told.pop("file", name)).as_uri()
    return {"name": name, "uri": uri, "width": 2220, "height": 2967, "mpp": [0.5, 0.5], **told}


def feature(kind: str, shape: shapely.Geometry, name: str | None, id: str) -> dict[str, Any]:
    """Return an object that somebody drew in QuPath."""
    drawn: dict[str, Any] = {
        "type": "Feature",
        "id": id,
        "geometry": shapely.geometry.mapping(shape),
    }
    drawn["properties"] = {"objectType": kind}
    if name is not None:
        drawn["properties"]["classification"] = {"name": name, "color": [1, 2, 3]}
    return drawn

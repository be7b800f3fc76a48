"""Slides, views and files made by hand for the tests of labels."""

import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import shapely

import wsiseg
from wsiseg.geometry import Box
from wsiseg.source import Pyramid

SQUARE = [[10, 10], [40, 10], [40, 30], [10, 30], [10, 10]]
BOUNDS = Box((100, 200), (300, 500))


def slide(height=100, width=120, mpp=0.5) -> Pyramid:
    return wsiseg.open(np.zeros((height, width, 3), np.uint8), mpp=mpp)


def cropped_slide() -> Pyramid:
    """A slide of which QuPath shows the bounds box alone."""
    whole = slide(400, 600)
    whole.metadata = replace(whole.metadata, vendor="mirax", bounds=BOUNDS)
    return whole


@dataclass(frozen=True)
class Pixels:
    """A grid of any downsample over a slide."""

    shape: tuple[int, int]
    downsample: tuple[float, float]


def pixels_over(size, downsample) -> Pixels:
    shape = tuple(int(np.ceil(n / d - 1e-9)) for n, d in zip(size, downsample, strict=True))
    return Pixels(shape, tuple(downsample))


def read_all(labels, view) -> np.ndarray:
    return labels.at(view).read(Box.of_shape(view.shape))


def feature(coordinates=None, name="tumour", kind="Polygon", **more) -> dict:
    properties = {} if name is None else {"classification": {"name": name, "color": [1, 2, 3]}}
    geometry = {"type": kind, "coordinates": [SQUARE] if coordinates is None else coordinates}
    return {"type": "Feature", "geometry": geometry | more, "properties": properties}


def of_shape(geometry, name="tumour") -> dict:
    mapped = json.loads(shapely.to_geojson(geometry))
    return feature(mapped["coordinates"], name, mapped["type"])


def write(path: Path, *features, **members) -> Path:
    collection = {"type": "FeatureCollection", "features": list(features)} | members
    path.write_text(json.dumps(collection), encoding="utf-8")
    return path


def box_feature(x0, y0, x1, y1, name="tumour") -> dict:
    return of_shape(shapely.box(x0, y0, x1, y1), name)

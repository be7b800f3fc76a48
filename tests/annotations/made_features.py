"""Features made by hand for the tests of the verifier."""

import json
from pathlib import Path
from typing import Any

from wsiseg.annotations import verify_geojson

ID = "6f0d9d0e-6b0a-5b7e-9a55-1f0c5a1e0001"
SQUARE = [[0, 0], [10, 0], [10, 10], [0, 10], [0, 0]]


def polygon(*rings) -> dict:
    return {"type": "Polygon", "coordinates": list(rings) or [SQUARE]}


def multipolygon(*parts) -> dict:
    return {"type": "MultiPolygon", "coordinates": list(parts)}


def moved(ring, x, y) -> list:
    return [[a + x, b + y] for a, b in ring]


def feature(geometry=None, *, name=ID, **properties) -> dict:
    return {
        "type": "Feature",
        "id": name,
        "geometry": geometry or polygon(),
        "properties": {"objectType": "annotation"} | properties,
    }


def classified(value: Any) -> dict:
    return feature(classification=value)


def measured(values: Any) -> dict:
    return feature(measurements=values)


def without(key: str) -> dict:
    return {k: v for k, v in feature().items() if k != key}


def collection(*features, **members) -> dict:
    return {"type": "FeatureCollection", **members, "features": list(features)}


def verify(tmp_path: Path, value: Any, name: str = "a.geojson"):
    path = tmp_path / name
    path.write_text(value if isinstance(value, str) else json.dumps(value), encoding="utf-8")
    return verify_geojson(path)

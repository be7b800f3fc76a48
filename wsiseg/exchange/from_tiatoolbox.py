"""Annotation stores of TIAToolbox: SQLite and JSON, read as data; nothing in them is run."""

import contextlib
import math
import sqlite3
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import shapely
from shapely.errors import ShapelyError

from wsiseg.annotations import ImageRef
from wsiseg.annotations.columns import Columns, Found, FoundObjects, clean_name
from wsiseg.annotations.drawing import closed
from wsiseg.errors import AnnotationError
from wsiseg.exchange.from_drawing import parts_of

__all__ = ["SQLITE", "from_tiatoolbox", "looks_like_tiatoolbox"]

SQLITE = b"SQLite format 3\0"
LARGEST = 1 << 28
"""Bytes one outline may have, unpacked."""

CLASS_KEYS = ("type", "class", "label", "classification")
LEAST_VERTICES = 3
QUERY = "SELECT key, cx, cy, geometry, properties FROM annotations ORDER BY id"


def from_tiatoolbox(path: Path, content: bytes | None, image: ImageRef) -> FoundObjects:
    """Read a `.db` of `SQLiteStore`, or JSON: GeoJSON of a store, or nuclei of HoVer-Net.

    Coordinates are in pixels of the whole level 0, as TIAToolbox's engines save them by default.
    An object's class is its property `type` (else `class` or `label`); numbers among its properties
    become measurements.

    Parameters
    ----------
    path
        The file.
    content
        The JSON text; `None` for a database.
    image
        The slide.

    Raises
    ------
    AnnotationError
        If the file cannot be read, or an outline or property in it.
    """
    columns = Columns()
    for where, geometry, properties, key in _rows(path, content):
        found = _found(properties, key)
        if isinstance(geometry, list):  # the contour of a nucleus
            xy = np.array(geometry, np.float64).reshape(-1, 2)
            if len(xy) < LEAST_VERTICES:
                columns.left_out["outlines without area"] += 1
            else:
                columns.add_area(found, [[closed(xy)]])
        elif geometry.geom_type in {"Polygon", "MultiPolygon"}:
            columns.add_area(found, parts_of(geometry))
        elif geometry.geom_type in {"Point", "MultiPoint"}:
            columns.add_points(found, shapely.get_coordinates(geometry))
        elif geometry.geom_type in {"LineString", "MultiLineString"}:
            columns.left_out["lines"] += 1
        else:
            raise AnnotationError(
                f"{where}: needed a polygon or points, found {geometry.geom_type}"
            )
    return columns.finish(image, "level0")


def looks_like_tiatoolbox(value: object) -> bool:
    """Return whether a JSON value holds nuclei, or Features with a class as a bare property."""
    if not isinstance(value, Mapping):
        return False
    if value.get("type") == "FeatureCollection":
        features = value.get("features")
        first = features[0] if isinstance(features, list) and features else None
        properties = first.get("properties") if isinstance(first, Mapping) else None
        if not isinstance(properties, Mapping) or "objectType" in properties:
            return False
        return any(
            isinstance(properties.get(key), str | int) and not isinstance(properties[key], bool)
            for key in CLASS_KEYS[:-1]
        )
    return _nuclei(value) is not None


def _nuclei(value: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return nuclei by their key, as HoVer-Net's JSON has them."""
    nuclei = value.get("nuc", value)
    if not isinstance(nuclei, Mapping) or not nuclei:
        return None
    first = next(iter(nuclei.values()))
    return nuclei if isinstance(first, Mapping) and "contour" in first else None


def _rows(path: Path, content: bytes | None) -> Iterator[tuple[str, Any, Mapping[str, Any], str]]:
    """Yield where it is, outline, properties and key of each object."""
    if content is None:
        yield from _database_rows(path)
        return
    try:
        value = orjson.loads(content)
    except orjson.JSONDecodeError as error:
        raise AnnotationError(f"{path}: not JSON: {error}; export it anew") from error
    if not looks_like_tiatoolbox(value):
        raise AnnotationError(f"{path}: needed GeoJSON of a store, or nuclei with a contour")
    nuclei = _nuclei(value)
    if nuclei is not None:
        for key, nucleus in nuclei.items():
            yield f"{path}: nucleus {key}", nucleus["contour"], nucleus, key
        return
    for number, feature in enumerate(value["features"]):
        where = f"{path}: feature {number}"
        try:
            geometry = shapely.geometry.shape(feature["geometry"])
            properties = feature.get("properties") or {}
        except (ShapelyError, KeyError, TypeError, ValueError, AttributeError) as error:
            raise AnnotationError(f"{where}: cannot be read: {error!r}; remove it") from error
        yield where, geometry, properties, str(feature.get("id", feature.get("key", "")))


def _database_rows(path: Path) -> Iterator[tuple[str, Any, Mapping[str, Any], str]]:
    try:
        with contextlib.closing(_opened(path)) as database:
            is_packed = _is_packed(path, database)
            for number, (key, x, y, blob, text) in enumerate(database.execute(QUERY)):
                where = f"{path}: annotation {number} ({key})"
                try:
                    geometry = shapely.Point(x, y) if blob is None else _outline(blob, is_packed)
                    properties = orjson.loads(text) if text else {}
                except (ShapelyError, zlib.error, ValueError, TypeError) as error:
                    raise AnnotationError(f"{where}: cannot be read: {error!r}") from error
                yield where, geometry, properties, str(key)
    except sqlite3.Error as error:
        raise AnnotationError(
            f"{path}: needed an annotation store of TIAToolbox: {error}; export it anew"
        ) from error


def _opened(path: Path) -> sqlite3.Connection:
    """Open a database so that nothing is written, and no function in its schema is called."""
    database = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)
    database.execute("PRAGMA trusted_schema = OFF")
    found = database.execute("SELECT type FROM sqlite_master WHERE name = 'annotations'").fetchone()
    if found != ("table",):  # a view would run whatever it says
        database.close()
        raise AnnotationError(f"{path}: needed an annotation store of TIAToolbox: no table of it")
    return database


def _is_packed(path: Path, database: sqlite3.Connection) -> bool:
    row = database.execute("SELECT value FROM metadata WHERE key = 'compression'").fetchone()
    compression = orjson.loads(row[0]) if row else None
    if compression not in {None, "zlib"}:
        raise AnnotationError(f"{path}: compressed by {compression!r}: needed zlib or none")
    return compression == "zlib"


def _outline(blob: bytes | str, is_packed: bool) -> shapely.Geometry:
    """Return an outline stored as WKB or WKT."""
    if is_packed:
        unpacker = zlib.decompressobj()
        blob = unpacker.decompress(blob if isinstance(blob, bytes) else blob.encode(), LARGEST)
        if unpacker.unconsumed_tail:
            raise ValueError(f"more than {LARGEST} bytes")
    return shapely.from_wkt(blob) if isinstance(blob, str) else shapely.from_wkb(blob)


def _found(properties: Mapping[str, Any], key: str) -> Found:
    named = next((properties[name] for name in CLASS_KEYS if name in properties), None)
    if isinstance(named, Mapping):
        named = named.get("name")
    is_class = isinstance(named, str | int | float) and not isinstance(named, bool)
    measured = {
        name: float(value)
        for name, value in properties.items()
        if isinstance(value, int | float)
        and not isinstance(value, bool)
        and name not in CLASS_KEYS
        and math.isfinite(value)
    }
    return Found(
        class_name=clean_name(f"{named:g}" if isinstance(named, float) else str(named))
        if is_class
        else None,
        object_type="detection",
        id=key,
        measurements=measured,
    )

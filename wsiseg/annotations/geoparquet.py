"""GeoParquet and GeoDataFrames of annotations, for analysis beside the GeoJSON for QuPath.

The objects and their ids are those of the GeoJSON: rounded, valid, inside the image.
"""

from collections.abc import Iterable
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import shapely
from numpy.typing import NDArray

from wsiseg.annotations._files import writing_whole
from wsiseg.annotations._header import describe_image
from wsiseg.annotations._points import PointPreparation, PreparedPoints
from wsiseg.annotations._prepare import Preparation, Prepared
from wsiseg.annotations.base import Annotations, Frame
from wsiseg.annotations.polygons import Polygons
from wsiseg.errors import AnnotationError

__all__ = ["to_geopandas", "write_geoparquet"]

COLUMNS = ("id", "class", "color", "object_type", "geometry")


def to_geopandas(annotations: Annotations, *, frame: Frame | None = None) -> Any:  # noqa: ANN401
    """Return a GeoDataFrame of the objects.

    Parameters
    ----------
    annotations
        Polygons in either frame.
    frame
        The frame of the result; by default that of `annotations`.

    Returns
    -------
    geopandas.GeoDataFrame
        One row per object: `id`, `class`, `color` (`#rrggbb`), `object_type`, one float64 column
        per measurement, and `geometry` in pixels (x, y) without a CRS. `attrs["wsiseg"]` says
        which image and frame.

    Raises
    ------
    AnnotationError
        If the extra `notebook` is not installed, or a measurement is named like another column.
    """
    try:
        import geopandas
    except ImportError as error:
        raise _missing("geopandas") from error
    frame = frame or annotations.frame
    columns, geometries = _columns(annotations, frame)
    table = geopandas.GeoDataFrame(columns, geometry=geometries, crs=None)
    table.attrs["wsiseg"] = describe_image(annotations, frame)
    return table


def write_geoparquet(
    annotations: Annotations | Iterable[Annotations],
    path: Path | str,
    *,
    frame: Frame | None = None,
) -> Path:
    """Write the objects as GeoParquet 1.1 and return the path.

    The columns are those of `to_geopandas`; the file's `wsiseg` metadata says which image and
    frame, as JSON.

    Parameters
    ----------
    annotations
        Polygons in either frame. Several, of one image, are written one after the other, so that
        only one of them need be in memory; the first has all measurements.
    path
        The file.
    frame
        The frame of the result; by default that of `annotations`.

    Raises
    ------
    AnnotationError
        If the extra `notebook` is not installed, a measurement is named like another column or
        comes up after the first `Annotations`, or the file cannot be written.
    DiskFullError
        If no room is left; nothing stays behind.

    References
    ----------
    GeoParquet 1.1.0, https://geoparquet.org/releases/v1.1.0/
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise _missing("pyarrow") from error
    several = iter([annotations] if isinstance(annotations, Annotations) else annotations)
    first = next(several, None)
    if first is None:
        raise AnnotationError(f"{path}: nothing to write: needed at least one Annotations")
    path, frame = Path(path), frame or first.frame
    names = tuple(first.measurements)
    head, seen = _table(pyarrow, first, frame, names), _Extent()
    with (
        writing_whole(path) as stream,
        # A stored Arrow schema would hide the metadata, which are known at the end only.
        pyarrow.parquet.ParquetWriter(
            stream, head[0].schema, compression="zstd", store_schema=False
        ) as writer,
    ):
        for table, geometries in chain(
            [head], (_table(pyarrow, one, frame, names) for one in several)
        ):
            writer.write_table(table)
            seen.add(geometries)
        writer.add_key_value_metadata(
            {
                "geo": orjson.dumps(seen.metadata()),
                "wsiseg": orjson.dumps(describe_image(first, frame)),
            }
        )
    return path


def _table(
    pyarrow: Any,  # noqa: ANN401 - the module
    annotations: Annotations,
    frame: Frame,
    names: tuple[str, ...],
) -> tuple[Any, NDArray[np.object_]]:
    """Return the rows of some objects, and their geometries."""
    more = sorted(set(annotations.measurements) - set(names))
    if more:
        raise AnnotationError(
            f"measurements {more} come up after the first objects; give them to all, or leave them "
            "out"
        )
    columns, geometries = _columns(annotations, frame)
    missing = {name: np.full(len(geometries), np.nan) for name in names if name not in columns}
    columns |= missing
    text, number = pyarrow.string(), pyarrow.float64()
    arrays = {name: pyarrow.array(columns[name], text) for name in COLUMNS[:-1]}
    arrays |= {name: pyarrow.array(columns[name], number) for name in names}
    arrays["geometry"] = pyarrow.array(shapely.to_wkb(geometries), pyarrow.binary())
    return pyarrow.table(arrays), geometries


def _columns(annotations: Annotations, frame: Frame) -> tuple[dict[str, Any], NDArray[np.object_]]:
    """Return the columns but the geometry, and the geometries."""
    clash = sorted(set(COLUMNS) & set(annotations.measurements))
    if clash:
        raise AnnotationError(f"measurements {clash} are named like columns; rename them")
    chunks: list[Prepared] | list[PreparedPoints]
    if annotations.are_points:
        chunks = list(PointPreparation(annotations, frame))
    else:
        chunks = list(Preparation(annotations, frame))
    none = np.array([], dtype=object)
    held = (chunk.outlines for chunk in chunks)
    geometries = np.concatenate(
        [none, *(one.to_shapely() if isinstance(one, Polygons) else one for one in held)]
    )
    rows = np.concatenate([np.array([], dtype=np.int64), *(chunk.rows for chunk in chunks)])
    index = np.asarray(annotations.class_index)[rows]
    names = [*(item.name for item in annotations.classes), None]  # UNCLASSIFIED is -1
    colors = [*("#{:02x}{:02x}{:02x}".format(*c.color) for c in annotations.classes), None]
    columns: dict[str, Any] = {
        "id": [name.decode() for chunk in chunks for name in chunk.ids.tolist()],
        "class": [names[i] for i in index],
        "color": [colors[i] for i in index],
        "object_type": [annotations.object_type] * len(rows),
    }
    for name, values in annotations.measurements.items():
        columns[name] = np.asarray(values, dtype=np.float64)[rows]
    return columns, geometries


class _Extent:
    """What the metadata says of all geometries."""

    def __init__(self) -> None:
        self._types: set[str] = set()
        self._bounds: list[NDArray[np.float64]] = []

    def add(self, geometries: NDArray[np.object_]) -> None:
        """Take some geometries into account."""
        self._types |= {geometry.geom_type for geometry in geometries}
        if len(geometries):
            self._bounds.append(shapely.total_bounds(geometries))

    def metadata(self) -> dict[str, Any]:
        """Return the file's `geo` metadata."""
        column: dict[str, Any] = {
            "encoding": "WKB",
            "geometry_types": sorted(self._types),
            "crs": None,  # pixels, not places on Earth
            "edges": "planar",
        }
        if self._bounds:
            low, high = np.min(self._bounds, axis=0)[:2], np.max(self._bounds, axis=0)[2:]
            column["bbox"] = [*low.tolist(), *high.tolist()]
        return {"version": "1.1.0", "primary_column": "geometry", "columns": {"geometry": column}}


def _missing(package: str) -> AnnotationError:
    return AnnotationError(
        f'{package} is not installed; install it with: pip install "wsiseg[notebook]"'
    )

"""GeoParquet and GeoDataFrames of annotations, for analysis beside the GeoJSON for QuPath.

The objects and their ids are those of the GeoJSON: rounded, valid, inside the image.
"""

from pathlib import Path
from typing import Any

import numpy as np
import orjson
import shapely
from numpy.typing import NDArray

from wsiseg.annotations._files import writing_whole
from wsiseg.annotations._prepare import Preparation
from wsiseg.annotations.base import Annotations, Frame
from wsiseg.annotations.geojson import describe_image
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
    annotations: Annotations, path: Path | str, *, frame: Frame | None = None
) -> Path:
    """Write the objects as GeoParquet 1.1 and return the path.

    The columns are those of `to_geopandas`; the file's `wsiseg` metadata says which image and
    frame, as JSON.

    Raises
    ------
    AnnotationError
        If the extra `notebook` is not installed, a measurement is named like another column, or
        the file cannot be written.
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
    path, frame = Path(path), frame or annotations.frame
    columns, geometries = _columns(annotations, frame)
    table = pyarrow.table({**columns, "geometry": shapely.to_wkb(geometries)})
    table = table.replace_schema_metadata(
        {
            "geo": orjson.dumps(_geo_metadata(geometries)),
            "wsiseg": orjson.dumps(describe_image(annotations, frame)),
        }
    )
    with writing_whole(path) as stream:
        pyarrow.parquet.write_table(table, stream, compression="zstd")
    return path


def _columns(annotations: Annotations, frame: Frame) -> tuple[dict[str, Any], NDArray[np.object_]]:
    """Return the columns but the geometry, and the geometries."""
    clash = sorted(set(COLUMNS) & set(annotations.measurements))
    if clash:
        raise AnnotationError(f"measurements {clash} are named like columns; rename them")
    chunks = list(Preparation(annotations, frame))
    none = np.array([], dtype=object)
    geometries = np.concatenate([none, *(chunk.outlines.to_shapely() for chunk in chunks)])
    rows = np.concatenate([np.array([], dtype=np.int64), *(chunk.rows for chunk in chunks)])
    index = np.asarray(annotations.class_index)[rows]
    names = [item.name for item in annotations.classes]
    colors = ["#{:02x}{:02x}{:02x}".format(*item.color) for item in annotations.classes]
    columns: dict[str, Any] = {
        "id": [name.decode() for chunk in chunks for name in chunk.ids.tolist()],
        "class": [names[i] for i in index],
        "color": [colors[i] for i in index],
        "object_type": [annotations.object_type] * len(rows),
    }
    for name, values in annotations.measurements.items():
        columns[name] = np.asarray(values, dtype=np.float64)[rows]
    return columns, geometries


def _geo_metadata(geometries: NDArray[np.object_]) -> dict[str, Any]:
    types = sorted({geometry.geom_type for geometry in geometries})
    column: dict[str, Any] = {
        "encoding": "WKB",
        "geometry_types": types,
        "crs": None,  # pixels, not places on Earth
        "edges": "planar",
    }
    if len(geometries):
        column["bbox"] = shapely.total_bounds(geometries).tolist()
    return {"version": "1.1.0", "primary_column": "geometry", "columns": {"geometry": column}}


def _missing(package: str) -> AnnotationError:
    return AnnotationError(
        f'{package} is not installed; install it with: pip install "wsiseg[notebook]"'
    )

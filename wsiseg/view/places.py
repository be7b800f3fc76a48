"""What lies at a place, and what is known of an object: the answers to clicks."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import shapely

from wsiseg.errors import UsageError
from wsiseg.view.objects import ObjectIndex
from wsiseg.view.results import ANNOTATIONS, TISSUE, Shown

__all__ = ["at_place", "describe_object", "list_objects"]

MOST_LISTED = 500
"""Objects in a list that is asked for."""

MOST_SHOWN = 200_000
"""Vertices of an outline that is sent to be highlighted; a larger one is thinned."""


def at_place(shown: Shown, x: float, y: float) -> dict[str, Any]:
    """Return the object, the values of all layers and the tissue at a level-0 place."""
    values: list[dict[str, Any]] = []
    for layer in shown.layers:
        code = layer.code_at(x, y)
        if layer.kind == "mask":
            name = layer.classes[code][0] if code < len(layer.classes) else str(code)
            values.append({"title": layer.title, "text": name})
        else:
            known = None if code == 0 else (code - 1) / 254
            values.append({"title": layer.title, "kind": layer.kind, "value": known})
    index = shown.objects(ANNOTATIONS) if shown.has_objects(ANNOTATIONS) else None
    row = None if index is None else index.at(x, y)
    tissue = shown.objects(TISSUE) if shown.has_objects(TISSUE) else None
    return {
        "object": None if index is None or row is None else describe_object(index, row),
        "values": values,
        "tissue": None if tissue is None else tissue.at(x, y) is not None,
    }


def describe_object(index: ObjectIndex, row: int) -> dict[str, Any]:
    """Return an object with its outline in level-0 pixels and its measurements.

    Raises
    ------
    UsageError
        If there is no such object.
    """
    if not 0 <= row < len(index):
        raise UsageError(f"object {row}: there are {len(index)}")
    polygon = index.polygon(row)
    if shapely.get_num_coordinates(polygon) > MOST_SHOWN:
        x0, y0, x1, y1 = index.bounds[row].tolist()
        polygon = shapely.simplify(polygon, max(x1 - x0, y1 - y0) / 2000)
    return {
        "row": row,
        "id": index.ids[row].decode(),
        "class": index.class_name(row),
        "bounds": index.bounds[row].tolist(),
        "geometry": shapely.geometry.mapping(polygon),
        "measurements": _measured(index, row),
    }


def list_objects(
    index: ObjectIndex,
    *,
    by: str | None,
    descending: bool,
    class_name: str | None,
    limit: int = MOST_LISTED,
) -> Sequence[dict[str, Any]]:
    """Return the first objects by a measurement, by size where none is named.

    Raises
    ------
    UsageError
        If there is no such measurement or class.
    """
    if by is not None and by not in index.names:
        raise UsageError(f"no measurement {by!r}: there are {', '.join(index.names) or 'none'}")
    if class_name is not None and class_name not in dict(index.classes):
        raise UsageError(f"no class {class_name!r}")
    rows = index.ordered(by, descending=descending, limit=limit, class_name=class_name)
    return [
        {
            "row": row,
            "id": index.ids[row].decode(),
            "class": index.class_name(row),
            "bounds": index.bounds[row].tolist(),
            "measurements": _measured(index, row),
        }
        for row in rows.tolist()
    ]


def _measured(index: ObjectIndex, row: int) -> dict[str, float]:
    values = index.measurements[row]
    pairs = zip(index.names, values.tolist(), np.isfinite(values).tolist(), strict=True)
    return {name: value for name, value, known in pairs if known}

"""Annotations of HistomicsUI and the Digital Slide Archive: large_image's JSON of elements."""

import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from wsiseg.annotations import ImageRef
from wsiseg.annotations.columns import Columns, Found, FoundObjects, Rgb, clean_name
from wsiseg.annotations.drawing import closed, ellipse_outline
from wsiseg.errors import AnnotationError

__all__ = ["from_histomicsui", "looks_like_histomicsui"]

LEAST_VERTICES = 3
HEX = re.compile("#([0-9a-fA-F]{3}|[0-9a-fA-F]{6})")
CSS = re.compile(r"rgba?\(\s*(\d{1,3})\s*,\s*(\d{1,3})\s*,\s*(\d{1,3})\s*(?:,[^)]*)?\)")


def looks_like_histomicsui(value: object) -> bool:
    """Return whether a JSON value is an annotation of large_image, or a list of them."""
    if isinstance(value, list):
        return bool(value) and all(map(looks_like_histomicsui, value))
    if not isinstance(value, Mapping):
        return False
    inner = value.get("annotation", value)
    return isinstance(inner, Mapping) and isinstance(inner.get("elements"), list)


def from_histomicsui(path: Path, content: bytes, image: ImageRef) -> FoundObjects:
    """Read the elements of annotations; they are in pixels of the whole level 0.

    An element's class is its group, else its label, else the annotation's name. Open polylines,
    arrows, heatmaps and overlays are left out and counted.

    Raises
    ------
    AnnotationError
        If it is not such a file, or a coordinate is no number.
    """
    try:
        value = orjson.loads(content)
    except orjson.JSONDecodeError as error:
        raise AnnotationError(f"{path}: not JSON: {error}; export it anew") from error
    if not looks_like_histomicsui(value):
        raise AnnotationError(f"{path}: needed an annotation with elements, as HistomicsUI has")
    columns = Columns()
    for number, annotation in enumerate(value if isinstance(value, list) else [value]):
        inner = annotation.get("annotation", annotation)
        for place, element in enumerate(inner["elements"]):
            where = f"{path}: annotation {number}, element {place}"
            try:
                _add(columns, element, str(inner.get("name") or ""))
            except (KeyError, TypeError, ValueError, IndexError) as error:
                raise AnnotationError(f"{where}: cannot be read: {error!r}; remove it") from error
    return columns.finish(image, "level0")


def _add(columns: Columns, element: Mapping[str, Any], title: str) -> None:
    kind = element["type"]
    found = _found(element, title)
    if kind == "point":
        columns.add_points(found, _xy([element["center"]]))
    elif kind == "polyline" and element.get("closed"):
        rings = [_xy(ring) for ring in (element["points"], *(element.get("holes") or ()))]
        if len(rings[0]) < LEAST_VERTICES:
            columns.left_out["outlines without area"] += 1
        else:
            kept = [closed(ring) for ring in rings if len(ring) >= LEAST_VERTICES]
            columns.add_area(found, [kept])
    elif kind in {"rectangle", "ellipse", "circle"}:
        columns.add_area(found, [[_shape(kind, element)]])
    else:
        name = "lines" if kind in {"polyline", "arrow"} else f"elements of type {kind}"
        columns.left_out[name] += 1


def _found(element: Mapping[str, Any], title: str) -> Found:
    label = element.get("label")
    text = str(label.get("value") or "") if isinstance(label, Mapping) else ""
    group = str(element.get("group") or "")
    names: Iterator[str | None] = (clean_name(name) for name in (group, text, title))
    return Found(
        class_name=next((name for name in names if name), None),
        color=_color(element.get("lineColor")) or _color(element.get("fillColor")),
        name=text if text and group else None,
    )


def _xy(points: Any) -> NDArray[np.float64]:  # noqa: ANN401
    """Return coordinates (n, 2) of a list of [x, y, z]."""
    xy = np.array([[float(point[0]), float(point[1])] for point in points], np.float64)
    if not np.isfinite(xy).all():
        raise ValueError("a coordinate is not finite")
    return xy.reshape(-1, 2)


def _shape(kind: str, element: Mapping[str, Any]) -> NDArray[np.float64]:
    """Return the closed ring of a shape given by its centre, sides and rotation."""
    centre = _xy([element["center"]])[0]
    if kind == "circle":
        half: NDArray[np.float64] = np.full(2, float(element["radius"]))
    else:
        half = np.array([float(element["width"]), float(element["height"])]) / 2
    corners = half * np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)])
    outline = closed(corners) if kind == "rectangle" else ellipse_outline(corners)
    turn = float(element.get("rotation") or 0)
    cosine, sine = math.cos(turn), math.sin(turn)
    turned: NDArray[np.float64] = centre + outline @ np.array([[cosine, sine], [-sine, cosine]])
    turned[-1] = turned[0]
    return turned


def _color(value: object) -> Rgb | None:
    """Return a colour of CSS as large_image allows them."""
    text = value.strip() if isinstance(value, str) else ""
    if found := HEX.fullmatch(text):
        digits = found[1] if len(found[1]) > 3 else "".join(2 * digit for digit in found[1])
        red, green, blue = bytes.fromhex(digits)
        return red, green, blue
    if found := CSS.fullmatch(text):
        red, green, blue = (min(255, int(part)) for part in found.groups())
        return red, green, blue
    return None

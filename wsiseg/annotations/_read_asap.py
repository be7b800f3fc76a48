"""Annotations of ASAP: XML, in pixels of the whole level 0."""

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from wsiseg.annotations._xml import number, read_xml
from wsiseg.annotations.drawing import UNCLASSIFIED, Drawing, closed

__all__ = ["ROOT", "read_asap"]

ROOT = "ASAP_Annotations"
AREAS = frozenset({"Polygon", "Spline", "Rectangle"})
POINTS = frozenset({"Dot", "PointSet"})
LEAST_VERTICES = 3
HEX = re.compile("#([0-9a-fA-F]{6})")


def read_asap(path: Path) -> Drawing:
    """Read a file of ASAP.

    An annotation's class is its group. The outline of a spline runs straight between its points, as
    in ASAP's own masks.

    Raises
    ------
    AnnotationError
        If the file cannot be read, or a coordinate is no number.
    """
    reader = _Reader(path)
    read_xml(path, reader)
    return reader.drawing


class _Reader:
    def __init__(self, path: Path) -> None:
        self.drawing = Drawing(path)
        self._path = path
        self._annotation: Mapping[str, str] = {}
        self._vertices: list[tuple[float, float, float]] = []
        self._count = 0

    def start(self, tag: str, attributes: Mapping[str, str]) -> None:
        if tag == "Annotation":
            self._annotation, self._vertices = attributes, []
            self._count += 1
            self._take_color(attributes.get("PartOfGroup", ""), attributes)
        elif tag == "Group":
            self.drawing.colors.pop(attributes.get("Name", "").strip(), None)
            self._take_color(attributes.get("Name", ""), attributes)
        elif tag == "Coordinate":
            order = attributes.get("Order", len(self._vertices))
            values = (order, attributes.get("X"), attributes.get("Y"))
            where = f"{self._path}: {self._where()}"
            self._vertices.append(tuple(number(str(v), where) for v in values))  # type: ignore[arg-type]

    def end(self, tag: str) -> None:
        if tag != "Annotation":
            return
        xy = np.array(sorted(self._vertices, key=lambda v: v[0])).reshape(-1, 3)[:, 1:]
        kind = self._annotation.get("Type", "Polygon")
        group = self._annotation.get("PartOfGroup", "None").strip()
        name = UNCLASSIFIED if group in {"", "None"} else group
        if kind in POINTS:
            self.drawing.add_points(name, xy)
        elif kind not in AREAS:
            self.drawing.left_out[f"annotations of type {kind}"] += 1
        elif len(xy) < LEAST_VERTICES:
            self.drawing.left_out["outlines without area"] += 1
        else:
            self.drawing.add_area(name, [[closed(xy)]], self._where())

    def _take_color(self, name: str, attributes: Mapping[str, str]) -> None:
        """Take the colour of a group from its first annotation; later its own replaces it."""
        color = HEX.fullmatch(attributes.get("Color", ""))
        if color and name.strip() not in {"", "None"}:
            red, green, blue = bytes.fromhex(color[1])
            self.drawing.colors.setdefault(name.strip(), (red, green, blue))

    def _where(self) -> str:
        return f"annotation {self._count} ({self._annotation.get('Name', '')!r})"

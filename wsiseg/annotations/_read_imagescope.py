"""Annotations of Aperio ImageScope: XML, in pixels of level 0."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from wsiseg.annotations._xml import number, read_xml
from wsiseg.annotations.drawing import Drawing, Vertices, closed, ellipse_outline

__all__ = ["ROOT", "read_imagescope"]

ROOT = "Annotations"
LEAST_VERTICES = 3
CORNERS = (2, 4)
"""Vertices of a region that is given by its bounding box."""

RECTANGLE, ELLIPSE, COUNTER = "1", "2", "5"
LINES: Mapping[str, str] = {"3": "arrows", "4": "rulers"}
DEFAULT_ATTRIBUTE = "Description"
"""Attribute that each layer has from the start; its name says nothing."""


def read_imagescope(path: Path) -> Drawing:
    """Read a file of ImageScope.

    A layer is a class. Its name is that of the layer, else the value or the name of its first
    attribute, else `Layer` and its id. Negative regions cut the others of their layer.

    Raises
    ------
    AnnotationError
        If the file cannot be read, or a coordinate is no number.
    """
    reader = _Reader(path)
    read_xml(path, reader)
    return reader.drawing


@dataclass(slots=True)
class _Region:
    id: str
    kind: str
    is_negative: bool
    xy: list[tuple[float, float]] = field(default_factory=list)

    def outline(self) -> Vertices:
        """Return the closed ring."""
        xy = np.array(self.xy, np.float64).reshape(-1, 2)
        if self.kind == ELLIPSE and len(xy) in CORNERS:
            return ellipse_outline(xy)
        if self.kind == RECTANGLE and len(xy) == CORNERS[0]:
            (x0, y0), (x1, y1) = xy
            xy = np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)])
        return closed(xy)

    @property
    def has_area(self) -> bool:
        least = CORNERS[0] if self.kind in {RECTANGLE, ELLIPSE} else LEAST_VERTICES
        return len(self.xy) >= least


@dataclass(slots=True)
class _Layer:
    id: str
    name: str
    attributes: list[Mapping[str, str]] = field(default_factory=list)
    regions: list[_Region] = field(default_factory=list)
    color: str = ""

    @property
    def rgb(self) -> tuple[int, int, int] | None:
        """The colour of its lines, a number with blue in the highest byte."""
        if not self.color.strip().isdecimal():
            return None
        packed = int(self.color)
        return packed & 0xFF, packed >> 8 & 0xFF, packed >> 16 & 0xFF

    @property
    def class_name(self) -> str:
        first = self.attributes[0] if self.attributes else {}
        label = first.get("Name", "").strip()
        label = "" if label == DEFAULT_ATTRIBUTE else label
        return self.name or first.get("Value", "").strip() or label or f"Layer {self.id}"


class _Reader:
    def __init__(self, path: Path) -> None:
        self.drawing = Drawing(path)
        self._path = path
        self._layer = _Layer("", "")
        self._open: list[str] = []

    def start(self, tag: str, attributes: Mapping[str, str]) -> None:
        within = self._open[-1] if self._open else ""
        self._open.append(tag)
        if tag == ROOT and "MicronsPerPixel" in attributes:
            where = f"{self._path}: MicronsPerPixel"
            self.drawing.mpp = number(attributes["MicronsPerPixel"], where)
        elif tag == "Annotation":
            self._layer = _Layer(attributes.get("Id", "?"), attributes.get("Name", "").strip())
            self._layer.color = attributes.get("LineColor", "")
        elif tag == "Attribute" and self._open[-3:-1] == ["Annotation", "Attributes"]:
            self._layer.attributes.append(attributes)
        elif tag == "Region":
            negative = attributes.get("NegativeROA", "0").strip() == "1"
            region = _Region(attributes.get("Id", "?"), attributes.get("Type", "0"), negative)
            self._layer.regions.append(region)
        elif tag in {"Vertex", "V"} and within == "Vertices" and self._layer.regions:
            region = self._layer.regions[-1]
            where = f"{self._path}: {self._where(region)}"
            x, y = (number(attributes.get(axis), where) for axis in "XY")
            region.xy.append((x, y))

    def end(self, tag: str) -> None:
        self._open.pop()
        if tag == "Annotation":
            self._add(self._layer)

    def _add(self, layer: _Layer) -> None:
        if layer.rgb is not None:
            self.drawing.colors.setdefault(layer.class_name, layer.rgb)
        areas = []
        for region in layer.regions:
            if region.kind == COUNTER:
                self.drawing.add_points(layer.class_name, np.array(region.xy).reshape(-1, 2))
            elif region.kind in LINES:
                self.drawing.left_out[LINES[region.kind]] += 1
            elif not region.has_area:
                self.drawing.left_out["outlines without area"] += 1
            else:
                areas.append(region)
        cuts = [[region.outline()] for region in areas if region.is_negative]
        for region in areas:
            if not region.is_negative:
                where = self._where(region)
                self.drawing.add_area(layer.class_name, [[region.outline()]], where, cuts=cuts)

    def _where(self, region: _Region) -> str:
        return f"layer {self._layer.id}, region {region.id}"

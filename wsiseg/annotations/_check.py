"""One file against QuPath's rules, feature by feature."""

from array import array
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from wsiseg.annotations import _gson
from wsiseg.annotations._attributes import AttributeReader, Attributes, Rgb
from wsiseg.annotations._documents import Document, JsonWalk
from wsiseg.annotations._findings import Findings, Load
from wsiseg.annotations._judge import judge
from wsiseg.annotations._outlines import Outline, read_geometry, read_outline
from wsiseg.annotations._rules import READERS, RULES, Reader
from wsiseg.draw.palette import QUPATH_COLORS

__all__ = ["FileCheck"]

BATCH = 1_000
"""Outlines judged at once."""

GEOMETRIES = frozenset(
    {
        "GeometryCollection",
        "LineString",
        "MultiLineString",
        "MultiPoint",
        "MultiPolygon",
        "Point",
        "Polygon",
    }
)


class _Waiting(NamedTuple):
    """An outline to be judged with others."""

    position: int
    id: object
    attributes: Attributes | None
    """`None` for children and nuclei, which are not counted as objects."""

    outline: Outline | None


class FileCheck:
    """A file, or all entries of a ZIP file."""

    def __init__(self) -> None:
        self.findings = Findings()
        self.loads: dict[Reader, Load] = {reader: Load() for reader in READERS}
        self.colors: dict[str, Rgb | None] = dict(QUPATH_COLORS)
        self._ids: set[str] = set()
        self._is_read = True
        self._says_empty = False

    def add(self, document: Document) -> None:
        """Check one JSON text."""
        if document.trouble is not None:
            self._add_trouble(document)
            return
        check = _DocumentCheck(document.entry, self.colors, self._ids)
        check.read(document.content)
        self._says_empty |= check.says_empty
        lost = {reader: load.raises for reader, load in check.loads.items() if load.raises}
        if document.entry is None:
            for reader, code in lost.items():
                self.loads[reader].raises = code
        elif lost:
            code = next(iter(lost.values()))
            self.findings.add("entry-lost", RULES[code].what, entry=document.entry)
        if len(lost) < len(READERS) or document.entry is None:
            self.findings.merge(check.findings, fatal=document.entry is None)
        for reader, load in check.loads.items():
            if reader not in lost:
                self.loads[reader].merge(load)

    def finish(self) -> None:
        """Judge the file as a whole; call it once, last."""
        if self._is_read and not any(load.raises or load.types for load in self.loads.values()):
            self.findings.add("nothing-found" if self._says_empty else "no-objects")

    def _add_trouble(self, document: Document) -> None:
        entry, detail = document.entry, document.detail
        if document.trouble == "ignored-entry":
            self.findings.add("entry-ignored", entry=entry)
        elif document.trouble == "packing" and entry is not None:
            self.findings.add("entry-lost", detail, entry=entry)
        else:
            self._is_read = False
            code = str(document.trouble)
            self.findings.add(code, detail, entry=entry)
            for reader in RULES[code].raises:
                self.loads[reader].raises = code


class _DocumentCheck:
    """One JSON text."""

    def __init__(self, entry: str | None, colors: dict[str, Rgb | None], ids: set[str]) -> None:
        self.says_empty = False
        self._entry = entry
        self._colors = colors
        self._ids = ids
        self._attributes = AttributeReader()
        self._start()

    def _start(self) -> None:
        self.findings = Findings()
        self.loads: dict[Reader, Load] = {reader: Load() for reader in READERS}
        self._features = 0
        self._waiting: list[_Waiting] = []
        self._bounds = array("d")

    def read(self, content: bytes) -> None:
        """Go through the text."""
        try:
            text = content.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            text = content.decode("utf-8-sig", errors="replace")
            self._found("not-utf8", f"byte {error.start}")
        walk = JsonWalk(text)
        try:
            for kind, value in walk:
                if kind == "feature":
                    self._add_feature(value)
                else:
                    self._add_item(value)
        except (ValueError, RecursionError) as error:
            self._found("json", str(error))
        else:
            if walk.members is not None:
                self._add_top(walk.members)
        self._flush()
        member = (walk.members or {}).get("wsiseg")
        self.says_empty = isinstance(member, Mapping) and member.get("empty") is True
        self._check_outside(member)

    def _found(
        self, code: str, detail: str = "", index: int | None = None, id: object = None
    ) -> None:
        shown = id if isinstance(id, str) else None
        self.findings.add(code, detail, entry=self._entry, index=index, id=shown)
        for reader in RULES[code].raises:
            self.loads[reader].raises = self.loads[reader].raises or code

    def _add_top(self, members: Mapping[str, Any]) -> None:
        """Judge a top-level object, whose `features` were taken for a collection's so far."""
        if members.get("type", "") == "FeatureCollection":
            return
        if self._features:
            self._start()
        if members:
            self._add_item(members)

    def _add_item(self, value: object) -> None:
        """Add what stands in an array, or is the whole file."""
        if isinstance(value, list):
            for item in value:
                self._add_item(item)
            return
        if not isinstance(value, Mapping) or "type" not in value:
            self._found("element-ignored", repr(value)[:40])
            return
        kind = _gson.as_string(value["type"])
        if kind is None:
            self._found("top-level-type", repr(value["type"])[:40])
        elif kind == "Feature":
            self._add_feature(value)
        elif kind == "FeatureCollection":
            features = value.get("features")
            for feature in features if isinstance(features, list) else []:
                self._add_feature(feature)
        elif kind in GEOMETRIES:
            self._add_geometry(value)
        else:
            self._found("element-ignored", repr(value)[:40])

    def _add_geometry(self, geometry: Mapping[str, Any]) -> None:
        index = self._next_index()
        self._found("bare-geometry", index=index)
        outline = read_geometry(geometry, lambda code, detail: self._found(code, detail, index))
        self._wait(_Waiting(index, None, Attributes(), outline))

    def _next_index(self) -> int:
        self._features += 1
        return self._features - 1

    def _add_feature(self, feature: object) -> None:
        self._read_feature(feature, self._next_index(), is_top=True)

    def _read_feature(self, feature: object, index: int, *, is_top: bool) -> None:
        if not isinstance(feature, Mapping):
            self._found("feature", repr(feature)[:40], index)
            return
        name = feature.get("id")

        def found(code: str, detail: str) -> None:
            self._found(code, detail, index, name)

        attributes = self._attributes.read(feature, found)
        self._check_id(attributes, index, name)
        self._check_color(attributes, index, name)
        outline = read_outline(feature.get("geometry"), found)
        self._wait(_Waiting(index, name, attributes if is_top else None, outline))
        if "nucleusGeometry" in feature:
            nucleus = read_outline(feature["nucleusGeometry"], found)
            self._wait(_Waiting(index, name, None, nucleus))
        for child in attributes.children:
            self._read_feature(child, index, is_top=False)

    def _check_id(self, attributes: Attributes, index: int, name: object) -> None:
        if attributes.id is None:
            return
        if attributes.id in self._ids:
            self._found("id-duplicate", "", index, name)
        self._ids.add(attributes.id)

    def _check_color(self, attributes: Attributes, index: int, name: object) -> None:
        if attributes.class_name is None:
            return
        color = attributes.class_color
        first = self._colors.setdefault(attributes.class_name, color)
        if color is not None and color != first:
            shows = "its own choice" if first is None else first
            detail = f"{attributes.class_name} {color}, QuPath shows {shows}"
            self._found("class-color-lost", detail, index, name)

    def _wait(self, waiting: _Waiting) -> None:
        if waiting.outline is not None:
            self._waiting.append(waiting)
        if len(self._waiting) >= BATCH:
            self._flush()

    def _flush(self) -> None:
        waiting, self._waiting = self._waiting, []
        judgements = judge([w.outline for w in waiting if w.outline is not None])
        objects = []
        for one, judgement in zip(waiting, judgements, strict=True):
            for code, detail in judgement.findings:
                self._found(code, detail, one.position, one.id)
            self._bounds.extend((one.position, *judgement.old.bounds))
            if one.attributes is not None:
                objects.append((one.attributes, judgement))
        old = [(attributes, judgement.old) for attributes, judgement in objects]
        new = [(attributes, judgement.new) for attributes, judgement in objects]
        for reader, load in self.loads.items():
            load.add(new if reader == "0.6" else old)

    def _check_outside(self, member: object) -> None:
        """Compare with the image's size, where the collection says it; never left of 0 anyway."""
        member = member if isinstance(member, Mapping) else {}
        size = [member.get("image_width"), member.get("image_height")]
        width, height = (value if isinstance(value, int | float) else np.inf for value in size)
        index, x0, y0, x1, y1 = np.array(self._bounds).reshape(-1, 5).T
        outside = (x0 < 0) | (y0 < 0) | (x1 > width) | (y1 > height)
        for row in np.flatnonzero(outside):
            where = f"x {x0[row]:g} to {x1[row]:g}, y {y0[row]:g} to {y1[row]:g}"
            self._found("outside", f"{where}; image {width:g} x {height:g}", int(index[row]))

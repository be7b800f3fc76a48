"""Corrections as the page asks for them."""

import uuid
from collections.abc import Mapping
from typing import Any

import orjson
import shapely

from wsiseg.errors import UsageError
from wsiseg.view.corrections import Correction, Corrections, checked_action, outline
from wsiseg.view.results import ANNOTATIONS, Shown

__all__ = ["revise"]


def revise(shown: Shown, corrections: Corrections, body: bytes) -> Correction:
    """Enter what the page asks for, and return it.

    Parameters
    ----------
    shown
        The result.
    corrections
        Those of its slide.
    body
        JSON: `action`; `row` of the object, unless something is added; `class` where it is another
        one than before; `ring`, [[x, y], ...] in level-0 pixels, where the outline is another one.

    Raises
    ------
    UsageError
        If it makes no sense.
    AnnotationError, DiskFullError
        If the file cannot be written.
    """
    try:
        asked = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise UsageError(f"a correction needs JSON: {error}") from error
    if not isinstance(asked, Mapping):
        raise UsageError("a correction needs a JSON object")
    action = checked_action(asked.get("action"))
    ring = asked.get("ring")
    drawn = None if ring is None else outline(ring, shown.image)
    if action == "added":
        return corrections.put(_added(asked, drawn))
    index = shown.objects(ANNOTATIONS)
    row = asked.get("row")
    if index is None or not isinstance(row, int) or not 0 <= row < len(index):
        raise UsageError("a correction needs the row of an object")
    was = index.class_name(row)
    class_name = corrections.background if action == "rejected" else asked.get("class") or was
    if action == "redrawn" and drawn is None:
        raise UsageError("what was redrawn needs its ring")
    polygon = drawn if action == "redrawn" and drawn is not None else index.polygon(row)
    known = index.ids[row].decode()
    id = known or str(uuid.uuid5(uuid.NAMESPACE_OID, index.polygon(row).wkt))
    return corrections.put(Correction(id, action, str(class_name), was, polygon))


def _added(asked: Mapping[str, Any], drawn: shapely.Polygon | None) -> Correction:
    if drawn is None or not isinstance(asked.get("class"), str):
        raise UsageError("what is added needs its ring and its class")
    return Correction(str(uuid.uuid4()), "added", asked["class"], None, drawn)

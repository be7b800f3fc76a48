"""What QuPath refuses, changes or ignores in a GeoJSON file: one rule per code.

The rules were executed against the parsers of QuPath 0.4.4, 0.5.1, 0.6.0, 0.7.0 and 0.8-dev. The
last three agree everywhere, so three readers are told apart: 0.4, 0.5 and 0.6.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

__all__ = ["ALL", "READERS", "RULES", "Found", "Reader", "Rule", "Severity"]

Severity = Literal["error", "warning", "note"]
Reader = Literal["0.4", "0.5", "0.6"]
Found = Callable[[str, str], None]
"""Called with the code of a rule and what exactly was found."""

READERS: tuple[Reader, ...] = ("0.4", "0.5", "0.6")
ALL: frozenset[Reader] = frozenset(READERS)
NONE: frozenset[Reader] = frozenset()


@dataclass(frozen=True, slots=True)
class Rule:
    """One way in which a file and QuPath disagree.

    `error`: some QuPath from 0.5 loads nothing, or an object without or with an invalid outline.
    `warning`: it loads something else than the file says. `note`: worth knowing, nothing is lost.
    """

    severity: Severity
    what: str
    remedy: str
    raises: frozenset[Reader] = NONE
    """Readers that lose the whole file over it."""


def _fatal(what: str, remedy: str, *readers: Reader) -> Rule:
    return Rule("error", what, remedy, frozenset(readers) or ALL)


def _broken(what: str, remedy: str) -> Rule:
    return Rule("error", what, remedy)


def _changed(what: str, remedy: str) -> Rule:
    return Rule("warning", what, remedy)


def _note(what: str, remedy: str, *readers: Reader) -> Rule:
    return Rule("note", what, remedy, frozenset(readers))


RULES: dict[str, Rule] = {
    # The file
    "extension": _broken(
        "QuPath reads no object from a file with this ending",
        "rename it to .geojson or .geojson.gz",
    ),
    "packing": _fatal("the file cannot be unpacked", "compress it again"),
    "too-large": _broken(
        "not checked: unpacks to more than allowed", "split it, or raise the limit"
    ),
    "json": _fatal("not one JSON text", "write one FeatureCollection, closed properly"),
    "top-level-type": _fatal('"type" is not text', 'write "type": "FeatureCollection"'),
    "no-objects": _broken("QuPath reads no object from it", "write at least one Feature"),
    "nothing-found": _note("the file says that nothing was found", "nothing to do"),
    "not-utf8": _changed("not UTF-8: names become garbled", "save the file as UTF-8"),
    "entry-ignored": _note("QuPath ignores this entry", "leave it out of the ZIP file"),
    "entry-lost": _changed(
        "QuPath leaves out this entry without a word", "repair the entry; verify it on its own"
    ),
    "element-ignored": _changed(
        "QuPath ignores an element that is no Feature and no geometry", "remove it"
    ),
    "bare-geometry": _changed(
        "a bare geometry becomes an annotation without class, id and plane", "wrap it in a Feature"
    ),
    # The feature
    "feature": _fatal("not a Feature object", "remove it"),
    "properties": _fatal("properties is not an object", "leave the key out or write {}"),
    "key-ignored": _changed("QuPath ignores this key", "use a key QuPath reads, or metadata"),
    "key-duplicate-alias": _changed(
        "two keys for the object type: objectType wins", "keep objectType alone"
    ),
    "id": _fatal("id is not text", "leave the key out or write a UUID"),
    "id-missing": _changed(
        "no id: a random one each time, so that a second import doubles the object",
        "write a UUID as id",
    ),
    "id-not-uuid": _changed("id is not a UUID: QuPath makes up a random one", "write a UUID as id"),
    "id-respelled": _note("QuPath spells this UUID in another way", "write lower case, 8-4-4-4-12"),
    "id-duplicate": _changed("two objects have the same id", "give each its own UUID"),
    "name": _fatal("name is not text", "leave the key out or write text"),
    "name-not-text": _changed("name is not text: QuPath turns it into text", "write text"),
    "object-type": _fatal("objectType is not text", "leave the key out or write annotation"),
    "object-type-unknown": _changed(
        "unknown objectType: becomes an annotation",
        "write annotation, detection, tile or cell, in lower case",
    ),
    "object-type-alias": _changed("outdated spelling of the object type", "write objectType"),
    "object-type-special": _changed(
        "TMA cores and the root are not imported from the menu",
        "write annotation, detection, tile or cell",
    ),
    "locked": _changed("isLocked is not a boolean", "write true or false"),
    "color": _fatal("color is not a number or [r, g, b]", "leave the key out"),
    "color-ignored": _changed("QuPath ignores this color", "write [r, g, b], integers 0-255"),
    "color-wraps": _changed(
        "color outside integers 0-255: QuPath keeps eight bits", "write integers 0-255"
    ),
    # The class
    "class": _fatal("classification is no class", 'write {"name": ..., "color": [r, g, b]}'),
    "class-name": _fatal(
        "class name is empty, has an empty part or a line break",
        "give the class a name in one line",
    ),
    "class-color": _fatal("class color is not [r, g, b]", "write three integers 0-255"),
    "class-without-name": _changed("class without a name: stays unclassified", "give it a name"),
    "class-stripped": _changed("QuPath strips spaces around class names", "remove the spaces"),
    "class-color-lost": _changed(
        "QuPath has another color for this class: the first one seen counts",
        "use one color per class; change it inside QuPath",
    ),
    # Measurements and metadata
    "measurement-text": _fatal("measurement is not a number", "write a finite number"),
    "measurement-skipped": _changed("QuPath skips this measurement", "write a finite number"),
    "measurement-not-finite": _changed("measurement is not finite", "leave it out"),
    "measurement-as-text": _changed("measurement is text: QuPath reads a number", "write a number"),
    "measurement-0.4": _note(
        "QuPath 0.4 loses the whole file over it", "write finite numbers only", "0.4"
    ),
    "measurements-ignored": _changed(
        "measurements is no map: QuPath ignores it", "write a map of name to number"
    ),
    "metadata-dropped": _changed("QuPath drops this metadata", "write a map of name to text"),
    "metadata-0.5": _note(
        "QuPath 0.5 keeps the metadata of annotations only", "expect it from 0.6 on"
    ),
    # The outline
    "geometry": _fatal("no geometry that QuPath knows", "write a Polygon"),
    "coordinates": _fatal("coordinates are not nested as the type needs", "write [x, y] pairs"),
    "coordinate-3d": _changed("QuPath ignores the third coordinate", "write [x, y]"),
    "coordinate-text": _changed("coordinates are text: QuPath reads numbers", "write numbers"),
    "not-finite": _fatal("a coordinate is NaN or infinite", "write finite numbers", "0.6"),
    "ring-open": _fatal("a ring is not closed", "repeat the first vertex at the end"),
    "ring-short": _fatal("a ring or line has too few vertices", "write four or more"),
    "plane": _fatal("plane is not {c, z, t} of whole numbers", "leave the key out"),
    "ellipse": _fatal("isEllipse is not a boolean", "leave the key out"),
    "multipolygon-single": _fatal(
        "MultiPolygon of one part: QuPath 0.5 loses the whole file", "write a Polygon", "0.4", "0.5"
    ),
    "multiline-single": _changed(
        "MultiLineString of one part: not safe in QuPath 0.5", "write a LineString"
    ),
    "collection": _fatal(
        "GeometryCollection: QuPath from 0.6 loses the whole file", "write a MultiPolygon", "0.6"
    ),
    "collection-reduced": _changed(
        "GeometryCollection: QuPath keeps only its areas", "write a MultiPolygon"
    ),
    "crossing": _fatal(
        "the outline crosses itself, parts overlap or a hole lies outside",
        "repair it with make_valid",
        "0.6",
    ),
    "empty": _broken(
        "nothing is left of the outline at 0.01 px: an object without area at 0, 0", "remove it"
    ),
    "invalid": _broken(
        "QuPath from 0.6 loads it as an invalid outline", "repair it with make_valid"
    ),
    "invalid-0.5": _broken(
        "QuPath 0.5 loads it as an invalid outline", "repair it with make_valid"
    ),
    "repaired": _changed(
        "the outline touches itself: QuPath repairs it", "repair it with make_valid"
    ),
    "rounding": _changed(
        "rounding to 0.01 px changes the number of parts or holes", "round before writing"
    ),
    "vertices-repeated": _changed("QuPath removes repeated vertices", "remove them"),
    "rounded": _note("QuPath from 0.6 rounds to 0.01 px", "write at most two decimals"),
    "outside": _changed(
        "the object lies outside the image, at least in part",
        "check that it is the right slide and that its bounds were subtracted",
    ),
    "nucleus-ignored": _changed(
        "QuPath ignores a nucleus here", "write nucleusGeometry beside geometry, for cells"
    ),
}

"""Annotations of other programs as GeoJSON for QuPath, in the right place on a slide."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Literal, cast, get_args

import numpy as np
import orjson
import shapely
from numpy.typing import NDArray

from wsiseg.annotations import (
    Annotations,
    FoundObjects,
    ImageRef,
    Polygons,
    read_objects,
    write_annotations,
)
from wsiseg.annotations._read_qupath import open_whole
from wsiseg.annotations.frames import to_frame
from wsiseg.annotations.read_drawing import DrawingFormat, format_of, read_head
from wsiseg.errors import AnnotationError, UsageError
from wsiseg.exchange._writing import refuse_existing
from wsiseg.exchange.from_drawing import from_drawing
from wsiseg.exchange.from_histomicsui import from_histomicsui, looks_like_histomicsui
from wsiseg.exchange.from_tables import from_clam, from_wsinfer
from wsiseg.exchange.from_tiatoolbox import SQLITE, from_tiatoolbox, looks_like_tiatoolbox
from wsiseg.exchange.request import ExportReport, ExportRequest
from wsiseg.source import Pyramid

__all__ = ["ImportFormat", "import_annotations", "write_imported"]

ImportFormat = Literal[
    "geojson",
    "geojson-level0",
    "asap",
    "imagescope",
    "wsinfer",
    "clam",
    "tiatoolbox",
    "histomicsui",
]

HDF5 = b"\x89HDF\r\n\x1a\n"
LEAST_INSIDE = 0.5
"""Share of the objects that must lie on the slide."""

DEFAULTS = ExportRequest()


def import_annotations(
    path: Path | str, slide: Pyramid | None = None, *, format: ImportFormat | None = None
) -> FoundObjects:
    """Read the objects of an annotation file of any usual program.

    Parameters
    ----------
    path
        GeoJSON of any QuPath (`.geojson`, `.json`, each also `.gz`, `.zip`), XML of ASAP or
        ImageScope, CSV of WSInfer, HDF5 of CLAM or TRIDENT, `.db` or JSON of TIAToolbox, JSON of
        HistomicsUI.
    slide
        The slide they belong to; files that wsiseg wrote need none.
    format
        What the file is; by default told from its content. GeoJSON is in the frame of QuPath, all
        else in pixels of the whole level 0; `geojson-level0` is GeoJSON of a program that ignores
        bounds.

    Returns
    -------
    FoundObjects
        With ids, classes, colours, names, measurements and holes as far as the file has them.

    Raises
    ------
    AnnotationError
        If the file cannot be read, belongs to another slide, or no slide is named for a file that
        needs one.
    UsageError
        If there is no such format.
    RunError
        If HDF5 is to be read and h5py is not installed.
    """
    path = Path(path)
    if format is not None and format not in get_args(ImportFormat):
        raise UsageError(f"format {format!r}: needed one of {', '.join(get_args(ImportFormat))}")
    head = read_head(path)
    kind, content = (format, None) if format else _format_of(path, head)
    image = None if slide is None else ImageRef.of(slide)
    if kind in {"geojson", "geojson-level0"}:
        found = _of_qupath(path, image, level0=kind == "geojson-level0")
    elif image is None:
        raise AnnotationError(f"{path}: does not say which slide it belongs to; name it (slide=)")
    elif kind in {"asap", "imagescope"}:
        found = from_drawing(path, image, cast("DrawingFormat", kind))
    elif kind == "wsinfer":
        found = from_wsinfer(path, image)
    elif kind == "clam":
        found = from_clam(path, image)
    elif kind == "histomicsui":
        found = from_histomicsui(path, content or _content(path), image)
    else:
        is_database = head.startswith(SQLITE)
        found = from_tiatoolbox(path, None if is_database else content or _content(path), image)
    _check_inside(path, found)
    return found


def write_imported(
    found: FoundObjects, out: Path | str, name: str, *, request: ExportRequest = DEFAULTS
) -> ExportReport:
    """Write imported objects as `<name>.geojson` for QuPath, or several files with an index.

    Parameters
    ----------
    found
        What `import_annotations` gave.
    out
        Folder; made if absent.
    name
        Stem of the file.
    request
        Its frame, `compress`, `limits` and `overwrite` count.

    Raises
    ------
    RunError
        If a file of that name is there and not to be overwritten.
    AnnotationError, LabelError, DiskFullError
        As `write_annotations`.
    """
    out = Path(out)
    ending = ".geojson.gz" if request.compress else ".geojson"
    for file in (f"{name}{ending}", f"{name}.index.json"):
        refuse_existing(out / file, overwrite=request.overwrite)
    if not found.groups:
        raise AnnotationError(
            f"nothing to write for {name!r}: no area and no point in the file"
            f" ({_listed(found.left_out)}); name another one"
        )
    written = write_annotations(
        out,
        found.groups,
        name=name,
        frame=request.frame,
        compress=request.compress,
        limits=request.limits,
    )
    if not written.objects and written.dropped:
        for path in written.files:
            path.unlink()
        raise AnnotationError(
            f"nothing to write for {name!r}: nothing of the file can be shown "
            f"({_listed(written.dropped)}); name another one"
        )
    notes = Counter(found.left_out) + Counter(written.dropped)
    notes += Counter({"repaired": written.repaired, "cut at the slide's edge": written.clipped})
    return ExportReport(written.files, written.objects, dict(notes))


def _format_of(path: Path, head: bytes) -> tuple[ImportFormat, bytes | None]:
    """Return the format of a file, and its text where that had to be read to know it."""
    if head.startswith(SQLITE):
        return "tiatoolbox", None
    if head.startswith(HDF5):
        return "clam", None
    if path.suffix.lower() == ".csv":
        return "wsinfer", None
    known = format_of(path, head)
    if known is None:
        raise AnnotationError(
            f"{path}: no annotations in a known format: needed GeoJSON, XML of ASAP or ImageScope, "
            "CSV of WSInfer, HDF5 of CLAM, a store of TIAToolbox or JSON of HistomicsUI"
        )
    name = path.name.lower()
    if known != "geojson" or name.endswith((".zip", ".geojson", ".geojson.gz")):
        return known, None
    content = _content(path)
    try:
        value = orjson.loads(content)
    except orjson.JSONDecodeError:  # QuPath's parser is lenient, and so is the reader's
        return "geojson", None
    if looks_like_histomicsui(value):
        return "histomicsui", content
    return ("tiatoolbox", content) if looks_like_tiatoolbox(value) else ("geojson", None)


def _content(path: Path) -> bytes:
    (document, *_) = open_whole(path)
    return document.content.removeprefix(b"\xef\xbb\xbf")


def _of_qupath(path: Path, image: ImageRef | None, *, level0: bool) -> FoundObjects:
    """Read GeoJSON, and compare what it says of its slide with the slide."""
    found = read_objects(path, image=image)
    if level0:
        groups = (replace(g, geometries=g.outlines, frame="level0") for g in found.groups)
        return replace(found, groups=tuple(groups))
    return found


def _check_inside(path: Path, found: FoundObjects) -> None:
    """Refuse objects most of which lie beside the slide.

    Raises
    ------
    AnnotationError
        It says so where the other frame would fit.
    """
    if not len(found):
        return
    share = _share_inside(found.groups)
    if share >= LEAST_INSIDE:
        return
    image = found.groups[0].image
    others = [replace(g, geometries=g.outlines, frame="level0") for g in found.groups]
    hint = ""
    if _share_inside(others) >= LEAST_INSIDE:
        hint = "; as format 'geojson-level0' it would fit"
    raise AnnotationError(
        f"{path}: only {share:.0%} of its objects lie on {image.name} ({image.shape[1]} x "
        f"{image.shape[0]} pixels); it was made on another slide, level or frame"
        f"{hint or '; name the right slide'}"
    )


def _share_inside(groups: tuple[Annotations, ...] | list[Annotations]) -> float:
    inside, total = 0, 0
    for group in groups:
        low, high = _bounds(to_frame(group, "level0"))
        height, width = group.image.shape
        middle = (low + high) / 2
        inside += int(np.count_nonzero(((middle >= 0) & (middle <= (width, height))).all(axis=1)))
        total += len(group)
    return inside / max(1, total)


def _bounds(group: Annotations) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    outlines = group.outlines
    if isinstance(outlines, Polygons):
        return outlines.bounds()
    bounds = shapely.bounds(outlines)
    return bounds[:, :2], bounds[:, 2:]


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {what}" for what, count in counts.items()) or "it is empty"

"""Annotations of any usual program, moved to the pixels of a slide and checked against it."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import shapely
from numpy.typing import NDArray

from wsiseg.annotations import _read_asap, _read_imagescope
from wsiseg.annotations._read_asap import read_asap
from wsiseg.annotations._read_imagescope import read_imagescope
from wsiseg.annotations._read_qupath import read_qupath
from wsiseg.annotations._xml import root_of
from wsiseg.annotations.base import ImageRef
from wsiseg.annotations.drawing import Areas, Drawing, Points, counted
from wsiseg.annotations.frames import qupath_frame
from wsiseg.errors import AnnotationError
from wsiseg.source.pyramid import Pyramid

__all__ = [
    "READERS",
    "ROOTS",
    "DrawingFormat",
    "format_of",
    "read_areas",
    "read_head",
    "read_points",
]

DrawingFormat = Literal["geojson", "geojson-level0", "asap", "imagescope"]

READERS: Mapping[DrawingFormat, Callable[[Path], Drawing]] = {
    "geojson": read_qupath,
    "geojson-level0": read_qupath,
    "asap": read_asap,
    "imagescope": read_imagescope,
}
ROOTS: Mapping[str, DrawingFormat] = {_read_asap.ROOT: "asap", _read_imagescope.ROOT: "imagescope"}

LEAST_INSIDE = 0.5
"""Share of the annotated area that must lie on the slide."""

SAME_SPACING = 0.05
"""Pixel sizes that differ by more, relatively, are those of different slides."""


EMPTY = (
    "; if there is nothing to find, say so: allow_empty = true in [labels] of the data set, or "
    "allow_empty=True in Python"
)


def read_areas(
    path: Path | str,
    slide: Pyramid,
    *,
    format: DrawingFormat | None = None,
    allow_empty: bool = False,
    allow_none: bool = False,
) -> Areas:
    """Read the areas of an annotation file, in level-0 pixels.

    Parameters
    ----------
    path
        GeoJSON of QuPath or of another program (`.geojson`, `.json`, each also `.gz`, `.zip`), XML
        of ASAP or Aperio ImageScope.
    slide
        The slide they were drawn on.
    format
        What the file is; by default told from its content. GeoJSON is in the frame of QuPath,
        which for some slides starts at the corner of their bounds, unless it was written by
        wsiseg, which says its frame; `geojson-level0` is GeoJSON whose pixels are those of the
        whole level 0, from a program that ignores bounds.
    allow_empty
        A file without any object means that nothing is there, as it does in files that wsiseg
        wrote; else it is taken for a mistake.
    allow_none
        A file may hold no area, but points or lines alone.

    Raises
    ------
    AnnotationError
        If the file cannot be read, holds no area, or an outline that crosses itself for good; if
        it belongs to a slide of another size or pixel size, or lies mostly outside this one.
    """
    drawing, offset = _read(Path(path), slide, format)
    areas = drawing.areas()
    if not len(areas) and not (allow_none or _may_be_empty(drawing, allow_empty=allow_empty)):
        found = counted(areas.left_out) or "nothing"
        raise AnnotationError(
            f"{path}: no area in it: needed polygons, found {found}; draw closed outlines, or "
            f"name another file{EMPTY * drawing.lists_nothing}"
        )
    moved = shapely.transform(areas.geometries, lambda xy: xy + offset)
    share = _share_inside(moved, slide)
    if share < LEAST_INSIDE:
        hint = _fitting_format(areas, slide) if drawing.frame == "qupath" else ""
        raise _outside(drawing.path, slide, share, "area", hint)
    return replace(areas, geometries=moved)


def read_points(
    path: Path | str,
    slide: Pyramid,
    *,
    format: DrawingFormat | None = None,
    allow_empty: bool = False,
) -> Points:
    """Read the points of an annotation file with their classes, in level-0 pixels.

    Parameters
    ----------
    path, slide, format, allow_empty
        As for `read_areas`. Points are QuPath's points, ASAP's dots and ImageScope's counters.

    Raises
    ------
    AnnotationError
        If the file cannot be read, holds no point, or most of them lie outside the slide.
    """
    drawing, offset = _read(Path(path), slide, format)
    points = drawing.points()
    if not len(points) and not _may_be_empty(drawing, allow_empty=allow_empty):
        raise AnnotationError(
            f"{path}: no point in it; place points, or name another file"
            f"{EMPTY * drawing.lists_nothing}"
        )
    yx = points.yx + offset[::-1]
    inside = ((yx >= 0) & (yx <= slide.shape)).all(axis=1)
    if len(points) and inside.mean() < LEAST_INSIDE:
        raise _outside(Path(path), slide, float(inside.mean()), "points")
    return replace(points, yx=yx)


def format_of(path: Path, head: bytes) -> DrawingFormat | None:
    """Return the format of an annotation file; `None` where it is none."""
    name = path.name.lower()
    if name.endswith((".json", ".geojson", ".json.gz", ".geojson.gz", ".zip")):
        return "geojson"
    if not (name.endswith(".xml") or head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<")):
        return None
    root = root_of(path)
    if root not in ROOTS:
        raise AnnotationError(
            f"{path}: needed XML of ASAP (<{_read_asap.ROOT}>) or ImageScope "
            f"(<{_read_imagescope.ROOT}>), found <{root}>; export it as GeoJSON"
        )
    return ROOTS[root]


def _read(
    path: Path, slide: Pyramid, format: DrawingFormat | None
) -> tuple[Drawing, NDArray[np.float64]]:
    """Return what a file holds, and what is to be added to its (x, y)."""
    format = format or format_of(path, read_head(path))
    if format is None or format not in READERS:
        raise AnnotationError(
            f"{path}: no annotations in a known format: needed one of {', '.join(READERS)}; export "
            "GeoJSON"
        )
    drawing = READERS[format](path)
    _check_slide(drawing, slide)
    if drawing.frame == "level0" or format == "geojson-level0":
        return drawing, np.zeros(2)
    return drawing, _corner_shown(drawing, slide)


def _corner_shown(drawing: Drawing, slide: Pyramid) -> NDArray[np.float64]:
    """Return the corner (x, y) of the image that QuPath showed, in level-0 pixels.

    Versions and options of QuPath differ in whether they crop a slide to its bounds; a file that
    states the size of the image it was drawn on settles it.
    """
    image = ImageRef.of(slide)
    usual, said, bounds = qupath_frame(image), drawing.image_shape, image.bounds
    if said is None or said == (usual.height, usual.width):
        return np.array(usual.offset, np.float64)
    if said == image.shape:
        return np.zeros(2)
    if bounds is not None and said == bounds.shape:
        return np.array(bounds.start[::-1], np.float64)
    height, width = said
    raise AnnotationError(
        f"{drawing.path}: drawn on an image of {width} x {height} pixels, {slide.name} has "
        f"{image.shape[1]} x {image.shape[0]}; name the right slide, or annotate the largest image "
        "of its file"
    )


def read_head(path: Path) -> bytes:
    """Return the first bytes of a file.

    Raises
    ------
    AnnotationError
        If there is no such file, or it is empty.
    """
    try:
        with path.open("rb") as stream:
            head = stream.read(256)
    except FileNotFoundError as error:
        raise AnnotationError(f"{path}: no such file; check the path") from error
    except OSError as error:
        raise AnnotationError(f"{path}: cannot be read: {error.strerror or error}") from error
    if not head:
        raise AnnotationError(f"{path}: the file is empty; export the annotations anew")
    return head


def _may_be_empty(drawing: Drawing, *, allow_empty: bool) -> bool:
    return drawing.says_empty or (allow_empty and drawing.lists_nothing)


def _check_slide(drawing: Drawing, slide: Pyramid) -> None:
    """Compare with what the file says of its slide."""
    said, shape = drawing.level0_shape, slide.shape
    if said is not None and said != shape:
        raise AnnotationError(
            f"{drawing.path}: belongs to a slide of {said[1]} x {said[0]} pixels, {slide.name} has "
            f"{shape[1]} x {shape[0]}; name the right slide"
        )
    spacing = slide.source.metadata.spacing  # the file's own: --mpp may correct it
    if drawing.mpp and spacing is not None:
        apart = max(abs(um / drawing.mpp - 1) for um in spacing.um)
        if apart > SAME_SPACING:
            raise AnnotationError(
                f"{drawing.path}: drawn on pixels of {drawing.mpp:g} µm, {slide.name} has "
                f"{spacing.um[1]:g} µm; name the right slide"
            )


def _fitting_format(areas: Areas, slide: Pyramid) -> str:
    """Return which frame GeoJSON would fit in, as a part of a message."""
    offset = np.array(qupath_frame(ImageRef.of(slide)).offset, np.float64)
    for format, shift in (("geojson-level0", offset * 0), ("geojson", offset)):
        moved = shapely.transform(areas.geometries, lambda xy, shift=shift: xy + shift)
        if _share_inside(moved, slide) >= LEAST_INSIDE and offset.any():
            return f"; as format {format!r} it would fit"
    return ""


def _share_inside(geometries: NDArray[np.object_], slide: Pyramid) -> float:
    """Return the share of the area that lies on the slide; 1 where there is none."""
    total = shapely.area(geometries).sum()
    box = shapely.box(0, 0, slide.shape[1], slide.shape[0])
    whole = shapely.bounds(geometries)
    inside = (whole[:, :2] >= 0).all(axis=1) & (whole[:, 2:] <= slide.shape[::-1]).all(axis=1)
    cut = shapely.area(shapely.intersection(geometries[~inside], box)).sum()
    return float((shapely.area(geometries[inside]).sum() + cut) / total) if total else 1.0


def _outside(
    path: Path, slide: Pyramid, share: float, what: str, hint: str = ""
) -> AnnotationError:
    height, width = slide.shape
    return AnnotationError(
        f"{path}: only {share:.0%} of its {what} lies on {slide.name} ({width} x {height} pixels); "
        f"it was drawn on another slide, level or frame{hint or '; name the right slide'}"
    )

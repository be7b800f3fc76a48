"""The objects of an annotation file drawn on their slide, to see whether they lie where meant."""

from pathlib import Path
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from wsiseg.annotations import Annotations
from wsiseg.annotations.base import UNCLASSIFIED
from wsiseg.annotations.frames import to_frame
from wsiseg.draw import DrawnClass, overview
from wsiseg.exchange.imports import import_annotations
from wsiseg.source import Pyramid

__all__ = ["draw_annotations"]

SIDE = 1280
POINT_PIXELS = 3.0
"""Half the side of the square drawn for a point."""

TOLERANCE = 0.25
"""Pixels of the picture that outlines may be off."""

GREY = (64, 64, 64)


def draw_annotations(path: Path | str, slide: Pyramid, *, size: int = SIDE) -> NDArray[np.uint8]:
    """Return the slide's thumbnail with the objects of a file, uint8 (y, x, 3).

    Parameters
    ----------
    path
        Any file that `import_annotations` reads; GeoJSON is taken to be in QuPath's frame.
    slide
        What they are drawn on.
    size
        Longest side of the picture without its legend.

    Raises
    ------
    AnnotationError
        If the file cannot be read, or most of its objects lie beside the slide.
    """
    found = import_annotations(path, slide)
    pixels = slide.thumbnail(size)
    scale = pixels.shape[1] / slide.shape[1], pixels.shape[0] / slide.shape[0]
    classes: dict[tuple[str, tuple[int, int, int]], list[NDArray[np.object_]]] = {}
    for group in found.groups:
        drawn = _shapes(to_frame(group, "level0"), scale)
        for index in np.unique(group.class_index).tolist():
            known = None if index == UNCLASSIFIED else group.classes[index]
            key = ("Unclassified", GREY) if known is None else (known.name, known.color)
            classes.setdefault(key, []).append(drawn[group.class_index == index])
    shown = [
        DrawnClass(name, color, np.concatenate(shapes), note=str(sum(map(len, shapes))))
        for (name, color), shapes in classes.items()
    ]
    um = slide.spacing.um[1] / scale[0] if slide.metadata.spacing else 1.0
    caption = f"{Path(path).name} on {slide.name}: {len(found)} objects"
    return overview(pixels, um, classes=shown, caption=caption)


def _shapes(group: Annotations, scale: tuple[float, float]) -> NDArray[np.object_]:
    """Return the outlines in pixels of the picture; points as squares."""
    held: Any = group.outlines if group.are_points else group.geometries
    placed: NDArray[np.object_] = shapely.transform(held, lambda points: points * scale)
    if group.are_points:
        return np.asarray(shapely.buffer(placed, POINT_PIXELS, cap_style="square"))
    plain = shapely.simplify(placed, TOLERANCE, preserve_topology=False)
    return np.where(shapely.is_empty(plain), placed, plain)

"""Where a label file says what there is: inside its regions, and not in what it leaves out."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import shapely
from numpy.typing import NDArray

from wsiseg.annotations.labels import are_ignored
from wsiseg.annotations.read_drawing import read_areas
from wsiseg.errors import AnnotationError
from wsiseg.source import Pyramid
from wsiseg.train.dataset import Dataset

__all__ = ["KnownArea", "known_area"]


@dataclass(frozen=True, slots=True, eq=False)
class KnownArea:
    """The part of a slide that is annotated.

    Objects and points elsewhere are neither right nor wrong, as the pixels there are.
    """

    regions: shapely.STRtree | None
    """What is annotated exhaustively; `None`: the whole slide is."""

    ignored: shapely.STRtree

    def holds(self, yx: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Tell which points (n, 2), level-0 pixels (y, x), lie in it, bool (n,)."""
        points = shapely.points(yx[:, ::-1])
        known = np.ones(len(points), bool) if self.regions is None else _in(self.regions, points)
        return known & ~_in(self.ignored, points)


def known_area(path: Path, slide: Pyramid, dataset: Dataset) -> KnownArea:
    """Read what part of a slide a label file annotates, by the rules of the data set.

    Raises
    ------
    AnnotationError
        If the file cannot be read or belongs to another slide; if the data set says that regions
        are annotated, and it has none.
    """
    rules = dataset.rules
    areas = read_areas(path, slide, allow_none=True)
    region = np.array([name in rules.within for name in areas.names], bool)
    if rules.within and not region.any():
        raise AnnotationError(
            f"{path}: needed a region {' or '.join(sorted(rules.within))} around what is "
            f"annotated, found {sorted(set(areas.names))}; draw one, or leave out within"
        )
    ignored = are_ignored(
        areas.names,
        dataset.classes,
        mapping=rules.mapping,
        ignore=rules.ignore,
        within=rules.within,
    )
    return KnownArea(
        shapely.STRtree(areas.geometries[region]) if rules.within else None,
        shapely.STRtree(areas.geometries[ignored]),
    )


def _in(areas: shapely.STRtree, points: NDArray[np.object_]) -> NDArray[np.bool_]:
    inside = np.zeros(len(points), bool)
    inside[areas.query(points, predicate="intersects")[0]] = True
    return inside

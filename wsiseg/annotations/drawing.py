"""Areas and points that other programs drew, as their files hold them, in level-0 pixels."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import shapely
from numpy.typing import NDArray

from wsiseg.annotations.base import Frame
from wsiseg.errors import AnnotationError

__all__ = [
    "LARGEST_REPAIR",
    "UNCLASSIFIED",
    "Areas",
    "Drawing",
    "Points",
    "Vertices",
    "closed",
    "counted",
    "ellipse_outline",
]

UNCLASSIFIED = "Unclassified"
"""Name of objects to which no class was given."""

LARGEST_REPAIR = 0.01
"""Share of its area by which repairing an outline may change it."""

ELLIPSE_VERTICES = 128

Vertices = NDArray[np.float64]
"""(n, 2) as (x, y)."""

Part = Sequence[Vertices]
"""A polygon: its closed rings, shell first."""


@dataclass(frozen=True, slots=True, eq=False)
class Areas:
    """Areas of one slide, in columns."""

    geometries: NDArray[np.object_]
    """Valid shapely `Polygon` or `MultiPolygon` (n,) in level-0 pixels (x, y)."""

    names: tuple[str, ...]
    """What the file calls each of them; `Unclassified` where it has no class."""

    left_out: Mapping[str, int] = field(default_factory=dict)
    """What else there is in the file -> how often: points, lines, outlines without area."""

    def __len__(self) -> int:
        return len(self.names)


@dataclass(frozen=True, slots=True, eq=False)
class Points:
    """Points of one slide."""

    yx: NDArray[np.float64]
    """(n, 2) level-0 pixels (y, x); the first pixel's corner is (0, 0), its centre (0.5, 0.5)."""

    names: tuple[str, ...]
    """What the file calls each of them; `Unclassified` where it has no class."""

    def __len__(self) -> int:
        return len(self.names)


class _Area(NamedTuple):
    name: str
    parts: Sequence[Part]
    where: str
    cuts: Sequence[Part]


@dataclass(slots=True)
class Drawing:
    """Collects what a reader finds in a file, in the file's own frame."""

    path: Path
    frame: Frame = "level0"
    level0_shape: tuple[int, int] | None = None
    """Level-0 pixels (y, x) of the slide the file says it belongs to."""

    image_shape: tuple[int, int] | None = None
    """Pixels (y, x) of the image as it was shown, from whose corner coordinates count."""

    mpp: float | None = None
    """µm per level-0 pixel of that slide."""

    says_empty: bool = False
    """The file states that nothing was found."""

    is_list: bool = True
    """The file is one that may list no objects, not something else altogether."""

    left_out: Counter[str] = field(default_factory=Counter)
    colors: dict[str, tuple[int, int, int]] = field(default_factory=dict)
    """Name -> RGB, where the file says it."""

    _areas: list[_Area] = field(default_factory=list, init=False)
    _points: list[tuple[str, Vertices]] = field(default_factory=list, init=False)

    def add_area(
        self, name: str, parts: Sequence[Part], where: str, *, cuts: Sequence[Part] = ()
    ) -> None:
        """Add an object: polygons of closed rings (n, 2) in (x, y), less the polygons `cuts`."""
        self._areas.append(_Area(name, parts, where, cuts))

    def add_points(self, name: str, xy: Vertices) -> None:
        """Add points (n, 2) in (x, y)."""
        self._points.append((name, xy))

    def areas(self) -> Areas:
        """Return the areas.

        Raises
        ------
        AnnotationError
            If an outline is so broken that a repair would change its area by more than
            `LARGEST_REPAIR`, or a coordinate is not finite; the message names the object.
        """
        geometries = self._build([area.parts for area in self._areas])
        united: dict[int, shapely.Geometry] = {}  # areas of one layer share their cuts
        for i, area in enumerate(self._areas):
            if area.cuts:
                if id(area.cuts) not in united:
                    cuts = self._build([[cut] for cut in area.cuts], area.where)
                    united[id(area.cuts)] = shapely.union_all(cuts)
                geometries[i] = _areal(shapely.difference(geometries[i], united[id(area.cuts)]))
        kept = shapely.area(geometries) > 0
        left_out = self.left_out + Counter(
            {
                "outlines without area": int(np.count_nonzero(~kept)),
                "points": sum(len(xy) for _, xy in self._points),
            }
        )
        names = tuple(a.name for a, keep in zip(self._areas, kept, strict=True) if keep)
        return Areas(geometries[kept], names, dict(left_out))

    @property
    def lists_nothing(self) -> bool:
        """The file lists objects of any kind, and has none: by intention, or by mistake."""
        return self.is_list and not (self._areas or self._points or self.left_out)

    def points(self) -> Points:
        """Return the points."""
        for name, xy in self._points:
            if not np.isfinite(xy).all():
                raise AnnotationError(
                    f"{self.path}: a point of class {name!r} is not finite; remove it"
                )
        xy = np.concatenate([np.empty((0, 2)), *(xy for _, xy in self._points)])
        return Points(xy[:, ::-1], tuple(name for name, xy in self._points for _ in xy))

    def _build(
        self, objects: Sequence[Sequence[Part]], where: str | None = None
    ) -> NDArray[np.object_]:
        """Return objects (n,) as valid geometries."""
        kept = [[part for part in parts if part] for parts in objects]
        for i, parts in enumerate(kept):
            if not all(np.isfinite(ring).all() for part in parts for ring in part):
                raise AnnotationError(
                    f"{self.path}: {where or self._areas[i].where}: a coordinate is not finite; "
                    "remove the object"
                )
        geometries = _multipolygons(kept)
        for i in np.flatnonzero(~shapely.is_valid(geometries)).tolist():
            geometries[i] = self._repaired(geometries[i], where or self._areas[i].where)
        return geometries

    def _repaired(self, geometry: shapely.MultiPolygon, where: str) -> shapely.Geometry:
        """Return a valid geometry; parts that overlap are united, each part is repaired alone."""
        parts = []
        for part in geometry.geoms:
            fixed = _areal(shapely.make_valid(part, method="structure", keep_collapsed=False))
            change = _change(part, fixed)
            if change > LARGEST_REPAIR:
                raise AnnotationError(
                    f"{self.path}: {where}: the outline crosses itself "
                    f"({shapely.is_valid_reason(part)}), and repairing it would change its area "
                    f"by {change:.1%}, more than {LARGEST_REPAIR:.0%}; correct it in the program "
                    "it was drawn with"
                )
            parts.append(fixed)
        return _areal(shapely.union_all(parts))


def ellipse_outline(xy: Vertices) -> Vertices:
    """Return the ellipse in the bounding box of points (n, 2) as a closed ring of equal area."""
    low, high = xy.min(axis=0), xy.max(axis=0)
    step = 2 * np.pi / ELLIPSE_VERTICES
    angles = np.append(np.arange(ELLIPSE_VERTICES), 0) * step
    radius = (high - low) / 2 * np.sqrt(step / np.sin(step))
    outline: Vertices = (low + high) / 2 + radius * np.stack([np.cos(angles), np.sin(angles)], 1)
    return outline


def closed(xy: Vertices) -> Vertices:
    """Return a ring that ends where it begins, of at least four vertices."""
    if not np.array_equal(xy[0], xy[-1]):
        xy = np.concatenate([xy, xy[:1]])
    return xy if len(xy) > 3 else np.concatenate([xy, np.repeat(xy[-1:], 4 - len(xy), axis=0)])


def counted(counts: Mapping[str, int] | Iterable[str]) -> str:
    """Return `3 x 'Tumor', 1 x 'Stroma'`."""
    return ", ".join(f"{n} x {name!r}" for name, n in Counter(counts).most_common())


def _multipolygons(objects: Sequence[Sequence[Part]]) -> NDArray[np.object_]:
    """Return objects (n,) as `MultiPolygon`, all at once."""
    parts = [part for several in objects for part in several]
    rings = [ring for part in parts for ring in part]
    offsets = tuple(np.cumsum([0, *map(len, level)]) for level in (rings, parts, objects))
    geometries: NDArray[np.object_] = shapely.from_ragged_array(
        shapely.GeometryType.MULTIPOLYGON, np.concatenate([np.empty((0, 2)), *rings]), offsets
    )
    return geometries


def _change(part: shapely.Polygon, fixed: shapely.Geometry) -> float:
    """Return how much a repair changes the area of an outline, as a share of the larger one.

    The area of a ring as written counts each loop as often, and in the sense, as it is walked; so
    it differs from that of the repaired outline where loops cross, overlap or run backwards.
    """
    written, united = shapely.area(part), shapely.area(fixed)
    largest = max(written, united)
    return float(abs(written - united) / largest) if largest else 0.0


def _areal(geometry: shapely.Geometry) -> shapely.Geometry:
    """Return the polygons of a geometry alone."""
    if geometry.geom_type in {"Polygon", "MultiPolygon"}:
        return geometry
    parts = shapely.get_parts(geometry)
    kept = [part for part in parts if part.geom_type in {"Polygon", "MultiPolygon"}]
    return shapely.union_all(kept) if kept else shapely.Polygon()

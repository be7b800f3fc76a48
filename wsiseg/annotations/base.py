"""What people see: polygons with a class, in columns so that a million of them fit."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import shapely
from numpy.typing import NDArray

from wsiseg.annotations.polygons import Polygons
from wsiseg.annotations.rectilinear import Held
from wsiseg.errors import AnnotationError
from wsiseg.geometry import Box, Spacing

if TYPE_CHECKING:
    from geopandas import GeoDataFrame

    from wsiseg.source import Pyramid

__all__ = [
    "UNCLASSIFIED",
    "AnnotationClass",
    "Annotations",
    "Frame",
    "ImageRef",
    "ObjectType",
]

UNCLASSIFIED = -1
"""Index of the class of objects that have none."""

POINT_TYPES = (0, 4)
"""shapely's type ids of `Point` and `MultiPoint`."""

Frame = Literal["level0", "qupath"]
ObjectType = Literal["annotation", "detection", "tile", "cell"]


@dataclass(frozen=True, slots=True)
class AnnotationClass:
    """A class and its colour, RGB 0-255."""

    name: str
    color: tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class ImageRef:
    """The image that annotations belong to."""

    name: str
    shape: tuple[int, int]
    """Level-0 pixels (y, x) of the whole image."""

    spacing: Spacing
    """Level-0 µm per pixel (y, x)."""

    vendor: str = "generic"
    bounds: Box | None = None
    """Level-0 pixels; the part QuPath shows, where the vendor declares one."""

    @classmethod
    def of(cls, slide: "Pyramid") -> "ImageRef":
        """Return what annotations need to know of their slide."""
        metadata = slide.metadata
        shape = (slide.shape[0], slide.shape[1])
        return cls(slide.name, shape, slide.spacing, metadata.vendor, metadata.bounds)


class _Geometries:
    """The attribute `Annotations.geometries`: shapely objects, made of columns when asked for."""

    def __get__(self, owner: "Annotations", _: type | None = None) -> NDArray[np.object_]:
        if not isinstance(owner.outlines, np.ndarray):
            self.__set__(owner, owner.outlines.to_shapely())
        made: NDArray[np.object_] = vars(owner)["outlines"]
        return made

    def __set__(self, owner: "Annotations", value: Held) -> None:
        vars(owner)["outlines"] = value


@dataclass(frozen=True, repr=False)
class Annotations:
    """Polygons of one image, held in columns.

    Parameters
    ----------
    geometries
        Object array (n,) of shapely `Polygon` in pixels of `frame`, (x, y), y down, pixel corners.
        Given `Polygons`, which need half the memory, or `Rectilinear`, a tenth, it is made of them,
        and replaces them, when it is first asked for; writing does not ask. Or `Point` and
        `MultiPoint` for all of them, which GeoJSON alone can take.
    class_index
        Integers (n,), each an index into `classes`; `UNCLASSIFIED`, -1, for objects without class.
    classes
        The classes with their colours.
    measurements
        Name with unit -> float64 (n,); NaN where an object has no such measurement.
    image
        The image they belong to.
    frame
        `level0`: pixels of the whole level-0 image. `qupath`: pixels of the image QuPath shows.
    object_type
        QuPath's object type for all of them.
    ids
        UUIDs (n,) as ASCII, `S36`; empty ones, and those not given, are made of the outlines.
    names
        Object array (n,) of names, `None` for objects without one.
    nuclei
        Object array (n,) of polygons in `geometries`' frame, `None` for cells without one.
    is_locked
        Whether QuPath keeps them from being moved by hand.
    """

    geometries: Any  # what is read is an NDArray[np.object_], what is given may be columns
    class_index: NDArray[np.int64]
    classes: tuple[AnnotationClass, ...]
    image: ImageRef
    measurements: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)
    frame: Frame = "level0"
    object_type: ObjectType = "annotation"
    ids: NDArray[np.bytes_] | None = None
    names: NDArray[np.object_] | None = None
    nuclei: NDArray[np.object_] | None = None
    is_locked: bool = False

    def __post_init__(self) -> None:
        lengths = {len(self.outlines), len(self.class_index)}
        lengths |= {len(column) for column in self.measurements.values()}
        optional = (self.ids, self.names, self.nuclei)
        lengths |= {len(column) for column in optional if column is not None}
        if len(lengths) != 1:
            raise AnnotationError(f"columns differ in length: {sorted(lengths)}")
        if isinstance(self.outlines, Polygons):
            self.outlines.check()

    def __len__(self) -> int:
        return len(self.outlines)

    def __repr__(self) -> str:
        names = ", ".join(item.name for item in self.classes)
        return f"Annotations({len(self)} objects of {self.image.name!r}, classes: {names})"

    def _repr_html_(self) -> str:
        from wsiseg.draw.notebook import panel, swatch, text_table

        counts = np.bincount(self.class_index[self.class_index >= 0], minlength=len(self.classes))
        rows = [
            (swatch(known.color, known.name), f"{count:,}")
            for known, count in zip(self.classes, counts, strict=True)
        ]
        without = len(self) - int(counts.sum())
        rows += [("no class", f"{without:,}")] if without else []
        told = f"{len(self):,} objects of {self.image.name}, {self.frame}"
        table = text_table(rows, heads=("class", "objects"))
        return panel("Annotations", told, table, text_table([(m,) for m in self.measurements]))

    @property
    def outlines(self) -> Held:
        """The polygons as they are held at present: in columns, or as shapely objects."""
        held: Held = vars(self)["outlines"]
        return held

    @property
    def are_points(self) -> bool:
        """Whether these are points instead of polygons."""
        held = self.outlines
        if not isinstance(held, np.ndarray) or not len(held):
            return False
        return bool(np.isin(shapely.get_type_id(held), POINT_TYPES).all())

    def take(self, rows: NDArray[np.int64]) -> "Annotations":
        """Return the objects of some rows (m,)."""

        def of(column: NDArray[Any] | None) -> NDArray[Any] | None:
            return None if column is None else column[rows]

        held = self.outlines
        return Annotations(
            held[rows] if isinstance(held, np.ndarray) else held.take(rows),
            self.class_index[rows],
            self.classes,
            self.image,
            {name: column[rows] for name, column in self.measurements.items()},
            self.frame,
            self.object_type,
            of(self.ids),
            of(self.names),
            of(self.nuclei),
            self.is_locked,
        )

    def to_geopandas(self) -> "GeoDataFrame":
        """Return a GeoDataFrame (needs the extra `notebook`)."""
        from wsiseg.annotations.geoparquet import to_geopandas

        return to_geopandas(self)


Annotations.geometries = _Geometries()  # beside the class: inside it would be the field's default

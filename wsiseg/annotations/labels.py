"""Labels of a slide: annotations or a mask of any usual program, as class pixels of any view."""

import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, cast, final

import numpy as np
from numpy.typing import NDArray

from wsiseg.annotations._naming import IGNORE, Naming
from wsiseg.annotations.class_map import ClassMap
from wsiseg.annotations.drawing import Areas
from wsiseg.annotations.masks import MaskLabels, open_mask
from wsiseg.annotations.read_drawing import DrawingFormat, format_of, read_areas, read_head
from wsiseg.annotations.scanline import PolygonRaster, Raster
from wsiseg.errors import AnnotationError, LabelError
from wsiseg.geometry import Box, Spacing
from wsiseg.source.pyramid import Pyramid

__all__ = [
    "IGNORE",
    "LabelFormat",
    "LabelView",
    "Labels",
    "are_ignored",
    "check_label_rules",
    "class_values",
    "open_labels",
]

LabelFormat = Literal["geojson", "geojson-level0", "asap", "imagescope", "mask", "omezarr"]

STRIP_PIXELS = 1 << 22
MAX_MAP_PIXELS = 1 << 30
OVERVIEW_SIDE = 2048
"""Longest side in pixels of the map that areas and bounds are taken from."""

SAME_SIZE = 1.5
"""Pixels of a view by which its size may differ from that of the slide it shows."""


class _Painter(Protocol):
    def read(self, raster: Raster, box: Box) -> NDArray[np.uint8]:
        """Return class values of a box on the slide."""
        ...


def class_values(
    path: Path | str,
    names: Sequence[str],
    classes: Sequence[str],
    *,
    mapping: Mapping[str, str] | None = None,
    ignore: Iterable[str] = (),
    within: Iterable[str] = (),
) -> NDArray[np.int64]:
    """Return the class value of each object of a file by its name, int64 (n,).

    The names follow the rules of `open_labels`; `IGNORE` is what those of `ignore` and `within`
    become.

    Raises
    ------
    LabelError
        If a name stands for no class.
    """
    naming = Naming.of(classes, mapping or {}, ignore, within, ())
    naming.check(path, names)
    values = [IGNORE if naming.is_region(name) else naming.value(name) for name in names]
    return np.array(values, np.int64)


def are_ignored(
    names: Sequence[str],
    classes: Sequence[str],
    *,
    mapping: Mapping[str, str],
    ignore: Iterable[str],
    within: Iterable[str],
) -> NDArray[np.bool_]:
    """Tell which objects mark what nobody knows by their names, bool (n,); see `open_labels`.

    Raises
    ------
    LabelError
        If the rules contradict each other or the classes.
    """
    naming = Naming.of(classes, mapping, ignore, within, ())
    return np.array([naming.value(name) == IGNORE for name in names], bool)


def check_label_rules(
    classes: Sequence[str],
    *,
    mapping: Mapping[str, str],
    ignore: Iterable[str],
    within: Iterable[str],
    priority: Sequence[str] = (),
) -> None:
    """Look whether the rules of `open_labels` make sense, without a file.

    Raises
    ------
    LabelError
        If they contradict each other or the classes.
    """
    Naming.of(classes, mapping, ignore, within, priority)


def open_labels(  # noqa: PLR0913 - one argument per rule that label files differ by
    path: Path | str,
    slide: Pyramid,
    classes: Sequence[str],
    *,
    mapping: Mapping[str, str] | None = None,
    ignore: Sequence[str] = (),
    within: Sequence[str] = (),
    priority: Sequence[str] = (),
    format: LabelFormat | None = None,
    allow_empty: bool = False,
) -> "Labels":
    """Open annotations or a mask of a slide.

    Parameters
    ----------
    path
        GeoJSON (QuPath, wsiseg and others), XML of ASAP or Aperio ImageScope; a mask as PNG or
        another lossless image or as TIFF, also tiled or as a pyramid, at any downsample; or labels
        in OME-Zarr.
    slide
        The slide they belong to.
    classes
        Names of the class values 0, 1, ...; the first is the background.
    mapping
        What the file calls it -> a class. For masks, values are names, such as
        `{"255": "tumour"}`; without it value k is class k, or the class that the file names so.
    ignore
        Names of areas that nobody knows: they become 255, whatever else is drawn there.
    within
        Names of regions that are annotated exhaustively: outside all of them everything becomes
        255. A class may be named, too: then only what is drawn counts as known. Default: the whole
        slide is annotated.
    priority
        The classes from lowest to highest: where areas overlap, the higher one counts. Default:
        as in `classes`, later ones are higher.
    format
        What the file is; by default told from its content. See `read_areas` for GeoJSON.
    allow_empty
        Annotations without any object mean that all of the slide is background.

    Raises
    ------
    LabelError
        If a name or value in the file stands for no class; it says how to map it.
    AnnotationError
        If the file cannot be read, is empty (see `allow_empty`), or belongs to another slide.
    MissingSpacingError
        If the pixel size of the slide is not known.
    """
    path = Path(path)
    naming = Naming.of(classes, mapping or {}, ignore, within, priority)
    head = b"" if path.is_dir() else read_head(path)
    kind = format
    if kind is None:
        kind = None if path.is_dir() else format_of(path, head)
    painter: _Painter
    left_out: Mapping[str, int] = {}
    if kind in {None, "mask", "omezarr"}:
        painter = MaskLabels(open_mask(path, slide, head), naming, slide.shape)
    else:
        drawn = cast("DrawingFormat", kind)
        areas = read_areas(path, slide, format=drawn, allow_empty=allow_empty)
        painter, left_out = _DrawnLabels(path, areas, naming, slide.shape), areas.left_out
    return Labels(painter, naming.classes, slide, left_out=left_out)


class _DrawnLabels:
    """Polygons as class values."""

    def __init__(self, path: Path, areas: Areas, naming: Naming, shape: Sequence[int]) -> None:
        naming.check(path, areas.names)
        value_of = {name: naming.value(name) for name in set(areas.names)}
        values = [value_of[name] for name in areas.names]
        layer_of = {value: layer for layer, value in enumerate([*naming.order, IGNORE])}
        self._values = np.array([0, *naming.order, IGNORE], np.uint8)
        lowest_is_paper = naming.order[0] == 0
        drawn = [
            i
            for i, value in enumerate(values)
            if value is not None and not (lowest_is_paper and value == 0)
        ]
        layers = [layer_of[cast("int", values[i])] for i in drawn]
        self._raster = PolygonRaster(areas.geometries[drawn], layers, shape)
        regions = [i for i, name in enumerate(areas.names) if naming.is_region(name)]
        self._regions = None
        if naming.within and len(areas):
            if not regions:
                raise AnnotationError(
                    f"{path}: needed a region {' or '.join(sorted(naming.within))} around what is "
                    f"annotated, found {sorted(set(areas.names))}; draw one, or leave out within"
                )
            self._regions = PolygonRaster(areas.geometries[regions], [0] * len(regions), shape)

    def read(self, raster: Raster, box: Box) -> NDArray[np.uint8]:
        layers = self._raster.read(raster, box)
        labels: NDArray[np.uint8] = np.take(self._values, layers, mode="clip")  # none is outside
        if self._regions is not None:
            labels[self._regions.read(raster, box) == 0] = IGNORE
        return labels


@dataclass(frozen=True, slots=True)
class _Grid:
    shape: tuple[int, int]
    downsample: tuple[float, float]


@final
class Labels:
    """Labels of one slide; made by `open_labels`.

    Class values: 0 is the background, k the k-th class, 255 what nobody knows.

    Attributes
    ----------
    classes : tuple of str
        Names of the values 0, 1, ...
    left_out : mapping
        What else the file holds that is no area -> how often.
    """

    def __init__(
        self,
        painter: _Painter,
        classes: Sequence[str],
        slide: Pyramid,
        *,
        left_out: Mapping[str, int] | None = None,
    ) -> None:
        self.classes = tuple(classes)
        self.left_out: Mapping[str, int] = dict(left_out or {})
        self._painter = painter
        self._name = slide.name
        self._shape = (slide.shape[0], slide.shape[1])
        self._spacing = slide.spacing
        self._overview: ClassMap | None = None
        self._lock = threading.Lock()

    def at(self, view: Raster) -> "LabelView":
        """Return the labels at the pixels of a view (or level) of the slide.

        Raises
        ------
        LabelError
            If the view shows a slide of another size.
        """
        for pixels, d, size in zip(view.shape, view.downsample, self._shape, strict=True):
            if abs(pixels * d - size) > SAME_SIZE * d:
                raise LabelError(
                    f"labels of {self._name} need a view of its {self._shape[1]} x "
                    f"{self._shape[0]} pixels, found {view.shape[1] * view.downsample[1]:.0f} x "
                    f"{view.shape[0] * view.downsample[0]:.0f}; open the labels with that slide"
                )
        return LabelView(self._painter, view)

    def areas(self) -> dict[str, float]:
        """Return the area of each class in µm², counted on a map of 2,048 pixels a side.

        Overlaps count once, as the class they become; what is ignored counts for none.
        """
        overview = self._small_map()
        return {name: overview.area_um2(value) for value, name in enumerate(self.classes)}

    def bounds(self, value: int) -> Box | None:
        """Return the level-0 box around a class, to a pixel of that map; `None` if it has none."""
        return self._small_map().bounds(value)

    def class_map(self, spacing_um: float) -> ClassMap:
        """Return which class lies where on the whole slide.

        Made in strips of rows, so memory is that of the map. What is smaller than a pixel of the
        map may be missing from it.

        Parameters
        ----------
        spacing_um
            µm per pixel of the map, not finer than the slide.

        Raises
        ------
        LabelError
            If the map would be finer than the slide, or too large.
        """
        ratio = Spacing((spacing_um, spacing_um)).ratio_to(self._spacing)
        downsample = (ratio[0], ratio[1])
        shape = tuple(
            max(1, int(np.ceil(n / d - 1e-6))) for n, d in zip(self._shape, downsample, strict=True)
        )
        if min(downsample) < 1 - 1e-6 or shape[0] * shape[1] > MAX_MAP_PIXELS:
            raise LabelError(
                f"{self._name}: a map of {spacing_um:g} µm per pixel would have {shape[1]} x "
                f"{shape[0]} pixels, needed at most {MAX_MAP_PIXELS} and none finer than "
                f"{max(self._spacing.um):g} µm; take coarser ones"
            )
        grid = _Grid((shape[0], shape[1]), downsample)
        values = np.empty(grid.shape, np.uint8)
        rows = max(1, STRIP_PIXELS // shape[1])
        for top in range(0, shape[0], rows):
            stop = min(top + rows, shape[0])
            values[top:stop] = self._painter.read(grid, Box((top, 0), (stop, shape[1])))
        return ClassMap(values, downsample, self._spacing.times(downsample), self._shape)

    def _small_map(self) -> ClassMap:
        with self._lock:
            if self._overview is None:
                reduction = max(1.0, max(self._shape) / OVERVIEW_SIDE)
                self._overview = self.class_map(max(self._spacing.um) * reduction)
            return self._overview

    def __repr__(self) -> str:
        return f"<Labels of {self._name}: {', '.join(self.classes)}>"


@final
class LabelView:
    """Labels at the pixels of a view; made by `Labels.at`.

    Attributes
    ----------
    shape : tuple of int
        Pixels (y, x) of the view.
    downsample : tuple of float
        Level-0 pixels per pixel, (y, x).
    """

    def __init__(self, painter: _Painter, view: Raster) -> None:
        self._painter = painter
        self.shape = tuple(view.shape)
        self.downsample = tuple(view.downsample)

    def read(self, box: Box) -> NDArray[np.uint8]:
        """Return the labels of a box, from any thread.

        Parameters
        ----------
        box
            Pixels of the view (y, x), anywhere.

        Returns
        -------
        ndarray
            uint8 `box.shape`; 255 outside the slide. A pixel has the class of the polygon that
            holds its centre (for the last one, which may overhang the slide, the centre of its part
            on the slide); of a mask, the class that covers most of it.
        """
        inside = box.clip(self.shape)
        if not inside.size:
            return np.full(box.shape, IGNORE, np.uint8)
        found = self._painter.read(self, inside)
        if inside == box:
            return found
        labels = np.full(box.shape, IGNORE, np.uint8)
        labels[inside.relative_to(box).slices()] = found
        return labels

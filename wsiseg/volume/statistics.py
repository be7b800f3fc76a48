"""What is in a segmented scan, in physical units: per class, and per lesion."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from wsiseg.errors import UsageError
from wsiseg.geometry import Affine, Box
from wsiseg.volume.arrays import VoxelArray, checked_labels, class_boxes
from wsiseg.volume.features import shape_features
from wsiseg.volume.lesions import CONNECTIVITY, NO_PARTS, Lesion, find_parts, measure_lesion
from wsiseg.volume.shells import Shell, peritumoral_shells

__all__ = [
    "ENLARGED_MM",
    "ClassStatistics",
    "ScanClass",
    "ScanStatistics",
    "StatisticsOptions",
    "scan_statistics",
]

ENLARGED_MM = 10.0
"""Short axis from which a lymph node counts as enlarged: RECIST 1.1, E. A. Eisenhauer et al., Eur.
J. Cancer 45:228, 2009, doi:10.1016/j.ejca.2008.10.026."""

NODES = re.compile(r"lymph|\bnodes?\b", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class ScanClass:
    """A class of a segmented scan."""

    value: int
    """In the labels, from 1."""

    name: str
    color: tuple[int, int, int] | None = None
    """RGB 0-255; `None`: one of a palette for any colour vision."""

    nodes: bool | None = None
    """Whether its parts are lymph nodes, judged by their short axis; `None`: told by the name."""

    @property
    def are_nodes(self) -> bool:
        """Whether the rule for lymph nodes holds."""
        return bool(NODES.search(self.name)) if self.nodes is None else self.nodes


@dataclass(frozen=True, slots=True, kw_only=True)
class StatisticsOptions:
    """What is measured."""

    midline_mm: float | None = None
    """World x that parts left from right; `None`: the middle of the scan."""

    least_ml: float = 0.0
    """Parts with a smaller volume are not counted, and listed nowhere."""

    most_lesions: int = 1000
    """Parts of a class that are measured, the largest first; all are counted."""

    shells: bool = False
    """Measure the surroundings of the largest lesion of each class, too."""

    shape: bool = False
    """Give the features of the shape of the largest lesion of each class, too."""

    def __post_init__(self) -> None:
        if not self.least_ml >= 0 or self.most_lesions < 1:
            raise UsageError(
                f"statistics need least_ml >= 0 and most_lesions >= 1, got {self.least_ml} and "
                f"{self.most_lesions}"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassStatistics:
    """One class of a scan."""

    value: int
    name: str
    voxels: int
    volume_ml: float
    component_count: int
    """Connected parts (26-connectivity)."""

    surface_mm2: float
    """Of the parts that were measured."""

    left_percent: float
    """Share of the volume on the patient's left of the midline; NaN where there is none."""

    centroid_mm: tuple[float, ...] | None
    lesions: tuple[Lesion, ...]
    """The largest first."""

    enlarged_count: int | None = None
    """Lymph nodes with a short axis of at least 10 mm; `None` for other classes."""

    shells: tuple[Shell, ...] = ()
    shape: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class ScanStatistics:
    """All classes of a scan."""

    shape: tuple[int, ...]
    """Voxels, (z, y, x)."""

    spacing_mm: tuple[float, ...]
    orientation: str
    midline_mm: float
    classes: tuple[ClassStatistics, ...]
    connectivity: int = CONNECTIVITY

    def rows(self) -> list[dict[str, Any]]:
        """Return a row per class (lesion empty), followed by its lesions, for a table."""
        rows = []
        for one in self.classes:
            rows.append(_class_row(one))
            rows += [_lesion_row(one, lesion) for lesion in one.lesions]
        return rows

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, with the unit in each name."""
        from dataclasses import asdict

        return asdict(self)


def scan_statistics(
    labels: VoxelArray,
    affine: Affine,
    classes: Sequence[ScanClass],
    *,
    image: VoxelArray | None = None,
    stations: tuple[VoxelArray, Mapping[int, str]] | None = None,
    options: StatisticsOptions | None = None,
) -> ScanStatistics:
    """Measure the classes of a segmented scan and their connected parts.

    Memory: the box around one class at a time, 5 bytes per voxel, beside a slab of slices.

    Parameters
    ----------
    labels
        Integers (z, y, x); 0 is the background.
    affine
        Of the labels.
    classes
        In the order of the tables. Values that none of them has are not looked at.
    image
        The scan on the same voxels (z, y, x), for intensities.
    stations
        Map (z, y, x) of regions, such as the stations of lymph nodes, and the name of each value.
    options
        What is measured.

    Raises
    ------
    UsageError
        If these are no labels, or image or map have another shape.
    """
    options = options or StatisticsOptions()
    checked_labels(labels, "statistics")
    for other, what in ((image, "scan"), (stations and stations[0], "map of stations")):
        if other is not None and tuple(other.shape[:3]) != tuple(labels.shape):
            raise UsageError(f"the {what} has {other.shape} voxels, the labels {labels.shape}")
    midline = _middle_x(labels.shape, affine) if options.midline_mm is None else options.midline_mm
    boxes = class_boxes(labels)
    measure = _ClassMeasure(labels, affine, image, stations, midline, options)
    return ScanStatistics(
        shape=tuple(labels.shape),
        spacing_mm=affine.spacing_mm,
        orientation=affine.orientation,
        midline_mm=midline,
        classes=tuple(measure.of(one, boxes.get(one.value)) for one in classes),
    )


def _middle_x(shape: Sequence[int], affine: Affine) -> float:
    middle = [(n - 1) / 2 for n in shape]
    return float(affine.world([middle])[0, 0])


@dataclass(frozen=True, slots=True)
class _ClassMeasure:
    """What the measures of all classes have in common."""

    labels: VoxelArray
    affine: Affine
    image: VoxelArray | None
    stations: tuple[VoxelArray, Mapping[int, str]] | None
    midline_mm: float
    options: StatisticsOptions

    def of(self, one: ScanClass, box: Box | None) -> ClassStatistics:
        options = self.options
        least = max(1, int(np.ceil(options.least_ml * 1000 / self.affine.voxel_mm3 - 1e-9)))
        parts = find_parts(self.labels, one.value, box, least_voxels=least) if box else NO_PARTS
        lesions = []
        for index in range(min(len(parts), options.most_lesions)):
            mask, own = parts.mask(index), parts.boxes[index]
            values = None if self.image is None else np.asarray(self.image[own.slices()])[mask]
            lesion = measure_lesion(
                mask, own, self.affine, number=index + 1, values=values, midline_mm=self.midline_mm
            )
            lesions.append(self._judged(one, lesion, mask, own))
        voxels = int(sum(parts.sizes))
        enlarged = sum(bool(lesion.enlarged) for lesion in lesions)
        weights = np.array([lesion.voxels for lesion in lesions], np.float64)
        return ClassStatistics(
            value=one.value,
            name=one.name,
            voxels=voxels,
            volume_ml=voxels * self.affine.voxel_mm3 / 1000,
            component_count=len(parts),
            surface_mm2=sum(lesion.surface_mm2 for lesion in lesions),
            left_percent=_mean([lesion.left_percent for lesion in lesions], weights),
            centroid_mm=_centroid(lesions, weights),
            lesions=tuple(lesions),
            enlarged_count=enlarged if one.are_nodes else None,
            **(self._extras(parts.mask(0), parts.boxes[0]) if len(parts) else {}),
        )

    def _judged(self, one: ScanClass, lesion: Lesion, mask: Any, box: Box) -> Lesion:  # noqa: ANN401
        if not one.are_nodes:
            return lesion
        lesion = replace(lesion, enlarged=lesion.short_axis_mm >= ENLARGED_MM)
        if self.stations is None:
            return lesion
        regions, names = self.stations
        counts = np.bincount(np.asarray(regions[box.slices()])[mask].astype(np.int64))
        if not counts[1:].any():
            return lesion
        most = int(counts[1:].argmax()) + 1
        return replace(
            lesion,
            station=names.get(most, str(most)),
            station_percent=100 * float(counts[most]) / lesion.voxels,
        )

    def _extras(self, mask: Any, box: Box) -> dict[str, Any]:  # noqa: ANN401
        found: dict[str, Any] = {}
        if self.options.shells:
            found["shells"] = peritumoral_shells(
                mask, box, self.affine, shape=self.labels.shape, image=self.image
            )
        if self.options.shape:
            values = None if self.image is None else np.asarray(self.image[box.slices()])
            here = self.affine.cropped(box.start)
            found["shape"] = shape_features(mask, here, values=values)
        return found


def _mean(values: Sequence[float], weights: Any) -> float:  # noqa: ANN401
    return float(np.average(values, weights=weights)) if values else float("nan")


def _centroid(lesions: Sequence[Lesion], weights: Any) -> tuple[float, ...] | None:  # noqa: ANN401
    if not lesions:
        return None
    middle = np.average([lesion.centroid_mm for lesion in lesions], axis=0, weights=weights)
    return tuple(float(value) for value in middle)


def _class_row(one: ClassStatistics) -> dict[str, Any]:
    x, y, z = one.centroid_mm or (float("nan"),) * 3
    return {
        "class": one.name,
        "lesion": "",
        "voxels": one.voxels,
        "volume_ml": one.volume_ml,
        "component_count": one.component_count,
        "surface_mm2": one.surface_mm2,
        "left_percent": one.left_percent,
        **{"centroid_x_mm": x, "centroid_y_mm": y, "centroid_z_mm": z},
        "enlarged": "" if one.enlarged_count is None else one.enlarged_count,
    }


def _lesion_row(one: ClassStatistics, lesion: Lesion) -> dict[str, Any]:
    x, y, z = lesion.centroid_mm
    row: dict[str, Any] = {
        "class": one.name,
        "lesion": lesion.number,
        "voxels": lesion.voxels,
        "volume_ml": lesion.volume_ml,
        "long_axis_mm": lesion.long_axis_mm,
        "short_axis_mm": lesion.short_axis_mm,
        "feret_mm": lesion.feret_mm,
        "equivalent_diameter_mm": lesion.equivalent_diameter_mm,
        "surface_mm2": lesion.surface_mm2,
        "left_percent": lesion.left_percent,
        **{"centroid_x_mm": x, "centroid_y_mm": y, "centroid_z_mm": z},
        "enlarged": "" if lesion.enlarged is None else int(lesion.enlarged),
    }
    row |= {f"intensity_{name}": value for name, value in (lesion.intensity or {}).items()}
    if lesion.station is not None:
        row |= {"station": lesion.station, "station_percent": lesion.station_percent}
    return row

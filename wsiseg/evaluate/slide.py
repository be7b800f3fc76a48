"""One slide compared with its reference, in blocks of a fixed size."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from wsiseg.errors import UsageError
from wsiseg.evaluate.blocks import BlockReader, walk
from wsiseg.evaluate.boundary import BoundaryTracer, framed
from wsiseg.evaluate.calibration import Calibrated, CalibrationBins
from wsiseg.evaluate.case import Case, EvaluationOptions, Masks
from wsiseg.evaluate.instances import InstanceOverlap, InstanceScores, compare_polygons
from wsiseg.evaluate.overlap import Confusion, Overlap
from wsiseg.evaluate.points import PointCounts, PointProtocol, match_points
from wsiseg.evaluate.raters import Raters, RaterScores
from wsiseg.evaluate.sketch import Sketch
from wsiseg.evaluate.surface import SurfaceScores, compare_boundaries
from wsiseg.evaluate.values import IGNORE, LabelArray, Units
from wsiseg.geometry import Box
from wsiseg.volume.lesions import components

if TYPE_CHECKING:
    from wsiseg.evaluate.case import Objects, Pair, PointSet

__all__ = ["DETECTION", "OVERLAP", "ClassScores", "SlideScores", "evaluate_slide"]

OVERLAP = ("dice", "iou", "precision", "recall")
OBJECTS = ("aji", "aji_plus", "pq", "dq", "sq")
DETECTION = ("f1", "precision", "recall")
"""Names of figures: of pixels, of the shape of objects, of finding objects or points."""


@dataclass(frozen=True, slots=True)
class ClassScores:
    """How well one class was found on one slide; `None` for what was not compared."""

    name: str
    overlap: Overlap | None = None
    surface: SurfaceScores | None = None
    objects: InstanceScores | None = None
    points: Mapping[PointProtocol, PointCounts] | None = None
    raters: RaterScores | None = None
    pixel_um2: float = float("nan")
    """Area (volume) of a pixel in µm² (µm³)."""

    units: Units = Units.of_axes(2)  # noqa: RUF009 - frozen
    """Of the figures."""

    def figures(self) -> dict[str, float]:
        """Return every figure by its name, in a fixed order; NaN where it is not defined."""
        found: dict[str, float] = {}
        units = self.units
        if self.overlap is not None:
            found |= {name: getattr(self.overlap, name) for name in OVERLAP}
            pixel = self.pixel_um2 / units.pixels_um
            found[f"predicted_{units.size}"] = self.overlap.predicted * pixel
            found[f"reference_{units.size}"] = self.overlap.expected * pixel
        if self.surface is not None:
            found[f"hd95_{units.length}"] = self.surface.hd95 / units.um
            found[f"average_distance_{units.length}"] = self.surface.average_distance / units.um
            found["boundary_f1"] = self.surface.boundary_f1
            found["surface_dice"] = self.surface.surface_dice
        if self.objects is not None:
            found |= {name: getattr(self.objects, name) for name in OBJECTS}
            word = "lesion" if units.length == "mm" else "object"
            found |= {f"{word}_{name}": getattr(self.objects, name) for name in DETECTION}
        for protocol, counts in (self.points or {}).items():
            found |= {f"points_{protocol}_{name}": getattr(counts, name) for name in DETECTION}
            found["points_count_error"] = float(counts.count_error)
        if self.raters is not None:
            found["consensus_dice"] = self.raters.consensus.dice
            found["consensus_confidence"] = self.raters.confidence
            found[f"crps_{units.size}"] = self.raters.crps / units.pixels_um
        return found

    @property
    def empty(self) -> str:
        """Which side has nothing of this class: `both`, `prediction`, `reference`, or neither."""
        if self.overlap is not None:
            return self.overlap.empty
        return self.objects.empty if self.objects is not None else ""


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class SlideScores:
    """How well one slide was done."""

    name: str
    columns: Mapping[str, str]
    classes: tuple[ClassScores, ...]
    """One per class without the background."""

    confusion: Confusion | None = None
    calibration: CalibrationBins | None = None
    rater_calibrations: tuple[Calibrated, ...] = ()
    """Against each rater."""

    sketch: Sketch | None = None
    """The labels in small, for pictures."""

    def mean(self) -> dict[str, float]:
        """Return the mean of each figure but sizes over the classes where it is defined."""
        tables = [scores.figures() for scores in self.classes]
        means = {}
        for name in tables[0] if tables else ():
            if name.endswith(("_um2", "_ml")):
                continue
            values = np.array([table[name] for table in tables])
            defined = values[~np.isnan(values)]
            means[name] = float(defined.mean()) if len(defined) else float("nan")
        return means

    @property
    def rank(self) -> float:
        """What slides are sorted by, the worst first: mean Dice, else PQ, else F1 of points."""
        means = self.mean()
        for name in ("dice", "pq", "points_patherea_f1", "points_hungarian_f1"):
            if name in means:
                return means[name]
        return float("nan")


def evaluate_slide(
    case: Case, classes: Sequence[str], *, options: EvaluationOptions | None = None
) -> SlideScores:
    """Compare one slide with its reference.

    Masks are read in blocks; what is kept meanwhile are counts, and the outlines. Memory grows
    with the length of the outlines and with the number of objects, not with the slide.

    Parameters
    ----------
    case
        The slide.
    classes
        Names of the label values 0, 1, ...; the first is the background and has no scores.
    options
        Tolerances, definitions, block size.

    Raises
    ------
    UsageError
        If there is nothing to compare, or what is read does not fit.
    LabelError
        If a label stands for no class.
    """
    options = options or EvaluationOptions()
    if len(classes) < 2 or len(classes) > 250 or len(set(classes)) != len(classes):
        raise UsageError(
            f"{case.name}: needed 2 to 250 different classes, the background first, found "
            f"{list(classes)}"
        )
    if case.masks is None and case.objects is None and case.points is None:
        raise UsageError(f"{case.name}: nothing to compare; give masks, objects or points")
    masks = None
    if case.masks is not None:
        masks = _MaskComparison(case.name, case.masks, classes, options)
        masks.run()
    scores = [
        replace(
            masks.of_class(index) if masks else ClassScores(name),
            objects=_objects(case.objects, index) or (masks.lesions(index) if masks else None),
            points=_points(case.points, index, options),
        )
        for index, name in enumerate(classes)
        if index > 0
    ]
    return SlideScores(
        name=case.name,
        columns=dict(case.columns),
        classes=tuple(scores),
        confusion=masks.confusion if masks else None,
        calibration=masks.calibration if masks else None,
        rater_calibrations=masks.rater_calibrations() if masks else (),
        sketch=masks.sketch if masks else None,
    )


def _objects(pair: "Pair[Objects] | None", index: int) -> InstanceScores | None:
    if pair is None:
        return None
    return compare_polygons(pair.prediction.of_class(index), pair.reference.of_class(index))


def _points(
    pair: "Pair[PointSet] | None", index: int, options: EvaluationOptions
) -> dict[PointProtocol, PointCounts] | None:
    if pair is None:
        return None
    sides = pair.prediction.of_class(index), pair.reference.of_class(index)
    return {
        protocol: match_points(*sides, tolerance=options.point_tolerance_um, protocol=protocol)
        for protocol in options.point_protocols
    }


class _MaskComparison:
    """Everything that is counted while the masks of one slide pass by."""

    def __init__(
        self, name: str, masks: Masks, classes: Sequence[str], options: EvaluationOptions
    ) -> None:
        self._masks, self._classes, self._options = masks, classes, options
        count = len(classes)
        self._prediction, self._reference = (
            BlockReader(read, masks.shape, options.block_pixels, name=f"{name}, {side}")
            for read, side in ((masks.prediction, "prediction"), (masks.reference, "reference"))
        )
        self.confusion = Confusion(count)
        self.calibration = (
            CalibrationBins(count, bins=options.bins) if masks.probabilities else None
        )
        self._tracers = (
            [BoundaryTracer(masks.shape, count, kind=options.boundary) for _ in range(2)]
            if options.surfaces
            else []
        )
        self._raters = (
            Raters(
                len(masks.raters),
                count,
                pixel_volume=masks.spacing.area_um2,
                bins=options.bins,
            )
            if masks.raters
            else None
        )
        self.sketch = Sketch.of_shape(masks.shape, masks.plane)
        self._around: list[Box | None] = [None] * count

    def run(self) -> None:
        """Read every block once, and count."""
        for box, prediction, reference in self._blocks():
            inner = (slice(1, -1),) * len(box.shape)
            for tracer, labels in zip(self._tracers, (prediction, reference), strict=False):
                tracer.add(labels, box)
            self.confusion.add(prediction[inner], reference[inner])
            self.sketch.add(prediction[inner], reference[inner], box)
            if self._options.lesions:
                for labels in (prediction[inner], reference[inner]):
                    self._grow(labels, box)
            self._add_probable(box, reference[inner])

    def _blocks(self) -> Iterator[tuple[Box, LabelArray, LabelArray]]:
        """Yield each box, and both label images of it with a pixel around."""
        shape, edge = self._masks.shape, self._options.edge
        for box in walk(shape, self._options.block_pixels):
            around = box.grow(1)
            reference = framed(self._reference.read, around, shape, edge)
            prediction = framed(self._prediction.read, around, shape, edge)
            # who gives no answer says background; where nobody knows there is no outline either
            prediction[prediction == IGNORE] = 0
            prediction[reference == IGNORE] = IGNORE
            yield box, prediction, reference

    def _add_probable(self, box: Box, reference: LabelArray) -> None:
        read = self._masks.probabilities
        probabilities = read(box) if read else None
        if self.calibration is not None and probabilities is not None:
            self.calibration.add(probabilities, reference)
        if self._raters is not None:
            prediction = self._prediction.read(box)
            prediction[prediction == IGNORE] = 0
            drawn = [rater(box) for rater in self._masks.raters]
            self._raters.add(prediction, drawn, probabilities)

    def of_class(self, index: int) -> ClassScores:
        """Return what was found of one class."""
        spacing = self._masks.spacing
        surface = None
        if self._tracers:
            outlines = [tracer.of_class(index, spacing.um) for tracer in self._tracers]
            surface = compare_boundaries(
                *outlines, spacing=spacing.um, tolerance=self._options.tolerance_um
            )
        return ClassScores(
            self._classes[index],
            overlap=self.confusion.of_class(index),
            surface=surface,
            raters=self._raters.of_class(index) if self._raters else None,
            pixel_um2=spacing.area_um2,
            units=Units.of_axes(len(self._masks.shape)),
        )

    def _grow(self, labels: LabelArray, box: Box) -> None:
        """Note how far each class reaches."""
        from scipy import ndimage

        for value, found in enumerate(ndimage.find_objects(labels.astype(np.int32)), start=1):
            if found is not None and value < len(self._around):
                own = Box(tuple(s.start for s in found), tuple(s.stop for s in found))
                own = own.shift(box.start)
                self._around[value] = own.around(self._around[value] or own)

    def lesions(self, index: int) -> InstanceScores | None:
        """Return how the connected parts of one class match, where that is asked for."""
        if not self._options.lesions:
            return None
        overlap = InstanceOverlap()
        box = self._around[index]
        if box is not None:
            reference, prediction = self._reference.read(box), self._prediction.read(box)
            prediction[reference == IGNORE] = 0
            overlap.add(*(components(side == index)[0] for side in (prediction, reference)))
        return overlap.scores()

    def rater_calibrations(self) -> tuple[Calibrated, ...]:
        """Return the calibration against each rater, where there are several."""
        if self._raters is None or self.calibration is None:
            return ()
        return self._raters.calibrations()

"""What is compared: one slide's prediction and reference, and how."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from wsiseg.errors import UsageError
from wsiseg.evaluate.boundary import BoundaryKind, Edge
from wsiseg.evaluate.calibration import BINS, Probabilities
from wsiseg.evaluate.points import PointProtocol
from wsiseg.evaluate.statistics import CONFIDENCE, RESAMPLES, Method
from wsiseg.evaluate.values import LabelArray
from wsiseg.geometry import Box, Spacing

__all__ = [
    "Case",
    "EvaluationOptions",
    "Masks",
    "Objects",
    "Pair",
    "PointSet",
    "ReadLabels",
    "ReadPixels",
    "ReadProbabilities",
]

ReadLabels = Callable[[Box], LabelArray]
"""Returns uint8 `box.shape`: 0 background, k class k, 255 what nobody knows. Called with boxes
inside the image only."""

ReadProbabilities = Callable[[Box], Probabilities]
"""Returns float32 (*box.shape, class), the background first; all 0 where there is no answer."""

ReadPixels = Callable[[Box], NDArray[np.uint8]]
"""Returns uint8 (*box.shape, 3)."""

Side = TypeVar("Side")


@dataclass(frozen=True, slots=True)
class Pair(Generic[Side]):
    """The same thing twice: as predicted, and as it should be."""

    prediction: Side
    reference: Side


@dataclass(frozen=True, slots=True, eq=False)
class Objects:
    """Objects of one slide, such as nuclei or glands, in columns.

    Parameters
    ----------
    geometries
        shapely polygons (n,), in the same pixels on both sides.
    class_index
        Integers (n,): class k of the list of classes (whose first, 0, is the background).
    """

    geometries: NDArray[np.object_]
    class_index: NDArray[np.int64]

    def of_class(self, index: int) -> NDArray[np.object_]:
        """Return the polygons of one class."""
        own: NDArray[np.object_] = self.geometries[self.class_index == index]
        return own


@dataclass(frozen=True, slots=True, eq=False)
class PointSet:
    """Points of one slide, in columns.

    Parameters
    ----------
    places_um
        float64 (n, axis), µm.
    class_index
        Integers (n,), as in `Objects`.
    """

    places_um: NDArray[np.float64]
    class_index: NDArray[np.int64]

    def of_class(self, index: int) -> NDArray[np.float64]:
        """Return the places of the points of one class."""
        own: NDArray[np.float64] = self.places_um[self.class_index == index]
        return own


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Masks:
    """Label images of one slide on one grid of pixels, read block by block."""

    shape: tuple[int, ...]
    """Pixels per axis, (y, x) or (z, y, x)."""

    spacing: Spacing
    """µm per pixel."""

    prediction: ReadLabels
    reference: ReadLabels
    probabilities: ReadProbabilities | None = None
    """For calibration."""

    raters: tuple[ReadLabels, ...] = ()
    """References of several people, for the measures of `wsiseg.evaluate.raters`."""

    pixels: ReadPixels | None = None
    """The slide on the same grid, for pictures of the worst places."""

    plane: int | None = None
    """Slice of a volume that pictures show; `None`: the one in the middle."""

    def __post_init__(self) -> None:
        if len(self.shape) != len(self.spacing.um) or min(self.shape, default=0) < 1:
            raise UsageError(
                f"masks of {self.shape} with pixels of {self.spacing.um} µm cannot be compared; "
                "needed a size >= 1 and a spacing per axis"
            )
        if len(self.raters) == 1:
            raise UsageError("one rater is the reference itself; give two or more, or none")


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Case:
    """One slide to evaluate: masks, objects and points, whatever there is."""

    name: str
    masks: Masks | None = None
    objects: Pair[Objects] | None = None
    points: Pair[PointSet] | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    """What else is known of the slide (patient, grade, centre), to group and stratify by."""

    thumbnail: Callable[[int], NDArray[np.uint8]] | None = None
    """Returns the slide, uint8 (h, w, 3), its longer side at most as long as given."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationOptions:
    """How slides are compared."""

    surfaces: bool = True
    """Compare outlines, too."""

    tolerance_um: float = 10.0
    """Up to this distance an outline counts as right: about the width of a cell."""

    boundary: BoundaryKind = "pixels"
    edge: Edge = "closed"
    """Whether what touches the frame of the image ends there; `open` suits regions cut out of a
    larger slide, but other tools do not know it."""

    lesions: bool = False
    """Compare the connected parts of each class one by one, too: those of masks, 26-connectivity
    (8 along two axes). The box around a class is held, 10 bytes per pixel."""

    point_tolerance_um: float = 8.0
    """Up to this distance points match: about the width of a nucleus."""

    point_protocols: tuple[PointProtocol, ...] = ("patherea",)
    bins: int = BINS
    """Of the reliability diagram."""

    block_pixels: int = 1 << 20
    """Pixels of one block; memory is proportional to it."""

    group_by: str | None = None
    """Column whose values are drawn by the bootstrap, such as `patient`; `None`: slides."""

    strata: tuple[str, ...] = ()
    """Columns by whose values results are told apart as well."""

    method: Method = "percentile"
    resamples: int = RESAMPLES
    confidence: float = CONFIDENCE
    seed: int = 0
    pictures: int = 6
    """Slides on the page, the worst first."""

    def __post_init__(self) -> None:
        lengths = (self.tolerance_um, self.point_tolerance_um)
        if not all(math.isfinite(value) and value >= 0 for value in lengths):
            raise UsageError(f"tolerances need to be at least 0 µm, got {lengths}")
        counts = {
            "bins": (self.bins, 1),
            "block_pixels": (self.block_pixels, 4096),
            "resamples": (self.resamples, 1),
            "pictures": (self.pictures, 0),
        }
        for name, (value, least) in counts.items():
            if value < least:
                raise UsageError(f"{name} needs to be at least {least}, got {value}")
        if not 0 < self.confidence < 1:
            raise UsageError(f"the confidence needs to be between 0 and 1, got {self.confidence}")

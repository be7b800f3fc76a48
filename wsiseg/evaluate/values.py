"""What several metrics share: label values, shares that may be undefined, checks of shapes."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from wsiseg.errors import LabelError, UsageError

__all__ = [
    "IGNORE",
    "Empty",
    "LabelArray",
    "Units",
    "check_labels",
    "check_same_shape",
    "emptiness",
    "pieces",
    "share",
]

LabelArray: TypeAlias = NDArray[np.uint8]

IGNORE = 255
"""Label of what nobody knows; it is not scored."""

Empty = Literal["", "both", "prediction", "reference"]
"""Which side has nothing of a class."""


@dataclass(frozen=True, slots=True)
class Units:
    """How lengths and sizes are told."""

    length: str
    um: float
    """µm in a unit of length."""

    size: str
    pixels_um: float
    """µm² (µm³) in a unit of size."""

    @classmethod
    def of_axes(cls, axes: int) -> "Units":
        """Return µm and µm² for images, mm and ml for volumes."""
        return cls("mm", 1e3, "ml", 1e12) if axes == 3 else cls("um", 1.0, "um2", 1.0)


PIECE = 1 << 16
"""Pixels looked at in one go, so that arrays of 8 bytes per pixel stay small."""


def share(part: float, whole: float) -> float:
    """Return `part / whole`, NaN where there is nothing to take a share of."""
    return part / whole if whole else float("nan")


def emptiness(*, prediction: bool, reference: bool) -> Empty:
    """Return which side is empty, given which sides hold something."""
    if prediction and reference:
        return ""
    if prediction:
        return "reference"
    return "prediction" if reference else "both"


def pieces(count: int) -> Iterator[slice]:
    """Yield slices of at most `PIECE` that cover `count` values."""
    for start in range(0, count, PIECE):
        yield slice(start, min(start + PIECE, count))


def check_same_shape(prediction: NDArray[np.generic], reference: NDArray[np.generic]) -> None:
    """Refuse two arrays that cannot be compared pixel by pixel."""
    if prediction.shape != reference.shape:
        raise UsageError(
            f"a prediction of {prediction.shape} cannot be compared with a reference of "
            f"{reference.shape}; read both at the same spacing and box"
        )


def check_labels(largest: int, classes: int, side: str) -> None:
    """Refuse label values that stand for no class."""
    if largest >= classes:
        raise LabelError(
            f"the {side} holds label {largest}, classes go from 0 to {classes - 1} (and {IGNORE} "
            "is what nobody knows); give the list of classes the labels were made with"
        )

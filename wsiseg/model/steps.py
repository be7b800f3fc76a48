"""Preprocessing: the card's steps as one multiplication and one addition per channel.

Every step of the closed list but `rescale`, which comes first, is affine, and so is any chain of
them. One multiply-add costs a quarter of the time of dividing, subtracting and dividing again, and
differs from it by less than one part in 10^6.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wsiseg.model.card import SCAN, SLIDE, InputSpec, NormalizeStep, ScaleStep
from wsiseg.model.scan_card import RescaleStep

__all__ = ["LEAST_SPAN", "Affine", "affine", "spreads"]

LEAST_SPAN = 1.0
"""Of values that `rescale` spreads: an image of one colour becomes 0."""


@dataclass(frozen=True)
class Affine:
    """What turns raw values `x` into network input: `scale * x + offset`, float32 (channel,)."""

    scale: NDArray[np.float32]
    offset: NDArray[np.float32]

    @property
    def scales(self) -> bool:
        """Whether multiplying changes anything."""
        return bool(np.any(self.scale != 1))

    @property
    def shifts(self) -> bool:
        """Whether adding changes anything."""
        return bool(np.any(self.offset != 0))


def spreads(spec: InputSpec) -> bool:
    """Return whether the values of an image are spread from 0 to 1 before the affine steps."""
    return spec.source == SLIDE and bool(spec.steps) and isinstance(spec.steps[0], RescaleStep)


def affine(spec: InputSpec) -> Affine:
    """Return the steps of an input, combined in float64 and rounded once.

    Those of a scan are not among them: they are done before, see `wsiseg.volume.intensity`.
    """
    scale: NDArray[np.float64] = np.ones(len(spec.channels))
    offset: NDArray[np.float64] = np.zeros(len(spec.channels))
    for step in spec.steps if spec.source != SCAN else ():
        if isinstance(step, ScaleStep):
            scale, offset = scale / step.divide_by, offset / step.divide_by
        elif isinstance(step, NormalizeStep):
            scale, offset = scale / step.std, (offset - step.mean) / step.std
    return Affine(scale.astype(np.float32), offset.astype(np.float32))

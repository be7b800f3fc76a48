"""Probabilities of a scan's voxels as whole numbers, as they are kept and written."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from wsiseg.model.activation import activate
from wsiseg.stitch import Sink

__all__ = ["MOST", "ProbabilityPlanes"]

MOST = 65535
"""The code of probability 1: steps of 1.5e-5 in half the bytes of float32."""


@dataclass(frozen=True, slots=True)
class ProbabilityPlanes:
    """Which probabilities an export gives away beside its labels, and to whom."""

    sink: Sink
    """Gets planes `(1, y, x, channel)` of codes of the whole scan, in order."""

    channels: Sequence[int]
    """Of the values, in the order in which they are given."""

    activation: Literal["softmax", "sigmoid", "none"]
    """Makes probabilities of values; `none` where they are."""

    def codes(self, values: NDArray[np.float32]) -> NDArray[np.uint16]:
        """Return the codes of values `(..., channel)`; those of probabilities are rounded."""
        found = activate(values, self.activation)[..., list(self.channels)]
        codes: NDArray[np.uint16] = np.rint(np.clip(found, 0, 1) * MOST).astype(np.uint16)
        return codes

"""Raw network values as probabilities."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

__all__ = ["IDENTITY", "Scaling", "activate"]


@dataclass(frozen=True, slots=True)
class Scaling:
    """Calibration of raw values: each class's are multiplied and shifted before the activation.

    One number for all classes, or one per class.
    """

    weights: tuple[float, ...] = (1.0,)
    biases: tuple[float, ...] = (0.0,)

    def __call__(self, raw: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the scaled values of `(..., class)`, float32."""
        if self == IDENTITY:
            return raw
        weights, biases = (np.asarray(v, np.float32) for v in (self.weights, self.biases))
        scaled: NDArray[np.float32] = raw * weights + biases
        return scaled


IDENTITY = Scaling()


def activate(
    raw: NDArray[np.float32], activation: Literal["softmax", "sigmoid", "none"]
) -> NDArray[np.float32]:
    """Return the probabilities of raw values `(..., class)`, float32."""
    if activation == "none":
        return raw
    if activation == "sigmoid":
        chances: NDArray[np.float32] = np.exp(-np.logaddexp(np.float32(0), -raw), dtype=np.float32)
        return chances
    powers = np.exp(raw - raw.max(axis=-1, keepdims=True), dtype=np.float32)
    shares: NDArray[np.float32] = powers / powers.sum(axis=-1, keepdims=True)
    return shares

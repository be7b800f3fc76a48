"""Raw network values as probabilities."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

__all__ = ["IDENTITY", "OFFSETS", "Scaling", "activate"]


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


OFFSETS = 2
"""Channels after those of the classes where a network gives offsets: down and to the right."""


def activate(
    raw: NDArray[np.float32],
    activation: Literal["softmax", "sigmoid", "none"],
    *,
    offsets: bool = False,
) -> NDArray[np.float32]:
    """Return the probabilities of raw values `(..., class)`, float32.

    With `offsets` the last two channels are those, -1 to 1: they become 0 to 1.
    """
    if offsets:
        chances = activate(raw[..., :-OFFSETS], activation)
        places = np.clip((raw[..., -OFFSETS:] + 1) / 2, 0, 1, dtype=np.float32)
        return np.concatenate([chances, places], axis=-1)
    if activation == "none":
        return raw
    if activation == "sigmoid":
        found: NDArray[np.float32] = np.exp(-np.logaddexp(np.float32(0), -raw), dtype=np.float32)
        return found
    powers = np.exp(raw - raw.max(axis=-1, keepdims=True), dtype=np.float32)
    shares: NDArray[np.float32] = powers / powers.sum(axis=-1, keepdims=True)
    return shares

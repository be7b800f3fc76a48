"""Raw network values as probabilities."""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

__all__ = ["activate"]


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

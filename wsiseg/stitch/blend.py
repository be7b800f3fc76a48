"""How much each tile counts where tiles overlap."""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from wsiseg.stitch.slab import Values

__all__ = ["Blend", "window_weights"]

Blend = Literal["crop", "constant", "gaussian"]

SIGMA_PER_PIXEL = 1 / 8
"""Standard deviation of the Gaussian per pixel of window, as in nnU-Net (Isensee et al. 2021)."""


def window_weights(window: tuple[int, ...], blend: Literal["constant", "gaussian"]) -> Values:
    """Return the weight of each pixel of a window, float32 of shape `window`, in (0, 1].

    Notes
    -----
    The Gaussian is centred on the window and separable, with sigma = window / 8 per axis. The
    outermost pixel centre lies less than 4 sigma away, so along each axis no weight is below
    exp(-8) = 3e-4: none is 0, and no floor is needed.

    References
    ----------
    Isensee et al. 2021, nnU-Net, doi:10.1038/s41592-020-01008-z.
    """
    if blend == "constant":
        return np.ones(window, dtype=np.float32)
    axes = [_gaussian(size) for size in window]
    weights = axes[0]
    for axis in axes[1:]:
        weights = np.multiply.outer(weights, axis)
    return weights.astype(np.float32)


def _gaussian(size: int) -> NDArray[np.float64]:
    distance = np.arange(size) - (size - 1) / 2
    weights: NDArray[np.float64] = np.exp(-0.5 * (distance / (SIGMA_PER_PIXEL * size)) ** 2)
    return weights

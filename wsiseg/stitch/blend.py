"""How much each tile counts where tiles overlap."""

import math
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from wsiseg.stitch.slab import Values

__all__ = ["Blend", "window_weights"]

Blend = Literal["crop", "constant", "gaussian", "gaussian-monai", "gaussian-nnunet"]

Weighted = Literal["constant", "gaussian", "gaussian-monai", "gaussian-nnunet"]

SIGMA_PER_PIXEL = 1 / 8
"""Standard deviation of the Gaussian per pixel of window, as in nnU-Net (Isensee et al. 2021)."""

MONAI_FLOOR = 1e-3
"""Smallest weight in `monai.inferers.sliding_window_inference`, unless all are larger."""

NNUNET_TRUNCATE = 4.0
"""Standard deviations at which SciPy's Gaussian filter ends."""


def window_weights(window: tuple[int, ...], blend: Weighted) -> Values:
    """Return the weight of each pixel of a window, float32 of shape `window`, in (0, 1].

    Parameters
    ----------
    window
        Pixels per axis.
    blend
        `gaussian` is centred on the window and separable, with sigma = window / 8 per axis.
        `gaussian-monai` is the same, with no weight below 0.001 (MONAI's importance map).
        `gaussian-nnunet` is centred on pixel `window // 2` and ends after 4 sigma (nnU-Net v2),
        without the rounding to float16 that it has there.

    Notes
    -----
    The outermost pixel centre of the first lies less than 4 sigma away, so along each axis no
    weight is below exp(-8) = 3e-4: none is 0, and no floor is needed.

    References
    ----------
    Isensee et al. 2021, nnU-Net, doi:10.1038/s41592-020-01008-z. MONAI,
    `monai.data.utils.compute_importance_map`.
    """
    if blend == "constant":
        return np.ones(window, dtype=np.float32)
    along = _off_centre if blend == "gaussian-nnunet" else _centred
    weights = along(window[0])
    for size in window[1:]:
        weights = np.multiply.outer(weights, along(size))
    if blend == "gaussian-monai":
        np.maximum(weights, max(float(weights.min()), MONAI_FLOOR), out=weights)
    return weights.astype(np.float32)


def _centred(size: int) -> NDArray[np.float64]:
    return _gaussian(np.arange(size) - (size - 1) / 2, size)


def _off_centre(size: int) -> NDArray[np.float64]:
    distance = np.arange(size) - size // 2
    reach = math.floor(NNUNET_TRUNCATE * SIGMA_PER_PIXEL * size + 0.5)
    weights: NDArray[np.float64] = _gaussian(distance, size) * (np.abs(distance) <= reach)
    return weights


def _gaussian(distance: NDArray[np.floating | np.integer], size: int) -> NDArray[np.float64]:
    weights: NDArray[np.float64] = np.exp(-0.5 * (distance / (SIGMA_PER_PIXEL * size)) ** 2)
    return weights

"""Values as colours: probabilities by a map that all eyes order alike, labels by their classes."""

from collections.abc import Sequence
from functools import cache

import numpy as np
from numpy.typing import NDArray

from wsiseg.draw.canvas import Pixels

__all__ = ["color_labels", "color_values"]

SHOWN = 255


def color_values(values: NDArray[np.floating], covered: NDArray[np.bool_]) -> Pixels:
    """Return values from 0 to 1 as colours, uint8 (h, w, 4); transparent where not covered.

    The map is viridis [1]_: as bright as the value is large, also in print and to the colour-blind.

    References
    ----------
    .. [1] S. van der Walt, N. Smith, mpl colormaps, 2015, https://bids.github.io/colormap/
    """
    place = (np.clip(np.nan_to_num(values), 0, 1) * 255).round().astype(np.uint8)
    colors = _viridis()[place]
    alpha = np.where(covered, SHOWN, 0).astype(np.uint8)
    return np.concatenate([colors, alpha[..., None]], axis=-1)


def color_labels(labels: NDArray[np.uint8], colors: Sequence[Sequence[int]]) -> Pixels:
    """Return classes as their colours, uint8 (h, w, 4); transparent where the label is 0."""
    table = np.zeros((256, 4), np.uint8)
    table[: len(colors), :3] = np.asarray(colors, np.uint8)
    table[1:, 3] = SHOWN
    colored: Pixels = table[labels]
    return colored


@cache
def _viridis() -> Pixels:
    from matplotlib import colormaps

    colors: Pixels = (colormaps["viridis"](np.arange(256))[:, :3] * 255).round().astype(np.uint8)
    return colors

"""Windows as MONAI and nnU-Net lay them: where each begins decides which values are blended."""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

from wsiseg.errors import GridError
from wsiseg.grid.grid import Grid

__all__ = ["WindowPlan", "window_grid"]

WindowPlan = Literal["monai", "nnunet"]


def window_grid(
    shape: Sequence[int],
    patch: Sequence[int],
    *,
    plan: WindowPlan,
    overlap: float | Sequence[float],
) -> Grid:
    """Return the grid of a plan's windows.

    Parameters
    ----------
    shape, patch
        Pixels per axis of the image and of a window, any number of axes.
    plan
        `monai`: steps of `int(patch * (1 - overlap))`, at least 1, and the last window moved back
        to the edge. `nnunet`: as few windows as steps of at most `patch * (1 - overlap)` need,
        evenly spread and rounded, halves to even.
    overlap
        Share of a window, one value or one per axis, in [0, 1).

    Raises
    ------
    GridError
        If the axes do not agree, or an overlap is not in [0, 1).

    Notes
    -----
    Along axes on which the image is smaller than a window, one window is centred on it: of the
    pixels missing, the half rounded down lies before it.

    References
    ----------
    MONAI, `monai.inferers.sliding_window_inference`; nnU-Net v2,
    `compute_steps_for_sliding_window` (Isensee et al. 2021, doi:10.1038/s41592-020-01008-z).
    """
    shares = (overlap,) * len(patch) if isinstance(overlap, int | float) else tuple(overlap)
    if not len(shape) == len(patch) == len(shares) or not all(0 <= s < 1 for s in shares):
        raise GridError(
            f"windows of {tuple(patch)} on {tuple(shape)} pixels need an overlap in [0, 1) for "
            f"each axis, got {overlap}"
        )
    along = _monai_starts if plan == "monai" else _nnunet_starts
    axes = zip(shape, patch, shares, strict=True)
    starts = [along(n, p, s) if n > p else [-((p - n) // 2)] for n, p, s in axes]
    pairs = zip(starts, patch, strict=True)
    stride = tuple(max((b - a for a, b in pairwise(s)), default=p) for s, p in pairs)
    return Grid(
        shape=tuple(shape),
        stride=stride,
        halo=(0,) * len(stride),
        overlap=tuple(p - s for p, s in zip(patch, stride, strict=True)),
        starts=tuple(map(tuple, starts)),
    )


def _monai_starts(size: int, patch: int, overlap: float) -> list[int]:
    step = max(1, int(patch * (1 - overlap)))
    count = math.ceil((size - patch) / step) + 1
    return [min(i * step, size - patch) for i in range(count)]


def _nnunet_starts(size: int, patch: int, overlap: float) -> list[int]:
    steps = math.ceil((size - patch) / (patch * (1 - overlap)))
    return [round((size - patch) / steps * i) for i in range(steps + 1)]

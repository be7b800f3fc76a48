"""Which window each stage runs on, on the slide at hand.

Large windows compute less twice, but cover more glass between pieces of tissue. How many of each
size there would be is counted, so the sizes are compared by the pixels the network would see.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from wsiseg.engine.graph import StageSetup

__all__ = ["choose_window", "window_pixels"]

WORTH_IT = 0.9
"""Share of the pixels of the card's patch above which larger windows do not pay: their activations
take more memory, and caches hold less of them."""


def choose_window(
    setup: StageSetup, selected: NDArray[np.bool_], patches: Sequence[tuple[int, ...]]
) -> tuple[int, ...]:
    """Return the patch on which a stage sees the fewest pixels.

    It depends on the slide and the card alone, so that each machine chooses the same. Of equally
    many the smallest, and the card's own unless a larger one saves a tenth.

    Parameters
    ----------
    setup
        The stage.
    selected
        Which tiles have tissue, bool of `decided.counts`.
    patches
        Largest first; the last is the card's.
    """
    pixels = {patch: window_pixels(setup, selected, patch) for patch in reversed(patches)}
    own, best = patches[-1], min(pixels, key=pixels.__getitem__)
    return best if pixels[best] <= WORTH_IT * pixels[own] else own


def window_pixels(setup: StageSetup, selected: NDArray[np.bool_], patch: tuple[int, ...]) -> int:
    """Return the pixels that the network sees on windows of this patch, halo included."""
    return int(setup.in_windows(patch).runs(selected).sum()) * math.prod(patch)

"""A dense stage on windows of many patches: its card and its examples, enlarged."""

from itertools import product

import numpy as np
from numpy.typing import NDArray

from wsiseg.geometry import ceil_div
from wsiseg.model.card import StageSpec

__all__ = ["Arrays", "enlarged", "widened", "window_patches"]

Arrays = tuple[NDArray[np.uint8] | NDArray[np.float32], ...]
"""One array `(n, *patch, channel)` per input of a stage."""


def window_patches(stage: StageSpec) -> tuple[tuple[int, ...], ...]:
    """Return the sizes a stage may run on, largest first; the last is the patch of its card.

    Each has half the steps of the one before, so that a few networks serve slides of all kinds.
    """
    patch, step = stage.inputs[0].patch, stage.step
    largest = stage.output.max_patch or patch
    counts = tuple((n - p) // s for n, p, s in zip(largest, patch, step, strict=True))
    counts = tuple(count + 1 for count in counts)
    found = []
    while True:
        found.append(tuple(p + (c - 1) * s for p, c, s in zip(patch, counts, step, strict=True)))
        if max(counts) == 1:
            return tuple(found)
        counts = tuple(max(1, count // 2) for count in counts)


def widened(stage: StageSpec, patch: tuple[int, ...]) -> StageSpec:
    """Return a stage whose inputs all have another patch; its halo stays."""
    if patch == stage.inputs[0].patch:
        return stage
    inputs = tuple(
        spec.model_copy(update={"patch": patch, "stride": None}) for spec in stage.inputs
    )
    output = stage.output.model_copy(update={"max_patch": None})
    return stage.model_copy(update={"inputs": inputs, "output": output})


def enlarged(inputs: Arrays, patch: tuple[int, ...]) -> Arrays:
    """Return one larger patch made of many, `(1, *patch, channel)` per input.

    The patches given take turns, each turned over along the axes where its place is odd, so that a
    patch meets itself without a seam. All inputs are laid out alike.
    """
    return tuple(_laid_out(array, patch) for array in inputs)


def _laid_out(
    array: NDArray[np.uint8] | NDArray[np.float32], patch: tuple[int, ...]
) -> NDArray[np.uint8] | NDArray[np.float32]:
    n, *small, channels = array.shape
    out = np.empty((1, *patch, channels), array.dtype)
    places = product(*(range(ceil_div(a, b)) for a, b in zip(patch, small, strict=True)))
    for number, place in enumerate(places):
        turned = tuple(slice(None, None, -1 if i % 2 else 1) for i in place)
        where = tuple(slice(i * b, (i + 1) * b) for i, b in zip(place, small, strict=True))
        part = out[0][where]
        cut = tuple(slice(size) for size in part.shape[:-1])
        part[...] = array[number % n][turned][cut]
    return out

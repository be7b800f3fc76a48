"""Graphs that were exported for one batch size, fed with batches of any size."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["run_in_parts"]


def run_in_parts(
    run: Callable[[tuple[NDArray[Any], ...]], NDArray[Any]],
    inputs: tuple[NDArray[Any], ...],
    size: int,
) -> NDArray[Any]:
    """Return the output for a batch, computed `size` patches at a time; the last part is filled up.

    Parameters
    ----------
    run
        Takes one array of exactly `size` patches per input.
    inputs
        Arrays `(n, *patch, channel)`, one per input.
    """
    outputs = []
    for start in range(0, len(inputs[0]), size):
        part = [array[start : start + size] for array in inputs]
        missing = size - len(part[0])
        pads = [np.zeros((missing, *array.shape[1:]), array.dtype) for array in part]
        filled = (np.concatenate([a, pad]) for a, pad in zip(part, pads, strict=True))
        outputs.append(run(tuple(filled))[: size - missing])
    return np.concatenate(outputs)

"""Batches cut to what a device can hold, and their outputs put together again."""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from itertools import islice
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

__all__ = ["Batch", "Unanswered", "in_parts", "join_arrays"]

Batch = tuple[NDArray[Any], ...]
"""One array per input, the same number of patches in each."""

Output = TypeVar("Output")


def in_parts(
    run: Callable[[Iterator[Batch]], Generator[Output, None, None]],
    batches: Iterable[Batch],
    size: int,
    join: Callable[[Iterator[Output], int], Output],
) -> Generator[Output, None, None]:
    """Yield the output of each batch, computed in parts of exactly `size` patches.

    Parameters
    ----------
    run
        Yields an output per part, in order; may take parts ahead.
    batches
        Of any number of patches.
    size
        Patches per part; the last part of a batch is filled up with zeros.
    join
        Puts the outputs of a batch together, given an iterator over them and the number of
        patches wanted. An output need only be valid until the next one is asked for.
    """
    counts: deque[int] = deque()

    def parts() -> Iterator[Batch]:
        for batch in batches:
            counts.append(len(batch[0]))
            for start in range(0, len(batch[0]), size):
                yield tuple(_filled(array[start : start + size], size) for array in batch)

    outputs = run(parts())
    try:
        for first in outputs:
            n = counts.popleft()
            # Not `chain`: it would hold the first output while the second is asked for.
            yield join(_with_next(first, outputs, -(-n // size)), n)
    finally:
        outputs.close()


def join_arrays(outputs: Iterator[NDArray[np.float32]], n: int) -> NDArray[np.float32]:
    """Return the outputs of a batch of `n` patches as one array."""
    first, *others = outputs
    return (np.concatenate([first, *others]) if others else first)[:n]


class Unanswered:
    """Batches taken from a source whose outputs are not there yet: they can be fed again."""

    def __init__(self, source: Iterable[Batch]) -> None:
        self._source = iter(source)
        self._taken: deque[Batch] = deque()

    def peek(self) -> Batch | None:
        """Return the first batch without an answer; `None` at the end."""
        if not self._taken:
            self._taken.extend(islice(self._source, 1))
        return self._taken[0] if self._taken else None

    def feed(self) -> Iterator[Batch]:
        """Yield the batches without an answer, then further ones."""
        yield from tuple(self._taken)
        for batch in self._source:
            self._taken.append(batch)
            yield batch

    def answered(self) -> None:
        """Forget the first batch: it has its output."""
        self._taken.popleft()


def _with_next(first: Output, others: Iterator[Output], count: int) -> Iterator[Output]:
    yield first
    yield from islice(others, count - 1)


def _filled(array: NDArray[Any], size: int) -> NDArray[Any]:
    if len(array) == size:
        return array
    filled = np.zeros((size, *array.shape[1:]), array.dtype)
    filled[: len(array)] = array
    return filled

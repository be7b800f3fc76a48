"""Several networks, or several views of a patch, as one answer: the mean of their raw values."""

import itertools
from collections.abc import Generator, Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsiseg.model.batches import Batch
from wsiseg.model.predictor import Network, Predictor

__all__ = ["EnsembleNetwork", "MirroredPredictor"]


class EnsembleNetwork:
    """The mean of the outputs of networks that take the same inputs, such as those of folds.

    Values are added in the order of the networks, patch by patch: no second volume is kept.

    Parameters
    ----------
    networks
        At least one.
    """

    def __init__(self, networks: Sequence[Network]) -> None:
        self._networks = tuple(networks)

    def __repr__(self) -> str:
        return f"EnsembleNetwork({len(self._networks)} x {self._networks[0]!r})"

    def __call__(self, *inputs: NDArray[Any]) -> NDArray[np.float32]:
        """Return the mean of what the networks give."""
        first, *others = self._networks
        total = np.array(first(*inputs), dtype=np.float32)
        for network in others:
            total += network(*inputs)
        total /= np.float32(len(self._networks))
        return total

    def for_workers(self, workers: int, threads: int) -> "EnsembleNetwork":
        """Return the networks for `workers` calls at once, each on `threads` cores of a CPU."""
        made = [getattr(n, "for_workers", lambda *_, n=n: n) for n in self._networks]
        return EnsembleNetwork([make(workers, threads) for make in made])

    def rest(self) -> None:
        """Free memory that only calls need, until the next one."""
        for network in self._networks:
            rest = getattr(network, "rest", None)
            if rest is not None:
                rest()


class MirroredPredictor(Predictor):
    """The mean of a predictor's raw values over all mirrorings of a patch, in one batch.

    Parameters
    ----------
    predictor
        Of a segmenter.
    axes
        Axes of the patch that may be mirrored; `2 ** len(axes)` views.
    """

    def __init__(self, predictor: Predictor, axes: Sequence[int]) -> None:
        self._predictor = predictor
        self._axes = tuple(axes)
        several = itertools.chain.from_iterable(
            itertools.combinations(axes, n) for n in range(len(axes) + 1)
        )
        self._views = [tuple(axis + 1 for axis in view) for view in several]

    @property
    def views(self) -> int:
        """Patches that the network sees for each one."""
        return len(self._views)

    def for_workers(self, workers: int, threads: int) -> "MirroredPredictor":
        """Return the predictor for `workers` calls at once, each on `threads` cores of a CPU."""
        make = getattr(self._predictor, "for_workers", None)
        return self if make is None else MirroredPredictor(make(workers, threads), self._axes)

    def rest(self) -> None:
        """Free memory that only calls need, until the next one."""
        rest = getattr(self._predictor, "rest", None)
        if rest is not None:
            rest()

    def __call__(self, *inputs: NDArray[Any]) -> NDArray[np.float32]:
        """Return the mean over the views."""
        return self._mean(self._predictor(*self._mirrored(inputs)), len(inputs[0]))

    def stream(self, batches: Iterable[Batch]) -> Generator[NDArray[np.float32], None, None]:
        """Yield the mean over the views of each batch, in order."""
        counts: list[int] = []

        def mirrored() -> Iterable[Batch]:
            for batch in batches:
                counts.append(len(batch[0]))
                yield self._mirrored(batch)

        for values in self._predictor.stream(mirrored()):
            yield self._mean(values, counts.pop(0))

    def _mirrored(self, inputs: Sequence[NDArray[Any]]) -> tuple[NDArray[Any], ...]:
        return tuple(
            np.concatenate([np.flip(array, view) for view in self._views]) for array in inputs
        )

    def _mean(self, values: NDArray[np.float32], n: int) -> NDArray[np.float32]:
        total = np.array(values[:n])
        for k, view in enumerate(self._views[1:], start=1):
            total += np.flip(values[k * n : (k + 1) * n], view)
        total /= np.float32(len(self._views))
        return total

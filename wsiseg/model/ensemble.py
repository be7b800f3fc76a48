"""Several networks, or several views of a patch, as one answer: the mean of their raw values."""

import itertools
from collections import deque
from collections.abc import Generator, Iterable, Sequence
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from wsiseg.model.batches import Batch
from wsiseg.model.predictor import Network, Predictor, StreamingNetwork

if TYPE_CHECKING:
    import torch

__all__ = ["EnsembleNetwork", "MirroredPredictor", "StreamingEnsemble", "ensemble_of"]


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


class StreamingEnsemble(EnsembleNetwork):
    """The same of networks whose outputs may stay on a device, all on the same."""

    def __init__(self, networks: Sequence[StreamingNetwork]) -> None:
        super().__init__(networks)
        self._streaming = tuple(networks)

    @property
    def device(self) -> object:
        """The device of the networks."""
        return self._streaming[0].device

    def for_workers(self, workers: int, threads: int) -> "EnsembleNetwork":
        """Return the networks for `workers` calls at once, each on `threads` cores of a CPU."""
        return ensemble_of(super().for_workers(workers, threads)._networks)

    def stream(self, batches: Iterable[Batch]) -> Generator[NDArray[np.float32], None, None]:
        """Yield the mean of each batch, in order."""
        for values in self._lockstep(batches, "stream"):
            total = np.array(values[0], dtype=np.float32)
            for other in values[1:]:
                total += other
            total /= np.float32(len(values))
            yield total

    def stream_on_device(self, batches: Iterable[Batch]) -> Generator["torch.Tensor", None, None]:
        """Yield the mean of each batch on the device; valid until the next is asked for."""
        for values in self._lockstep(batches, "stream_on_device"):
            total = values[0].clone()
            for other in values[1:]:
                total += other
            # A tensor, as by a number GPUs multiply with its inverse, which rounds otherwise.
            yield total.div_(total.new_tensor(float(len(values))))

    def _lockstep(self, batches: Iterable[Batch], method: str) -> Generator[list[Any], None, None]:
        """Yield what all networks give for each batch."""
        copies = itertools.tee(batches, len(self._streaming))
        with ExitStack() as stack:
            streams = [
                stack.enter_context(closing(getattr(network, method)(own)))
                for network, own in zip(self._streaming, copies, strict=True)
            ]
            for first in streams[0]:
                yield [first, *(next(stream) for stream in streams[1:])]


def ensemble_of(networks: Sequence[Network]) -> EnsembleNetwork:
    """Return the mean of networks; on their device where they have one."""
    streaming = [network for network in networks if isinstance(network, StreamingNetwork)]
    same = len(streaming) == len(networks) and len({str(n.device) for n in streaming}) == 1
    return StreamingEnsemble(streaming) if same else EnsembleNetwork(networks)


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
        counts: deque[int] = deque()

        def mirrored() -> Iterable[Batch]:
            for batch in batches:
                counts.append(len(batch[0]))
                yield self._mirrored(batch)

        for values in self._predictor.stream(mirrored()):
            yield self._mean(values, counts.popleft())

    @property
    def device(self) -> str | None:
        """Where `stream_on_device` leaves its results; `None` where there is no such thing."""
        return getattr(self._predictor, "device", None)

    def stream_on_device(self, batches: Iterable[Batch]) -> Generator["torch.Tensor", None, None]:
        """Yield the mean over the views of each batch on the device.

        It is valid until the next one is asked for. Only of predictors with a device.
        """
        counts: deque[int] = deque()

        def mirrored() -> Iterable[Batch]:
            for batch in batches:
                counts.append(len(batch[0]))
                yield self._mirrored(batch)

        stream = self._predictor.stream_on_device  # type: ignore[attr-defined]
        with closing(stream(mirrored())) as outputs:
            for values in outputs:
                n = counts.popleft()
                total = values[:n].clone()
                for k, view in enumerate(self._views[1:], start=1):
                    total += values[k * n : (k + 1) * n].flip(view)
                total /= len(self._views)  # a power of two: exact
                yield total

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

"""One batch predicted several times: turned and mirrored, or with units dropped."""

from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from itertools import chain, islice
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from wsiseg.engine.uncertainty import StageLayers
from wsiseg.model import Model, Predictor
from wsiseg.model.activation import Scaling, activate
from wsiseg.model.dropout import dropout_predictors
from wsiseg.options import UncertaintyOptions

__all__ = ["SampledPredictor", "Turn", "sampled_model", "turn", "turn_back", "views_of"]

Turn = tuple[int, bool]
"""Quarter turns, and whether the rows are in reverse order afterwards."""

Batch = tuple[NDArray[Any], ...]

ROWS, COLUMNS = -3, -2
"""Axes of the patches of a batch, channels last."""


def views_of(count: int) -> tuple[Turn, ...]:
    """Return the first `count` of the 8 turns and mirror images of a square; the first is itself.

    The first four leave width and height as they are.
    """
    views = [(k, flip) for k in (0, 2, 1, 3) for flip in (False, True)]
    return tuple(views[:count])


def turn(array: NDArray[Any], view: Turn) -> NDArray[Any]:
    """Return patches `(n, ..., y, x, channel)` as a view shows them."""
    turns, flip = view
    turned = np.rot90(array, turns, axes=(ROWS, COLUMNS))
    return np.ascontiguousarray(np.flip(turned, ROWS) if flip else turned)


def turn_back(array: NDArray[Any], view: Turn) -> NDArray[Any]:
    """Return what `turn` was given."""
    turns, flip = view
    return np.rot90(np.flip(array, ROWS) if flip else array, -turns, axes=(ROWS, COLUMNS))


class SampledPredictor(Predictor):
    """A predictor asked several times: gives probabilities, and how far the answers differ.

    The result is not raw: after the probabilities of the classes come the variances of the layers
    `sampled`, each the sum over classes of the variance times the class's share. With `tta` the
    probabilities are the mean over the views, in their order; else those of the predictor alone.

    Parameters
    ----------
    predictor
        Gives raw values.
    layers
        Views, samples and shares.
    scaling, activation
        Make probabilities of raw values.
    dropped
        The same network with units dropped, one per sample.
    """

    def __init__(
        self,
        predictor: Predictor,
        layers: StageLayers,
        *,
        scaling: Scaling,
        activation: Literal["softmax", "sigmoid", "none"],
        dropped: Sequence[Predictor] = (),
    ) -> None:
        self._predictor = predictor
        self._layers = layers
        self._scaling = scaling
        self._activation = activation
        self._dropped = tuple(dropped)
        self._views = views_of(layers.views)

    def __repr__(self) -> str:
        asked = f"{len(self._views)} views, {len(self._dropped)} samples"
        return f"SampledPredictor({self._predictor!r}, {asked})"

    def for_workers(self, workers: int, threads: int) -> "SampledPredictor":
        """Return the predictor for `workers` calls at once, each on `threads` cores of a CPU."""

        def told(one: Predictor) -> Predictor:
            make = getattr(one, "for_workers", None)
            return one if make is None else make(workers, threads)

        return self._with(told(self._predictor), [told(one) for one in self._dropped])

    def rest(self) -> None:
        """Free memory that only calls need, until the next one."""
        for one in (self._predictor, *self._dropped):
            rest = getattr(one, "rest", None)
            if rest is not None:
                rest()

    def __call__(self, *inputs: NDArray[Any]) -> NDArray[np.float32]:
        """Return probabilities and variances of a batch, channels last, float32."""
        raw = (self._predictor(*_turned(inputs, view)) for view in self._views)
        return self._combined(inputs, raw)

    def stream(self, batches: Iterable[Batch]) -> Generator[NDArray[np.float32], None, None]:
        """Yield probabilities and variances of each batch, in order."""
        waiting: deque[Batch] = deque()

        def turned() -> Iterator[Batch]:
            for batch in batches:
                waiting.append(batch)
                for view in self._views:
                    yield _turned(batch, view)

        with closing(self._predictor.stream(turned())) as outputs:
            for first in outputs:
                others = islice(outputs, len(self._views) - 1)
                yield self._combined(waiting.popleft(), chain([first], others))

    def _with(self, predictor: Predictor, dropped: Sequence[Predictor]) -> "SampledPredictor":
        return SampledPredictor(
            predictor,
            self._layers,
            scaling=self._scaling,
            activation=self._activation,
            dropped=dropped,
        )

    def _combined(
        self, inputs: Batch, answers: Iterable[NDArray[np.float32]]
    ) -> NDArray[np.float32]:
        """Return one array of what the answers, raw and turned, come to."""
        shares = np.asarray(self._layers.shares, np.float32)
        is_dense = self._layers.dense
        mean, variance = _moments(
            (
                turn_back(self._probabilities(raw), view) if is_dense else self._probabilities(raw)
                for raw, view in zip(answers, self._views, strict=True)
            ),
            shares,
        )
        variances = {"tta": variance}
        if self._dropped:
            samples = (self._probabilities(one(*inputs)) for one in self._dropped)
            variances["dropout"] = _moments(samples, shares)[1]
        planes = [variances[name][..., np.newaxis] for name in self._layers.sampled]
        return np.concatenate([mean, *planes], axis=-1)

    def _probabilities(self, raw: NDArray[np.float32]) -> NDArray[np.float32]:
        return activate(self._scaling(raw), self._activation)


def sampled_model(model: Model, options: UncertaintyOptions) -> Model:
    """Return a model whose last stage is asked as often as the layers need; else as it is.

    Raises
    ------
    ModelError, UsageError
        If the model cannot give such a layer.
    """
    layers = StageLayers.of(model.card, options)
    if layers.passes == 1:
        return model
    *others, last = model.predictors
    card = model.card
    sampled = SampledPredictor(
        last,
        layers,
        scaling=card.calibration.scaling,
        activation=card.stages[-1].output.activation,
        dropped=dropout_predictors(model, layers.samples, layers.seed) if layers.samples else (),
    )
    return replace(model, predictors=(*others, sampled))


def _turned(batch: Batch, view: Turn) -> Batch:
    return batch if view == (0, False) else tuple(turn(array, view) for array in batch)


def _moments(
    answers: Iterable[NDArray[np.float32]], shares: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the mean `(..., class)`, and the variance `(...)` of classes by their shares.

    Answers are taken one by one (Welford 1962, doi:10.1080/00401706.1962.10490022), so that two of
    them are in memory, and ones that agree have a variance of exactly 0.
    """
    taken = iter(answers)
    mean = np.array(next(taken), np.float32, order="C")
    squares = np.zeros(mean.shape[:-1], np.float32)
    count = 1
    for answer in taken:
        count += 1
        step = answer - mean
        mean += step / np.float32(count)
        step *= answer - mean
        squares += step @ shares
    return mean, squares / np.float32(count)

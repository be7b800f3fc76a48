"""Whether the codec may reduce while it decodes: only where that pays and changes next to nothing.

A JPEG decoder that leaves out high frequencies (half, a quarter or an eighth of the side) is up to
twice as fast, one of JPEG 2000 that leaves out wavelets two to four times; but their filters are
not the mean over pixels. So the default is exact; `auto` compares both on real patches of the slide
at hand.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsiseg.engine.execute import Threaded
from wsiseg.engine.graph import StageSetup
from wsiseg.engine.inputs import TileReader, connect
from wsiseg.machine import usable_cores
from wsiseg.model import Model, Predictor
from wsiseg.model.activation import activate
from wsiseg.model.tuning import device_batch
from wsiseg.options import Decoding

__all__ = ["EXACT", "LARGEST_MEAN_CHANGE", "DecodingChoice", "choose_decoding"]

LARGEST_MEAN_CHANGE = 0.01
"""Mean absolute change of probability up to which scaled decoding counts as the same."""

RUNS, RUN_LENGTH = 4, 8
"""Patches compared: so many runs of so many neighbours, spread over the tissue."""


WARM_UP, STREAMED = 3, 8
"""Batches streamed to a GPU before, and while it is timed."""


@dataclass(frozen=True, slots=True)
class DecodingChoice:
    """How the pixels between two levels are made, and why."""

    asked: Decoding
    scaled: bool
    reason: str
    read_s: float | None = None
    """Seconds to read a patch exactly, all cores busy; `None` where nothing was measured."""

    predict_s: float | None = None
    """Seconds to predict a patch, all cores busy."""

    mean_change: float | None = None
    """Mean absolute change of the probabilities of the patches compared."""

    patches: int = 0


EXACT = DecodingChoice("exact", scaled=False, reason="as asked")


def choose_decoding(
    exact: Sequence[StageSetup],
    scaled: Sequence[StageSetup],
    selected: Sequence[NDArray[np.bool_]],
    model: Model,
    asked: Decoding,
    threads: int | None = None,
    batch_size: int | None = None,
) -> DecodingChoice:
    """Return whether to decode at a reduced scale.

    Parameters
    ----------
    exact, scaled
        The stages laid over the slide in both ways.
    selected
        Per stage, which tiles run; bool of `grid.counts`.
    asked
        `exact` never reads a pixel here; `scaled` is taken at its word; `auto` reads and predicts
        some patches in both ways.
    threads
        Cores the run may use; `None`: those this process may use.
    batch_size
        Patches per batch of the run, on a GPU; `None`: as many as suit it.

    Raises
    ------
    DamagedFileError
        If a patch cannot be decoded.
    """
    if asked == "exact":
        return EXACT
    able = [s for s, setup in enumerate(scaled) if _is_scaled(setup) and selected[s].any()]
    if not able:
        return DecodingChoice(asked, scaled=False, reason="no codec here reduces while it decodes")
    if asked == "scaled":
        return DecodingChoice(asked, scaled=True, reason="as asked")
    if not all(scaled[s].spec.allows_scaled_decoding for s in able):
        return DecodingChoice(asked, scaled=False, reason="the model's card does not allow it")
    cores = threads or usable_cores()
    on_device = model.device != "cpu"
    compared = []
    for s in able:
        batch = (batch_size or device_batch(exact[s].grid.patch)) if on_device else None
        compared.append(
            _compare(exact[s], scaled[s], selected[s], model.predictors[s], cores, batch)
        )
    return _judge(compared, able, exact, cores)


@dataclass(frozen=True, slots=True)
class _Compared:
    read_s: float
    predict_s: float
    mean_change: float
    patches: int


def _judge(
    compared: Sequence[_Compared], able: Sequence[int], setups: Sequence[StageSetup], cores: int
) -> DecodingChoice:
    stage, worst = max(zip(able, compared, strict=True), key=lambda pair: pair[1].mean_change)
    read_s = sum(one.read_s for one in compared) / cores
    predict_s = sum(one.predict_s for one in compared)
    change = worst.mean_change
    if read_s <= predict_s:
        reason = "decoding is not the bottleneck"
    elif change > LARGEST_MEAN_CHANGE:
        reason = f"it would change the probabilities of stage {setups[stage].spec.name} too much"
    else:
        reason = "decoding is the bottleneck, and the probabilities stay the same"
    return DecodingChoice(
        asked="auto",
        scaled=read_s > predict_s and change <= LARGEST_MEAN_CHANGE,
        reason=reason,
        read_s=read_s,
        predict_s=predict_s,
        mean_change=change,
        patches=sum(one.patches for one in compared),
    )


def _is_scaled(setup: StageSetup) -> bool:
    return any(item.view is not None and item.view.scaled for item in setup.inputs)


def _compare(
    exact: StageSetup,
    scaled: StageSetup,
    selected: NDArray[np.bool_],
    predictor: Predictor,
    cores: int,
    streamed: int | None,
) -> _Compared:
    """Read and predict some patches in both ways; `streamed`: patches of a GPU's batches."""
    runs = _sample(selected)
    if isinstance(predictor, Threaded):
        predictor = predictor.for_workers(1, cores)
    count = sum(map(len, runs))
    patches, read_s = _read(exact, runs)
    reduced, _ = _read(scaled, runs)
    before = [_probabilities(exact, predictor, arrays) for arrays in patches]
    if streamed is None:
        started = time.perf_counter()
        for arrays in patches:
            predictor(*arrays)
        predict_s = (time.perf_counter() - started) / count
    else:
        predict_s = _streamed_s(predictor, patches[0], streamed)
    after = [_probabilities(exact, predictor, arrays) for arrays in reduced]
    changes = [float(np.abs(a - b).mean()) for a, b in zip(before, after, strict=True)]
    return _Compared(read_s / count, predict_s, float(np.mean(changes)), count)


def _streamed_s(predictor: Predictor, arrays: Sequence[NDArray[Any]], size: int) -> float:
    """Return the seconds per patch of a stream of batches, as a GPU gets them in a run.

    Patch by patch it would wait for each answer, and seem many times slower than it is.
    """
    batch = tuple(np.resize(array, (size, *array.shape[1:])) for array in arrays)

    def stream(count: int) -> float:
        started = time.perf_counter()
        for _ in predictor.stream(repeat(batch, count)):
            pass
        return time.perf_counter() - started

    stream(WARM_UP)  # kernels are loaded, a graph is captured
    return stream(STREAMED) / (STREAMED * size)


def _sample(selected: NDArray[np.bool_]) -> list[NDArray[np.int64]]:
    """Return runs of neighbouring tiles, int (n, axes) each, evenly over the selected ones."""
    tiles = np.argwhere(selected)
    starts = np.linspace(0, max(0, len(tiles) - RUN_LENGTH), RUNS).astype(int)
    return [tiles[start : start + RUN_LENGTH] for start in np.unique(starts)]


def _read(
    setup: StageSetup, runs: Sequence[NDArray[np.int64]]
) -> tuple[list[list[NDArray[Any]]], float]:
    """Return the patches of each run, and the seconds it took one thread to read them."""
    (column,) = setup.columns(setup.grid.shape[-1])
    reader = TileReader(setup, connect(setup, {}), column, runs)
    started = time.perf_counter()
    patches = [reader.read(run, len(run)) for run in runs]
    return patches, time.perf_counter() - started


def _probabilities(
    setup: StageSetup, predictor: Predictor, arrays: Sequence[NDArray[Any]]
) -> NDArray[np.float32]:
    raw, output = setup.scaling(predictor(*arrays)), setup.spec.output
    return activate(raw, output.activation, offsets=output.offsets)

"""Whether a loaded model gives what its package says it gives."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wsiseg.errors import ModelError
from wsiseg.model.activation import activate
from wsiseg.model.card import ModelCard, StageSpec
from wsiseg.model.package import Package
from wsiseg.model.predictor import Predictor
from wsiseg.model.windows import WindowCheck

__all__ = ["CheckReport", "OutputChange", "StageCheck", "check_predictors", "output_change"]

WRONG_CARD = (
    "channel order, steps, weights or architecture in model.json are not those the model was "
    "trained with"
)
WRONG_PRECISION = (
    "this precision changes the model by more than its card allows (check.int8_tolerance); use "
    "float32, or for int8 calibrate with more patches"
)


@dataclass(frozen=True, slots=True)
class OutputChange:
    """How the probabilities of a stage differ from those expected."""

    mean: float
    """Mean absolute difference."""

    largest: float

    same_labels: float | None
    """Share of patches or pixels that keep their class; `None` where there are no classes."""

    def __str__(self) -> str:
        change = f"change by {self.mean:.2g} on average and {self.largest:.2g} at most"
        if self.same_labels is None:
            return f"vectors {change}"
        return f"probabilities {change}, {self.same_labels:.2%} of the labels stay"


@dataclass(frozen=True, slots=True)
class StageCheck:
    """What the check of one stage found."""

    stage: str

    error: float
    """Largest difference between a value found and the value expected."""

    allowed: float

    seconds: float
    """Time of the call, the first of this network."""

    change: OutputChange


@dataclass(frozen=True, slots=True)
class CheckReport:
    """A model that passed its check; a model that did not raised an error instead."""

    model: str
    digest: str
    backend: str
    device: str
    precision: str
    stages: tuple[StageCheck, ...]
    windows: tuple[WindowCheck, ...] = ()
    """Of stages that may run on windows larger than their patch."""

    def __str__(self) -> str:
        where = f"{self.backend} on {self.device}, {self.precision}"
        lines = [f"{self.model}: as it should be with {where} (digest {self.digest[:12]})"]
        for stage in self.stages:
            lines.append(
                f"  {stage.stage}: differs by {stage.error:.2g}, allowed {stage.allowed:.2g}"
            )
            if self.precision != "float32":
                lines.append(f"    {stage.change}")
        for window in self.windows:
            size = " x ".join(map(str, window.patch))
            lines.append(
                f"  {window.stage}: on windows of {size} px values differ by "
                f"{window.error:.2g}, allowed {window.allowed:.2g}"
            )
        return "\n".join(lines)


def check_predictors(
    package: Package, predictors: Sequence[Predictor], *, reduced_precision: bool = False
) -> tuple[StageCheck, ...]:
    """Run every stage on its check input and compare.

    Parameters
    ----------
    package, predictors
        A package, and a predictor per stage of its card.
    reduced_precision
        Compare with the card's `int8_tolerance` instead of its `tolerance`.

    Raises
    ------
    OutputShapeError
        If a network gives something its card does not promise.
    ModelError
        If values differ by more than allowed, or the check file is unusable.
    """
    check = package.card.check
    tolerance = check.int8_tolerance if reduced_precision else check.tolerance
    examples = package.read_examples()
    results = []
    for stage, predictor in zip(package.card.stages, predictors, strict=True):
        example = examples[stage.name]
        started = time.perf_counter()
        found = example.sampled(predictor(*example.inputs))
        seconds = time.perf_counter() - started
        if found.shape != example.output.shape:
            raise ModelError(
                f"{package.folder / check.file}: stage {stage.name!r} expects "
                f"{example.output.shape}, the network gives {found.shape}; write the package anew"
            )
        allowed = tolerance * max(1.0, float(np.abs(example.output).max()))
        error = float(np.abs(found - example.output).max())
        if not error <= allowed:  # not `error > allowed`: NaN must not pass
            raise ModelError(
                f"{package.card.name}, stage {stage.name!r}: output differs from the recorded one "
                f"by {error:.3g}: needed at most {allowed:.3g}; "
                + (WRONG_PRECISION if reduced_precision else WRONG_CARD)
            )
        change = output_change(package.card, stage, found, example.output)
        results.append(StageCheck(stage.name, error, allowed, seconds, change))
    return tuple(results)


def output_change(
    card: ModelCard,
    stage: StageSpec,
    found: NDArray[np.float32],
    expected: NDArray[np.float32],
) -> OutputChange:
    """Compare raw values `(..., class)` by what becomes of them: probabilities and labels."""
    if stage.kind == "embedder":
        difference = np.abs(found - expected)
        return OutputChange(float(difference.mean()), float(difference.max()), None)
    several, count = stage.output, len(card.classes)
    probabilities = [activate(raw[..., :count], several.activation) for raw in (found, expected)]
    labels = [
        p.argmax(axis=-1) if card.threshold is None else p[..., 1] >= card.threshold
        for p in probabilities
    ]
    difference = np.abs(probabilities[0] - probabilities[1])
    return OutputChange(
        float(difference.mean()),
        float(difference.max()),
        float((labels[0] == labels[1]).mean()),
    )

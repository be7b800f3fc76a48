"""Calling a network: the `Predictor` contract, and the checks every call goes through."""

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from wsiseg.errors import ModelError, OutputShapeError
from wsiseg.model.card import SLIDE, StageSpec

__all__ = ["Network", "Predictor", "StagePredictor"]

PROBABILITY_SLACK = 1e-3
"""How far outside [0, 1] rounding may take what a network calls a probability."""


class Predictor(Protocol):
    """One stage's network with its preprocessing.

    The contract:

    * One array per input of the stage, `(n, *patch, channel)`: uint8 for the slide, float32 in
      0..1 for a heatmap. The same `n` for all.
    * Returns raw network values, float32: `(n, class)` of a classifier, `(n, *patch, class)` of
      a segmenter; all finite. The caller applies the activation.
    * For one batch size, the values of an image do not depend on the other images of the batch.
      Between batch sizes they may differ in the last bits, since libraries choose other kernels:
      pad the last batch instead of shortening it.
    * May be called from several threads at once, and gives the same bits each time.
    """

    def __call__(self, *inputs: NDArray[Any]) -> NDArray[np.float32]:
        """Return the raw values of a batch."""
        ...


class Network(Protocol):
    """What a backend provides: raw arrays in, whatever the network says out."""

    def __call__(self, *inputs: NDArray[Any]) -> NDArray[Any]:
        """Return the output of the network, classes last."""
        ...


class StagePredictor:
    """A backend's network held to what its card promises.

    Parameters
    ----------
    stage
        The stage of the card.
    classes
        Number of classes of the model.
    network
        The backend.
    """

    def __init__(self, stage: StageSpec, classes: int, network: Network) -> None:
        self.stage = stage
        self.classes = classes
        self._network = network

    def __repr__(self) -> str:
        return f"StagePredictor({self.stage.name!r}, {self._network!r})"

    def __call__(self, *inputs: NDArray[Any]) -> NDArray[np.float32]:
        """Return the raw values of a batch.

        Raises
        ------
        ModelError
            If an input has another shape or dtype than the card says.
        OutputShapeError
            If the output has another shape than the card says, is not finite, or, where the card
            says these are probabilities already, lies outside 0..1.
        """
        self._check_inputs(inputs)
        output = np.asarray(self._network(*inputs))
        self._check_output(output, len(inputs[0]))
        return output.astype(np.float32, copy=False)

    def _check_inputs(self, inputs: tuple[NDArray[Any], ...]) -> None:
        specs = self.stage.inputs
        if len(inputs) != len(specs):
            raise ModelError(
                f"stage {self.stage.name!r}: needed {len(specs)} inputs, found {len(inputs)}; "
                "give one array per input of the card"
            )
        for i, (array, spec) in enumerate(zip(inputs, specs, strict=True)):
            shape = (len(inputs[0]), *spec.patch, len(spec.channels))
            dtype = np.dtype(np.uint8 if spec.source == SLIDE else np.float32)
            if array.shape != shape or array.dtype != dtype or len(array) == 0:
                raise ModelError(
                    f"stage {self.stage.name!r}: input {i}: needed {shape} {dtype}, found "
                    f"{array.shape} {array.dtype}; read patches as the card says"
                )

    def _check_output(self, output: NDArray[Any], n: int) -> None:
        patch = self.stage.inputs[0].patch if self.stage.kind == "segmenter" else ()
        shape = (n, *patch, self.classes)
        if output.shape != shape:
            raise OutputShapeError(
                f"stage {self.stage.name!r}: the network gave {output.shape}: needed {shape} for "
                f"a {self.stage.kind} of {self.classes} classes; correct classes, kind or patch "
                "in model.json"
            )
        low, high = float(output.min()), float(output.max())  # NaN and infinity show up in these
        if not np.isfinite([low, high]).all():
            raise OutputShapeError(
                f"stage {self.stage.name!r}: the network gave values between {low} and {high}: "
                "needed finite ones; the weights are damaged or the precision is too low"
            )
        if self.stage.output.activation == "none" and not (
            low >= -PROBABILITY_SLACK and high <= 1 + PROBABILITY_SLACK
        ):
            raise OutputShapeError(
                f"stage {self.stage.name!r}: values from {low:.4g} to {high:.4g}: needed "
                "probabilities from 0 to 1 for activation 'none'; set activation to 'softmax' or "
                "'sigmoid' in model.json"
            )

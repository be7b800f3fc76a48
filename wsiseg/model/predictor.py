"""Calling a network: the `Predictor` contract, and the checks every call goes through."""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from wsiseg.errors import ModelError, OutputShapeError
from wsiseg.model.activation import OFFSETS
from wsiseg.model.batches import Batch
from wsiseg.model.card import SLIDE, StageSpec

if TYPE_CHECKING:
    import torch

__all__ = ["FunctionPredictor", "Network", "Predictor", "StagePredictor", "StreamingNetwork"]

Output = TypeVar("Output", NDArray[np.float32], "torch.Tensor")

PROBABILITY_SLACK = 1e-3
"""How far outside [0, 1] rounding may take what a network calls a probability."""


class Predictor(Protocol):
    """One stage's network with its preprocessing.

    The contract:

    * One array per input of the stage, `(n, *patch, channel)`: uint8 for the slide, float32 in
      0..1 for a heatmap. The same `n` for all.
    * Returns raw network values, float32: `(n, class)` of a classifier, `(n, *patch, class)` of
      a segmenter, `(n, length)` of an embedder; all finite. The caller applies the activation.
    * For one batch size, the values of an image do not depend on the other images of the batch.
      Between batch sizes they may differ in the last bits, since libraries choose other kernels:
      pad the last batch instead of shortening it.
    * May be called from several threads at once, and gives the same bits each time.
    * `stream` gives what the calls would give, batch by batch, and may be faster.
    """

    def __call__(self, *inputs: NDArray[Any]) -> NDArray[np.float32]:
        """Return the raw values of a batch."""
        ...

    def stream(self, batches: Iterable[Batch]) -> Generator[NDArray[np.float32], None, None]:
        """Yield the raw values of each batch, in order; the receiver owns them.

        Several batches may be taken before the first result is given: they are under way at
        once. Closing the iterator drops them.
        """
        for batch in batches:
            yield self(*batch)


class Network(Protocol):
    """What a backend provides: raw arrays in, whatever the network says out."""

    def __call__(self, *inputs: NDArray[Any]) -> NDArray[Any]:
        """Return the output of the network, classes last."""
        ...


@runtime_checkable
class StreamingNetwork(Network, Protocol):
    """A network that has several batches under way at once, and its outputs on a device."""

    @property
    def device(self) -> object:
        """The device; `str` gives its name."""
        ...

    def stream(self, batches: Iterable[Batch]) -> Generator[NDArray[np.float32], None, None]:
        """Yield the output of each batch, in order; the receiver owns it."""
        ...

    def stream_on_device(self, batches: Iterable[Batch]) -> Generator["torch.Tensor", None, None]:
        """Yield the output of each batch on the device, valid until the next is asked for."""
        ...


class FunctionPredictor(Predictor):
    """A function from a batch to its raw values, as a predictor."""

    def __init__(self, function: Callable[..., NDArray[np.float32]]) -> None:
        self._function = function

    def __call__(self, *inputs: NDArray[Any]) -> NDArray[np.float32]:
        """Return what the function returns."""
        return self._function(*inputs)


class StagePredictor(Predictor):
    """A backend's network held to what its card promises.

    Parameters
    ----------
    stage
        The stage of the card.
    classes
        Number of classes of the model, two more where it gives offsets, or length of an
        embedder's vectors.
    network
        The backend.
    """

    def __init__(self, stage: StageSpec, classes: int, network: Network) -> None:
        self.stage = stage
        self.classes = classes
        self._network = network

    def for_workers(self, workers: int, threads: int) -> "StagePredictor":
        """Return the predictor for `workers` calls at once, each on `threads` cores of a CPU."""
        make = getattr(self._network, "for_workers", None)
        if make is None:
            return self
        return StagePredictor(self.stage, self.classes, make(workers, threads))

    def for_stage(self, stage: StageSpec) -> "StagePredictor":
        """Return the same network held to another card; for networks that take any patch."""
        return StagePredictor(stage, self.classes, self._network)

    def prepare(self, batch_size: int) -> None:
        """Do what the first call of a batch size would do first, such as compiling."""
        prepare = getattr(self._network, "prepare", None)
        if prepare is not None:
            inputs = self.stage.inputs
            prepare(*((batch_size, *spec.patch, len(spec.channels)) for spec in inputs))

    def rest(self) -> None:
        """Free memory that only calls need, until the next one."""
        rest = getattr(self._network, "rest", None)
        if rest is not None:
            rest()

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
        self._check_shape(output.shape, len(inputs[0]))
        self._check_values(output)
        return output.astype(np.float32, copy=False)

    def stream(self, batches: Iterable[Batch]) -> Generator[NDArray[np.float32], None, None]:
        """Yield the raw values of each batch, in order.

        Raises
        ------
        ModelError, OutputShapeError
            As a call.
        DeviceMemoryError
            If not even a batch of one patch fits into the device's memory.

        Warns
        -----
        SmallerBatchWarning
            If a batch did not fit into the device's memory, and smaller ones are taken.
        """
        if not isinstance(self._network, StreamingNetwork):
            yield from super().stream(batches)
            return
        for output in self._answers(batches, self._network.stream):
            self._check_values(output)
            yield output

    @property
    def device(self) -> str | None:
        """Where `stream_on_device` leaves its results; `None` where there is no such thing."""
        network = self._network
        return str(network.device) if isinstance(network, StreamingNetwork) else None

    def stream_on_device(self, batches: Iterable[Batch]) -> Generator["torch.Tensor", None, None]:
        """Yield the raw values of each batch as a tensor on `device`; see `stream`.

        It is valid, on the stream current in this thread, until the next one is asked for. Only
        its shape is checked: looking at the values would make the host wait for the device.

        Raises
        ------
        ModelError
            If the network has no device to leave them on, or an input is not as the card says.
        """
        if not isinstance(self._network, StreamingNetwork):
            raise ModelError(
                f"stage {self.stage.name!r}: {self._network!r} leaves nothing on a device; use "
                "--backend torch"
            )
        yield from self._answers(batches, self._network.stream_on_device)

    def _answers(
        self,
        batches: Iterable[Batch],
        stream: Callable[[Iterable[Batch]], Generator[Output, None, None]],
    ) -> Iterator[Output]:
        """Yield the outputs of checked inputs, their shapes checked."""
        counts: deque[int] = deque()

        def checked() -> Iterator[Batch]:
            for batch in batches:
                self._check_inputs(batch)
                counts.append(len(batch[0]))
                yield batch

        with closing(stream(checked())) as outputs:
            for output in outputs:
                self._check_shape(tuple(output.shape), counts.popleft())
                yield output

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

    def _check_shape(self, found: tuple[int, ...], n: int) -> None:
        patch = self.stage.inputs[0].patch if self.stage.kind == "segmenter" else ()
        shape = (n, *patch, self.classes)
        if found != shape:
            what = "values per vector" if self.stage.kind == "embedder" else "classes"
            raise OutputShapeError(
                f"stage {self.stage.name!r}: the network gave {found}: needed {shape} for "
                f"kind {self.stage.kind!r} of {self.classes} {what}; correct classes, kind or "
                "patch in model.json"
            )

    @property
    def _sums_raw(self) -> bool:
        output = self.stage.output
        return output.stitched == "raw" and output.blend != "crop"

    def _check_values(self, output: NDArray[Any]) -> None:
        if self.stage.reads_scan and self._sums_raw:
            return  # the stitcher looks at the sums of a volume's windows, which are far fewer
        low, high = float(output.min()), float(output.max())  # NaN and infinity show up in these
        promised = self.stage.output
        if not np.isfinite([low, high]).all():
            raise OutputShapeError(
                f"stage {self.stage.name!r}: the network gave values between {low} and {high}: "
                "needed finite ones; the weights are damaged or the precision is too low"
            )
        is_probability = promised.activation == "none" and self.stage.kind != "embedder"
        if is_probability and promised.offsets:
            chances = output[..., :-OFFSETS]
            low, high = float(chances.min()), float(chances.max())
        if is_probability and not (low >= -PROBABILITY_SLACK and high <= 1 + PROBABILITY_SLACK):
            raise OutputShapeError(
                f"stage {self.stage.name!r}: values from {low:.4g} to {high:.4g}: needed "
                "probabilities from 0 to 1 for activation 'none'; set activation to 'softmax' or "
                "'sigmoid' in model.json"
            )

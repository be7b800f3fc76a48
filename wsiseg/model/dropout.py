"""The same network with some of its units dropped, again and again: Monte-Carlo dropout."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from wsiseg.errors import ModelError
from wsiseg.model.card import StageSpec
from wsiseg.model.load import Model
from wsiseg.model.package import Package
from wsiseg.model.predictor import StagePredictor
from wsiseg.model.registry import find_model

if TYPE_CHECKING:
    from wsiseg.model.torch_backend import TorchNetwork
    from wsiseg.model.torch_dropout import SeededNetwork

__all__ = ["DropoutSample", "dropout_predictors", "require_dropout"]


class DropoutSample:
    """A network with one choice of dropped units for each patch, as a backend's network.

    Which units that are is a function of the patch, the seed and the number of the sample: neither
    batches nor threads nor the order of calls change it.

    Parameters
    ----------
    network
        A `SeededNetwork` in torch.
    seed, number
        Of the run, and of the sample.
    """

    def __init__(self, network: "TorchNetwork", seed: int, number: int) -> None:
        self._network = network
        self._seed = seed
        self._number = number

    def __repr__(self) -> str:
        return f"DropoutSample({self._network!r}, seed={self._seed}, number={self._number})"

    def __call__(self, *inputs: NDArray[Any]) -> NDArray[np.float32]:
        """Return the output of the network."""
        return self._network(*inputs, _keys(inputs, f"{self._seed}/{self._number}"))

    def for_workers(self, workers: int, threads: int) -> "DropoutSample":
        """Return the sample for `workers` calls at once, each on `threads` cores of a CPU."""
        network = self._network.for_workers(workers, threads)
        return DropoutSample(network, self._seed, self._number)

    def rest(self) -> None:
        """Free memory that only calls need, until the next one."""
        self._network.rest()


def dropout_predictors(model: Model, samples: int, seed: int) -> tuple[StagePredictor, ...]:
    """Return predictors of a model's last stage with dropout switched on, one per sample.

    They run in torch, on a GPU if the model does, whatever its backend.

    Parameters
    ----------
    model
        Its package is read again.
    samples
        How many.
    seed
        Of all samples.

    Raises
    ------
    ModelError
        If the last stage is no torch network, or has no dropout.
    """
    from wsiseg.model.torch_backend import TorchNetwork

    package = Package.open(model.path)
    on_gpu = model.device != "cpu" and model.backend == "torch"
    network = TorchNetwork(
        _seeded(package),
        device=model.device if on_gpu else "cpu",
        precision="bfloat16" if on_gpu and model.precision == "bfloat16" else "float32",
    )
    stage, classes = package.card.stages[-1], len(package.card.classes)
    return tuple(
        StagePredictor(stage, classes, DropoutSample(network, seed, number))
        for number in range(samples)
    )


def require_dropout(model: Model | str | Path) -> None:
    """Refuse a model whose last stage has no dropout.

    Raises
    ------
    ModelError
        If it has none, is no torch network, or there is no such model.
    """
    _seeded(Package.open(model.path if isinstance(model, Model) else find_model(model)))


def _seeded(package: Package) -> "SeededNetwork":
    stage = package.card.stages[-1]
    if stage.weights.architecture == "onnx":
        raise _no_dropout(package, stage, "is an ONNX graph, which has lost its dropout")
    from wsiseg.model.preprocessed import load_network
    from wsiseg.model.torch_dropout import SeededNetwork

    name = str(package.folder / stage.weights.file)
    module = load_network(stage, package.channels(stage), package.read_weights(stage), name)
    network = SeededNetwork(module)
    if not network.dropouts:
        raise _no_dropout(package, stage, f"{stage.weights.architecture} has none that is active")
    return network


def _no_dropout(package: Package, stage: StageSpec, found: str) -> ModelError:
    return ModelError(
        f"{package.card.name}: layer 'dropout' needs a network with dropout (nn.Dropout, p above "
        f"0), found none in stage {stage.name!r}: {found}; leave 'dropout' out, or train with it"
    )


def _keys(inputs: Sequence[NDArray[Any]], salt: str) -> NDArray[np.int64]:
    """Return a number per patch of a batch, told by its pixels and `salt`, int64 (n,)."""
    from hashlib import blake2b

    keys = np.empty(len(inputs[0]), np.int64)
    for i in range(len(keys)):
        digest = blake2b(salt.encode(), digest_size=8)
        for array in inputs:
            digest.update(array[i].tobytes())
        keys[i] = int.from_bytes(digest.digest()) >> 1
    return keys

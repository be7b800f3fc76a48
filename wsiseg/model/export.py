"""torch to ONNX, once per model: on a CPU, ONNX Runtime is several times as fast as torch.

Imports torch, and is therefore run in a process of its own (see `child`) unless torch is in use.
"""

import copy
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from wsiseg.errors import ModelError
from wsiseg.model.card import StageSpec
from wsiseg.model.enlarge import enlarged, widened
from wsiseg.model.package import Package
from wsiseg.model.preprocessed import PreprocessedNetwork, load_network

__all__ = ["OPSET", "export_job", "export_onnx", "export_stage"]

OPSET = 17
"""Read by every ONNX Runtime the package allows; has all operators of the networks here."""

TOLERANCE = 1e-4
"""Allowed difference to torch, times the largest value (at least 1)."""

ROUNDINGS = 2.0
"""Deep networks make more of rounding: allowed are so many times torch's own error, found by
computing in float64. (ResNet50 with random weights: torch errs by 1.1e-4, its export by 0.6e-4.)"""


def export_job(request: dict[str, Any]) -> bytes:
    """Return `export_stage` of the package, digest, stage, weights and patch of a request."""
    package = Package.open(Path(request["folder"]))
    if package.digest != request["digest"]:
        raise ModelError(
            f"{package.folder}: the package changed while it was loaded; load it again"
        )
    stage = next(
        one
        for stage in package.card.stages
        for one in stage.as_folds
        if (one.name, one.weights.sha256) == (request["stage"], request["weights"])
    )
    return export_stage(package, widened(stage, tuple(request["patch"])))


def export_stage(package: Package, stage: StageSpec) -> bytes:
    """Return a stage with its preprocessing as an ONNX file that was compared with torch.

    The stage may be one of the package with another patch (`widened`).

    Raises
    ------
    WeightsError, ModelCardError
        If the network cannot be built.
    ModelError
        If it cannot be exported, or the export gives other values than torch.
    """
    name = str(package.folder / stage.weights.file)
    module = load_network(stage, package.channels(stage), package.read_weights(stage), name)
    inputs = package.read_examples()[stage.name].inputs
    patch = stage.inputs[0].patch
    if inputs[0].shape[1:-1] != patch:
        inputs = enlarged(inputs, patch)
    return export_onnx(module, inputs, name=f"{package.card.name}, stage {stage.name!r}")


def export_onnx(
    module: PreprocessedNetwork, inputs: tuple[NDArray[Any], ...], *, name: str
) -> bytes:
    """Return an ONNX file of any batch size, compared with torch on `inputs`.

    Parameters
    ----------
    module
        In evaluation mode, on the CPU.
    inputs
        Arrays `(n, *patch, channel)`, one per input.
    name
        What messages call the network.

    Raises
    ------
    ModelError
        If it cannot be exported, or the export gives other values than torch.
    """
    tensors = tuple(torch.from_numpy(np.array(array)) for array in inputs)
    content = _export(module, tensors, name)
    # Twice the batch it was traced with: a batch size frozen into the graph shows up here.
    doubled = tuple(torch.cat([tensor, tensor]) for tensor in tensors)
    _compare(module, content, doubled, name)
    return content


def _export(module: PreprocessedNetwork, tensors: tuple[torch.Tensor, ...], name: str) -> bytes:
    names = [f"input{i}" for i in range(len(tensors))]
    try:
        with tempfile.TemporaryDirectory(prefix="wsiseg-") as folder, warnings.catch_warnings():
            path = Path(folder) / "network.onnx"
            # The TorchScript-based exporter is deprecated, but exports in a fifteenth of the
            # time and needs no onnxscript. Its tracer warnings are settled by `_compare`.
            warnings.simplefilter("ignore")
            torch.onnx.export(
                module,
                tensors,
                path,
                dynamo=False,
                opset_version=OPSET,
                input_names=names,
                output_names=["output"],
                dynamic_axes={n: {0: "n"} for n in [*names, "output"]},
            )
            return path.read_bytes()
    except RuntimeError as error:
        raise ModelError(
            f"{name}: cannot be exported to ONNX: {str(error).splitlines()[0]}; run it with "
            "--backend torch"
        ) from error


def _compare(
    module: PreprocessedNetwork, content: bytes, tensors: tuple[torch.Tensor, ...], name: str
) -> None:
    from wsiseg.model.onnx_backend import OnnxNetwork

    with torch.inference_mode():
        wanted = module(*tensors).numpy()
    found = OnnxNetwork(content)(*(tensor.numpy() for tensor in tensors))
    error = float(np.abs(found - wanted).max()) if found.shape == wanted.shape else np.inf
    allowed = TOLERANCE * max(1.0, float(np.abs(wanted).max()))
    if allowed < error < np.inf:
        allowed = max(allowed, ROUNDINGS * _rounding(module, tensors, wanted))
    if not error <= allowed:
        raise ModelError(
            f"{name}: the ONNX export gives {found.shape} and differs from torch's "
            f"{wanted.shape} by {error:.3g}: needed at most {allowed:.3g}; run it with "
            "--backend torch"
        )


def _rounding(
    module: PreprocessedNetwork, tensors: tuple[torch.Tensor, ...], output: NDArray[np.float32]
) -> float:
    """Return how far torch's float32 output is from that in float64; 0 where there is none."""
    try:
        with torch.inference_mode():
            exact = copy.deepcopy(module).double()(*tensors).numpy()
    except RuntimeError:  # a network that makes float32 tensors of its own
        return 0.0
    return float(np.abs(output - exact).max())

"""From a stage to a network: its ONNX file, made once and cached, and who runs it."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from wsiseg.model.cache import cache_key, cached_file, code_fingerprint
from wsiseg.model.card import StageSpec
from wsiseg.model.child import make_in_child
from wsiseg.model.package import Package
from wsiseg.model.predictor import Network
from wsiseg.model.quantize import Calibration, int8_graph
from wsiseg.options import Precision

if TYPE_CHECKING:
    from wsiseg.model.onnx_backend import OnnxNetwork
    from wsiseg.model.openvino_backend import OpenvinoNetwork

__all__ = ["build_network", "graph_network", "stage_graph"]


def build_network(
    backend: str,
    package: Package,
    stage: StageSpec,
    *,
    device: str,
    precision: Precision,
    threads: int | None,
    calibration: Calibration | None = None,
) -> Network:
    """Return the network of a stage, run by one of `onnxruntime`, `openvino` and `torch`.

    Of a stage with several folds it is the mean of their networks.
    """
    if stage.folds:
        from wsiseg.model.ensemble import ensemble_of

        return ensemble_of(
            [
                build_network(
                    backend,
                    package,
                    one,
                    device=device,
                    precision=precision,
                    threads=threads,
                    calibration=calibration,
                )
                for one in stage.as_folds
            ]
        )
    if backend == "torch":
        return _torch_network(package, stage, device, precision, threads)
    graph = stage_graph(package, stage, precision=precision, calibration=calibration)
    return graph_network(backend, graph, device=device, threads=threads)


def graph_network(
    backend: str, graph: Path, *, device: str = "cpu", threads: int | None
) -> "OnnxNetwork | OpenvinoNetwork":
    """Return the network of an ONNX file, run by `onnxruntime` or `openvino`."""
    if backend == "openvino":
        from wsiseg.model.openvino_backend import OpenvinoNetwork

        return OpenvinoNetwork(graph, threads=threads)
    from wsiseg.model.onnx_backend import OnnxNetwork

    return OnnxNetwork(graph, device=device, threads=threads)


def stage_graph(
    package: Package,
    stage: StageSpec,
    *,
    precision: Precision = "float32",
    calibration: Calibration | None = None,
) -> Path:
    """Return the ONNX file of a stage with the card's preprocessing inside; made on first use.

    The stage may be one of the package with another patch (`widened`).

    Raises
    ------
    ModelError
        If it cannot be exported or quantised.
    """
    patches = [spec.patch for spec in stage.inputs]
    weights = stage.weights.sha256
    key = cache_key(package.digest, stage.name, weights, patches, code_fingerprint())
    graph = cached_file("onnx", key, ".onnx", lambda: _graph_bytes(package, stage))
    if precision != "int8":
        return graph
    return int8_graph(package, stage, graph, calibration)


def _graph_bytes(package: Package, stage: StageSpec) -> bytes:
    if stage.weights.architecture == "onnx":
        from wsiseg.model.onnx_graph import complete_stage

        return complete_stage(package, stage)
    if "torch" in sys.modules:  # then a process of its own would only cost its start
        from wsiseg.model.export import export_stage

        return export_stage(package, stage)
    return make_in_child(
        "export",
        {
            "folder": str(package.folder.resolve()),
            "digest": package.digest,
            "stage": stage.name,
            "weights": stage.weights.sha256,
            "patch": stage.inputs[0].patch,
        },
        what=f"{package.card.name}, stage {stage.name!r}: export to ONNX",
    )


def _torch_network(
    package: Package, stage: StageSpec, device: str, precision: Precision, threads: int | None
) -> Network:
    from wsiseg.model.preprocessed import load_network
    from wsiseg.model.torch_backend import TorchNetwork

    name = str(package.folder / stage.weights.file)
    module = load_network(stage, package.channels(stage), package.read_weights(stage), name)
    reduced: Literal["float32", "bfloat16"] = "bfloat16" if precision == "bfloat16" else "float32"
    return TorchNetwork(module, device=device, precision=reduced, threads=threads)

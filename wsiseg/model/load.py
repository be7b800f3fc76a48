"""From the name of a model to networks that can be called."""

import ctypes
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

from wsiseg.errors import ModelError
from wsiseg.model.cache import cache_key, cached_file, code_fingerprint
from wsiseg.model.card import ModelCard, StageSpec
from wsiseg.model.check import CheckReport, check_predictors
from wsiseg.model.package import Package
from wsiseg.model.predictor import Network, Predictor, StagePredictor
from wsiseg.model.registry import find_model

__all__ = ["Backend", "Model", "Precision", "check_model", "load_model"]

Backend = Literal["auto", "onnxruntime", "torch"]
Precision = Literal["float32", "bfloat16"]


@dataclass(frozen=True)
class Model:
    """A card and its networks, ready to be called."""

    card: ModelCard

    digest: str
    """SHA-256 over card and weights."""

    path: Path
    """Folder of the package."""

    predictors: tuple[Predictor, ...]
    """One per stage of the card, in its order."""

    backend: str
    """`onnxruntime` or `torch`."""

    device: str
    """`cpu`, `cuda` or `cuda:<n>`."""

    precision: Precision = "float32"

    def __repr__(self) -> str:
        where = f"{self.backend} on {self.device}, {self.precision}"
        return f"Model({self.card.name} {self.card.version}, {where}, {self.digest[:12]})"


def load_model(
    name_or_path: str | Path,
    *,
    backend: Backend = "auto",
    device: str = "auto",
    precision: Precision = "float32",
    threads: int | None = None,
) -> Model:
    """Load a model and run its check.

    On a CPU the networks run in ONNX Runtime, exported once and kept in the cache; torch is
    imported for the export only. With a CUDA device they run in torch. The check of the package
    runs when weights, card, code, versions, backend or device differ from those of the last time
    it passed.

    Parameters
    ----------
    name_or_path
        Name of a bundled or added model, or the folder of a package.
    backend
        `auto`: torch on a GPU, ONNX Runtime on a CPU and for networks that come as ONNX.
    device
        `auto` (a GPU where there is one), `cpu`, `cuda` or `cuda:<n>`.
    precision
        `bfloat16` needs torch on a GPU; the check then allows the card's `int8_tolerance`.
    threads
        Cores one call may use on a CPU; `None`: all this process may use.

    Raises
    ------
    ModelError
        If there is no such model, backend or device, or the model fails its check.
    ModelCardError
        If the card is wrong.
    WeightsError
        If weights are missing, changed, unsafe, or not those of the architecture.
    OutputShapeError
        If a network gives something its card does not promise.
    """
    package = Package.open(find_model(name_or_path))
    model = _assemble(package, backend, device, precision, threads)
    parts = (package.digest, package.check_sha256, model.backend, model.device, precision)
    key = cache_key(*parts, code_fingerprint(), metadata.version("onnxruntime"))
    cached_file("checks", key, ".json", lambda: _report_bytes(package, model))
    return model


def check_model(
    name_or_path: str | Path,
    *,
    backend: Backend = "auto",
    device: str = "auto",
    precision: Precision = "float32",
) -> CheckReport:
    """Load a model, run its check whatever was found before, and report; see `load_model`."""
    package = Package.open(find_model(name_or_path))
    return _check(package, _assemble(package, backend, device, precision, None))


def _check(package: Package, model: Model) -> CheckReport:
    reduced = model.precision != "float32"
    stages = check_predictors(package, model.predictors, reduced_precision=reduced)
    name = f"{package.card.name} {package.card.version}"
    return CheckReport(name, package.digest, model.backend, model.device, model.precision, stages)


def _report_bytes(package: Package, model: Model) -> bytes:
    return json.dumps(asdict(_check(package, model))).encode()


def _assemble(
    package: Package, backend: Backend, device: str, precision: Precision, threads: int | None
) -> Model:
    chosen, device = _choose(package.card.stages, backend, device)
    if precision != "float32" and chosen != "torch":
        raise ModelError(
            f"precision {precision} needs torch on a GPU, found {chosen} on {device}; leave the "
            "precision at float32"
        )
    classes = len(package.card.classes)
    predictors = []
    for stage in package.card.stages:
        network: Network
        if chosen == "torch":
            network = _torch_network(package, stage, device, precision, threads)
        else:
            network = _onnx_network(package, stage, device, threads)
        predictors.append(StagePredictor(stage, classes, network))
    return Model(
        package.card, package.digest, package.folder, tuple(predictors), chosen, device, precision
    )


def _choose(stages: Sequence[StageSpec], backend: Backend, device: str) -> tuple[str, str]:
    """Return backend and device, neither of them `auto`."""
    if backend not in ("auto", "onnxruntime", "torch"):
        raise ModelError(f"backend {backend!r} is unknown: needed auto, onnxruntime or torch")
    if device not in ("auto", "cpu") and device.partition(":")[0] != "cuda":
        raise ModelError(f"device {device!r} is unknown: needed auto, cpu, cuda or cuda:<number>")
    foreign = [stage.name for stage in stages if stage.weights.architecture == "onnx"]
    if backend == "torch" and foreign:
        raise ModelError(
            f"stages {foreign} are ONNX graphs, which torch cannot run; use --backend onnxruntime"
        )
    if backend == "auto" and foreign:
        backend = "onnxruntime"
    if device == "auto":
        device = "cuda" if backend != "onnxruntime" and _cuda_is_usable() else "cpu"
    if backend == "auto":
        backend = "onnxruntime" if device == "cpu" else "torch"
    return backend, device


def _cuda_is_usable() -> bool:
    """Tell whether torch can use a GPU; without a driver torch is not even imported."""
    library = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    import torch

    return torch.cuda.is_available()


def _torch_network(
    package: Package, stage: StageSpec, device: str, precision: Precision, threads: int | None
) -> Network:
    from wsiseg.model.preprocessed import load_network
    from wsiseg.model.torch_backend import TorchNetwork

    name = str(package.folder / stage.weights.file)
    module = load_network(stage, len(package.card.classes), package.read_weights(stage), name)
    return TorchNetwork(module, device=device, precision=precision, threads=threads)


def _onnx_network(package: Package, stage: StageSpec, device: str, threads: int | None) -> Network:
    from wsiseg.model.onnx_backend import OnnxNetwork

    key = cache_key(package.digest, stage.name, code_fingerprint())
    path = cached_file("onnx", key, ".onnx", lambda: _onnx_bytes(package, stage))
    return OnnxNetwork(path, device=device, threads=threads)


def _onnx_bytes(package: Package, stage: StageSpec) -> bytes:
    if stage.weights.architecture == "onnx":
        from wsiseg.model.onnx_graph import complete_stage

        return complete_stage(package, stage)
    from wsiseg.model.export import export_stage

    return export_stage(package, stage, package.read_examples()[stage.name])

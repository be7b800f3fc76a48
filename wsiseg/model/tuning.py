"""What runs a model fastest on this CPU, found by a short measurement that is made once.

Which library wins differs between networks and CPUs by a factor of up to two, and nothing short
of trying tells. Candidates take turns for a fraction of a second each, on the model's own input
shapes; the result is kept in the cache for this package, these versions and this CPU. The default
stays unless another wins clearly (`BACKEND_HYSTERESIS`), so that noise does not flip the choice.

torch is tried, too, where the other libraries take long enough for its import, one to three
seconds in every run, to be won back (`TORCH_FROM`); it then has to win by more. On the CPUs seen so
far it ran MobileNetV2, ResNet18 and ResNet50 at a third to two thirds of ONNX Runtime's speed.

Each worker reads a batch and predicts it on one core, so threads per call are no candidate. Two
calls on one core each were never slower than one call on two (ms per patch, ONNX Runtime and
OpenVINO: MobileNetV2 3.0 against 3.7 and 2.7 against 3.0, ResNet50 105 against 104 and 104 against
109), and torch's last bits depend on its threads.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from wsiseg.errors import ModelError
from wsiseg.machine import cpu_name, usable_cores
from wsiseg.model.backends import stage_graph
from wsiseg.model.cache import cache_key, cached_file, code_fingerprint
from wsiseg.model.card import SLIDE, StageSpec
from wsiseg.model.child import make_in_child
from wsiseg.model.openvino_backend import openvino_is_installed
from wsiseg.model.package import Package
from wsiseg.model.quantize import Calibration, calibration_sha256, eight_bits_saturate
from wsiseg.model.registry import find_model
from wsiseg.options import Precision

__all__ = ["StageTuning", "Tuning", "default_batch", "device_batch", "tune", "tune_package"]

BATCH_PIXELS = 1 << 18
"""Patch pixels of the default batch: enough to keep two cores busy; activations stay small."""

MAX_BATCH_PIXELS = 2 * BATCH_PIXELS
MAX_BATCH = 64

DEVICE_BATCH_PIXELS = 1 << 23
"""Patch pixels per batch on a GPU: 128 patches of 256 pixels."""

MAX_DEVICE_BATCH = 256

HYSTERESIS = 0.05
"""Share of the time by which another batch size must be faster than the default."""

BACKEND_HYSTERESIS = 0.15
"""The same for another backend: OpenVINO takes 0.4 s longer to start and to leave, which a small
slide never gains back."""

TORCH_FROM = 0.5
"""Seconds per mm² (mm³) of tissue from which torch is tried: a section of 20 mm² then takes long
enough that winning by `TORCH_HYSTERESIS` is worth its import."""

TORCH_HYSTERESIS = 0.3

SECONDS = 1.0
"""After this no further batch size is tried; backends always are."""

LIBRARIES = ("onnxruntime", "openvino", "torch")


@dataclass(frozen=True, slots=True)
class StageTuning:
    """How one stage runs fastest."""

    stage: str
    batch_size: int

    workers: int
    """Batches at once, each on `threads` cores."""

    threads: int

    seconds_per_patch: float
    """With all workers busy: their time divided by all their patches."""


@dataclass(frozen=True, slots=True)
class Tuning:
    """What was measured for a model on this CPU."""

    backend: str
    """One for all stages: results stay replayable, and one library is loaded."""

    stages: tuple[StageTuning, ...]

    seconds_per_mm2: dict[str, float]
    """Time for the networks of a square millimetre of tissue (for volumes: per mm³), per backend
    tried, at the default batch size."""


def tune(
    name_or_path: str | Path,
    *,
    backends: tuple[str, ...] = (),
    precision: Precision = "float32",
    threads: int | None = None,
) -> Tuning:
    """Measure, or look up, what runs a model fastest on this CPU.

    Parameters
    ----------
    name_or_path
        As for `load_model`.
    backends
        Candidates (`onnxruntime`, `openvino`, `torch`), the default first; empty: ONNX Runtime,
        OpenVINO where it is installed, and torch for networks that take long.
    precision
        `float32` or `int8`, which runs in ONNX Runtime only.
    threads
        Cores to use; `None`: all this process may use.

    Raises
    ------
    ModelError
        If a candidate is unknown, or the first one cannot run the model.
    """
    package = Package.open(find_model(name_or_path))
    return tune_package(package, backends=backends, precision=precision, threads=threads)


def tune_package(
    package: Package,
    *,
    backends: tuple[str, ...] = (),
    precision: Precision = "float32",
    threads: int | None = None,
    calibration: Calibration | None = None,
    stages: Sequence[StageSpec] = (),
) -> Tuning:
    """Do what `tune` does for a package that is open, or for some stages, which may be widened."""
    stages = tuple(stages) or package.card.stages
    torch_from = 0.0 if backends else TORCH_FROM
    backends = backends or _candidates(precision, stages)
    if unknown := set(backends) - set(LIBRARIES):
        raise ModelError(f"backends {sorted(unknown)} are unknown: needed some of {LIBRARIES}")
    key = cache_key(
        package.digest,
        calibration_sha256(calibration),
        backends,
        torch_from,
        precision,
        threads,
        *_machine(),
        code_fingerprint(),
        [[stage.name, *(spec.patch for spec in stage.inputs)] for stage in stages],
    )

    def measure() -> bytes:
        graphs = [
            stage_graph(package, stage, precision=precision, calibration=calibration)
            for stage in stages
        ]
        request = _request(package, stages, graphs, backends, threads)
        request["torch_from"] = torch_from
        return make_in_child("measure", request, what=f"{package.card.name}: measurement")

    path = cached_file("tuning", key, ".json", measure)
    try:
        found = json.loads(path.read_bytes())
        tuned = tuple(StageTuning(**stage) for stage in found["stages"])
        return Tuning(found["backend"], tuned, found["seconds_per_mm2"])
    except (ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{path}: damaged: {error}; delete it") from error


def default_batch(patch: tuple[int, ...]) -> int:
    """Return the batch size for patches of a shape where nothing was measured."""
    return max(1, min(MAX_BATCH, BATCH_PIXELS // math.prod(patch)))


def device_batch(patch: tuple[int, ...]) -> int:
    """Return the batch size for patches of a shape on a GPU."""
    return max(1, min(MAX_DEVICE_BATCH, DEVICE_BATCH_PIXELS // math.prod(patch)))


def library_versions() -> tuple[str, ...]:
    """Return the versions of the libraries that run networks on a CPU; "none" for an absent one."""
    versions = []
    for name in LIBRARIES:
        try:
            versions.append(metadata.version(name))
        except metadata.PackageNotFoundError:
            versions.append("none")
    return tuple(versions)


def tuning_bytes(tuning: Tuning) -> bytes:
    """Return a tuning as it is cached."""
    return json.dumps(asdict(tuning)).encode()


def _candidates(precision: Precision, stages: Sequence[StageSpec]) -> tuple[str, ...]:
    names = ["onnxruntime"]
    if precision == "float32":
        names += ["openvino"] if openvino_is_installed() else []
        names += [] if any(s.weights.architecture == "onnx" for s in stages) else ["torch"]
    return tuple(names)


def _machine() -> tuple[object, ...]:
    """Return what a measurement holds for: CPU, cores, and versions of the libraries."""
    return (cpu_name(), usable_cores(), eight_bits_saturate(), *library_versions())


def _request(
    package: Package,
    stages: Sequence[StageSpec],
    graphs: Sequence[Path],
    backends: tuple[str, ...],
    threads: int | None,
) -> dict[str, Any]:
    return {
        "folder": str(package.folder.resolve()),
        "backends": backends,
        # A worker per core, as runs have: more threads per call would make the last bits depend on
        # the machine.
        "workers": threads or usable_cores(),
        "stages": [
            {"graph": str(graph), **_shapes(stage)}
            for graph, stage in zip(graphs, stages, strict=True)
        ],
    }


def _shapes(stage: StageSpec) -> dict[str, Any]:
    patch = stage.inputs[0].patch
    usual = default_batch(patch)
    largest = max(1, min(MAX_BATCH, MAX_BATCH_PIXELS // math.prod(patch)))
    others = {n for n in (2 * usual, usual // 2, usual // 4) if 1 <= n <= largest}
    return {
        "name": stage.name,
        "inputs": [
            {
                "shape": [*spec.patch, len(spec.channels)],
                "dtype": "uint8" if spec.source == SLIDE else "float32",
            }
            for spec in stage.inputs
        ],
        "batches": [usual, *sorted(others - {usual}, reverse=True)],
        "patches_per_mm2": _patches_per_mm2(stage),
    }


def _patches_per_mm2(stage: StageSpec) -> float:
    """Return how often the network runs per mm² (mm³), to weigh stages against each other."""
    spec, halo = stage.inputs[0], stage.output.halo or (0,) * len(stage.inputs[0].patch)
    stride = spec.stride or tuple(p - 2 * h for p, h in zip(spec.patch, halo, strict=True))
    spacing = spec.spacing_um or (spec.spacing_range_um or (1.0,))[-1:] * len(stride)
    return 1 / math.prod(s * um / 1000 for s, um in zip(stride, spacing, strict=True))

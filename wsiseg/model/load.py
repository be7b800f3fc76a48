"""From the name of a model to networks that can be called."""

import ctypes
import json
import logging
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import get_args

from wsiseg.errors import ModelError, UsageError
from wsiseg.model.backends import build_network, stage_graph
from wsiseg.model.cache import cache_key, cached_file, code_fingerprint
from wsiseg.model.card import CARD_FILE, ModelCard, StageSpec, Task
from wsiseg.model.check import CheckReport, check_predictors
from wsiseg.model.package import Package
from wsiseg.model.predictor import Network, Predictor, StagePredictor
from wsiseg.model.quantize import Calibration, calibration_sha256
from wsiseg.model.registry import find_model
from wsiseg.model.tuning import StageTuning, Tuning, library_versions, tune_package
from wsiseg.model.windows import NetworkMaker, WindowNetworks
from wsiseg.options import Backend, Precision, RunOptions

__all__ = [
    "Backend",
    "Model",
    "Precision",
    "card_of",
    "check_model",
    "load_for_run",
    "load_model",
    "require_task",
    "suits_gpu",
]

COMMANDS: dict[Task, str] = {"semantic": "segment", "embedding": "embed"}
"""What runs models of each task."""

log = logging.getLogger(__name__)


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

    channels: tuple[int, ...]
    """Values per patch or pixel of each stage: its classes, or the length of its vectors."""

    backend: str
    """`onnxruntime`, `openvino` or `torch`."""

    device: str
    """`cpu`, `cuda` or `cuda:<n>`."""

    precision: Precision = "float32"

    tuning: Tuning | None = None
    """Batch sizes and times measured on this CPU; only where the backend was to be chosen."""

    windows: WindowNetworks | None = field(default=None, repr=False, compare=False)
    """The networks on larger windows, where a stage of the card may have such."""

    def patches(self, s: int) -> tuple[tuple[int, ...], ...]:
        """Return the patches that stage `s` may run on, largest first; the last is the card's."""
        return self.windows.patches(s) if self.windows else (self.card.stages[s].inputs[0].patch,)

    def on_patches(self, patches: Sequence[tuple[int, ...]]) -> "Model":
        """Return the model with each stage on one of its `patches`, given per stage.

        Raises
        ------
        ModelError
            If a network gives something else there than on the patch of its card; see
            `WindowNetworks`.
        """
        if self.windows is None:
            return self
        predictors = tuple(self.windows.predictor(s, patch) for s, patch in enumerate(patches))
        return replace(self, predictors=predictors, tuning=self.windows.tuning(patches))

    def prepare(self, cores: int) -> None:
        """Start the networks as a run on this many cores will call them, to save it the wait.

        Those that may run on larger windows wait for the slide that decides it.
        """
        batches = {s.stage: s.batch_size for s in self.tuning.stages} if self.tuning else {}
        for s, predictor in enumerate(self.predictors):
            if len(self.patches(s)) > 1:
                continue
            if isinstance(predictor, StagePredictor) and predictor.stage.name in batches:
                predictor.for_workers(cores, 1).prepare(batches[predictor.stage.name])

    def __repr__(self) -> str:
        where = f"{self.backend} on {self.device}, {self.precision}"
        return f"Model({self.card.title}, {where}, {self.digest[:12]})"

    def _repr_html_(self) -> str:
        from wsiseg.model.describe import card_html

        return card_html(self.card, f"{self.backend} on {self.device}, {self.precision}")


def load_model(
    name_or_path: str | Path,
    *,
    backend: Backend = "auto",
    device: str = "auto",
    precision: Precision = "float32",
    threads: int | None = None,
    calibration: Calibration | None = None,
) -> Model:
    """Load a model and run its check.

    On a CPU the networks run in ONNX Runtime, or in OpenVINO where it is installed and was
    measured to be faster (see `tune`). They are exported once, in a process of its own, and kept
    in the cache. With a CUDA device they run in torch. The check of the package runs when
    weights, card, code, versions, backend, device or precision differ from those of the last time
    it passed. So does the comparison of the largest window of each stage with its patches, where
    the card states one.

    Parameters
    ----------
    name_or_path
        Name of a bundled or added model, or the folder of a package.
    backend
        `auto`: torch on a GPU; on a CPU, and for networks that come as ONNX, what is fastest.
    device
        `auto` (a GPU where there is one), `cpu`, `cuda` or `cuda:<n>`.
    precision
        `bfloat16` needs torch on a GPU, `int8` a CPU and ONNX Runtime; the check then allows the
        card's `int8_tolerance`.
    threads
        Cores one call may use on a CPU; `None`: all this process may use.
    calibration
        For `int8`: patches `(n, *patch, channel)` by stage name, to calibrate with beside those
        of the check. A few dozen of the slides at hand make the outputs more accurate.

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
    model = _assemble(package, backend, device, precision, threads, calibration)
    key = cache_key(
        package.digest,
        package.check_sha256,
        model.backend,
        model.device,
        precision,
        calibration_sha256(calibration),
        code_fingerprint(),
        *library_versions(),
    )
    cached_file("checks", key, ".json", lambda: _report_bytes(package, model))
    if model.windows:
        model.windows.verify_largest()
    return model


def load_for_run(model: Model | str | Path, options: RunOptions) -> Model:
    """Return a loaded model as it is, and load any other for a run; see `load_model`."""
    if isinstance(model, Model):
        return model
    return load_model(
        model,
        backend=options.backend,
        device=options.device,
        precision=options.precision,
        threads=options.threads,
    )


def require_task(model: Model | str | Path, task: Task) -> None:
    """Refuse a model of another task; of a name or folder only the card is read.

    Raises
    ------
    UsageError
        If the model is for another command; names it.
    ModelError
        If there is no such model.
    """
    card = card_of(model)
    if card.task != task:
        raise UsageError(
            f"{card.name}: needed a model of task {task!r}, found {card.task!r}; run it with "
            f"`wsiseg {COMMANDS[card.task]}`, in Python `wsiseg.{COMMANDS[card.task]}`"
        )


def suits_gpu(model: Model | str | Path, options: RunOptions) -> bool:
    """Tell whether device `auto` means a GPU, where there is one; of a name only the card is read.

    Raises
    ------
    ModelError
        If there is no such model.
    """
    foreign = _foreign(card_of(model).stages)
    return _suits_gpu(options.backend, options.precision, foreign)


def card_of(model: Model | str | Path) -> ModelCard:
    """Return the card of a model; of a name or folder nothing else is read."""
    return model.card if isinstance(model, Model) else ModelCard.read(find_model(model) / CARD_FILE)


def _foreign(stages: Sequence[StageSpec]) -> list[str]:
    """Return the names of the stages that come as ONNX graphs."""
    return [stage.name for stage in stages if stage.weights.architecture == "onnx"]


def _suits_gpu(backend: Backend, precision: Precision, foreign: Sequence[str]) -> bool:
    return backend in ("auto", "torch") and precision != "int8" and not foreign


def check_model(
    name_or_path: str | Path,
    *,
    backend: Backend = "auto",
    device: str = "auto",
    precision: Precision = "float32",
    calibration: Calibration | None = None,
) -> CheckReport:
    """Load a model, run its check whatever was found before, and report; see `load_model`."""
    package = Package.open(find_model(name_or_path))
    model = _assemble(package, backend, device, precision, None, calibration)
    windows = model.windows.check_largest() if model.windows else ()
    return replace(_check(package, model), windows=windows)


def _check(package: Package, model: Model) -> CheckReport:
    reduced = model.precision != "float32"
    stages = check_predictors(package, model.predictors, reduced_precision=reduced)
    return CheckReport(
        package.card.title, package.digest, model.backend, model.device, model.precision, stages
    )


def _report_bytes(package: Package, model: Model) -> bytes:
    return json.dumps(asdict(_check(package, model))).encode()


def _assemble(
    package: Package,
    backend: Backend,
    device: str,
    precision: Precision,
    threads: int | None,
    calibration: Calibration | None,
) -> Model:
    card = package.card
    chosen, device = _choose(card.stages, backend, device, precision)
    tuning = None
    if backend == "auto" and device == "cpu":
        tuning = _measured(package, precision, threads, calibration)
        chosen = tuning.backend if tuning else chosen

    def build(stage: StageSpec, precision: Precision) -> Network:
        return build_network(
            chosen,
            package,
            stage,
            device=device,
            precision=precision,
            threads=threads,
            calibration=calibration,
        )

    predictors = tuple(
        StagePredictor(stage, package.channels(stage), build(stage, precision))
        for stage in card.stages
    )
    windows = None
    # int8: its ranges were found for one graph, another one's would give other values.
    if precision != "int8" and any(stage.output.max_patch for stage in card.stages):
        tune = partial(_measured_stage, package, chosen, precision, threads)
        maker = NetworkMaker(chosen, device, precision, build, tune)
        windows = WindowNetworks(package, predictors, tuning, maker)
    return Model(
        card,
        package.digest,
        package.folder,
        predictors,
        tuple(predictor.classes for predictor in predictors),
        chosen,
        device,
        precision,
        tuning,
        windows,
    )


def _measured_stage(
    package: Package, backend: str, precision: Precision, threads: int | None, stage: StageSpec
) -> StageTuning | None:
    """Return what was measured for a widened stage; `None` where measuring fails."""
    try:
        found = tune_package(
            package, backends=(backend,), precision=precision, threads=threads, stages=(stage,)
        )
    except ModelError as error:
        log.warning("%s; stage %s runs with default settings", error, stage.name)
        return None
    return next(iter(found.stages), None)


def _measured(
    package: Package,
    precision: Precision,
    threads: int | None,
    calibration: Calibration | None,
) -> Tuning | None:
    """Return what was measured; `None` where measuring fails, which stops no run."""
    for stage in package.card.stages:  # what is wrong with the model itself is an error
        stage_graph(package, stage, precision=precision, calibration=calibration)
    try:
        return tune_package(package, precision=precision, threads=threads, calibration=calibration)
    except ModelError as error:
        log.warning("%s; the model runs in ONNX Runtime with default settings", error)
        return None


def _choose(
    stages: Sequence[StageSpec], backend: Backend, device: str, precision: Precision
) -> tuple[str, str]:
    """Return backend and device, neither of them `auto`."""
    for what, value, known in (
        ("backend", backend, get_args(Backend)),
        ("precision", precision, get_args(Precision)),
    ):
        if value not in known:
            raise ModelError(f"{what} {value!r} is unknown: needed one of {', '.join(known)}")
    if device not in ("auto", "cpu") and device.partition(":")[0] != "cuda":
        raise ModelError(f"device {device!r} is unknown: needed auto, cpu, cuda or cuda:<number>")
    foreign = _foreign(stages)
    if backend == "torch" and foreign:
        raise ModelError(
            f"stages {foreign} are ONNX graphs, which torch cannot run; use --backend onnxruntime"
        )
    if device == "auto":
        on_gpu = _suits_gpu(backend, precision, foreign) and _cuda_is_usable()
        device = "cuda" if on_gpu else "cpu"
    chosen = backend
    if backend == "auto":
        chosen = "onnxruntime" if device == "cpu" or foreign else "torch"
    _require_together(chosen, device, precision)
    return chosen, device


def _require_together(backend: str, device: str, precision: Precision) -> None:
    """Raise `ModelError` where a backend has no such device or precision."""
    found = f"found {backend} on {device}"
    if backend == "openvino" and device != "cpu":
        raise ModelError(f"backend openvino needs device cpu, {found}; use --device cpu")
    if precision == "bfloat16" and backend != "torch":
        raise ModelError(
            f"precision bfloat16 needs torch on a GPU, {found}; leave the precision at float32"
        )
    if precision == "int8" and (backend, device) != ("onnxruntime", "cpu"):
        raise ModelError(
            f"precision int8 needs onnxruntime on cpu, {found}; leave backend and device at auto"
        )


def _cuda_is_usable() -> bool:
    """Tell whether torch can use a GPU; without a driver torch is not even imported."""
    library = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    import torch

    return torch.cuda.is_available()

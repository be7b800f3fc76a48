"""Networks run by OpenVINO: an extra, faster than ONNX Runtime for some networks and CPUs."""

import sys
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from threading import Lock
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsiseg.errors import ModelError, WeightsError
from wsiseg.machine import usable_cores
from wsiseg.model.cache import compiled_folder
from wsiseg.model.fixed_batch import run_in_parts

__all__ = ["OpenvinoNetwork", "openvino_is_installed"]

TELEMETRY = "openvino_telemetry"

BATCH_SIZES = 2
"""Compiled networks kept, one per batch size: a run uses one, its check another."""


_FIRST_USE = Lock()


class OpenvinoNetwork:
    """A graph compiled for each batch size it meets, called with NumPy arrays; thread-safe.

    A graph compiled for one shape is up to a third faster than one of any batch size. For one
    number of threads the same input gives the same bits.

    Parameters
    ----------
    model
        An ONNX file, or its content.
    threads
        Threads one call uses; `None`: the cores this process may use.
    workers
        Calls that run at once, each on its own threads; further ones wait.

    Raises
    ------
    ModelError
        If OpenVINO is not installed.
    WeightsError
        If it cannot load the model.
    """

    def __init__(
        self, model: Path | bytes, *, threads: int | None = None, workers: int = 1
    ) -> None:
        openvino = _import_openvino()
        self._source = model
        self._workers, self._threads = workers, threads or usable_cores()
        self._for_workers: OpenvinoNetwork | None = None
        self._name = str(model) if isinstance(model, Path) else "ONNX model"
        self._core = openvino.Core()
        self._settings = {
            "INFERENCE_NUM_THREADS": self._threads * workers,
            "NUM_STREAMS": workers,
            # float32 means float32: on CPUs with AMX the default is bfloat16.
            "INFERENCE_PRECISION_HINT": "f32",
            # The readers need the cores, and other processes may be told to use the same ones.
            "ENABLE_CPU_PINNING": False,
            # Compiled once per machine: a third of a second at each start otherwise.
            "CACHE_DIR": str(compiled_folder() or ""),
        }
        try:
            self._model = self._core.read_model(model)
        except RuntimeError as error:
            raise WeightsError(
                f"{self._name}: OpenVINO {openvino.__version__} cannot load it: "
                f"{_reason(error)}; if it lies in the cache, delete it; else use --backend "
                "onnxruntime"
            ) from error
        batch = self._model.inputs[0].partial_shape[0]
        self._batch = int(batch.get_length()) if batch.is_static else None
        self._compiled = lru_cache(BATCH_SIZES)(self._compile)
        self._compiling = Lock()

    def __repr__(self) -> str:
        return f"OpenvinoNetwork(threads={self._threads}, workers={self._workers})"

    def for_workers(self, workers: int, threads: int) -> "OpenvinoNetwork":
        """Return this network for `workers` calls at once, each on `threads` cores; kept."""
        asked = (workers, threads)
        if asked == (self._workers, self._threads):
            return self
        other = self._for_workers
        if other is None or asked != (other._workers, other._threads):
            other = OpenvinoNetwork(self._source, threads=threads, workers=workers)
            self._for_workers = other
            self._compiled.cache_clear()  # the weights need not be in memory twice
        return other

    def prepare(self, *shapes: tuple[int, ...]) -> None:
        """Compile for inputs of these shapes, which the first call would do otherwise."""
        with self._compiling:
            self._compiled(shapes)

    def rest(self) -> None:
        """Free the compiled networks with their activations; the next call compiles again."""
        self._for_workers = None
        self._compiled.cache_clear()

    def __call__(self, *inputs: NDArray[Any]) -> NDArray[Any]:
        """Return the first output of the graph for one batch."""
        if self._batch is None or self._batch == len(inputs[0]):
            return self._run(inputs)
        return run_in_parts(self._run, inputs, self._batch)

    def _run(self, inputs: tuple[NDArray[Any], ...]) -> NDArray[Any]:
        arrays = [np.ascontiguousarray(array) for array in inputs]
        try:
            with self._compiling:  # workers that begin together compile once
                network = self._compiled(tuple(array.shape for array in arrays))
            with network.request() as request:
                output: NDArray[Any] = request.infer(arrays, share_inputs=True)[0]
        except RuntimeError as error:
            raise ModelError(
                f"OpenVINO failed on inputs {[a.shape for a in inputs]}: {_reason(error)}; "
                "correct patch and channels in model.json, take a smaller batch, or use --backend "
                "onnxruntime"
            ) from error
        return output

    def _compile(self, shapes: tuple[tuple[int, ...], ...]) -> "_Compiled":
        model = self._model.clone()
        model.reshape({i: list(shape) for i, shape in enumerate(shapes)})
        return _Compiled(self._core.compile_model(model, "CPU", self._settings))


class _Compiled:
    """A compiled network and its requests, which hold the activations of one call each."""

    def __init__(self, network: Any) -> None:  # noqa: ANN401  # OpenVINO has no types
        self._network = network
        self._idle: deque[Any] = deque()

    @contextmanager
    def request(self) -> Iterator[Any]:
        """Give a request that no other thread uses meanwhile."""
        try:
            request = self._idle.pop()
        except IndexError:
            request = self._network.create_infer_request()
        yield request
        self._idle.append(request)


def openvino_is_installed() -> bool:
    """Tell whether there is an OpenVINO to import, without importing it."""
    return find_spec("openvino") is not None


def _import_openvino() -> ModuleType:
    """Import OpenVINO without its telemetry.

    Its import alone would report the use over the network and write `~/intel`. It does without
    the package that does so where there is none.
    """
    hidden = "openvino" not in sys.modules and TELEMETRY not in sys.modules
    if hidden:
        sys.modules[TELEMETRY] = None  # type: ignore[assignment]  # how import is told "absent"
    try:
        import openvino
    except ImportError as error:
        raise ModelError(
            f"backend openvino: cannot be imported: {error}; pip install 'wsiseg[openvino]', or "
            "use --backend onnxruntime"
        ) from error
    finally:
        if hidden:
            del sys.modules[TELEMETRY]
    module: ModuleType = openvino
    with _FIRST_USE:  # two threads that convert their first type at once would wait forever
        module.Type.f32.to_dtype()
    return module


def _reason(error: RuntimeError) -> str:
    """Return the line of an OpenVINO message that says most: the last, after the places in code."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else "no reason given"

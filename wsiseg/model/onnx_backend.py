"""Networks run by ONNX Runtime: the default on a CPU."""

import os
from pathlib import Path
from typing import Any

import numpy as np

# ONNX Runtime would report its use over the network; it reads this once, when it is imported.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import onnxruntime  # type: ignore[import-untyped]
from numpy.typing import NDArray
from onnxruntime.capi import (  # type: ignore[import-untyped]
    onnxruntime_pybind11_state as ort_errors,
)

from wsiseg.errors import ModelError, WeightsError
from wsiseg.machine import usable_cores
from wsiseg.model.fixed_batch import run_in_parts

__all__ = ["OnnxNetwork"]

CUDA = "CUDAExecutionProvider"

LOAD_ERRORS = (
    ort_errors.Fail,
    ort_errors.InvalidArgument,
    ort_errors.InvalidGraph,
    ort_errors.InvalidProtobuf,
    ort_errors.NoSuchFile,
    ort_errors.NotImplemented,
    ort_errors.RuntimeException,
)
"""ONNX Runtime's errors have no common root."""


class OnnxNetwork:
    """A session called with NumPy arrays; safe from many threads.

    Threads do not spin while they wait: the readers need the cores. For one number of threads
    the same input gives the same bits.

    Parameters
    ----------
    model
        The file, or its content.
    device
        `cpu`, `cuda` or `cuda:<n>`; CUDA needs the package `onnxruntime-gpu`.
    threads
        Threads one call uses; `None`: the cores this process may use.

    Raises
    ------
    WeightsError
        If ONNX Runtime cannot load the model.
    ModelError
        If the device is not there.
    """

    def __init__(
        self, model: Path | bytes, *, device: str = "cpu", threads: int | None = None
    ) -> None:
        self.device = device
        self._model = model
        self._threads = threads or usable_cores()
        self._for_workers: OnnxNetwork | None = None
        session = self._start()
        self._session: onnxruntime.InferenceSession | None = session
        self._inputs = [value.name for value in session.get_inputs()]
        batch = session.get_inputs()[0].shape[0]
        self._batch: int | None = batch if isinstance(batch, int) else None

    def __repr__(self) -> str:
        return f"OnnxNetwork(device={self.device!r}, threads={self._threads})"

    def for_workers(self, workers: int, threads: int) -> "OnnxNetwork":
        """Return this network for `workers` calls at once, each on `threads` cores; kept.

        One session serves any number of calls; with one thread each runs on its caller's core.
        """
        if threads == self._threads or self.device != "cpu":
            return self
        if self._for_workers is None or self._for_workers._threads != threads:
            self._for_workers = OnnxNetwork(self._model, device=self.device, threads=threads)
            self._session = None  # the weights need not be in memory twice
        return self._for_workers

    def rest(self) -> None:
        """Free the sessions with their activations; the next call starts one again."""
        self._for_workers = None
        self._session = None

    def __call__(self, *inputs: NDArray[Any]) -> NDArray[Any]:
        """Return the first output of the graph for one batch."""
        if self._batch is None or self._batch == len(inputs[0]):
            return self._run(inputs)
        return run_in_parts(self._run, inputs, self._batch)

    def _run(self, inputs: tuple[NDArray[Any], ...]) -> NDArray[Any]:
        session = self._session
        if session is None:
            self._session = session = self._start()
        feeds = dict(zip(self._inputs, map(np.ascontiguousarray, inputs), strict=True))
        try:
            output: NDArray[Any] = session.run(None, feeds)[0]
        except LOAD_ERRORS as error:
            raise ModelError(
                f"ONNX Runtime failed on inputs {[a.shape for a in inputs]}: "
                f"{str(error).splitlines()[0]}; correct patch and channels in model.json, or "
                "take a smaller batch"
            ) from error
        return output

    def _start(self) -> onnxruntime.InferenceSession:
        name = str(self._model) if isinstance(self._model, Path) else "ONNX model"
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # errors; warnings about unused initialisers help nobody
        options.intra_op_num_threads = self._threads
        options.inter_op_num_threads = 1
        options.use_deterministic_compute = True
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            session = onnxruntime.InferenceSession(
                name if isinstance(self._model, Path) else self._model,
                sess_options=options,
                providers=_providers(self.device),
            )
        except LOAD_ERRORS as error:
            raise WeightsError(
                f"{name}: ONNX Runtime {onnxruntime.__version__} cannot load it: "
                f"{str(error).splitlines()[0]}; if it lies in the cache, delete it; else "
                "export it again"
            ) from error
        # Without its libraries, cuDNN say, ONNX Runtime would go on on the CPU.
        if self.device != "cpu" and CUDA not in session.get_providers():
            raise ModelError(
                f"device {self.device}: ONNX Runtime {onnxruntime.__version__} could not start "
                "CUDA: install the CUDA and cuDNN it was built for, or use --device cpu or "
                "--backend torch"
            )
        return session


def _providers(device: str) -> list[Any]:
    if device == "cpu":
        return ["CPUExecutionProvider"]
    if CUDA not in onnxruntime.get_available_providers():
        raise ModelError(
            f"device {device}: this ONNX Runtime ({onnxruntime.__version__}) has no CUDA; install "
            "onnxruntime-gpu, or use --device cpu or --backend torch"
        )
    index = int(device.partition(":")[2] or 0)
    return [(CUDA, {"device_id": index, "use_tf32": 0})]

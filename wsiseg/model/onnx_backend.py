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

__all__ = ["OnnxNetwork"]

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
        name = str(model) if isinstance(model, Path) else "ONNX model"
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # errors; warnings about unused initialisers help nobody
        options.intra_op_num_threads = threads or usable_cores()
        options.inter_op_num_threads = 1
        options.use_deterministic_compute = True
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            self._session = onnxruntime.InferenceSession(
                name if isinstance(model, Path) else model,
                sess_options=options,
                providers=_providers(device),
            )
        except LOAD_ERRORS as error:
            raise WeightsError(
                f"{name}: ONNX Runtime {onnxruntime.__version__} cannot load it: "
                f"{str(error).splitlines()[0]}; if it lies in the cache, delete it; else "
                "export it again"
            ) from error
        self._inputs = [value.name for value in self._session.get_inputs()]
        batch = self._session.get_inputs()[0].shape[0]
        self._batch: int | None = batch if isinstance(batch, int) else None

    def __repr__(self) -> str:
        return f"OnnxNetwork(device={self.device!r})"

    def __call__(self, *inputs: NDArray[Any]) -> NDArray[Any]:
        """Return the first output of the graph for one batch."""
        if self._batch is None or self._batch == len(inputs[0]):
            return self._run(inputs)
        return self._run_in_parts(inputs, self._batch)

    def _run(self, inputs: tuple[NDArray[Any], ...]) -> NDArray[Any]:
        feeds = dict(zip(self._inputs, map(np.ascontiguousarray, inputs), strict=True))
        try:
            output: NDArray[Any] = self._session.run(None, feeds)[0]
        except LOAD_ERRORS as error:
            raise ModelError(
                f"ONNX Runtime failed on inputs {[a.shape for a in inputs]}: "
                f"{str(error).splitlines()[0]}; correct patch and channels in model.json, or "
                "take a smaller batch"
            ) from error
        return output

    def _run_in_parts(self, inputs: tuple[NDArray[Any], ...], size: int) -> NDArray[Any]:
        """Feed a graph that was exported for one batch size; the last part is filled up."""
        outputs = []
        for start in range(0, len(inputs[0]), size):
            part = [array[start : start + size] for array in inputs]
            missing = size - len(part[0])
            pads = [np.zeros((missing, *array.shape[1:]), array.dtype) for array in part]
            filled = (np.concatenate([a, pad]) for a, pad in zip(part, pads, strict=True))
            outputs.append(self._run(tuple(filled))[: size - missing])
        return np.concatenate(outputs)


def _providers(device: str) -> list[Any]:
    if device == "cpu":
        return ["CPUExecutionProvider"]
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        raise ModelError(
            f"device {device}: this ONNX Runtime ({onnxruntime.__version__}) has no CUDA; install "
            "onnxruntime-gpu, or use --device cpu or --backend torch"
        )
    index = int(device.partition(":")[2] or 0)
    return [("CUDAExecutionProvider", {"device_id": index, "use_tf32": 0})]

"""int8 networks for CPUs: weights and activations of eight bits, made once and cached.

Static quantisation (Jacob et al. 2018, doi:10.1109/CVPR.2018.00286): the ranges of activations
come from running the float network on calibration patches, which are the inputs of the package's
check and any the caller adds. What it does to the output is measured, never assumed.
"""

import hashlib
import platform
import tempfile
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from wsiseg.errors import ModelError
from wsiseg.model.cache import cache_key, cached_file, code_fingerprint
from wsiseg.model.card import StageSpec
from wsiseg.model.child import make_in_child
from wsiseg.model.package import Package

if TYPE_CHECKING:
    import onnx

__all__ = ["Calibration", "calibration_sha256", "int8_graph", "quantize_job"]

Calibration = Mapping[str, tuple[NDArray[Any], ...]]
"""Patches by stage name, arrays `(n, *patch, channel)` as the predictor takes them."""

WEIGHTED = ("Conv", "Gemm", "MatMul")
"""Operators that run in int8. The first and the last of a network stay float: that halves the
change of the output (demo model: 0.046 to 0.017, and 0.22 to 0.17, of raw values) and costs
little time."""

CPUINFO = Path("/proc/cpuinfo")


def int8_graph(
    package: Package, stage: StageSpec, graph: Path, calibration: Calibration | None = None
) -> Path:
    """Return the ONNX file of a stage in int8 (QDQ), from its float32 file; made on first use.

    Parameters
    ----------
    package, stage
        What the graph was made from; its check gives the first calibration patches.
    graph
        The float32 file.
    calibration
        Further patches by stage name; a stage may be left out.

    Raises
    ------
    ModelError
        If it cannot be quantised, or patches do not fit the card.
    """
    extra = (calibration or {}).get(stage.name)
    key = cache_key(
        package.digest,
        package.check_sha256,
        stage.name,
        calibration_sha256(calibration),
        eight_bits_saturate(),
        metadata.version("onnxruntime"),
        metadata.version("onnx"),
        code_fingerprint(),
    )
    return cached_file("int8", key, ".onnx", lambda: _int8_bytes(package, stage, graph, extra))


def calibration_sha256(calibration: Calibration | None) -> str:
    """Return a hash of calibration patches."""
    digest = hashlib.sha256()
    for name, arrays in sorted((calibration or {}).items()):
        for array in arrays:
            digest.update(f"{name} {array.shape} {array.dtype};".encode())
            digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def eight_bits_saturate() -> bool:
    """Tell whether this CPU multiplies bytes by an instruction that saturates at 16 bits.

    x86 without VNNI does; weights of seven bits then keep the sums exact.
    """
    if platform.machine().lower() not in {"x86_64", "amd64", "x86", "i686"}:
        return False
    try:
        with CPUINFO.open(encoding="utf-8") as lines:
            flags = next((line for line in lines if line.startswith("flags")), "")
    except OSError:
        return True
    return "vnni" not in flags


def _int8_bytes(
    package: Package,
    stage: StageSpec,
    graph: Path,
    extra: tuple[NDArray[Any], ...] | None,
) -> bytes:
    what = f"{package.card.name}, stage {stage.name!r}: quantisation to int8"
    inputs = package.read_examples()[stage.name].inputs
    if extra is not None:
        inputs = _joined(inputs, extra, what)
    with tempfile.TemporaryDirectory(prefix="wsiseg-") as folder:
        path = Path(folder) / "calibration.npz"
        np.savez(path, allow_pickle=False, **{f"input{i}": a for i, a in enumerate(inputs)})
        return make_in_child(
            "quantize",
            {
                "graph": str(graph.resolve()),
                "calibration": str(path),
                "reduce_range": eight_bits_saturate(),
                "name": what,
            },
            what=what,
        )


def _joined(
    inputs: tuple[NDArray[Any], ...], extra: tuple[NDArray[Any], ...], what: str
) -> tuple[NDArray[Any], ...]:
    wanted = [(array.shape[1:], array.dtype) for array in inputs]
    found = [(array.shape[1:], array.dtype) for array in extra]
    if found != wanted or len({len(array) for array in extra}) != 1:
        raise ModelError(
            f"{what}: calibration patches: needed {wanted}, found {found}; give one array "
            "(n, *patch, channel) per input of the stage, of the same n"
        )
    return tuple(np.concatenate(pair) for pair in zip(inputs, extra, strict=True))


def quantize_job(request: dict[str, Any]) -> bytes:
    """Return the int8 graph of a request; in a process of its own, since onnx stays in memory.

    Raises
    ------
    ModelError
        If ONNX Runtime cannot quantise the graph.
    """
    from wsiseg.model import onnx_backend  # first: it switches ONNX Runtime's telemetry off

    import onnx  # isort: skip
    from onnxruntime.quantization import (  # type: ignore[import-untyped]  # isort: skip
        QuantFormat,
        QuantType,
        quantize_static,
    )
    from onnxruntime.quantization.shape_inference import (  # type: ignore[import-untyped]  # isort: skip
        quant_pre_process,
    )

    with np.load(request["calibration"], allow_pickle=False) as arrays:
        inputs = tuple(arrays[f"input{i}"] for i in range(len(arrays.files)))
    with tempfile.TemporaryDirectory(prefix="wsiseg-") as folder:
        prepared, made = Path(folder) / "prepared.onnx", Path(folder) / "int8.onnx"
        try:
            quant_pre_process(request["graph"], str(prepared), skip_symbolic_shape=True)
            model = onnx.load(prepared)
            weighted = [node.name for node in model.graph.node if node.op_type in WEIGHTED]
            quantize_static(
                str(prepared),
                str(made),
                _Reader(model, inputs),
                quant_format=QuantFormat.QDQ,
                per_channel=True,
                reduce_range=request["reduce_range"],
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                op_types_to_quantize=list(WEIGHTED),
                nodes_to_exclude=[*weighted[:1], *weighted[-1:]],
            )
        except (*onnx_backend.LOAD_ERRORS, RuntimeError, ValueError, TypeError) as error:
            raise ModelError(
                f"{request['name']}: ONNX Runtime cannot do it: {str(error).splitlines()[0]}; "
                "leave the precision at float32"
            ) from error
        return made.read_bytes()


class _Reader:
    """Calibration patches one at a time, as ONNX Runtime asks for them.

    A graph that was exported for one batch size gets copies of the patch.
    """

    def __init__(self, model: "onnx.ModelProto", inputs: tuple[NDArray[Any], ...]) -> None:
        stored = {tensor.name for tensor in model.graph.initializer}
        values = [value for value in model.graph.input if value.name not in stored]
        size = values[0].type.tensor_type.shape.dim[0].dim_value or 1
        names = [value.name for value in values]
        self._feeds = self._feed(names, inputs, size)

    def get_next(self) -> dict[str, NDArray[Any]] | None:
        return next(self._feeds, None)

    def __iter__(self) -> Iterator[dict[str, NDArray[Any]]]:
        return self._feeds

    @staticmethod
    def _feed(
        names: list[str], inputs: tuple[NDArray[Any], ...], size: int
    ) -> Iterator[dict[str, NDArray[Any]]]:
        for i in range(len(inputs[0])):
            patches = (np.repeat(array[i : i + 1], size, axis=0) for array in inputs)
            yield dict(zip(names, patches, strict=True))

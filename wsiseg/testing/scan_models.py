"""Models of volumes whose answer is a formula: bright voxels are foreground. No training."""

import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["LEVELS", "brightness_values", "make_scan_model"]

LEVELS = (0.25, 0.75)
"""Class 1 is likeliest above the first, class 2 above the second, of values from 0 to 1."""

GAIN = 20.0
"""Raw value per unit of intensity."""

CARD: dict[str, Any] = {
    "schema_version": 1,
    "name": "brightness-model",
    "version": "1",
    "task": "semantic",
    "axes": "zyx",
    "classes": [
        {"name": "background"},
        {"name": "grey", "color": [0, 120, 200]},
        {"name": "bright", "color": [200, 120, 0]},
    ],
    "scan": {"orientation": "RAS"},
    "provenance": {
        "license": "Apache-2.0",
        "trained_on": "nothing: a formula",
        "intended_use": "tests",
        "limits": "knows only brightness",
    },
}
"""The card without its stage."""


def make_scan_model(
    folder: Path,
    *,
    patch: Sequence[int] = (16, 32, 32),
    spacing_mm: Sequence[float] | None = (2.0, 2.0, 2.0),
    full: float = 1.0,
    card: Mapping[str, Any] | None = None,
    stage: Mapping[str, Any] | None = None,
    reads: Mapping[str, Any] | None = None,
    output: Mapping[str, Any] | None = None,
) -> Path:
    """Write the package of a model with three classes by brightness, and return its folder.

    Parameters
    ----------
    patch, spacing_mm
        Of the network, in its axes; no spacing: as stored.
    full
        Value of the brightest voxels.
    card, stage, reads, output
        What differs from the card, its stage, its input and its output.
    """
    folder.mkdir(parents=True)
    graph = _network(patch)
    (folder / "bright.onnx").write_bytes(graph)
    own: dict[str, Any] = {
        "from": "scan",
        "channels": ["value"],
        "patch": list(patch),
        "spacing_um": None if spacing_mm is None else [1000 * mm for mm in spacing_mm],
        "steps": [{"name": "window", "low": 0.0, "high": full, "to": [0.0, 1.0]}],
    }
    made: dict[str, Any] = {
        "name": "bright",
        "kind": "segmenter",
        "windows": {"plan": "monai", "overlap": 0.5},
        "inputs": [own | dict(reads or {})],
        "output": {"name": "mask", "blend": "gaussian-monai", "stitched": "raw"}
        | dict(output or {}),
        "weights": {
            "file": "bright.onnx",
            "sha256": hashlib.sha256(graph).hexdigest(),
            "architecture": "onnx",
        },
    }
    content = CARD | dict(card or {}) | {"stages": [made | dict(stage or {})]}
    (folder / "model.json").write_text(json.dumps(content))
    (folder / "check.npz").write_bytes(_check(patch))
    return folder


def brightness_values(values: NDArray[Any]) -> NDArray[np.float32]:
    """Return the raw values of three classes, float32 (..., 3), for values (..., 1) from 0 to 1."""
    one, two = GAIN * (values - LEVELS[0]), GAIN * (2 * values - sum(LEVELS))
    found: NDArray[np.float32] = np.concatenate([np.zeros_like(values), one, two], axis=-1)
    return found.astype(np.float32)


def _check(patch: Sequence[int]) -> bytes:
    values = np.random.default_rng(0).random((1, *patch, 1), dtype=np.float32)
    file = io.BytesIO()
    arrays: dict[str, Any] = {"bright.input0": values, "bright.output": brightness_values(values)}
    np.savez(file, **arrays)
    return file.getvalue()


def _network(patch: Sequence[int]) -> bytes:
    from onnx import TensorProto, helper, numpy_helper

    weight = np.array([0, GAIN, 2 * GAIN], np.float32).reshape(3, 1, 1, 1, 1)
    bias = np.array([0, -GAIN * LEVELS[0], -GAIN * sum(LEVELS)], np.float32)
    nodes = [helper.make_node("Conv", ["values", "weight", "bias"], ["logits"])]
    size = [*patch]
    graph = helper.make_graph(
        nodes,
        "brightness",
        [helper.make_tensor_value_info("values", TensorProto.FLOAT, ["n", 1, *size])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", 3, *size])],
        [numpy_helper.from_array(weight, "weight"), numpy_helper.from_array(bias, "bias")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    content: bytes = model.SerializeToString()
    return content

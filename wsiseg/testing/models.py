"""Models whose answer is a formula: pink is tumour, a vector is colours. No training, no torch."""

import hashlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["embedding_of", "make_colour_model", "make_embedding_model", "pinkness"]

GAIN = 20.0
"""Logit per unit of pinkness."""

MARGIN = 0.15
"""Red must exceed green by this share of full scale."""

HEAT = 2.0
"""Logit between a heatmap of 0 and of 1."""

CARD: dict[str, Any] = {
    "schema_version": 1,
    "name": "colour-model",
    "version": "1",
    "task": "semantic",
    "axes": "yx",
    "classes": [{"name": "background"}, {"name": "Tumor", "color": [200, 0, 0]}],
    "provenance": {
        "license": "Apache-2.0",
        "trained_on": "nothing: a formula",
        "intended_use": "tests",
        "limits": "knows only colour",
    },
}
"""The card without its stages."""


def pinkness(pixels: NDArray[Any]) -> NDArray[np.float32]:
    """Return how much redder than green uint8 (..., 3) pixels are, above `MARGIN`."""
    values = pixels.astype(np.float32) / np.float32(255)
    return np.asarray(values[..., 0] - values[..., 1] - np.float32(MARGIN), dtype=np.float32)


def make_colour_model(  # noqa: PLR0913 - one argument per way in which cards differ
    folder: Path,
    *,
    spacing_um: float = 1.0,
    patch: int = 64,
    stride: int = 16,
    refine_um: float = 2.0,
    window: int = 96,
    halo: int = 16,
    extent: str = "window",
    blend: str = "crop",
) -> Path:
    """Write a two-stage model package that calls pink pixels `Tumor`, and return its folder.

    Parameters
    ----------
    spacing_um, patch, stride
        Of the classifier, µm and pixels.
    refine_um, window, halo, extent, blend
        Of the refinement.
    """
    folder.mkdir(parents=True)
    graphs = {"patches.onnx": _classifier(patch), "refine.onnx": _segmenter(window)}
    for name, graph in graphs.items():
        (folder / name).write_bytes(graph)
    rgb: dict[str, Any] = {"from": "slide", "channels": ["R", "G", "B"]}
    rgb["steps"] = [{"name": "scale", "divide_by": 255.0}]
    coarse: dict[str, Any] = {"patch": [window] * 2, "spacing_um": [refine_um] * 2}
    output: dict[str, Any] = {"name": "mask", "blend": blend, "halo": [halo] * 2}
    if extent == "whole":
        coarse = {"patch": [window] * 2, "spacing_range_um": [0.1, 1000.0]}
        del output["halo"]
    step = {} if blend == "crop" else {"stride": [(window - 2 * halo) // 2] * 2}
    fine = {"patch": [patch] * 2, "stride": [stride] * 2, "spacing_um": [spacing_um] * 2}
    classify = {
        "name": "patches",
        "kind": "classifier",
        "inputs": [rgb | fine],
        "output": {"name": "heatmap"},
        "weights": _weights("patches.onnx", graphs),
    }
    refine = {
        "name": "refine",
        "kind": "segmenter",
        "extent": extent,
        "inputs": [rgb | coarse | step, {"from": "heatmap", "channels": ["Tumor"]} | coarse],
        "output": output,
        "weights": _weights("refine.onnx", graphs),
    }
    card = CARD | {"stages": [classify, refine]}
    (folder / "model.json").write_text(json.dumps(card))
    (folder / "check.npz").write_bytes(_check(patch, window))
    return folder


def embedding_of(patches: NDArray[Any]) -> NDArray[np.float32]:
    """Return mean, least and largest red, green and blue of uint8 (n, y, x, 3), float32 (n, 9)."""
    values = patches.astype(np.float64) / 255
    parts = (values.mean(axis=(1, 2)), values.min(axis=(1, 2)), values.max(axis=(1, 2)))
    values_of_each: NDArray[np.float32] = np.concatenate(parts, axis=1).astype(np.float32)
    return values_of_each


def make_embedding_model(
    folder: Path, *, spacing_um: float = 1.0, patch: int = 64, stride: int | None = None
) -> Path:
    """Write the package of a model whose vectors are `embedding_of`, and return its folder.

    Parameters
    ----------
    spacing_um, patch, stride
        Of the patches, µm and pixels; the stride is the patch where not given.
    """
    folder.mkdir(parents=True)
    graphs = {"colours.onnx": _colours(patch)}
    (folder / "colours.onnx").write_bytes(graphs["colours.onnx"])
    rgb: dict[str, Any] = {"from": "slide", "channels": ["R", "G", "B"]}
    rgb |= {"spacing_um": [spacing_um] * 2, "patch": [patch] * 2}
    rgb |= {"steps": [{"name": "scale", "divide_by": 255.0}]}
    stage = {
        "name": "colours",
        "kind": "embedder",
        "inputs": [rgb | ({"stride": [stride] * 2} if stride else {})],
        "output": {"name": "vector", "activation": "none"},
        "weights": _weights("colours.onnx", graphs),
    }
    card = CARD | {"name": "embedding-model", "task": "embedding", "stages": [stage]}
    del card["classes"]
    (folder / "model.json").write_text(json.dumps(card))
    patches = np.random.default_rng(0).integers(0, 256, (2, patch, patch, 3), dtype=np.uint8)
    recorded: dict[str, Any] = {"colours.input0": patches, "colours.output": embedding_of(patches)}
    np.savez(folder / "check.npz", **recorded)
    return folder


def _weights(file: str, graphs: dict[str, bytes]) -> dict[str, str]:
    digest = hashlib.sha256(graphs[file]).hexdigest()
    return {"file": file, "sha256": digest, "architecture": "onnx"}


def _check(patch: int, window: int) -> bytes:
    """Return inputs and what the formula makes of them, computed without the graphs."""
    rng = np.random.default_rng(0)
    small = rng.integers(0, 256, (2, patch, patch, 3), dtype=np.uint8)
    large = rng.integers(0, 256, (2, window, window, 3), dtype=np.uint8)
    heat = rng.random((2, window, window, 1), dtype=np.float32)
    means = GAIN * pinkness(small).mean(axis=(1, 2))
    dense = GAIN * pinkness(large) + HEAT * (heat[..., 0] - 0.5)
    file = io.BytesIO()
    arrays: dict[str, Any] = {
        "patches.input0": small,
        "patches.output": _two(means),
        "refine.input0": large,
        "refine.input1": heat,
        "refine.output": _two(dense),
    }
    np.savez(file, **arrays)
    return file.getvalue()


def _two(logit: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.stack([np.zeros_like(logit), logit], axis=-1).astype(np.float32)


def _classifier(patch: int) -> bytes:
    from onnx import helper

    nodes = [
        helper.make_node("ReduceMean", ["rgb"], ["mean"], axes=[2, 3], keepdims=0),
        helper.make_node("Gemm", ["mean", "weight", "bias"], ["logits"]),
    ]
    weight = np.array([[0, GAIN], [0, -GAIN], [0, 0]], np.float32)
    constants = {"weight": weight, "bias": np.array([0, -GAIN * MARGIN], np.float32)}
    return _graph(nodes, constants, {"rgb": ["n", 3, patch, patch]}, ["n", 2])


def _colours(patch: int) -> bytes:
    from onnx import helper

    kinds = ("Mean", "Min", "Max")
    nodes = [
        helper.make_node(f"Reduce{kind}", ["rgb"], [kind], axes=[2, 3], keepdims=0)
        for kind in kinds
    ]
    nodes.append(helper.make_node("Concat", kinds, ["logits"], axis=1))
    return _graph(nodes, {}, {"rgb": ["n", 3, patch, patch]}, ["n", 9])


def _segmenter(window: int) -> bytes:
    from onnx import helper

    nodes = [
        helper.make_node("Concat", ["rgb", "heat"], ["all"], axis=1),
        helper.make_node("Conv", ["all", "weight", "bias"], ["logits"]),
    ]
    weight = np.zeros((2, 4, 1, 1), np.float32)
    weight[1, :, 0, 0] = GAIN, -GAIN, 0, HEAT
    constants = {
        "weight": weight,
        "bias": np.array([0, -GAIN * MARGIN - HEAT / 2], np.float32),
    }
    shapes: dict[str, list[str | int]] = {
        "rgb": ["n", 3, window, window],
        "heat": ["n", 1, window, window],
    }
    return _graph(nodes, constants, shapes, ["n", 2, window, window])


def _graph(
    nodes: list[Any],
    constants: dict[str, NDArray[np.float32]],
    inputs: dict[str, list[str | int]],
    output: list[str | int],
) -> bytes:
    from onnx import TensorProto, helper, numpy_helper

    graph = helper.make_graph(
        nodes,
        "colour",
        [helper.make_tensor_value_info(k, TensorProto.FLOAT, v) for k, v in inputs.items()],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, output)],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    serialized: bytes = model.SerializeToString()
    return serialized

"""Classes of networks from elsewhere in the order of a card, whose first stays unannotated."""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["MADE_UP", "background_first", "reordered_graph", "reordered_values"]

MADE_UP = -1
"""Stands for a background that the network does not know, and that is never likely."""

BELOW = 30.0
"""Logits by which that lies below all others: a probability of 1e-13."""

BACKGROUND = re.compile(
    r"background|others?|none|rest|normal|healthy|benign|negative|exterior|.*[-_ ]negative"
    r"|(no|not|non)[-_ ]?(tumou?r|cancer|neoplas|malignan|lymphocyt|til|metasta).*",
    re.IGNORECASE,
)


def background_first(names: Sequence[str]) -> tuple[int, ...]:
    """Return the order in which background, told by its name, comes first.

    Where no class is called as if it were background, `MADE_UP` comes first, so that each class
    is annotated.
    """
    every = range(len(names))
    first = next((i for i in every if BACKGROUND.fullmatch(names[i].strip())), MADE_UP)
    return (first, *(i for i in every if i != first))


def reordered_values(values: NDArray[np.float32], order: Sequence[int]) -> NDArray[np.float32]:
    """Return logits (n, class) in another order; see `reordered_graph`."""
    least = values.min(axis=1, keepdims=True) - np.float32(BELOW)
    every: NDArray[np.float32] = np.concatenate([values, least], axis=1)
    return every[:, list(order)]


def reordered_graph(weights: bytes, order: Sequence[int], *, name: str) -> bytes:
    """Return a classifier's graph that gives its logits (n, class) in another order.

    Parameters
    ----------
    weights
        ONNX with one output.
    order
        For each class its place among the outputs, or `MADE_UP`.
    name
        What messages call the file.

    Raises
    ------
    WeightsError
        If it is no safe ONNX file.
    """
    from onnx import TensorProto, helper, numpy_helper

    from wsiseg.model.onnx_graph import opset_of, parse_graph

    model = parse_graph(weights, name=name)
    graph, make = model.graph, helper.make_node
    (output,) = graph.output
    last = len(order) - (MADE_UP in order)  # where that of the background is put
    places = np.array([last if i == MADE_UP else i for i in order], np.int64)
    graph.initializer.append(numpy_helper.from_array(places, "wsiseg.order"))
    graph.initializer.append(numpy_helper.from_array(np.array(BELOW, np.float32), "wsiseg.below"))
    inputs: list[str] = [output.name]
    options: dict[str, Any] = {"axes": [1]}
    if opset_of(model) >= 18:  # axes became an input
        graph.initializer.append(numpy_helper.from_array(np.array([1]), "wsiseg.axis"))
        inputs, options = [output.name, "wsiseg.axis"], {}
    graph.node.extend(
        [
            make("ReduceMin", inputs, ["wsiseg.least"], keepdims=1, **options),
            make("Sub", ["wsiseg.least", "wsiseg.below"], ["wsiseg.never"]),
            make("Concat", [output.name, "wsiseg.never"], ["wsiseg.every"], axis=1),
            make("Gather", ["wsiseg.every", "wsiseg.order"], ["wsiseg.ordered"], axis=1),
        ]
    )
    graph.ClearField("output")
    made = helper.make_tensor_value_info("wsiseg.ordered", TensorProto.FLOAT, ["n", len(order)])
    graph.output.append(made)
    return bytes(model.SerializeToString())

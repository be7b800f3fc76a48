"""ONNX graphs made elsewhere."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from tiny_model import PATCH, check_inputs, content, noise

from wsiseg.errors import ModelError, OutputShapeError, WeightsError
from wsiseg.model import add_model, load_model

KERNEL = np.array([[1.0, 0.0, -1.0], [0.5, 0.5, 0.5]], np.float32)
"""Class by channel: what the graphs below do to every pixel."""

Graph = Callable[..., onnx.ModelProto]


def graph_of(
    *,
    layout: str = "channels_first",
    batch: int | str = "n",
    sizes: bool = True,
    kind: str = "segmenter",
    extra: list[onnx.NodeProto] | None = None,
) -> onnx.ModelProto:
    """Return a graph that multiplies every pixel with `KERNEL`, or their mean."""
    first = layout == "channels_first"
    shape = [batch, 3, *PATCH] if first else [batch, *PATCH, 3]
    if not sizes:
        shape = [batch, "a", "b", "c"]
    source = helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)
    equation = "kc,ncyx->nkyx" if first else "kc,nyxc->nyxk"
    if kind == "classifier":
        equation = equation.split("->", maxsplit=1)[0] + "->nk"
    nodes = [helper.make_node("Einsum", ["kernel", "image"], ["sum"], equation=equation)]
    if kind == "classifier":
        pixels = numpy_helper.from_array(np.float32(np.prod(PATCH)), "pixels")
        nodes.append(helper.make_node("Div", ["sum", "pixels"], ["logits"]))
        constants = [numpy_helper.from_array(KERNEL, "kernel"), pixels]
        ends = [batch, 2]
    else:
        nodes.append(helper.make_node("Identity", ["sum"], ["logits"]))
        constants = [numpy_helper.from_array(KERNEL, "kernel")]
        ends = [batch, 2, *PATCH] if first else [batch, *PATCH, 2]
    outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ends)]
    graph = helper.make_graph([*nodes, *(extra or [])], "g", [source], outputs, constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def card_of(*, kind: str = "segmenter", **weights: Any) -> dict[str, Any]:
    card = content()
    stage = card["stages"][0] | {"kind": kind}
    stage["inputs"][0]["stride"] = None
    stage["weights"] = weights
    card["stages"] = [stage]
    return card


def add(folder: Path, model: onnx.ModelProto, card: dict[str, Any], **options: Any) -> Path:
    (folder / "net.onnx").write_bytes(model.SerializeToString())
    (folder / "net.json").write_text(json.dumps(card))
    return add_model(folder / "net.onnx", **options)


def wanted(pixels: np.ndarray) -> np.ndarray:
    ready = (pixels / 255.0 - [0.1, 0.5, 0.9]) / [0.5, 1.0, 2.0]
    return np.einsum("kc,nyxc->nyxk", KERNEL, ready)


@pytest.mark.parametrize("layout", ["channels_first", "channels_last"])
@pytest.mark.parametrize("batch", ["n", 1, 4])
def test_a_graph_gets_the_steps_of_its_card(tmp_path: Path, layout: str, batch: int | str) -> None:
    folder = add(tmp_path, graph_of(layout=layout, batch=batch), card_of())
    pixels = noise(5, *PATCH, 3, seed=3)
    found = load_model(folder).predictors[0](pixels)
    np.testing.assert_allclose(found, wanted(pixels), atol=1e-5)


def test_a_classifier_graph(tmp_path: Path) -> None:
    folder = add(tmp_path, graph_of(kind="classifier"), card_of(kind="classifier"))
    pixels = noise(3, *PATCH, 3)
    found = load_model("tiny").predictors[0](pixels)
    np.testing.assert_allclose(found, wanted(pixels).mean((1, 2)), atol=1e-5)
    assert folder.name == "tiny"


@pytest.mark.parametrize("layout", ["channels_first", "channels_last"])
def test_a_graph_without_sizes_needs_a_layout(tmp_path: Path, layout: str) -> None:
    model = graph_of(layout=layout, sizes=False)
    with pytest.raises(ModelError, match=r"does not tell where.*set weights\.layout"):
        add(tmp_path, model, card_of())
    folder = add(tmp_path, model, card_of(layout=layout))
    pixels = noise(1, *PATCH, 3)
    found = load_model(folder).predictors[0](pixels)
    np.testing.assert_allclose(found, wanted(pixels), atol=1e-5)


def test_a_graph_of_two_inputs_in_the_order_of_the_card(tmp_path: Path) -> None:
    card = content()
    stage = card["stages"][1] | {"weights": {"file": "refine.onnx", "architecture": "onnx"}}
    card["stages"][1] = stage
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 3, *PATCH])
    heat = helper.make_tensor_value_info("heat", TensorProto.FLOAT, ["n", 1, *PATCH])
    output = helper.make_tensor_value_info("out", TensorProto.FLOAT, ["n", 2, *PATCH])
    nodes = [
        helper.make_node("Einsum", ["image"], ["red"], equation="ncyx->nyx"),
        helper.make_node("Unsqueeze", ["red", "axis"], ["sum"]),
        helper.make_node("Concat", ["sum", "heat"], ["out"], axis=1),
    ]
    axis = numpy_helper.from_array(np.array([1], np.int64), "axis")
    graph = helper.make_graph(nodes, "g", [image, heat], [output], [axis])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    one_stage = card | {"stages": [stage]}
    one_stage["stages"][0]["inputs"][1]["from"] = "slide"
    one_stage["stages"][0]["inputs"][1]["channels"] = ["R", "G", "B"]
    with pytest.raises(ModelError, match="does not tell"):  # three channels where the graph has one
        add(tmp_path, model, one_stage)

    from wsiseg.model.card import StageSpec
    from wsiseg.model.onnx_backend import OnnxNetwork
    from wsiseg.model.onnx_graph import complete_graph

    spec = content()["stages"][1]
    spec["weights"] = {"file": "w.onnx", "sha256": "0" * 64, "architecture": "onnx"}
    complete = complete_graph(model, StageSpec.model_validate(spec), 2, name="net")
    pixels, probabilities = check_inputs()["refine"]
    found = OnnxNetwork(complete)(pixels, probabilities)
    np.testing.assert_allclose(found[..., 0], (pixels / 255.0).sum(-1), atol=1e-5)
    np.testing.assert_array_equal(found[..., 1], probabilities[..., 0])


def test_values_that_are_no_probabilities_are_refused(tmp_path: Path) -> None:
    card = card_of()
    card["stages"][0]["output"]["activation"] = "none"
    with pytest.raises(OutputShapeError, match="needed probabilities"):
        add(tmp_path, graph_of(), card)


def test_one_of_several_outputs_is_chosen(tmp_path: Path) -> None:
    model = graph_of(extra=[helper.make_node("Neg", ["logits"], ["other"])])
    model.graph.output.append(helper.make_tensor_value_info("other", TensorProto.FLOAT, None))
    with pytest.raises(ModelError, match=r"needed one of \['logits', 'other'\]"):
        add(tmp_path, model, card_of())
    model.graph.output[1].CopyFrom(
        helper.make_tensor_value_info("other", TensorProto.FLOAT, ["n", 2, *PATCH])
    )
    folder = add(tmp_path, model, card_of(arguments={"output": "other"}))
    pixels = noise(1, *PATCH, 3)
    found = load_model(folder).predictors[0](pixels)
    np.testing.assert_allclose(found, -wanted(pixels), atol=1e-5)


def test_a_graph_with_other_classes_is_refused(tmp_path: Path) -> None:
    card = card_of()
    card["classes"].append({"name": "third"})
    with pytest.raises(OutputShapeError, match="of 3 classes"):
        add(tmp_path, graph_of(), card)


def test_the_number_of_inputs_is_compared(tmp_path: Path) -> None:
    card = card_of()
    card["stages"][0]["inputs"].append(card["stages"][0]["inputs"][0] | {"stride": None})
    with pytest.raises(ModelError, match="the graph has 1 inputs, the card 2"):
        add(tmp_path, graph_of(), card)


def branch(node: onnx.NodeProto) -> onnx.NodeProto:
    """Hide a node in the branch of a condition."""
    value = helper.make_tensor_value_info(node.output[0], TensorProto.FLOAT, None)
    inner = helper.make_graph([node], "inner", [], [value])
    return helper.make_node("If", ["yes"], ["chosen"], then_branch=inner, else_branch=inner)


@pytest.mark.parametrize("hidden", [False, True])
def test_operators_from_elsewhere_are_refused(tmp_path: Path, hidden: bool) -> None:
    node = helper.make_node("Run", ["logits"], ["evil"], domain="com.example")
    model = graph_of(extra=[branch(node) if hidden else node])
    with pytest.raises(WeightsError, match=r"\['com\.example'\] are code from elsewhere"):
        add(tmp_path, model, card_of())


@pytest.mark.parametrize("hidden", [False, True])
def test_tensors_in_other_files_are_refused(tmp_path: Path, hidden: bool) -> None:
    (tmp_path / "secret.bin").write_bytes(KERNEL.tobytes())
    tensor = numpy_helper.from_array(KERNEL, "kernel")
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../secret.bin")
    model = graph_of()
    if hidden:
        constant = helper.make_node("Constant", [], ["c"])
        constant.attribute.append(helper.make_attribute("value", tensor))
        model.graph.node.append(branch(constant))
    else:
        model.graph.initializer[0].CopyFrom(tensor)
    with pytest.raises(WeightsError, match="'kernel' lies in another file"):
        add(tmp_path, model, card_of())


def test_a_package_is_inspected_too(tmp_path: Path) -> None:
    folder = add(tmp_path, graph_of(), card_of())
    node = helper.make_node("Run", ["logits"], ["evil"], domain="com.example")
    path = folder / "network.onnx"
    path.write_bytes(graph_of(extra=[node]).SerializeToString())
    card = json.loads((folder / "model.json").read_text())
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    card["stages"][0]["weights"]["sha256"] = sha256
    (folder / "model.json").write_text(json.dumps(card))
    with pytest.raises(WeightsError, match="code from elsewhere"):
        load_model(folder)


def test_what_is_no_onnx_is_refused(tmp_path: Path) -> None:
    (tmp_path / "net.onnx").write_bytes(b"\xffnonsense")
    (tmp_path / "net.json").write_text(json.dumps(card_of()))
    with pytest.raises(WeightsError, match="not an ONNX file"):
        add_model(tmp_path / "net.onnx")


def test_integer_inputs_are_refused(tmp_path: Path) -> None:
    model = graph_of()
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.INT64
    with pytest.raises(ModelError, match="INT64: needed floats"):
        add(tmp_path, model, card_of())


def test_torch_cannot_run_a_graph(tmp_path: Path) -> None:
    folder = add(tmp_path, graph_of(), card_of())
    with pytest.raises(ModelError, match="--backend onnxruntime"):
        load_model(folder, backend="torch")
    with pytest.raises(ModelError, match="has no CUDA"):
        load_model(folder, device="cuda")

"""ONNX files from elsewhere: refused where unsafe, and given the card's preprocessing."""

from collections.abc import Iterator
from typing import Any, TypeVar

import numpy as np
import onnx
from google.protobuf.message import (  # type: ignore[import-untyped]
    DecodeError,
    Message,
)
from onnx import TensorProto, helper, numpy_helper

from wsiseg.errors import ModelError, WeightsError
from wsiseg.model.card import SLIDE, InputSpec, StageSpec
from wsiseg.model.package import Package
from wsiseg.model.steps import LEAST_SPAN, affine, spreads

__all__ = ["complete_graph", "complete_stage", "opset_of", "ordered_inputs", "parse_graph"]

Found = TypeVar("Found", bound=Message)

DOMAINS = {"", "ai.onnx", "ai.onnx.ml"}
"""Operators of the standard; any other domain can stand for a library of foreign code."""

FLOATS = {TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE}


def complete_stage(package: Package, stage: StageSpec) -> bytes:
    """Return the graph of a stage as `complete_graph` makes it from the package's file."""
    name = str(package.folder / stage.weights.file)
    model = parse_graph(package.read_weights(stage), name=name)
    return complete_graph(model, stage, package.channels(stage), name=name)


def parse_graph(content: bytes, *, name: str) -> onnx.ModelProto:
    """Return a model that is one file of standard operators.

    Raises
    ------
    WeightsError
        If it is no ONNX, keeps tensors in other files, or needs operators from elsewhere.
    """
    try:
        model = onnx.load_model_from_string(content)
    except DecodeError as error:
        raise WeightsError(f"{name}: not an ONNX file: {error}; export it again") from error
    foreign = {opset.domain for opset in model.opset_import}
    foreign |= {node.domain for node in _messages(model, onnx.NodeProto)}
    foreign -= DOMAINS | {function.domain for function in model.functions}
    if foreign:
        raise WeightsError(
            f"{name}: operators of {sorted(foreign)} are code from elsewhere and refused: needed "
            f"standard ONNX operators; export without custom operators"
        )
    for tensor in _messages(model, onnx.TensorProto):
        if tensor.data_location == TensorProto.EXTERNAL or tensor.external_data:
            raise WeightsError(
                f"{name}: tensor {tensor.name!r} lies in another file, which is refused: needed "
                "one file; save it with onnx.save(..., save_as_external_data=False)"
            )
    return model


def complete_graph(model: onnx.ModelProto, stage: StageSpec, classes: int, *, name: str) -> bytes:
    """Return the graph with raw pixels in and classes last out, the card's steps inside.

    Parameters
    ----------
    model
        From `parse_graph`; changed in place. Its inputs, in the order of the card's inputs, are
        floats (or uint8 where the card has no steps), channels first or last.
    stage
        From the card.
    classes
        Values it gives per patch or pixel.
    name
        What messages call the file.

    Raises
    ------
    ModelError
        If the number of inputs, their axes or their type cannot be what the card says.
    """
    graph = model.graph
    stored = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in stored]
    if len(inputs) != len(stage.inputs):
        raise ModelError(
            f"{name}: the graph has {len(inputs)} inputs, the card {len(stage.inputs)}; correct "
            f"the inputs of stage {stage.name!r}"
        )
    output = _find_output(graph, stage, name)
    last = [_channels_last(v, s, stage, name) for v, s in zip(inputs, stage.inputs, strict=True)]
    nodes: list[onnx.NodeProto] = []
    raw: list[onnx.ValueInfoProto] = []
    for i, (value, spec) in enumerate(zip(inputs, stage.inputs, strict=True)):
        raw.append(_raw_input(f"wsiseg.input{i}", value, spec))
        first = raw[-1].name
        if spreads(spec):
            spread = _spread(graph, first, len(spec.patch) + 2, opset=opset_of(model))
            nodes += spread
            first = spread[-1].output[0]
        nodes += _preprocess(graph, first, value, spec, channels_last=last[i])
    after = _postprocess(output, stage, classes, channels_last=last[0])
    body = [*nodes, *graph.node, *after]
    rest = [value for value in graph.input if value.name in stored]
    for field, content in (("node", body), ("input", [*raw, *rest])):
        graph.ClearField(field)
        getattr(graph, field).extend(content)
    graph.ClearField("output")
    graph.output.append(helper.make_tensor_value_info(after[-1].output[0], TensorProto.FLOAT, None))
    return bytes(model.SerializeToString())


def ordered_inputs(model: onnx.ModelProto, stage: StageSpec) -> bytes | None:
    """Return the graph with two inputs exchanged; `None` where they need not be.

    That is told by channels: those of the card fit one order only.
    """
    graph = model.graph
    stored = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in stored]
    channels = [len(spec.channels) for spec in stage.inputs]
    if len(inputs) != 2 or len(channels) != 2 or channels[0] == channels[1]:
        return None

    def fits(values: list[onnx.ValueInfoProto]) -> bool:
        pairs = zip(values, channels, strict=True)
        return all(n in (_sizes(v)[1:2] + _sizes(v)[-1:]) for v, n in pairs)

    if fits(inputs) or not fits(inputs[::-1]):
        return None
    rest = [value for value in graph.input if value.name in stored]
    exchanged = [onnx.ValueInfoProto.FromString(v.SerializeToString()) for v in inputs[::-1]]
    graph.ClearField("input")
    graph.input.extend([*exchanged, *rest])
    return bytes(model.SerializeToString())


def _messages(message: Message, kind: type[Found]) -> Iterator[Found]:
    """Yield every message of a kind, however deep: subgraphs, functions, sparse tensors."""
    if isinstance(message, kind):
        yield message
    for descriptor, value in message.ListFields():
        if descriptor.message_type is not None:
            for part in (value,) if isinstance(value, Message) else value:
                yield from _messages(part, kind)


def _find_output(graph: onnx.GraphProto, stage: StageSpec, name: str) -> onnx.ValueInfoProto:
    names = [value.name for value in graph.output]
    wanted = stage.weights.arguments.get("output", names[0] if len(names) == 1 else None)
    if wanted not in names:
        raise ModelError(
            f"{name}: which output to use is not clear: needed one of {names}, found {wanted!r}; "
            'set weights.arguments to {"output": "<name>"} in model.json'
        )
    chosen: onnx.ValueInfoProto = graph.output[names.index(wanted)]
    return chosen


def _sizes(value: onnx.ValueInfoProto) -> list[int | None]:
    dims = value.type.tensor_type.shape.dim
    return [dim.dim_value if dim.HasField("dim_value") else None for dim in dims]


def _channels_last(
    value: onnx.ValueInfoProto, spec: InputSpec, stage: StageSpec, name: str
) -> bool:
    """Tell from the declared shape whether channels come last, unless the card says so."""
    if value.type.tensor_type.elem_type not in FLOATS | {TensorProto.UINT8}:
        kind = TensorProto.DataType.Name(value.type.tensor_type.elem_type)
        raise ModelError(f"{name}: input {value.name!r} is {kind}: needed floats; export it again")
    if stage.weights.layout is not None:
        return stage.weights.layout == "channels_last"
    sizes, channels = _sizes(value), len(spec.channels)
    if len(sizes) == len(spec.patch) + 2 and (sizes[1] == channels) != (sizes[-1] == channels):
        return sizes[-1] == channels
    raise ModelError(
        f"{name}: input {value.name!r} has shape {sizes}, which does not tell where its "
        f"{channels} channels are; set weights.layout to 'channels_first' or 'channels_last'"
    )


def _raw_input(name: str, value: onnx.ValueInfoProto, spec: InputSpec) -> onnx.ValueInfoProto:
    kind = TensorProto.UINT8 if spec.source == SLIDE else TensorProto.FLOAT
    batch = (_sizes(value) or [None])[0]
    return helper.make_tensor_value_info(
        name, kind, [batch or "n", *spec.patch, len(spec.channels)]
    )


def opset_of(model: onnx.ModelProto) -> int:
    """Return the version of the standard operators."""
    return max(int(o.version) for o in model.opset_import if o.domain in ("", "ai.onnx"))


def _spread(graph: onnx.GraphProto, raw: str, axes: int, *, opset: int) -> list[onnx.NodeProto]:
    """Return the nodes that spread the values of each image from 0 to 1."""
    every = list(range(1, axes))
    names: list[str] = [f"{raw}.real"]
    options: dict[str, Any] = {"axes": every}
    if opset >= 18:  # axes became an input
        graph.initializer.append(numpy_helper.from_array(np.array(every), f"{raw}.axes"))
        names, options = [*names, f"{raw}.axes"], {}
    least = numpy_helper.from_array(np.array(LEAST_SPAN, np.float32), f"{raw}.least")
    graph.initializer.append(least)
    make = helper.make_node
    return [
        make("Cast", [raw], [f"{raw}.real"], to=TensorProto.FLOAT),
        make("ReduceMin", names, [f"{raw}.low"], keepdims=1, **options),
        make("ReduceMax", names, [f"{raw}.high"], keepdims=1, **options),
        make("Sub", [f"{raw}.high", f"{raw}.low"], [f"{raw}.width"]),
        make("Max", [f"{raw}.width", least.name], [f"{raw}.span"]),
        make("Sub", [f"{raw}.real", f"{raw}.low"], [f"{raw}.above"]),
        make("Div", [f"{raw}.above", f"{raw}.span"], [f"{raw}.spread"]),
    ]


def _preprocess(
    graph: onnx.GraphProto,
    raw: str,
    value: onnx.ValueInfoProto,
    spec: InputSpec,
    *,
    channels_last: bool,
) -> list[onnx.NodeProto]:
    """Return the nodes from a raw input to the value the graph was made for."""
    steps, axes = affine(spec), len(spec.patch) + 2
    constants = [("Mul", steps.scale)] * steps.scales + [("Add", steps.offset)] * steps.shifts
    operations: list[tuple[str, list[str], dict[str, Any]]] = []
    if not channels_last:
        operations.append(("Transpose", [], {"perm": [0, axes - 1, *range(1, axes - 1)]}))
    operations.append(("Cast", [], {"to": TensorProto.FLOAT}))
    for operator, per_channel in constants:
        shape = (-1,) if channels_last else (-1,) + (1,) * len(spec.patch)
        tensor = numpy_helper.from_array(
            np.ascontiguousarray(per_channel.reshape(shape)), f"{raw}.{operator}"
        )
        graph.initializer.append(tensor)
        operations.append((operator, [tensor.name], {}))
    operations.append(("Cast", [], {"to": value.type.tensor_type.elem_type}))
    nodes, current = [], raw
    for i, (operator, others, attributes) in enumerate(operations):
        made = value.name if i == len(operations) - 1 else f"{raw}.{i}"
        nodes.append(helper.make_node(operator, [current, *others], [made], **attributes))
        current = made
    return nodes


def _postprocess(
    output: onnx.ValueInfoProto, stage: StageSpec, classes: int, *, channels_last: bool
) -> list[onnx.NodeProto]:
    """Return the nodes from the graph's output to float32 with classes last."""
    cast = helper.make_node("Cast", [output.name], ["wsiseg.float"], to=TensorProto.FLOAT)
    if stage.kind != "segmenter":
        return [cast]
    sizes, axes = _sizes(output), len(stage.inputs[0].patch) + 2
    if len(sizes) == axes and (sizes[1] == classes) != (sizes[-1] == classes):
        channels_last = sizes[-1] == classes
    if channels_last:
        return [cast]
    order = [0, *range(2, axes), 1]
    return [
        cast,
        helper.make_node("Transpose", [cast.output[0]], ["wsiseg.output"], perm=order),
    ]

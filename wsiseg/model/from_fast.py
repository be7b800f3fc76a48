"""Cards for networks of FAST pipelines and for H2G-Net's published pair of ONNX files."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnx

from wsiseg.errors import ModelError
from wsiseg.model.fpl import PatchNetwork, Pipeline, WholeNetwork
from wsiseg.model.onnx_graph import parse_graph
from wsiseg.model.weights import read_file
from wsiseg.model.wsinfer import spread_colors

__all__ = ["card_from_pipeline", "h2g_net_pair"]

WHOLE_UM = (2.0, 100.0)
"""µm per pixel at which a network made for whole slides may see one: 2 to 100 mm in 1024 px."""

SAME_SCALE = 1e-4
"""Factors such as 0.00392156862 are meant to be 1 / 255."""

H2G_NET = {
    "license": "MIT",
    "citation": "Pedersen et al. 2022, H2G-Net, doi:10.3389/fmed.2022.971873",
    "trained_on": "breast cancer slides of a Norwegian cohort (BCS-1), outlined by pathologists",
    "intended_use": "research on breast tumour regions in H&E slides; not for diagnosis",
    "limits": "the refinement sees the whole slide in one view, each axis scaled by itself, so a "
    "slide cut to a small region is refused",
}


def h2g_net_pair(folder: Path) -> Pipeline | None:
    """Return H2G-Net's pipeline for a folder that holds its two networks, else `None`.

    They are told by their inputs: a patch classifier has one, the refinement two, image and
    heatmap. Patches are 256 px at 1 µm: some of its published pipelines say magnification 5,
    which is not what the classifier was trained at.
    """
    files = sorted(folder.glob("*.onnx"))
    if len(files) != 2:
        return None
    counts = {path: len(_inputs(_parsed(path))) for path in files}
    if sorted(counts.values()) != [1, 2]:
        return None
    first, second = sorted(files, key=counts.__getitem__)
    return Pipeline(
        name="h2g-net",
        description="",
        classes=("background", "Tumor"),
        patches=PatchNetwork(first, (256, 256), 1.0, 0.0, 1 / 255),
        refinement=WholeNetwork(second, 1.0, spreads=True),
        provenance=H2G_NET,
    )


def card_from_pipeline(
    pipeline: Pipeline, *, name: str, spacing_um: float | None = None
) -> tuple[dict[str, Any], list[Path]]:
    """Return the content of a card, hashes left out, and the file of each stage.

    Parameters
    ----------
    pipeline
        What is known of the networks; their files are looked at for their axes.
    name
        Of the model.
    spacing_um
        Of the patches, instead of the pipeline's.

    Raises
    ------
    ModelError
        If a graph is not what the pipeline takes it for, or the pixel size is not known.
    WeightsError
        If a file is missing, damaged or not safe.
    """
    patches = pipeline.patches
    spacing = spacing_um or patches.spacing_um
    if spacing is None:
        raise ModelError(
            f"{name}: the pipeline names a level of the pyramid instead of patch-magnification, so "
            "its pixel size is not known; pass --spacing, µm per pixel"
        )
    files = [_as_onnx(patches.model)]
    graph = _parsed(files[0])
    classes = _classes(pipeline, graph, files[0])
    stages = [_patch_stage(patches, graph, spacing)]
    if pipeline.refinement is not None:
        files.append(_as_onnx(pipeline.refinement.model))
        names = [known["name"] for known in classes]
        stages.append(_whole_stage(pipeline.refinement, files[1], names))
    told = f"; {pipeline.description}" if pipeline.description else ""
    unknown = "not stated in the pipeline"
    content = {
        "schema_version": 1,
        "name": name,
        "version": "1",
        "task": "semantic",
        "axes": "yx",
        "classes": classes,
        "stages": stages,
        "provenance": {
            "license": unknown,
            "trained_on": unknown,
            "intended_use": f"{pipeline.name}{told}",
            "limits": f"the first class, {classes[0]['name']}, stays unannotated",
        }
        | dict(pipeline.provenance),
    }
    return content | ({"threshold": 0.5} if len(classes) == 2 else {}), files


def _patch_stage(network: PatchNetwork, graph: onnx.ModelProto, spacing: float) -> dict[str, Any]:
    dense = len(_sizes(graph.graph.output[0])) == 4
    margin = [round(network.overlap * n) for n in network.patch]
    view: dict[str, Any] = {
        "from": "slide",
        "channels": ["R", "G", "B"],
        "spacing_um": [spacing, spacing],
        "patch": list(network.patch),
        "steps": _steps(network.scale),
    }
    output: dict[str, Any] = {"name": "heatmap", "activation": "none"}
    if dense and any(margin):
        output["halo"] = margin
    elif any(margin):
        view["stride"] = [n - 2 * m for n, m in zip(network.patch, margin, strict=True)]
    return {
        "name": "patches",
        "kind": "segmenter" if dense else "classifier",
        "inputs": [view],
        "output": output,
        "weights": {"file": "patches.onnx"},
    }


def _whole_stage(network: WholeNetwork, path: Path, classes: Sequence[str]) -> dict[str, Any]:
    inputs = _inputs(_parsed(path))
    if len(inputs) != 2:
        raise ModelError(f"{path}: needed inputs image and heatmap, found {len(inputs)}")
    image, heatmap = inputs
    channels = min(n for n in _sizes(heatmap)[1:] if n is not None)
    patch = [n for n in _sizes(image)[1:] if n is not None and n > 4]
    if len(patch) != 2:
        raise ModelError(
            f"{path}: input {image.name!r} has shape {_sizes(image)}: needed a fixed size"
        )
    wanted = classes[1:] if channels == len(classes) - 1 else classes
    if channels != len(wanted):
        raise ModelError(
            f"{path}: input {heatmap.name!r} has {channels} channels: needed one per "
            f"class of {list(classes)}, with or without the first"
        )
    view = {"patch": patch, "spacing_range_um": list(WHOLE_UM)}
    steps: list[dict[str, Any]] = [{"name": "rescale"}] if network.spreads else []
    rgb = {"from": "slide", "channels": ["R", "G", "B"], "steps": steps + _steps(network.scale)}
    return {
        "name": "refine",
        "kind": "segmenter",
        "extent": "whole",
        "fit": "stretch",
        "inputs": [rgb | view, {"from": "heatmap", "channels": list(wanted)} | view],
        "output": {"name": "mask", "activation": "none"},
        "weights": {"file": "refine.onnx"},
    }


def _classes(pipeline: Pipeline, graph: onnx.ModelProto, path: Path) -> list[dict[str, Any]]:
    sizes = _sizes(graph.graph.output[0])
    ends = (sizes[1], sizes[-1]) if len(sizes) == 4 else (sizes[-1],)
    found = [n for n in ends if n is not None]
    names = list(pipeline.classes)
    if not names and found:
        names = ["background", *(f"class {i}" for i in range(1, min(found)))]
    if len(names) < 2 or (found and len(names) not in found):
        raise ModelError(
            f"{path}: output {sizes} and classes {names}: needed a name for each class; write "
            '`Attribute classes "Background;..."` into the pipeline'
        )
    return spread_colors(names)


def _steps(scale: float) -> list[dict[str, Any]]:
    divide_by = 255.0 if abs(255 * scale - 1) < SAME_SCALE else 1 / scale
    return [] if scale == 1 else [{"name": "scale", "divide_by": divide_by}]


def _as_onnx(path: Path) -> Path:
    """Return the ONNX file beside a network that is for another engine, where there is one."""
    other = path.with_suffix(".onnx")
    return other if other.is_file() else path


def _parsed(path: Path) -> onnx.ModelProto:
    return parse_graph(read_file(path), name=str(path))


def _inputs(model: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    """Return image before heatmap: the one with three channels first."""
    stored = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in stored]
    return sorted(inputs, key=lambda value: 3 not in _sizes(value)[1:])


def _sizes(value: onnx.ValueInfoProto) -> list[int | None]:
    dims = value.type.tensor_type.shape.dim
    return [dim.dim_value if dim.HasField("dim_value") else None for dim in dims]

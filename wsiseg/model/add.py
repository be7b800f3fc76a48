"""Models from elsewhere: checked, converted where needed, and copied where they can be named."""

import hashlib
import json
import re
import shutil
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsiseg.errors import ModelCardError, ModelError, WeightsError, WsisegWarning
from wsiseg.model.cache import user_models
from wsiseg.model.card import CARD_FILE, SLIDE, ModelCard, StageSpec
from wsiseg.model.child import run_module
from wsiseg.model.class_order import reordered_graph, reordered_values
from wsiseg.model.fpl import FPL_SUFFIX, Pipeline, read_pipeline
from wsiseg.model.importers.imported import Selection
from wsiseg.model.package import Example, Package, npz_bytes, publish
from wsiseg.model.registry import BUNDLED
from wsiseg.model.weights import PICKLES, read_file
from wsiseg.model.wsinfer import CONFIG_FILE, TORCHSCRIPT_FILE, Fitting, card_from_wsinfer

__all__ = ["add_model"]

CHECK_PATCHES = 2
NO_HASH = "0" * 64


def add_model(
    path: str | Path,
    *,
    name: str | None = None,
    card: str | Path | None = None,
    spacing_um: float | None = None,
    trust: bool = False,
    overwrite: bool = False,
    selection: Selection | None = None,
) -> Path:
    """Check a model and copy it to the user's models, where `load_model` finds it by name.

    Nothing of the source is executed, except TorchScript with `trust`: that is converted to ONNX
    in a process of its own and compared with it.

    Parameters
    ----------
    path
        A package (a folder with `model.json`), a folder of the WSInfer zoo or of QuPath's WSInfer
        extension (`config.json` and TorchScript), a text pipeline of FAST (`.fpl`, or a folder
        with one), a folder with the two ONNX files of H2G-Net, a result folder of nnU-Net v2, a
        bundle of MONAI, a model of Raidionics, or a file of weights (ONNX or TorchScript) with a
        card.
    name
        Name to give it; default: the name in its card, or that of the folder.
    card
        For a file of weights: a card of one stage, without hash and check; default: the file of
        the same stem with the suffix `.json`.
    spacing_um
        For a pipeline of FAST: µm per pixel of its patches, instead of what it says.
    trust
        Allow TorchScript, which is foreign code, to run once for the conversion, and a checkpoint
        that holds more than data to be unpickled once.
    overwrite
        Replace a model of that name.
    selection
        What to take of a folder of nnU-Net that has more than one of it.

    Returns
    -------
    Path
        The folder of the package.

    Raises
    ------
    ModelCardError
        If the card or configuration is wrong.
    WeightsError
        If the weights are damaged, or of a kind that is not safe.
    ModelError
        If the name is taken, the model fails its check, or TorchScript is not trusted.
    """
    from wsiseg.model.from_fast import card_from_pipeline  # loads onnx

    source = Path(path).expanduser()
    if (source / CARD_FILE).is_file():
        parsed, files = _from_package(source)
    elif (source / CONFIG_FILE).is_file():
        content, fitting = card_from_wsinfer(source / CONFIG_FILE, name=name or source.name)
        weights = [_torchscript(source)]
        parsed, files = _from_weights(weights, content, trust=trust, fitting=fitting)
    elif pipeline := _pipeline(source):
        default = re.sub(r"[^a-z0-9]+", "-", pipeline.name.lower()).strip("-")
        content, paths = card_from_pipeline(
            pipeline, name=name or default or "pipeline", spacing_um=spacing_um
        )
        parsed, files = _from_weights(paths, content, trust=trust)
    elif source.is_file():
        content = _read_json(Path(card) if card else source.with_suffix(".json"))
        parsed, files = _from_weights([source], content, trust=trust)
    else:
        parsed, files = _from_program(source, name or source.name, selection, trust=trust)
    if name is not None:
        renamed = parsed.model_copy(update={"name": name})
        parsed = ModelCard.parse(renamed.to_json(), name=f"name {name!r}")
    if (BUNDLED / parsed.name).exists():
        raise ModelError(f"{parsed.name!r} is the name of a bundled model; give another --name")
    folder = user_models() / parsed.name
    publish(folder, parsed, files, overwrite=overwrite)
    return folder


def _from_package(source: Path) -> tuple[ModelCard, dict[str, bytes]]:
    package = Package.open(source)
    folds = [one for stage in package.card.stages for one in stage.as_folds]
    files = {one.weights.file: package.read_weights(one) for one in folds}
    check = package.card.check.file
    files[check] = read_file(source / check)
    for path in (*source.glob("README.md"), *source.glob("LICENSE*")):
        if path.is_file():
            files[path.name] = read_file(path)
    return package.card, files


def _from_program(
    source: Path, name: str, selection: Selection | None, *, trust: bool
) -> tuple[ModelCard, dict[str, bytes]]:
    from wsiseg.model.importers.assemble import assemble
    from wsiseg.model.importers.find import import_folder

    name = re.sub(r"[^A-Za-z0-9_.-]", "-", name)
    selection = selection or Selection()
    imported = import_folder(source, name=name, selection=selection, trust=trust)
    if imported is None:
        raise ModelError(
            f"{source}: no model: needed a folder with {CARD_FILE}, {CONFIG_FILE}, a {FPL_SUFFIX} "
            "file or the two ONNX files of H2G-Net, of nnU-Net (plans.json), MONAI "
            "(configs/inference.json) or Raidionics (pre_processing.ini); or a file of weights"
        )
    return assemble(imported)


def _torchscript(folder: Path) -> Path:
    """Return the network of a WSInfer folder: in a user's own it may have any name."""
    path = folder / TORCHSCRIPT_FILE
    others = sorted(folder.glob("*.pt"))
    return others[0] if not path.is_file() and len(others) == 1 else path


def _pipeline(source: Path) -> Pipeline | None:
    """Return what a FAST pipeline says, or H2G-Net's pair of files; `None` for anything else."""
    if source.suffix.lower() == FPL_SUFFIX:
        return read_pipeline(source)
    if not source.is_dir():
        return None
    from wsiseg.model.from_fast import h2g_net_pair

    described = sorted(source.glob(f"*{FPL_SUFFIX}"))
    if len(described) > 1:
        raise ModelError(f"{source}: {len(described)} pipelines; name one of them")
    return read_pipeline(described[0]) if described else h2g_net_pair(source)


def _from_weights(
    paths: Sequence[Path],
    content: dict[str, Any],
    *,
    trust: bool,
    fitting: Fitting | None = None,
) -> tuple[ModelCard, dict[str, bytes]]:
    """Return card and files for networks, one per stage; `content` is the card without hashes.

    `fitting` is what a TorchScript classifier needs to become that of the card.
    """
    card = _complete(content, paths)
    stages: list[StageSpec] = []
    files: dict[str, bytes] = {}
    examples: dict[str, Example] = {}
    for path, spec in zip(paths, card.stages, strict=True):
        inputs = _noise(spec)
        if path.suffix.lower() in PICKLES:
            side = fitting.side if fitting else None
            weights, output = _convert(path, card, inputs, trust=trust, side=side)
            order = fitting.order if fitting else ()
            if order != tuple(range(len(order))):
                weights = reordered_graph(weights, order, name=str(path))
                output = reordered_values(output, order)
        else:
            weights, output = _in_order(read_file(path), spec, path), None
        sha256 = hashlib.sha256(weights).hexdigest()
        weights_spec = spec.weights.model_copy(update={"sha256": sha256})
        stage = spec.model_copy(update={"weights": weights_spec})
        if output is None:
            output = _run_onnx(weights, stage, stage.values(len(card.channel_names)), path, inputs)
        stages.append(stage)
        files[stage.weights.file] = weights
        examples[stage.name] = Example(inputs, output)
    files[card.check.file] = npz_bytes(examples)
    return card.model_copy(update={"stages": tuple(stages)}), files


def _complete(content: dict[str, Any], paths: Sequence[Path]) -> ModelCard:
    """Parse a card whose `weights` may be empty."""
    path, stages = paths[0], content.get("stages")
    if not (
        isinstance(stages, list)
        and len(stages) == len(paths)
        and all(isinstance(stage, dict) for stage in stages)
    ):
        raise ModelCardError(
            f"{path}: a file of weights needs a card with one stage; write the package by hand"
        )
    filled = []
    for i, stage in enumerate(stages):
        name = "network.onnx" if len(stages) == 1 else f"network{i}.onnx"
        weights = {"file": name, "architecture": "onnx", **(stage.get("weights") or {})}
        filled.append(stage | {"weights": weights | {"sha256": NO_HASH}})
    card = ModelCard.parse(json.dumps(content | {"stages": filled}), name=f"card of {path}")
    for spec in (stage.weights for stage in card.stages):
        if spec.architecture != "onnx" or not spec.file.endswith(".onnx"):
            raise ModelCardError(
                f"{path}: architecture {spec.architecture!r} in {spec.file}: needed 'onnx' and a "
                "file ending in .onnx; leave both out of the card"
            )
    return card


def _noise(stage: StageSpec) -> tuple[NDArray[Any], ...]:
    """Return the same random check inputs every time."""
    if stage.reads_scan:
        from wsiseg.model.importers.assemble import check_noise

        return check_noise(stage, CHECK_PATCHES)
    random = np.random.default_rng(0)
    shapes = [(CHECK_PATCHES, *spec.patch, len(spec.channels)) for spec in stage.inputs]
    return tuple(
        random.integers(0, 256, shape, dtype=np.uint8)
        if spec.source == SLIDE
        else random.random(shape, dtype=np.float32)
        for shape, spec in zip(shapes, stage.inputs, strict=True)
    )


def _in_order(weights: bytes, stage: StageSpec, path: Path) -> bytes:
    """Return a graph whose inputs are in the order of the card's, where their channels tell."""
    from wsiseg.model.onnx_graph import ordered_inputs, parse_graph

    if len(stage.inputs) < 2:
        return weights
    return ordered_inputs(parse_graph(weights, name=str(path)), stage) or weights


def _run_onnx(
    weights: bytes,
    stage: StageSpec,
    classes: int,
    path: Path,
    inputs: tuple[NDArray[Any], ...],
) -> NDArray[np.float32]:
    from wsiseg.model.onnx_backend import OnnxNetwork
    from wsiseg.model.onnx_graph import complete_graph, parse_graph
    from wsiseg.model.predictor import StagePredictor

    graph = complete_graph(parse_graph(weights, name=str(path)), stage, classes, name=str(path))
    network = OnnxNetwork(graph)
    if stage.kind == "embedder":  # its length is what it gives
        classes = network(*inputs).shape[-1]
    return StagePredictor(stage, classes, network)(*inputs)


def _convert(
    path: Path,
    card: ModelCard,
    inputs: tuple[NDArray[Any], ...],
    *,
    trust: bool,
    side: int | None = None,
) -> tuple[bytes, NDArray[np.float32]]:
    """Return the network as ONNX, and what the original makes of the inputs."""
    if not path.is_file():
        raise WeightsError(f"{path}: is missing; fetch the model again")
    if not trust:
        raise WeightsError(
            f"{path}: a PyTorch file can run any program and is refused: needed ONNX or "
            "safetensors; if you trust where a TorchScript file comes from, add it with --trust"
        )
    warnings.warn(
        f"{path}: TorchScript runs once, for its conversion to ONNX; only the ONNX file is kept",
        WsisegWarning,
        stacklevel=4,
    )
    with tempfile.TemporaryDirectory(prefix="wsiseg-convert-") as temporary:
        folder = Path(temporary)
        (folder / "request.json").write_text(card.to_json(), encoding="utf-8")
        (folder / "side.json").write_text(json.dumps(side))
        np.savez(
            folder / "inputs.npz",
            allow_pickle=False,
            **{f"input{i}": array for i, array in enumerate(inputs)},
        )
        shutil.copyfile(path, folder / "model.pt")
        _run_converter(folder, path)
        output: NDArray[np.float32] = np.load(folder / "output.npy", allow_pickle=False)
        return (folder / "model.onnx").read_bytes(), output


def _run_converter(folder: Path, path: Path) -> None:
    failure = run_module("wsiseg.model.convert", folder, what=f"{path}: the conversion")
    if failure:
        raise WeightsError(
            f"{path}: cannot be converted: {failure}; needed TorchScript (torch.jit.save), not a "
            "checkpoint"
        )


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise ModelCardError(
            f"{path}: cannot be read: {error.strerror}; weights need a card: give --card"
        ) from error
    except ValueError as error:
        raise ModelCardError(f"{path}: no JSON: {error}; fix the card") from error
    if not isinstance(content, dict):
        raise ModelCardError(f"{path}: a card is a JSON object, found {type(content).__name__}")
    return content

"""Models from elsewhere: checked, converted where needed, and copied where they can be named."""

import hashlib
import json
import re
import shutil
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsiseg.errors import ModelCardError, ModelError, WeightsError, WsisegWarning
from wsiseg.model.cache import user_models
from wsiseg.model.card import CARD_FILE, SLIDE, ModelCard, StageSpec
from wsiseg.model.child import run_module
from wsiseg.model.importers.imported import Selection
from wsiseg.model.package import Example, Package, npz_bytes, publish
from wsiseg.model.registry import BUNDLED
from wsiseg.model.weights import PICKLES, read_file
from wsiseg.model.wsinfer import CONFIG_FILE, TORCHSCRIPT_FILE, card_from_wsinfer

__all__ = ["add_model"]

CHECK_PATCHES = 2
NO_HASH = "0" * 64


def add_model(
    path: str | Path,
    *,
    name: str | None = None,
    card: str | Path | None = None,
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
        A package (a folder with `model.json`), a folder of the WSInfer zoo (`config.json` and
        `torchscript_model.pt`), a result folder of nnU-Net v2, a bundle of MONAI, a model of
        Raidionics, or a file of weights (ONNX or TorchScript) with a card.
    name
        Name to give it; default: the name in its card, or that of the folder.
    card
        For a file of weights: a card of one stage, without hash and check; default: the file of
        the same stem with the suffix `.json`.
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
    source = Path(path).expanduser()
    if (source / CARD_FILE).is_file():
        parsed, files = _from_package(source)
    elif (source / CONFIG_FILE).is_file():
        content = card_from_wsinfer(source / CONFIG_FILE, name=name or source.name)
        parsed, files = _from_weights(source / TORCHSCRIPT_FILE, content, trust=trust)
    elif source.is_file():
        content = _read_json(Path(card) if card else source.with_suffix(".json"))
        parsed, files = _from_weights(source, content, trust=trust)
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
            f"{source}: no model: needed a folder with {CARD_FILE} or {CONFIG_FILE}, of nnU-Net "
            "(plans.json), MONAI (configs/inference.json) or Raidionics (pre_processing.ini), or a "
            "file of weights"
        )
    return assemble(imported)


def _from_weights(
    path: Path, content: dict[str, Any], *, trust: bool
) -> tuple[ModelCard, dict[str, bytes]]:
    """Return card and files for one network in one file; `content` is the card without hash."""
    card = _complete(content, path)
    stage = card.stages[0]
    inputs = _noise(stage)
    if path.suffix.lower() in PICKLES:
        weights, output = _convert(path, card, inputs, trust=trust)
    else:
        weights, output = read_file(path), None
    sha256 = hashlib.sha256(weights).hexdigest()
    weights_spec = stage.weights.model_copy(update={"sha256": sha256})
    stage = stage.model_copy(update={"weights": weights_spec})
    if output is None:
        output = _run_onnx(weights, stage, stage.values(len(card.channel_names)), path, inputs)
    files = {
        stage.weights.file: weights,
        card.check.file: npz_bytes({stage.name: Example(inputs, output)}),
    }
    return card.model_copy(update={"stages": (stage,)}), files


def _complete(content: dict[str, Any], path: Path) -> ModelCard:
    """Parse a card whose `weights` may be empty."""
    stages = content.get("stages")
    if not (isinstance(stages, list) and len(stages) == 1 and isinstance(stages[0], dict)):
        raise ModelCardError(
            f"{path}: a file of weights needs a card with one stage; write the package by hand"
        )
    weights = {"file": "network.onnx", "architecture": "onnx", **(stages[0].get("weights") or {})}
    stage = stages[0] | {"weights": weights | {"sha256": NO_HASH}}
    card = ModelCard.parse(json.dumps(content | {"stages": [stage]}), name=f"card of {path}")
    spec = card.stages[0].weights
    if spec.architecture != "onnx" or not spec.file.endswith(".onnx"):
        raise ModelCardError(
            f"{path}: architecture {spec.architecture!r} in {spec.file}: needed 'onnx' and a file "
            "ending in .onnx; leave both out of the card"
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
    path: Path, card: ModelCard, inputs: tuple[NDArray[Any], ...], *, trust: bool
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

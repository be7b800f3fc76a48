"""From what an importer read to a package: hashes, a check, and the networks built and run once."""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsiseg.model.card import ModelCard, StageSpec
from wsiseg.model.importers.imported import Imported
from wsiseg.model.package import Example, npz_bytes

__all__ = ["assemble", "check_noise"]

STEP = 1 / 8
"""Of the noise in checks, so that it packs well."""

MOST_VALUES = 1 << 22
"""Of the output of a check; of a larger one, every second (third, ...) value per axis is kept."""


def assemble(imported: Imported) -> tuple[ModelCard, dict[str, bytes]]:
    """Return card and files of a package.

    The networks are built as the card says and run on noise once, on the CPU.

    Raises
    ------
    ModelCardError
        If the card is wrong.
    WeightsError
        If the weights are not those of the networks that the card names.
    OutputShapeError
        If a network gives something else than the card says.
    """
    card = _hashed(imported.content, imported.files)
    examples = {stage.name: _example(card, stage, imported.files) for stage in card.stages}
    check = {card.check.file: npz_bytes(examples)}
    return card, {**imported.files, **check, **imported.extra}


def check_noise(stage: StageSpec, count: int) -> tuple[NDArray[Any], ...]:
    """Return the same random inputs every time, as they come from scans after normalisation.

    What earlier stages give is between 0 and 1.
    """
    random = np.random.default_rng(0)
    inputs = []
    for spec in stage.inputs:
        shape = (count, *spec.patch, len(spec.channels))
        noise = random.standard_normal(shape) if spec.reads_image else random.random(shape)
        inputs.append((np.round(noise / STEP) * STEP).astype(np.float32))
    return tuple(inputs)


def _hashed(content: Mapping[str, Any], files: Mapping[str, bytes]) -> ModelCard:
    stages = []
    for stage in content["stages"]:
        known = {w["file"]: w for w in (stage["weights"], *stage.get("folds", ()))}
        hashed = [
            {**weights, "sha256": hashlib.sha256(files[file]).hexdigest()}
            for file, weights in known.items()
        ]
        stages.append({**stage, "weights": hashed[0], "folds": hashed[1:]})
    return ModelCard.parse(json.dumps({**content, "stages": stages}), name="card")


def _example(card: ModelCard, stage: StageSpec, files: Mapping[str, bytes]) -> Example:
    from wsiseg.model.ensemble import EnsembleNetwork
    from wsiseg.model.predictor import Network, StagePredictor

    networks: list[Network] = [_network(card, one, files) for one in stage.as_folds]
    inputs = check_noise(stage, 1)
    predictor = StagePredictor(stage, len(card.channel_names), EnsembleNetwork(networks))
    output = predictor(*inputs)
    whole = Example(inputs, output, math.ceil((output.size / MOST_VALUES) ** (1 / 3)))
    return replace(whole, output=np.ascontiguousarray(whole.sampled(output)))


def _network(card: ModelCard, stage: StageSpec, files: Mapping[str, bytes]) -> Any:  # noqa: ANN401
    content, name = files[stage.weights.file], stage.weights.file
    channels = len(card.channel_names)
    if stage.weights.architecture == "onnx":
        from wsiseg.model.onnx_backend import OnnxNetwork
        from wsiseg.model.onnx_graph import complete_graph, parse_graph

        return OnnxNetwork(
            complete_graph(parse_graph(content, name=name), stage, channels, name=name)
        )
    from wsiseg.model.preprocessed import load_network
    from wsiseg.model.torch_backend import TorchNetwork

    return TorchNetwork(load_network(stage, channels, content, name))

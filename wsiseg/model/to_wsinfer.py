"""A patch classifier as a model of QuPath's WSInfer extension: `config.json` and TorchScript.

The extension looks for such folders in `<its model folder>/user/`. It reduces patches to `Resize`,
applies the transforms and the network, and the softmax itself.
"""

import json
import shutil
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsiseg.errors import ModelError
from wsiseg.model.activation import Scaling
from wsiseg.model.card import SLIDE, ModelCard, StageSpec
from wsiseg.model.package import Package
from wsiseg.model.registry import find_model
from wsiseg.model.steps import affine
from wsiseg.model.wsinfer import CONFIG_FILE, TORCHSCRIPT_FILE

__all__ = ["write_wsinfer"]

SPEC_VERSION = "1.0"
SAME = 1e-4
"""How far the file may be from the package's recorded output, as a share of the largest value."""


def write_wsinfer(
    model: str | Path, out: str | Path, *, stage: str | None = None, overwrite: bool = False
) -> Path:
    """Write a patch classifier as a folder that QuPath's WSInfer extension runs.

    Parameters
    ----------
    model
        Name of a model, or folder of a package.
    out
        The folder to make: `<model folder of the extension>/user/<name>`.
    stage
        Which stage, where the model has several; default: its only classifier.
    overwrite
        Replace what is there.

    Returns
    -------
    Path
        The folder.

    Raises
    ------
    ModelError
        If there is no such stage, or it is nothing that WSInfer can run: says why.
    """
    package = Package.open(find_model(model))
    card, out = package.card, Path(out)
    spec = _classifier(card, stage)
    if out.exists() and not overwrite:
        raise ModelError(f"{out}: is there already; pass --overwrite, or choose another --out")
    scripted = _scripted(package, spec)
    config = _config(card, spec)
    out.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    try:
        scripted.save(str(part / TORCHSCRIPT_FILE))
        text = json.dumps(config, indent=2, ensure_ascii=False)
        (part / CONFIG_FILE).write_text(text, encoding="utf-8")
        (part / "README.md").write_text(_readme(card, spec), encoding="utf-8")
        if out.exists():
            shutil.rmtree(out)
        part.chmod(0o755)
        part.rename(out)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return out


def _classifier(card: ModelCard, name: str | None) -> StageSpec:
    """Return the stage, if WSInfer can say all that its card says."""
    found = [s for s in card.stages if s.kind == "classifier" and name in (None, s.name)]
    if len(found) != 1:
        kinds = {s.name: s.kind for s in card.stages}
        raise ModelError(
            f"{card.name}: needed one classifier, found stages {kinds}; name one with --stage"
        )
    (spec,) = found
    first = spec.inputs[0]
    trouble = None
    if len(spec.inputs) > 1 or first.source != SLIDE or len(first.channels) != 3:
        trouble = "reads more than one view in colour"
    elif spec.output.activation != "softmax":
        trouble = f"has activation {spec.output.activation!r}, where WSInfer applies the softmax"
    elif len(set(first.patch)) > 1 or len(set(first.spacing_um or (0,))) > 1:
        trouble = "has patches or pixels that are not square"
    elif spec.weights.architecture == "onnx":
        trouble = "is an ONNX graph, which does not become TorchScript"
    if trouble:
        raise ModelError(f"{card.name}, stage {spec.name!r}: {trouble}; it cannot be exported")
    return spec


def _scripted(package: Package, spec: StageSpec) -> Any:  # noqa: ANN401 - TorchScript
    """Return the network with classes as its only axis; compared with the recorded output."""
    import torch
    from torch import nn

    from wsiseg.model.preprocessed import load_network

    class Scaled(nn.Module):
        """The network, its values calibrated."""

        weights: torch.Tensor
        biases: torch.Tensor

        def __init__(self, network: nn.Module, scaling: Scaling) -> None:
            super().__init__()
            self.network = network
            self.register_buffer("weights", torch.tensor(scaling.weights))
            self.register_buffer("biases", torch.tensor(scaling.biases))

        def forward(self, patches: torch.Tensor) -> torch.Tensor:
            raw: torch.Tensor = self.network(patches)
            return raw * self.weights + self.biases

    card = package.card
    name = str(package.folder / spec.weights.file)
    loaded = load_network(spec, package.channels(spec), package.read_weights(spec), name)
    last = spec is card.stages[-1]
    scaling = card.calibration.scaling if last else Scaling()
    example = package.read_examples()[spec.name]
    patches = torch.from_numpy(_transformed(example.inputs[0], spec))
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch calls TorchScript outdated; WSInfer reads no other
        traced: Any = torch.jit.trace(  # type: ignore[no-untyped-call]
            Scaled(loaded.network, scaling).eval(), patches, check_trace=False
        )
        found = traced(patches).numpy()
    wanted = scaling(example.output)
    if not np.abs(found - wanted).max() <= SAME * max(1.0, float(np.abs(wanted).max())):
        raise ModelError(
            f"{card.name}, stage {spec.name!r}: TorchScript gives other values than recorded; it "
            "cannot be exported"
        )
    return traced


def _transformed(pixels: NDArray[np.uint8], spec: StageSpec) -> NDArray[np.float32]:
    """Return patches as the transforms of the configuration make them, (n, channel, y, x)."""
    mean, std = _normalization(spec)
    unit = pixels.astype(np.float32) / np.float32(255)
    ready: NDArray[np.float32] = ((unit - mean) / std).astype(np.float32)
    return np.ascontiguousarray(np.moveaxis(ready, -1, 1))


def _normalization(spec: StageSpec) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return mean and standard deviation that do, after division by 255, what the steps do."""
    steps = affine(spec.inputs[0])
    std = 1 / (255 * steps.scale.astype(np.float64))
    return -steps.offset.astype(np.float64) * std, std


def _config(card: ModelCard, spec: StageSpec) -> dict[str, Any]:
    first = spec.inputs[0]
    mean, std = _normalization(spec)
    transforms: list[dict[str, Any]] = [
        {"name": "Resize", "arguments": {"size": first.patch[0]}},
        {"name": "ToTensor"},
    ]
    if np.abs(mean).max() > SAME or np.abs(std - 1).max() > SAME:
        arguments = {"mean": mean.tolist(), "std": std.tolist()}
        transforms.append({"name": "Normalize", "arguments": arguments})
    return {
        "spec_version": SPEC_VERSION,
        "architecture": spec.weights.architecture,
        "num_classes": len(card.classes),
        "class_names": [known.name for known in card.classes],
        "patch_size_pixels": first.patch[0],
        "spacing_um_px": (first.spacing_um or (1.0,))[0],
        "transform": transforms,
    }


def _readme(card: ModelCard, spec: StageSpec) -> str:
    origin = card.provenance
    return (
        f"# {card.title}, {spec.name}\n\n"
        "For QuPath's WSInfer extension, made of a wsiseg package.\n\n"
        f"- Licence: {origin.license}\n- Intended use: {origin.intended_use}\n"
        f"- Limits: {origin.limits}\n- Trained on: {origin.trained_on}\n"
    )

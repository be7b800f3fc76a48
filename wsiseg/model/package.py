"""A model package on disk: `model.json`, weights, `check.npz` and a README in one folder.

Everything in it is data. Weights are safetensors or ONNX and must have the hash their card
states; pickles are refused, whatever their name.

    package = Package.open(folder)              # card read, every hash verified
    card = write_package(folder, card={...},    # what a trainer calls
                         networks={"patches": module}, check_inputs={"patches": (pixels,)})
"""

import copy
import hashlib
import io
import json
import shutil
import tempfile
import tokenize
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from wsiseg.errors import ModelError, WeightsError
from wsiseg.model.card import CARD_FILE, SLIDE, ModelCard, StageSpec
from wsiseg.model.describe import readme
from wsiseg.model.weights import hash_file, read_file, refuse_unsafe, verify

if TYPE_CHECKING:
    from torch import nn

__all__ = ["Example", "Package", "npz_bytes", "publish", "write_package"]

MAX_CHECK_BYTES = 1 << 30
"""Largest array accepted from `check.npz`: a small file can unpack to any size."""

UNUSABLE = (
    KeyError,
    ValueError,
    zipfile.BadZipFile,
    OSError,
    MemoryError,
    SyntaxError,
    tokenize.TokenError,
)
"""What NumPy raises on damaged archives; it reads the headers of arrays as Python literals."""


@dataclass(frozen=True)
class Example:
    """Inputs of a stage as the predictor takes them, and the raw output they must give."""

    inputs: tuple[NDArray[Any], ...]
    output: NDArray[np.float32]
    every: int = 1
    """Of the output, every so many-th value along each axis of a patch is there: a volume of 100
    classes would take gigabytes."""

    def sampled(self, output: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return of a whole output what is to be compared."""
        if self.every == 1:
            return output
        axes = (slice(None, None, self.every),) * (output.ndim - 2)
        return output[(slice(None), *axes)]


@dataclass(frozen=True)
class Package:
    """A model package whose weights have been found and verified."""

    folder: Path
    card: ModelCard

    digest: str
    """SHA-256 over `model.json` and the weights: packages of one digest predict the same."""

    @classmethod
    def open(cls, folder: Path) -> "Package":
        """Read the card and verify every weights file.

        Raises
        ------
        ModelCardError
            If the card is missing or wrong.
        WeightsError
            If weights are missing, of an unsafe or unknown kind, or differ from their hash.
        """
        card = ModelCard.read(folder / CARD_FILE)
        digest = hashlib.sha256(read_file(folder / CARD_FILE))
        weights = {w.file: w.sha256 for stage in card.stages for w in stage.every_weights}
        for file, sha256 in sorted(weights.items()):
            refuse_unsafe(folder / file)
            verify(folder / file, wanted=sha256, found=hash_file(folder / file))
            digest.update(f"\n{file} {sha256}".encode())
        return cls(folder, card, digest.hexdigest())

    def read_weights(self, stage: StageSpec) -> bytes:
        """Return the weights of a stage; the bytes returned are those whose hash was compared."""
        path = self.folder / stage.weights.file
        content = read_file(path)
        verify(path, wanted=stage.weights.sha256, found=hashlib.sha256(content).hexdigest())
        return content

    def channels(self, stage: StageSpec) -> int:
        """Return how many values a stage gives per patch or pixel.

        One per class of the card, and its offsets; of an embedder, as many as the output of its
        check has.

        Raises
        ------
        ModelError
            If the check is needed and cannot be used.
        """
        if stage.kind != "embedder":
            return stage.values(len(self.card.channel_names))
        recorded = self.read_examples()[stage.name].output
        if recorded.ndim != 2 or not recorded.shape[1]:
            raise ModelError(
                f"{self.folder / self.card.check.file}: stage {stage.name!r} needs an output of "
                f"shape (n, length), found {recorded.shape}; write the package anew"
            )
        return int(recorded.shape[1])

    @property
    def check_sha256(self) -> str:
        """Hash of the check file."""
        return hash_file(self.folder / self.card.check.file)

    def read_examples(self) -> dict[str, Example]:
        """Return the check inputs and expected outputs by stage name.

        Raises
        ------
        ModelError
            If the file is missing, damaged, lacks a stage, or its arrays do not fit the card.
        """
        path = self.folder / self.card.check.file
        content = io.BytesIO(read_file(path))
        try:
            with zipfile.ZipFile(content) as archive:
                largest = max((entry.file_size for entry in archive.infolist()), default=0)
            if largest > MAX_CHECK_BYTES:
                raise ModelError(
                    f"{path}: an array of {largest} bytes: needed at most {MAX_CHECK_BYTES}; "
                    "check with fewer patches"
                )
            with np.load(content, allow_pickle=False) as arrays:
                return {s.name: _example(arrays, s) for s in self.card.stages}
        except UNUSABLE as error:
            raise ModelError(f"{path}: no usable check: {error}; write the package anew") from error


def write_package(
    folder: Path,
    *,
    card: Mapping[str, Any],
    networks: Mapping[str, "nn.Module"],
    check_inputs: Mapping[str, tuple[NDArray[Any], ...]],
    extra: Mapping[str, bytes] = MappingProxyType({}),
    overwrite: bool = False,
) -> ModelCard:
    """Write a model package; the folder appears complete or not at all.

    Parameters
    ----------
    folder
        The package; its parent is created.
    card
        Content of `model.json` without the hashes. `weights.file` may be left out: it becomes
        `<stage>.safetensors`. Stages that name the same file share its weights, stored once.
    networks
        The trained network of each stage by stage name, as `networks.build` makes it, on any
        device and in any mode; left as it was found.
    check_inputs
        Arrays `(n, *patch, channel)` by stage name, uint8 (slide) or float32 (heatmap); what the
        networks make of them is stored in `check.npz`.
    extra
        Further files of the package, by name, such as a picture of how training went.
    overwrite
        Replace a folder that is there already.

    Returns
    -------
    ModelCard
        The card as written.

    Raises
    ------
    ModelCardError
        If the card is wrong.
    ModelError
        If the folder exists, a stage has no network or no check input, or the network that the
        card describes gives other values than the one passed in.
    WeightsError
        If two stages share a file but not their weights.
    """
    _require_stages(card, networks, "networks")
    _require_stages(card, check_inputs, "check_inputs")
    files: dict[str, bytes] = {}
    content = copy.deepcopy(dict(card))
    for stage in content["stages"]:
        weights = stage["weights"]
        weights.setdefault("file", f"{stage['name']}.safetensors")
        saved = _state_bytes(networks[stage["name"]])
        if files.setdefault(weights["file"], saved) != saved:
            raise WeightsError(
                f"stage {stage['name']!r}: {weights['file']} holds other weights already: needed "
                "one file per network; name another file"
            )
        weights["sha256"] = hashlib.sha256(saved).hexdigest()
    parsed = ModelCard.parse(json.dumps(content))
    examples = {
        stage.name: _run_torch(networks[stage.name], stage, check_inputs[stage.name])
        for stage in parsed.stages
    }
    files |= {parsed.check.file: npz_bytes(examples), **extra}
    publish(folder, parsed, files, overwrite=overwrite)
    return parsed


def publish(
    folder: Path, card: ModelCard, files: Mapping[str, bytes], *, overwrite: bool = False
) -> None:
    """Write a card and its files beside `folder`, check them there, then move them into place.

    Raises
    ------
    ModelError
        If the folder exists and may not be replaced, or the package fails its own check.
    """
    if folder.exists() and not overwrite:
        raise ModelError(f"{folder}: is there already; remove it, or ask to overwrite it")
    folder.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        ready = work / "new"
        ready.mkdir()
        own = {CARD_FILE: card.to_json().encode(), "README.md": readme(card).encode()}
        for name, content in (own | dict(files)).items():
            (ready / name).write_bytes(content)
        _prove(ready)
        if folder.exists():
            folder.rename(work / "old")
        ready.rename(folder)
    finally:
        shutil.rmtree(work)


def npz_bytes(examples: Mapping[str, Example]) -> bytes:
    """Return the content of `check.npz`."""
    arrays: dict[str, NDArray[Any]] = {}
    for name, example in examples.items():
        arrays |= {f"{name}.input{i}": array for i, array in enumerate(example.inputs)}
        arrays[f"{name}.output"] = example.output
        if example.every > 1:
            arrays[f"{name}.every"] = np.array(example.every)
    content = io.BytesIO()
    np.savez_compressed(content, allow_pickle=False, **arrays)
    return content.getvalue()


def _require_stages(card: Mapping[str, Any], given: Mapping[str, Any], what: str) -> None:
    stages = [stage["name"] for stage in card["stages"]]
    if set(stages) != set(given):
        raise ModelError(
            f"{what}: needed one for each stage {stages}, found {sorted(given)}; pass one per stage"
        )


def _state_bytes(network: "nn.Module") -> bytes:
    import safetensors.torch

    # Clones, since safetensors refuses tensors that share memory; sorted, so that the bytes
    # depend on nothing but the weights.
    state = network.state_dict()
    tensors = {name: state[name].detach().cpu().contiguous().clone() for name in sorted(state)}
    return safetensors.torch.save(tensors, metadata={"format": "pt"})


def _run_torch(network: "nn.Module", stage: StageSpec, inputs: tuple[NDArray[Any], ...]) -> Example:
    """Return what the network as given (not as rebuilt from the card) makes of the inputs."""
    from wsiseg.model.preprocessed import PreprocessedNetwork
    from wsiseg.model.torch_backend import TorchNetwork

    module = PreprocessedNetwork(copy.deepcopy(network).cpu(), stage)
    return Example(inputs, TorchNetwork(module)(*inputs))


def _prove(folder: Path) -> None:
    """Load a package from disk and compare its outputs with those stored."""
    from wsiseg.model.load import check_model

    exported = any(folder.glob("*.onnx"))
    check_model(folder, backend="onnxruntime" if exported else "torch", device="cpu")


def _example(arrays: Mapping[str, NDArray[Any]], stage: StageSpec) -> Example:
    inputs = tuple(_array(arrays, f"{stage.name}.input{i}") for i in range(len(stage.inputs)))
    for array, spec in zip(inputs, stage.inputs, strict=True):
        dtype = np.dtype(np.uint8 if spec.source == SLIDE else np.float32)
        shape = (*spec.patch, len(spec.channels))
        if array.dtype != dtype or array.shape[1:] != shape or len(array) < 1:
            raise ValueError(
                f"stage {stage.name!r} needs inputs (n, {', '.join(map(str, shape))}) {dtype}, "
                f"found {array.shape} {array.dtype}"
            )
    output = _array(arrays, f"{stage.name}.output")
    if output.dtype != np.float32:
        raise ValueError(f"stage {stage.name!r} needs a float32 output, found {output.dtype}")
    every = int(arrays[f"{stage.name}.every"]) if f"{stage.name}.every" in arrays else 1
    if every < 1:
        raise ValueError(f"stage {stage.name!r} needs 'every' of at least 1, found {every}")
    return Example(inputs, output, every)


def _array(arrays: Mapping[str, NDArray[Any]], name: str) -> NDArray[Any]:
    found = arrays[name]
    if not isinstance(found, np.ndarray):  # NumPy gives other files of the archive as bytes
        raise ValueError(f"{name!r} is no array")  # noqa: TRY004 - as for any other bad content
    return found

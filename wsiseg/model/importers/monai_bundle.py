"""Bundles of MONAI as model packages: `configs/inference.json` or `.yaml` and `models/model.pt`.

Taken over: the network, its weights, orientation, spacing and intensities before it, the sliding
window, and the activation after it. Whatever else is done to a scan or a result is refused by name.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wsiseg.errors import ModelCardError, WeightsError
from wsiseg.model.importers.checkpoint import read_checkpoint, state_bytes, state_of
from wsiseg.model.importers.imported import Imported
from wsiseg.model.importers.monai_config import BundleConfig
from wsiseg.model.importers.monai_transforms import (
    Postprocessing,
    Preprocessing,
    read_postprocessing,
    read_preprocessing,
)
from wsiseg.model.importers.nnunet_plans import read_json
from wsiseg.model.networks.monai_nets import MONAI_SEGMENTERS
from wsiseg.model.wsinfer import spread_colors

__all__ = ["import_bundle", "is_bundle"]

CONFIGS = ("inference.json", "inference.yaml", "inference.yml")

FULL = [2, 1, 0]
"""Axes of MONAI's arrays (x, y, z) in a card's (z, y, x)."""

UNIMPORTANT = {"_target_", "sw_batch_size", "device", "sw_device", "progress", "cpu_thresh",
               "cache_roi_weight_map", "buffer_steps", "buffer_dim", "with_coord"}  # fmt: skip
"""Arguments of `SlidingWindowInferer` that do not change what it gives."""


def is_bundle(folder: Path) -> bool:
    """Tell whether a folder is a bundle of MONAI."""
    return _config_file(folder) is not None


def import_bundle(folder: Path, *, name: str, trust: bool = False) -> Imported:
    """Return card and weights of a bundle.

    Parameters
    ----------
    folder
        The bundle.
    name
        Name for the card.
    trust
        Whether a checkpoint that holds more than data may be unpickled.

    Raises
    ------
    ModelCardError
        If the configuration is wrong, or says something that a card cannot say; names it.
    WeightsError
        If weights are missing, unsafe, or not those of the network.
    """
    file = _config_file(folder)
    if file is None:
        raise ModelCardError(f"{folder}: no bundle: needed configs/inference.json")
    config = BundleConfig.read(file)
    metadata = read_json(folder / "configs" / "metadata.json")
    architecture, arguments, channels, outputs = _network(config)
    before = read_preprocessing(
        _transforms(config, "preprocessing"), channels=channels, where=str(file)
    )
    after = read_postprocessing(_transforms(config, "postprocessing"), where=str(file))
    names = _names(metadata, "outputs", "pred", outputs)
    scans = _names(metadata, "inputs", "image", channels)
    weights = _weights_file(config, folder)
    state = state_of(read_checkpoint(weights, trust=trust), name=str(weights))
    content = {
        "schema_version": 1,
        "name": name,
        "version": str(metadata.get("version", "1")),
        "task": "semantic",
        "axes": "zyx",
        "scan": {
            "orientation": before.orientation,
            "transpose": FULL,
            "crop": before.crop,
            "order": "normalize_first" if before.normalized_first else "resample_first",
        },
        **_classes(names, after, file),
        "stages": [
            {
                "name": "network",
                "kind": "segmenter",
                "inputs": [_input(config, before, scans)],
                **_windows(config),
                "output": _output(config, after),
                "weights": {
                    "file": "network.safetensors",
                    "architecture": architecture,
                    "arguments": arguments,
                },
            }
        ],
        "provenance": _provenance(metadata),
    }
    return Imported(content, {"network.safetensors": state_bytes(state)}, _licence(folder))


def _config_file(folder: Path) -> Path | None:
    return next((p for p in (folder / "configs" / c for c in CONFIGS) if p.is_file()), None)


def _network(config: BundleConfig) -> tuple[str, dict[str, Any], int, int]:
    """Return architecture, arguments, input and output channels."""
    definition = config.get("network_def")
    if not isinstance(definition, dict) or "_target_" not in definition:
        raise ModelCardError(f"{config.path}: no network_def with a _target_; write a card by hand")
    given = {k: v for k, v in definition.items() if not k.startswith("_") and v is not None}
    target = str(definition["_target_"]).rpartition(".")[2]
    known = {net.name.lower(): name for name, net in MONAI_SEGMENTERS.items()}
    if target.lower() not in known:
        raise ModelCardError(
            f"{config.path}: network {target}: needed one of "
            f"{', '.join(sorted(net.name for net in MONAI_SEGMENTERS.values()))}; export it to "
            "ONNX and add that with a card"
        )
    dims = given.pop("spatial_dims", 3)
    channels, outputs = given.pop("in_channels", 1), given.pop("out_channels", 2)
    if dims != 3 or not all(isinstance(n, int) and n > 0 for n in (channels, outputs)):
        raise ModelCardError(
            f"{config.path}: network {target} of {dims} dimensions, {channels!r} to {outputs!r} "
            "channels: needed 3 dimensions and numbers"
        )
    return known[target.lower()], given, channels, outputs


def _transforms(config: BundleConfig, key: str) -> list[Any]:
    """Return the transforms of a `Compose`, or none."""
    raw = config.content.get(key)
    if raw is None:
        return []
    listed = raw.get("transforms") if isinstance(raw, Mapping) else raw
    if isinstance(listed, str):
        listed = config.resolve(listed)
    if not isinstance(listed, list):
        raise ModelCardError(f"{config.path}: {key} is {raw!r}; needed Compose with transforms")
    return [_resolved(config, item) for item in listed]


IRRELEVANT = {"SaveImage", "Invert", "LoadImage"}
"""Their arguments may be expressions: only files and folders, or the way back, stand there."""


def _resolved(config: BundleConfig, item: object) -> object:
    if isinstance(item, Mapping):
        name = str(item.get("_target_", "")).rpartition(".")[2].removesuffix("d")
        if name in IRRELEVANT:
            return {"_target_": item["_target_"]}
        functions = {k: v for k, v in item.items() if k in {"select_fn", "func"}}
        if functions:
            raise ModelCardError(
                f"{config.path}: {item['_target_']}: {functions} is code and is not run; take it "
                "out, or write the card by hand"
            )
    return config.resolve(item)


def _sliding(config: BundleConfig) -> dict[str, Any]:
    raw = config.content.get("inferer")
    if not isinstance(raw, Mapping):
        raise ModelCardError(f"{config.path}: no inferer; needed SlidingWindowInferer")
    found = {k: v for k, v in raw.items() if k not in UNIMPORTANT}
    target = str(raw.get("_target_")).rpartition(".")[2]
    if target not in {"SlidingWindowInferer", "SlidingWindowInfererAdapt"}:
        raise ModelCardError(
            f"{config.path}: inferer {target}: needed SlidingWindowInferer; write a card by hand"
        )
    inferer: dict[str, Any] = config.resolve(found)
    defaults = {"sigma_scale": 0.125, "padding_mode": "constant", "cval": 0.0}
    allowed = {"roi_size", "overlap", "mode", *defaults}
    for key, value in inferer.items():
        if key not in allowed or (key in defaults and value != defaults[key]):
            raise ModelCardError(
                f"{config.path}: inferer with {key} {value!r}: needed "
                f"{defaults.get(key, 'nothing of it')}; a card has no words for it"
            )
    return inferer


def _roi(config: BundleConfig) -> list[int]:
    roi = _sliding(config).get("roi_size")
    sizes: list[Any] = roi if isinstance(roi, list) else [roi] * 3
    if len(sizes) != 3 or not all(isinstance(n, int) and n > 0 for n in sizes):
        raise ModelCardError(f"{config.path}: roi_size {roi!r}: needed three sizes in voxels")
    return sizes


def _input(config: BundleConfig, before: Preprocessing, scans: list[str]) -> dict[str, Any]:
    resample = {"order": before.order, "convention": "centres"} if before.spacing_um else None
    return {
        "from": "scan",
        "channels": scans,
        "spacing_um": before.spacing_um,
        "patch": _roi(config),
        "resample": resample,
        "steps": before.steps,
    }


def _windows(config: BundleConfig) -> dict[str, Any]:
    return {"windows": {"plan": "monai", "overlap": _sliding(config).get("overlap", 0.25)}}


def _output(config: BundleConfig, after: Postprocessing) -> dict[str, Any]:
    mode = _sliding(config).get("mode", "constant")
    blends = {"constant": "constant", "gaussian": "gaussian-monai"}
    if mode not in blends:
        raise ModelCardError(f"{config.path}: inferer of mode {mode!r}: needed {', '.join(blends)}")
    return {
        "name": "labels",
        "activation": after.activation or "softmax",
        "blend": blends[mode],
        "stitched": "raw",
    }


def _classes(names: list[str], after: Postprocessing, file: Path) -> dict[str, Any]:
    """Return classes and, where channels overlap, regions."""
    if after.activation != "sigmoid":
        if len(names) < 2:
            raise ModelCardError(f"{file}: one channel without sigmoid; write a card by hand")
        return {"classes": spread_colors(names)}
    classes = spread_colors(["background", *names])
    return {"classes": classes, "regions": [{"name": name, "label": name} for name in names]}


def _names(metadata: Mapping[str, Any], side: str, key: str, count: int) -> list[str]:
    """Return names of channels from the metadata, or numbers where it has none."""
    parts: Any = metadata.get("network_data_format")
    for part in (side, key):
        parts = parts.get(part) if isinstance(parts, Mapping) else None
    given = parts.get("channel_def") if isinstance(parts, Mapping) else None
    modality = str(parts.get("modality", "image")) if isinstance(parts, Mapping) else "image"
    names = _numbered(given, count)
    if len(set(names)) == count and "" not in names:
        return [" ".join(name.split()) for name in names]
    if side == "inputs":
        return [modality] if count == 1 else [f"{modality} {i}" for i in range(count)]
    return [f"class {i}" for i in range(count)]


def _numbered(given: object, count: int) -> list[str]:
    """Return the values of "0", "1", ..., or nothing where one is missing."""
    wanted = [str(i) for i in range(count)]
    if not isinstance(given, Mapping) or set(given) != set(wanted):
        return []
    return [str(given[key]) for key in wanted]


def _weights_file(config: BundleConfig, folder: Path) -> Path:
    """Return the checkpoint that the configuration loads, or `models/model.pt`."""
    handlers = config.content.get("handlers")
    loaders = [config.content.get("checkpointloader"), *(handlers or [])]
    for loader in loaders:
        if isinstance(loader, Mapping) and isinstance(loader.get("load_path"), str):
            root = BundleConfig(
                config.path, {**config.content, "bundle_root": str(folder.resolve())}
            )
            path = Path(str(root.resolve(loader["load_path"])))
            path = path if path.is_absolute() else folder / path
            break
    else:
        path = folder / "models" / "model.pt"
    if not path.is_file():  # what some bundles have instead
        path = next((p for p in (folder / "models" / "model.ts",) if p.is_file()), path)
    if folder.resolve() not in path.resolve().parents:
        raise WeightsError(f"{config.path}: {path} lies outside of the bundle; needed in models/")
    if not path.is_file():
        raise WeightsError(f"{path}: is missing; fetch the bundle again")
    return path


def _provenance(metadata: Mapping[str, Any]) -> dict[str, Any]:
    references = metadata.get("references")
    return {
        "license": str(metadata.get("license") or metadata.get("copyright") or "not stated"),
        "trained_on": str(metadata.get("data_source") or "not stated"),
        "intended_use": str(metadata.get("intended_use") or metadata.get("task") or "not stated"),
        "limits": "not stated; imported from a bundle of MONAI, see its documents",
        "citation": str(references[0]) if isinstance(references, list) and references else "",
        "metrics": {
            str(name): value
            for name, value in (metadata.get("eval_metrics") or {}).items()
            if isinstance(value, int | float)
        },
    }


def _licence(folder: Path) -> dict[str, bytes]:
    files = [*folder.glob("LICENSE*"), *(folder / "docs").glob("LICENSE*")]
    return {path.name: path.read_bytes() for path in files if path.is_file()}

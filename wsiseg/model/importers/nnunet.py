"""Result folders of nnU-Net v2 as model packages: `plans.json`, `dataset.json`, `fold_<n>/`.

What follows what, and the constants, are those of nnunetv2's preprocessing, prediction and export:
transpose, crop to non-zero, normalise, resample (spline of order 3), windows with half their size
in common weighted by a Gaussian, mean over mirrorings and folds of the raw values, these resampled
linearly, then the most probable class, or the regions in their order.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from wsiseg.errors import ModelCardError, WeightsError
from wsiseg.model.importers.checkpoint import read_checkpoint, state_bytes, state_of
from wsiseg.model.importers.imported import Imported, Selection
from wsiseg.model.importers.nnunet_plans import Configuration, Plans
from wsiseg.model.wsinfer import spread_colors

__all__ = ["import_nnunet", "is_nnunet"]

DATA_RESAMPLING = "resample_data_or_seg_to_shape"
"""nnU-Net's resampling along axes with splines; the name of the function in plans."""

SEPARATE_Z = 3.0
"""`ANISO_THRESHOLD` of nnunetv2."""

MM = 1000.0


@dataclass(frozen=True)
class _Trained:
    """One configuration with the weights of its folds."""

    plans: Plans
    configuration: Configuration
    states: tuple[dict[str, torch.Tensor], ...]
    mirror_axes: tuple[int, ...]
    trainer: str
    folds: tuple[str, ...]


def is_nnunet(folder: Path) -> bool:
    """Tell whether a folder is a result of nnU-Net v2, or holds such of one data set."""
    return bool(_results(folder))


def import_nnunet(
    folder: Path, *, name: str, selection: Selection, trust: bool = False
) -> Imported:
    """Return card and weights of a result folder; a cascade has two stages.

    Parameters
    ----------
    folder
        `<trainer>__<plans>__<configuration>`, or the folder of the data set around several.
    name
        Name for the card.
    selection
        Configuration, folds and checkpoint.
    trust
        Whether checkpoints that hold more than data may be unpickled.

    Raises
    ------
    ModelCardError
        If plans are wrong, or say something that a card cannot say; names it.
    WeightsError
        If weights are missing, unsafe, or not those of the network.
    """
    chosen = _choose(_results(folder), folder, selection.configuration)
    trained = [_read(chosen, selection, trust=trust)]
    previous = trained[0].configuration.previous_stage
    if previous:
        trained.insert(0, _read(_sibling(chosen, previous), selection, trust=trust))
    last = trained[-1]
    labels = last.plans.labels()
    if previous and labels.regions:
        raise ModelCardError(f"{chosen}: a cascade of regions; a card has no words for it")
    outputs = ["previous", "labels"][-len(trained) :]
    stages = [
        _stage(one, output=output, previous=i > 0)
        for i, (one, output) in enumerate(zip(trained, outputs, strict=True))
    ]
    content = {
        "schema_version": 1,
        "name": name,
        "version": "1",
        "task": "semantic",
        "axes": "zyx",
        "scan": {
            "orientation": last.plans.orientation,
            "transpose": last.plans.transpose,
            "crop": {"to": "nonzero"},
            "order": "normalize_first",
        },
        "classes": spread_colors(list(labels.names)),
        "regions": [{"name": region, "label": label} for region, label in labels.regions],
        "stages": stages,
        "provenance": _provenance(trained),
    }
    files = {
        _file(one, fold): state_bytes(state)
        for one in trained
        for fold, state in zip(one.folds, one.states, strict=True)
    }
    return Imported(content, files)


def _results(folder: Path) -> list[Path]:
    """Return the result folders: this one, or those in it."""
    if (folder / "plans.json").is_file() and (folder / "dataset.json").is_file():
        return [folder]
    if not folder.is_dir():
        return []
    return sorted(p.parent for p in folder.glob("*__*__*/plans.json") if p.is_file())


def _choose(results: Sequence[Path], folder: Path, configuration: str | None) -> Path:
    named = {result: result.name.rpartition("__")[2] for result in results}
    if configuration is not None and len(results) > 1:
        results = [result for result in results if named[result] == configuration]
    if len(results) != 1:
        raise ModelCardError(
            f"{folder}: which configuration to take is not clear: found "
            f"{sorted(named.values())}; give --configuration"
        )
    return results[0]


def _sibling(result: Path, configuration: str) -> Path:
    name = f"{result.name.rpartition('__')[0]}__{configuration}"
    found = result.resolve().parent / name
    if not (found / "plans.json").is_file():
        raise ModelCardError(
            f"{result}: reads what {configuration} gives, and {found} is not there; put it beside"
        )
    return found


def _read(folder: Path, selection: Selection, *, trust: bool) -> _Trained:
    plans = Plans.read(folder)
    paths = _checkpoints(folder, selection)
    read = [read_checkpoint(path, trust=trust) for path in paths.values()]
    for path, content in zip(paths.values(), read, strict=True):
        if not isinstance(content, dict) or "network_weights" not in content:
            raise WeightsError(f"{path}: no checkpoint of nnU-Net v2: it has no network_weights")
    states = [
        _once(state_of(content, name=str(path)))
        for path, content in zip(paths.values(), read, strict=True)
    ]
    given = {str((content.get("init_args") or {}).get("configuration", "")) for content in read}
    name = given.pop() if len(given) == 1 else ""
    configuration = plans.configuration(name or folder.name.rpartition("__")[2])
    mirrored = {tuple(content.get("inference_allowed_mirroring_axes") or ()) for content in read}
    if len(mirrored) > 1:
        raise ModelCardError(f"{folder}: folds were mirrored along different axes: {mirrored}")
    trainer = str(read[0].get("trainer_name", "nnUNetTrainer"))
    return _Trained(plans, configuration, tuple(states), mirrored.pop(), trainer, tuple(paths))


def _checkpoints(folder: Path, selection: Selection) -> dict[str, Path]:
    """Return the checkpoints to take by the names of their folds."""
    file = f"checkpoint_{selection.checkpoint}.pth"
    there = {path.parent.name.removeprefix("fold_"): path for path in folder.glob(f"fold_*/{file}")}
    numbered = sorted(fold for fold in there if fold.isdigit())
    wanted = selection.folds or tuple(numbered) or tuple(there)
    if not wanted or (missing := [fold for fold in wanted if fold not in there]):
        what = f"fold {', '.join(missing)}" if wanted else "no fold"
        raise WeightsError(
            f"{folder}: {what} with {file}: found folds {sorted(there)}; give --folds, or "
            "--checkpoint best"
        )
    return {fold: there[fold] for fold in wanted}


def _once(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Drop the second names of tensors that nnU-Net's networks store under several."""
    return {
        key: value
        for key, value in state.items()
        if ".all_modules." not in key and not key.startswith("decoder.encoder.")
    }


def _stage(one: _Trained, *, output: str, previous: bool) -> dict[str, Any]:
    """Return a stage of the card; all sizes are in the order of the network's axes."""
    configuration = one.configuration
    architecture, arguments = configuration.network()
    _require_linear(configuration)
    patch = [int(n) for n in configuration.need("patch_size")]
    flat = len(patch) == 2  # every slice on its own, as thick as it is
    patch = [1, *patch] if flat else patch
    spacing = _spacing(one, flat=flat)
    inputs = _inputs(one, patch, spacing)
    if previous:
        foreground = list(one.plans.labels().names[1:])
        inputs.append(
            {"from": "previous", "channels": foreground, "encoding": "labels",
             "spacing_um": spacing, "patch": patch}
        )  # fmt: skip
    weights = [
        {"file": _file(one, fold), "architecture": architecture, "arguments": arguments}
        for fold in one.folds
    ]
    return {
        "name": _identifier(configuration.name),
        "kind": "segmenter",
        "inputs": inputs,
        "windows": {"plan": "nnunet", "overlap": [0.0, 0.5, 0.5] if flat else 0.5},
        "mirror_axes": [axis + flat for axis in one.mirror_axes],
        "output": {
            "name": output,
            "activation": "sigmoid" if one.plans.labels().regions else "softmax",
            "blend": "gaussian-nnunet",
            "stitched": "raw",
        },
        "weights": weights[0],
        "folds": weights[1:],
    }


def _spacing(one: _Trained, *, flat: bool) -> list[float]:
    """Return µm; of slices the median of training, which is not resampled to."""
    spacing = [float(mm) * MM for mm in one.configuration.need("spacing")]
    median = one.plans.plans.get("original_median_spacing_after_transp") or [1.0]
    return [float(median[0]) * MM, *spacing] if flat else spacing


def _inputs(one: _Trained, patch: list[int], spacing: list[float]) -> list[dict[str, Any]]:
    """Return an input for all channels, or one for each where their steps differ."""
    configuration, channels = one.configuration, one.plans.channels
    schemes = configuration.need("normalization_schemes")
    masks = configuration.values.get("use_mask_for_norm") or [False] * len(schemes)
    if not len(schemes) == len(masks) == len(channels):
        raise ModelCardError(
            f"{configuration.where}: {len(channels)} channels, {len(schemes)} "
            f"normalization_schemes and {len(masks)} use_mask_for_norm; needed as many"
        )
    steps = [_steps(one, i, schemes[i], masks[i]) for i in range(len(channels))]
    common = {
        "from": "scan",
        "spacing_um": spacing,
        "patch": patch,
        "resample": {**_resampling(configuration), "keep": [0] if patch[0] == 1 else []},
    }
    if all(each == steps[0] for each in steps):
        return [{**common, "channels": list(channels), "steps": steps[0]}]
    return [
        {**common, "channels": [channel], "steps": each}
        for channel, each in zip(channels, steps, strict=True)
    ]


def _steps(one: _Trained, channel: int, scheme: str, masked: object) -> list[dict[str, Any]]:
    """Return what a scheme of nnU-Net does to the intensities of a channel."""
    if scheme == "CTNormalization":
        known = one.plans.intensities(channel)
        try:
            low, high = known["percentile_00_5"], known["percentile_99_5"]
            mean, std = known["mean"], max(known["std"], 1e-8)
        except KeyError as error:
            raise ModelCardError(
                f"{one.configuration.where}: intensities of channel {channel} lack {error}"
            ) from error
        return [
            {"name": "clip", "low": low, "high": high},
            {"name": "normalize", "mean": [mean], "std": [std]},
        ]
    if scheme == "ZScoreNormalization":
        return [{"name": "zscore", "region": "mask" if masked else "all"}]
    simple: dict[str, list[dict[str, Any]]] = {
        "NoNormalization": [],
        "RescaleTo01Normalization": [{"name": "rescale", "to": [0.0, 1.0]}],
        "RGBTo01Normalization": [{"name": "scale", "divide_by": 255.0}],
    }
    if scheme not in simple:
        raise ModelCardError(
            f"{one.configuration.where}: normalization scheme {scheme!r} is not known here: needed "
            f"CTNormalization, ZScoreNormalization or one of {', '.join(simple)}"
        )
    return simple[scheme]


def _resampling(configuration: Configuration) -> dict[str, Any]:
    """Return how scans are resampled: a spline along each axis, a coarse one on its own."""
    options = _resampling_options(configuration, "data", order=3)
    return {
        "order": options["order"],
        "order_z": options["order_z"],
        "separate_z_over": None if options["force_separate_z"] is False else SEPARATE_Z,
        "convention": "extent",
    }


def _require_linear(configuration: Configuration) -> None:
    """Refuse what brings outputs back otherwise than linearly, slices of a coarse axis apart."""
    options = _resampling_options(configuration, "probabilities", order=1)
    data = _resampling_options(configuration, "data", order=3)
    if (options["order"], options["order_z"]) != (1, 0) or (
        options["force_separate_z"] != data["force_separate_z"]
    ):
        raise ModelCardError(
            f"{configuration.where}: resampling_fn_probabilities_kwargs {options}: needed order 1, "
            "order_z 0 and force_separate_z as for the data"
        )


def _resampling_options(configuration: Configuration, what: str, *, order: int) -> dict[str, Any]:
    key = f"resampling_fn_{what}"
    function = configuration.values.get(key, DATA_RESAMPLING)
    given = configuration.values.get(f"{key}_kwargs") or {}
    options = {"is_seg": False, "order": order, "order_z": 0, "force_separate_z": None, **given}
    if function != DATA_RESAMPLING or options["is_seg"] or options["force_separate_z"] is True:
        raise ModelCardError(
            f"{configuration.where}: {key} {function!r} with {given}: needed {DATA_RESAMPLING!r} "
            "with an order; a card has no words for it"
        )
    return options


def _provenance(trained: Sequence[_Trained]) -> dict[str, Any]:
    last = trained[-1]
    dataset = last.plans.dataset
    folds = ", ".join(last.folds)
    limits = "not stated; imported from nnU-Net, see its data set"
    if last.plans.orientation == "stored":
        limits += "; takes axes as files have them: scans must be stored as those of training were"
    return {
        "license": str(dataset.get("licence") or dataset.get("license") or "not stated"),
        "trained_on": f"{last.plans.name} with {last.trainer}, fold {folds}",
        "intended_use": f"segmentation of {', '.join(last.plans.labels().names[1:])}",
        "limits": limits,
        "citation": "Isensee et al. 2021, doi:10.1038/s41592-020-01008-z",
    }


def _file(one: _Trained, fold: str) -> str:
    return f"{_identifier(one.configuration.name)}-fold-{_identifier(fold)}.safetensors"


def _identifier(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_-]", "-", name)[:60]

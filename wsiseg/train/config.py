"""What to train: `config.toml`, which holds the model card to be and a recipe for each stage.

dataset = "dataset.toml"                    # beside this file
folds = 5                                   # for the heatmaps later stages learn from
folds_by = "patient"                        # or "block": a block of every slide
calibration = "temperature"                 # or "vector": a weight and a bias per class
seed = 0

[labels]                                    # for a CSV, as in `dataset.toml`
mapping = {Tumor = "tumour"}

[card]                                      # what `model.json` will say, without hashes
name = "my-tumour"
...

[stages.patches.fit]                        # FitOptions
rounds = 20
[stages.patches.loss]                       # LossOptions
[stages.patches.augment]                    # AugmentOptions; of scans ScanAugmentOptions
[stages.patches.sampling]                   # SamplingOptions
levels = ["grade", "slide", "class"]
[stages.patches.groups]                     # GroupOptions
package = "models/earlier"
"""

import copy
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, TypeVar

from wsiseg.errors import ModelCardError, TrainingError, UsageError
from wsiseg.model import ModelCard
from wsiseg.options import TissueOptions
from wsiseg.train.augment_options import AugmentOptions
from wsiseg.train.dataset import Dataset, read_dataset
from wsiseg.train.loop import FitOptions
from wsiseg.train.losses import LossOptions
from wsiseg.train.scan_augment import ScanAugmentOptions

__all__ = [
    "GroupOptions",
    "SamplingOptions",
    "StageRecipe",
    "TrainConfig",
    "read_config",
    "read_dataset_of",
]

UNKNOWN_HASH = "0" * 64
"""Stands in the card until there are weights."""

TOP = {
    "dataset", "labels", "folds", "folds_by", "calibration", "seed", "card", "tissue", "stages",
}  # fmt: skip

Options = TypeVar(
    "Options",
    FitOptions,
    LossOptions,
    AugmentOptions,
    ScanAugmentOptions,
    TissueOptions,
    "SamplingOptions",
    "GroupOptions",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingOptions:
    """Which patches are drawn, and how often.

    Raises
    ------
    TrainingError
        If a number makes no sense.
    """

    levels: tuple[str, ...] = ("slide", "class")
    """From the root of the tree down: columns of the data set, `patient`, `slide`, `class`. Each
    node takes its children in turn."""

    margin: float = 1.0
    """Patches are read this much larger than the network sees, so that turning brings in tissue."""

    validation: int = 256
    """Patches of the validation slides that each round is tested on."""

    def __post_init__(self) -> None:
        if not self.levels or self.margin < 1 or self.validation < 1:
            raise TrainingError(
                "sampling: needed one level or more, margin >= 1 and validation >= 1, found "
                f"{self}; correct the options"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupOptions:
    """Kinds of tissue that count alike in the loss of a patch classifier (`wsiseg.train.clusters`).

    Raises
    ------
    TrainingError
        If a number makes no sense.
    """

    package: str = ""
    """Model whose first stage, which is not trained any more, says what looks alike; a path counts
    from the configuration's folder. Empty: patches are not grouped."""

    count: int = 10
    patches: int = 1024
    """Patches that the groups are made of."""

    def __post_init__(self) -> None:
        if self.count < 2 or self.patches < self.count:
            raise TrainingError(
                f"groups: needed a count of 2 or more, and as many patches, found {self}; correct "
                "the options"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class StageRecipe:
    """How one stage is trained."""

    fit: FitOptions = field(default_factory=FitOptions)
    loss: LossOptions = field(default_factory=LossOptions)
    augment: AugmentOptions = field(default_factory=AugmentOptions)
    scan_augment: ScanAugmentOptions = field(default_factory=ScanAugmentOptions)
    """What `augment` says for a model of volumes."""

    sampling: SamplingOptions = field(default_factory=SamplingOptions)
    groups: GroupOptions = field(default_factory=GroupOptions)


@dataclass(frozen=True, slots=True)
class TrainConfig:
    """Everything that decides what is trained."""

    path: Path
    dataset: Dataset
    content: Mapping[str, Any]
    """The card to be, as `write_package` takes it."""

    card: ModelCard
    """The same, with hashes that mean nothing yet."""

    recipes: Mapping[str, StageRecipe]
    """By stage name."""

    folds: int = 5
    folds_by_block: bool = False
    """Whether a fold leaves out a block of every slide, instead of some patients: for one patient
    there is no other way."""

    seed: int = 0
    tissue: TissueOptions = field(default_factory=TissueOptions)
    calibration: str = "temperature"
    """What is fitted on the validation slides; see `Calibration`."""


def read_config(path: str | Path) -> TrainConfig:
    """Read a training configuration and the data set it names.

    Raises
    ------
    TrainingError
        If it cannot be read, a key is unknown or a value makes no sense.
    ModelCardError
        If the card is wrong.
    """
    path = Path(path)
    content = _read_toml(path)
    if unknown := content.keys() - TOP:
        raise TrainingError(f"{path}: unknown {min(unknown)}; needed some of {sorted(TOP)}")
    if missing := {"dataset", "card"} - content.keys():
        raise TrainingError(
            f"{path}: {min(missing)} is missing; docs/training.md shows a whole one"
        )
    plain, seed = _table(content, "card", path), _whole(content, "seed", path, default=0, least=0)
    classes = [c.get("name", "") for c in plain.get("classes", []) if isinstance(c, dict)]
    dataset = read_dataset(
        path.parent / str(content["dataset"]), classes=classes, labels=content.get("labels")
    )
    if list(dataset.classes) != classes:
        raise TrainingError(
            f"{path}: the card has classes {classes}, {dataset.path} has {list(dataset.classes)}; "
            "needed the same ones, background first"
        )
    plain.setdefault("axes", "zyx" if dataset.volumes else "yx")
    if (plain["axes"] == "zyx") != dataset.volumes:
        raise TrainingError(
            f"{path}: a card of axes {plain['axes']!r} learns from "
            f"{'slides' if dataset.volumes else 'scans'}, {dataset.path} has "
            f"{'scans' if dataset.volumes else 'slides'}; correct one of them"
        )
    card = _card(path, plain, dataset)
    known = {stage.name for stage in card.stages}
    recipes = _table(content, "stages", path)
    if strange := recipes.keys() - known:
        raise TrainingError(
            f"{path}: no stage {min(strange)!r} in the card; it has {sorted(known)}"
        )
    return TrainConfig(
        path,
        dataset,
        plain,
        card,
        {name: _recipe(path, name, _table(recipes, name, path), seed, card) for name in known},
        _whole(content, "folds", path, default=5, least=2),
        _by_block(content, path, dataset),
        seed,
        _options(TissueOptions, _table(content, "tissue", path), f"{path}: tissue"),
        _calibration(content, path),
    )


def _calibration(content: Mapping[str, Any], path: Path) -> str:
    method = content.get("calibration", "temperature")
    if method not in ("temperature", "vector"):
        raise TrainingError(
            f"{path}: calibration {method!r}; needed 'temperature' or 'vector', a weight and a "
            "bias per class"
        )
    return str(method)


def read_dataset_of(path: str | Path, *, classes: Sequence[str] = ()) -> Dataset:
    """Read a data set, or that of a training configuration with its label rules.

    Raises
    ------
    TrainingError
        If it cannot be read.
    """
    path = Path(path)
    if path.suffix == ".toml" and "card" in _read_toml(path):
        return read_config(path).dataset
    return read_dataset(path, classes=classes)


def _by_block(content: Mapping[str, Any], path: Path, dataset: Dataset) -> bool:
    patients = len({entry.patient for entry in dataset.of("train")})
    folds_by = content.get("folds_by", "patient" if patients > 1 else "block")
    if folds_by not in ("patient", "block") or (folds_by == "patient" and patients == 1):
        raise TrainingError(
            f"{path}: folds_by {folds_by!r} with {patients} training patients; needed block, or "
            "patient and two of them"
        )
    return bool(folds_by == "block")


def _table(content: Mapping[str, Any], key: str, path: Path) -> dict[str, Any]:
    found = content.get(key, {})
    if not isinstance(found, dict):
        raise TrainingError(f"{path}: {key}: needed a table, found {found!r}")
    return found


def _whole(content: Mapping[str, Any], key: str, path: Path, *, default: int, least: int) -> int:
    found = content.get(key, default)
    if type(found) is not int or found < least:
        raise TrainingError(f"{path}: {key} {found!r}; needed a whole number, {least} or more")
    return found


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError) as error:
        raise TrainingError(f"{path}: cannot be read: {error}; check the path") from error
    except tomllib.TOMLDecodeError as error:
        raise TrainingError(f"{path}: is no TOML: {error}; correct it") from error


def _card(path: Path, plain: dict[str, Any], dataset: Dataset) -> ModelCard:
    """Return the card, and fill in what follows from the rest."""
    plain.setdefault("schema_version", 1)
    plain.setdefault("task", "semantic")
    if dataset.volumes:
        plain.setdefault("scan", {"orientation": "RAS"})
    origin = plain.setdefault("provenance", {})
    kind = "scans" if dataset.volumes else "slides"
    origin.setdefault("trained_on", f"{len(dataset.of('train'))} {kind} of {dataset.path.name}")
    full = copy.deepcopy(plain)
    for stage in full.get("stages", []):
        weights = stage.setdefault("weights", {})
        weights.setdefault("file", f"{stage.get('name')}.safetensors")
        weights["sha256"] = UNKNOWN_HASH
    try:
        return ModelCard.model_validate(full)
    except ValueError as error:
        lines = str(error).splitlines()
        raise ModelCardError(f"{path}: card: {' '.join(lines[1:3])}; correct it") from error


def _recipe(
    path: Path, name: str, content: Mapping[str, Any], seed: int, card: ModelCard
) -> StageRecipe:
    kinds: dict[str, Any] = {item.name: item.type for item in fields(StageRecipe)}
    of_scans = kinds.pop("scan_augment")
    if card.axes == "zyx":
        kinds["augment"] = of_scans
    if unknown := content.keys() - kinds.keys():
        raise TrainingError(f"{path}: unknown stages.{name}.{min(unknown)}; needed {list(kinds)}")
    made = {
        key: _options(kind, _table(content, key, path), f"{path}: stages.{name}.{key}")
        for key, kind in kinds.items()
    }
    if card.axes == "zyx":
        made["scan_augment"] = made.pop("augment")
    recipe = StageRecipe(**made)
    if recipe.groups.package:
        package = str(path.parent / recipe.groups.package)
        recipe = replace(recipe, groups=replace(recipe.groups, package=package))
    if "seed" not in content.get("fit", {}):
        recipe = replace(recipe, fit=replace(recipe.fit, seed=seed))
    return recipe


def _options(kind: type[Options], content: Mapping[str, Any], where: str) -> Options:
    names = {item.name for item in fields(kind)}
    if unknown := content.keys() - names:
        raise TrainingError(f"{where}: unknown {min(unknown)}; needed some of {sorted(names)}")
    values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in content.items()}
    plain = kind()
    for key, value in values.items():
        wanted = type(getattr(plain, key))
        fits = type(value) is wanted or (wanted is float and type(value) is int)
        if not fits and wanted is not type(None):
            raise TrainingError(
                f"{where}.{key}: needed {wanted.__name__}, found {value!r}; correct the value"
            )
    try:
        return kind(**values)
    except (TypeError, UsageError) as error:
        raise TrainingError(f"{where}: {error}; correct the value") from error

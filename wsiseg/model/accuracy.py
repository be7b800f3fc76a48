"""What int8 does to a model's output: measured, and written into its card."""

from pathlib import Path

from wsiseg.errors import ModelError
from wsiseg.model.backends import build_network
from wsiseg.model.cache import write_atomically
from wsiseg.model.card import CARD_FILE, ModelCard, StageSpec
from wsiseg.model.check import OutputChange, output_change
from wsiseg.model.describe import readme
from wsiseg.model.package import Package
from wsiseg.model.predictor import StagePredictor
from wsiseg.model.quantize import Calibration
from wsiseg.model.registry import BUNDLED, find_model
from wsiseg.options import Precision

__all__ = ["measure_int8", "record_int8"]


def measure_int8(
    name_or_path: str | Path,
    *,
    calibration: Calibration | None = None,
    patches: Calibration | None = None,
) -> dict[str, OutputChange]:
    """Return how int8 changes the probabilities of each stage, whatever its card allows.

    Parameters
    ----------
    name_or_path
        As for `load_model`.
    calibration
        As for `load_model`.
    patches
        What to compare on, by stage name: inputs `(n, *patch, channel)`, better none of those
        calibrated with. A stage left out is compared on the input of its check.

    Raises
    ------
    ModelError
        If the model cannot be loaded or quantised, or patches do not fit its card.
    """
    package = Package.open(find_model(name_or_path))
    examples = package.read_examples()
    given = patches or {}
    if unknown := given.keys() - examples.keys():
        raise ModelError(
            f"{package.card.name}: patches for stages {sorted(unknown)}: needed some of "
            f"{sorted(examples)}; correct the names"
        )
    changes = {}
    for stage in package.card.stages:
        inputs = given.get(stage.name, examples[stage.name].inputs)
        exact = _predictor(package, stage, "float32", None)(*inputs)
        found = _predictor(package, stage, "int8", calibration)(*inputs)
        changes[stage.name] = output_change(package.card, stage, found, exact)
    return changes


def record_int8(folder: Path, changes: dict[str, OutputChange]) -> ModelCard:
    """Write what `measure_int8` found into the metrics of a package's card; return the card.

    The README is written anew where it was the one made from the card.

    Raises
    ------
    ModelError
        If the package is a bundled one.
    """
    if folder.resolve().is_relative_to(BUNDLED.resolve()):
        raise ModelError(f"{folder}: a bundled model stays as it is; copy it with `models add`")
    old = Package.open(folder).card
    metrics = dict(old.provenance.metrics)
    for stage, change in changes.items():
        what = "value" if change.same_labels is None else "probability"
        metrics[f"int8, {stage}, mean change of {what}"] = round(change.mean, 6)
        metrics[f"int8, {stage}, largest change of {what}"] = round(change.largest, 6)
        if change.same_labels is not None:
            metrics[f"int8, {stage}, share of labels that stay"] = round(change.same_labels, 6)
    provenance = old.provenance.model_copy(update={"metrics": metrics})
    card = old.model_copy(update={"provenance": provenance})
    text = folder / "README.md"
    if text.is_file() and text.read_text(encoding="utf-8") == readme(old):
        write_atomically(text, readme(card).encode())
    write_atomically(folder / CARD_FILE, card.to_json().encode())
    return card


def _predictor(
    package: Package, stage: StageSpec, precision: Precision, calibration: Calibration | None
) -> StagePredictor:
    network = build_network(
        "onnxruntime",
        package,
        stage,
        device="cpu",
        precision=precision,
        threads=None,
        calibration=calibration,
    )
    return StagePredictor(stage, package.channels(stage), network)

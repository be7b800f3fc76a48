"""From a configuration to a model package, with what is known about it."""

import copy
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from wsiseg.errors import TrainingError
from wsiseg.evaluate import CalibrationBins, fit_temperature, fit_vector
from wsiseg.machine import usable_cores
from wsiseg.model import ModelCard, write_package
from wsiseg.model.activation import activate
from wsiseg.model.card import Calibration
from wsiseg.model.export import export_onnx
from wsiseg.model.preprocessed import PreprocessedNetwork
from wsiseg.train.config import TrainConfig, read_config
from wsiseg.train.curve import curve_png
from wsiseg.train.lesson import Resources, StageLesson
from wsiseg.train.loop import History, RoundReport
from wsiseg.train.losses import IGNORE, central_share
from wsiseg.train.stages import TrainedStage, Training, check_patches, train_stages
from wsiseg.train.worst import write_worst

__all__ = ["TrainReport", "choose_device", "train"]

MAX_VALUES = 400_000
"""Pixels of validation patches that the temperature is fitted on."""

BY_BLOCKS = (
    " The heatmaps its later stages learned from were made out of fold by blocks of the slides, "
    "with a guard band of one patch, not by patient."
)
UNTESTED = " Nothing to validate on: trained for a fixed number of rounds, and not calibrated."


@dataclass(frozen=True, slots=True)
class TrainReport:
    """What a training gave."""

    package: Path
    folder: Path
    """Checkpoints, histories, heatmaps and the worst patches."""

    card: ModelCard
    histories: Mapping[str, History]


def train(
    config: TrainConfig | str | Path,
    out: str | Path,
    *,
    device: str = "auto",
    threads: int | None = None,
    overwrite: bool = False,
    told: Callable[[str, RoundReport], None] = lambda *_: None,
) -> TrainReport:
    """Train a model and write its package to `out/<name>`.

    A run that was killed goes on when it is started again with the same configuration and `out`:
    what it keeps lies in `out/<name>.training`.

    Parameters
    ----------
    config
        What to train, or the file that says so.
    out
        Folder for the package.
    device
        `auto` (a GPU where there is one), `cpu`, `cuda` or `cuda:<n>`.
    threads
        Cores used; `None`: all this process may use.
    overwrite
        Replace a package of that name.
    told
        Called after each round with the name of what is trained and how it went.

    Raises
    ------
    TrainingError
        If something cannot be learned from, or a loss is no number any more.
    SourceError, AnnotationError, ModelError
        If slides, labels or card do not fit.
    """
    if not isinstance(config, TrainConfig):
        config = read_config(config)
    package = Path(out) / config.card.name
    if package.exists() and not overwrite:
        raise TrainingError(
            f"{package}: is there already; train into another folder or overwrite it"
        )
    cores = threads or usable_cores()
    torch.set_num_threads(cores)
    folder = package.with_name(f"{package.name}.training")
    resources = Resources(choose_device(device), cores)
    run = _run_stages(config, folder, resources, told)
    with run.files:
        return _written(run, package, overwrite=overwrite)


def _run_stages(
    config: TrainConfig,
    folder: Path,
    resources: Resources,
    told: Callable[[str, RoundReport], None],
) -> Training:
    with _without_denormals(), _Scalars(folder / "scalars") as scalars:

        def listen(name: str, report: RoundReport) -> None:
            scalars.add(name, report)
            told(name, report)

        return train_stages(config, folder, resources=resources, told=listen)


def _written(run: Training, package: Path, *, overwrite: bool) -> TrainReport:
    finals = {item.stage.name: item.history for item in run.done}
    _write_history(run.folder / "history.json", finals)
    card = _card(run)
    write_worst(run, run.folder / "worst")
    networks = {item.stage.name: item.network.cpu() for item in run.done}
    inputs = {item.stage.name: check_patches(item.lesson) for item in run.done}
    extra = {"curve.png": curve_png(finals)}
    for item in run.done:
        module = PreprocessedNetwork(item.network, item.stage).eval()
        name = item.stage.name
        extra[f"{name}.onnx"] = export_onnx(module, inputs[name], name=f"stage {name!r}")
    written = write_package(
        package, card=card, networks=networks, check_inputs=inputs, extra=extra, overwrite=overwrite
    )
    return TrainReport(package, run.folder, written, finals)


@contextmanager
def _without_denormals() -> Iterator[None]:
    """Take numbers next to zero as zero meanwhile: computing with them takes much longer."""
    for kind in (np.float32, np.float64):
        np.finfo(kind)  # known before: without denormals NumPy would warn of what it finds
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


class _Scalars:
    """Curves for TensorBoard."""

    def __init__(self, folder: Path) -> None:
        from tensorboardX import SummaryWriter

        self._writer = SummaryWriter(str(folder))

    def __enter__(self) -> "_Scalars":
        return self

    def __exit__(self, *_: object) -> None:
        self._writer.close()

    def add(self, name: str, report: RoundReport) -> None:
        """Add one round."""
        values = {"loss": report.loss, "learning_rate": report.learning_rate}
        values |= {f"validation_{score}": value for score, value in report.scores.items()}
        for key, value in values.items():
            self._writer.add_scalar(f"{name}/{key}", value, report.round + 1)
        self._writer.flush()  # what is killed leaves its curves


def choose_device(wanted: str) -> torch.device:
    """Return the device of a name; `auto` is a GPU where there is one."""
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(wanted)
    except RuntimeError as error:
        raise TrainingError(
            f"device {wanted!r} is unknown; needed auto, cpu or cuda:<n>"
        ) from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise TrainingError(f"device {wanted!r}: no GPU here; train with --device cpu")
    return device


def _write_history(path: Path, histories: Mapping[str, History]) -> None:
    content = {
        name: {"kept": history.best, "rounds": [asdict(row) for row in history.rounds]}
        for name, history in histories.items()
    }
    path.write_text(json.dumps(content, indent=2) + "\n")


def _card(run: Training) -> dict[str, Any]:
    """Return the card with what is known now: scores, calibration, where the data came from."""
    card = copy.deepcopy(dict(run.config.content))
    origin = card["provenance"]
    origin["trained_on"] += f" (data set SHA-256 {run.digest})"
    metrics = dict(origin.get("metrics", {}))
    for item in run.done:
        kept = item.history.rounds[item.history.best] if item.history.best >= 0 else None
        for score, value in (kept.scores if kept else {}).items():
            metrics[f"{score}, validation patches, {item.stage.name}"] = round(value, 4)
    if run.config.folds_by_block and len(run.done) > 1:
        origin["limits"] += BY_BLOCKS
    if run.done[-1].lesson.test_places:
        card["calibration"], found = _calibrated(run.done[-1], run.config.calibration)
        metrics |= found
    else:
        origin["limits"] += UNTESTED
    origin["metrics"] = metrics
    return card


def _calibrated(last: TrainedStage, method: str) -> tuple[dict[str, Any], dict[str, float]]:
    """Return the calibration for the card, and the calibration error before and after."""
    logits, labels = _sampled_answers(last.lesson, last.network)
    if method == "vector":
        values = [round(float(v), 4) for part in fit_vector(logits, labels) for v in part]
    else:
        values = [round(fit_temperature(logits, labels), 4)]
    content = {"method": method, "values": values}
    scaling = Calibration.model_validate(content).scaling
    errors = {}
    for name, scaled in (("raw", logits), ("calibrated", scaling(logits.astype(np.float32)))):
        bins = CalibrationBins(logits.shape[1])
        bins.add(activate(scaled.astype(np.float32), "softmax"), labels)
        errors[f"ECE, validation patches, {name}"] = round(bins.scores().ece, 4)
    return content, errors


def _sampled_answers(
    lesson: StageLesson, network: torch.nn.Module
) -> tuple[NDArray[np.float64], NDArray[np.uint8]]:
    """Return raw values (n, class) and labels (n,) of known validation pixels or cells."""
    values, truth = [], []
    for _, logits, labels in lesson.answers(network):
        if logits.dim() == 2:
            share = central_share(labels, logits.shape[1], lesson.cell)
            right = torch.where(share.sum(dim=1) > 0, share.argmax(dim=1), IGNORE)
        else:
            right = labels.flatten()
        flat = logits.movedim(1, -1).reshape(-1, logits.shape[1])
        known = right != IGNORE
        values.append(flat[known].double().cpu().numpy())
        truth.append(right[known].to(torch.uint8).cpu().numpy())
    every = max(1, sum(map(len, truth)) // MAX_VALUES)
    return np.concatenate(values)[::every], np.concatenate(truth)[::every]

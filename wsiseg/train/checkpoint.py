"""What a training run needs to go on: one file, replaced after each round."""

import pickle
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from wsiseg.errors import TrainingError, unwritable

__all__ = ["Checkpoint", "load_checkpoint", "save_checkpoint"]

FILE = "checkpoint.pt"

UNREADABLE = (
    OSError, RuntimeError, LookupError, TypeError, ValueError, AttributeError, EOFError,
    pickle.UnpicklingError, zipfile.BadZipFile,
)  # fmt: skip
"""What reading a damaged file raises, depending on where the damage is."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The state between two rounds."""

    key: str
    """What is trained on what, and how."""

    rounds: list[dict[str, Any]]
    best_round: int
    sampler: Mapping[str, NDArray[Any]]
    network: dict[str, torch.Tensor]
    mean: dict[str, torch.Tensor]
    best: dict[str, torch.Tensor]
    optimiser: dict[str, Any]
    slowed: float


def save_checkpoint(folder: Path, checkpoint: Checkpoint) -> None:
    """Write the checkpoint of a folder; it is replaced as a whole or not at all.

    Raises
    ------
    DiskFullError
        If there is no room left.
    RunError
        If it cannot be written.
    """
    content = {item.name: getattr(checkpoint, item.name) for item in fields(checkpoint)}
    content["sampler"] = {k: torch.from_numpy(v) for k, v in checkpoint.sampler.items()}
    path = folder / FILE
    part = path.with_suffix(".part")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        torch.save(content, part)
        part.replace(path)
    except (OSError, RuntimeError) as error:  # torch tells a full disk by the latter
        part.unlink(missing_ok=True)
        cause = error if isinstance(error, OSError) else OSError(str(error))
        raise unwritable(cause, path) from error


def load_checkpoint(folder: Path, key: str, device: torch.device) -> Checkpoint | None:
    """Return the checkpoint of a folder; `None` where there is none.

    Only tensors and plain values are read: a file that holds code is refused.

    Raises
    ------
    TrainingError
        If it is damaged, or was written for another network, data set or recipe.
    """
    path = folder / FILE
    if not path.exists():
        return None
    try:
        with zipfile.ZipFile(path) as archive:
            if (damaged := archive.testzip()) is not None:  # torch itself compares no checksums
                raise zipfile.BadZipFile(f"{damaged} is damaged")
        content = torch.load(path, map_location=device, weights_only=True)
        content["sampler"] = {k: np.asarray(v.cpu()) for k, v in content["sampler"].items()}
        checkpoint = Checkpoint(**content)
    except UNREADABLE as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise TrainingError(
            f"{path}: no usable checkpoint: {reason}; delete it to begin anew"
        ) from error
    if checkpoint.key != key:
        raise TrainingError(
            f"{path}: is of another network, data set or recipe; train into another folder, or "
            "delete it to begin anew"
        )
    return checkpoint

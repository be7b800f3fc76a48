"""What the reports need of a finished slide: its record, its damage, its picture, its model."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson
from numpy.typing import NDArray

from wsiseg.errors import ModelError, RunError
from wsiseg.geometry import Box

if TYPE_CHECKING:
    from wsiseg.model.card import ModelCard

__all__ = ["RECORD", "FinishedSlide", "amounts", "picture_of"]

RECORD = "run.json"
PICTURES = ("overview.png", "preview.png")
"""Of slides, and of scans."""

CORRUPT = "corrupt.json"
NO_CLASSES = frozenset({"tissue", "degraded", "nodata", "unpredicted"})
"""Areas in a row of `summary.csv` that are of no class."""


@dataclass(frozen=True)
class FinishedSlide:
    """A folder that `wsiseg segment` wrote.

    Raises
    ------
    RunError
        If a file of it cannot be read.
    """

    folder: Path

    @cached_property
    def record(self) -> Mapping[str, Any]:
        """`run.json`."""
        return _read(self.folder / RECORD)

    @property
    def summary(self) -> Mapping[str, Any]:
        """Its row of `summary.csv`."""
        found: Mapping[str, Any] = self.record.get("summary", {})
        return found

    @property
    def name(self) -> str:
        """What the slide is called."""
        return str(self.summary.get("slide", self.folder.name))

    @property
    def class_areas(self) -> dict[str, float]:
        """mm² of each class."""
        return amounts(self.summary, "mm2")

    @property
    def seconds(self) -> dict[str, float]:
        """Where the time went, by step."""
        stages = self.record.get("stages", ())
        parts = {str(stage["stage"]): float(stage["seconds"]) for stage in stages}
        total = float(self.summary.get("seconds") or math.fsum(parts.values()))
        rest = "plan, figures, files" if "scan" in self.record else "tissue, plan, outlines, files"
        parts[rest] = max(0.0, total - math.fsum(parts.values()))
        return parts

    @cached_property
    def damage(self) -> Mapping[str, Any]:
        """`corrupt.json`; empty of a slide that is whole."""
        path = self.folder / CORRUPT
        return _read(path) if path.exists() else {}

    @cached_property
    def card(self) -> "ModelCard | None":
        """The model's card, if the model is still where it was, and still the same version."""
        from wsiseg.model.card import CARD_FILE, ModelCard

        model = self.record.get("model", {})
        try:
            card = ModelCard.read(Path(str(model.get("path", ""))) / CARD_FILE)
        except ModelError:
            return None
        return card if card.version == model.get("version") else None

    def picture(self, size: int) -> NDArray[np.uint8] | None:
        """Return the picture of the slide, its longer side at most `size` pixels; (y, x, 3)."""
        import cv2

        from wsiseg.resample import area, target_shape

        path = picture_of(self.folder)
        if path is None:
            return None
        try:
            packed = np.frombuffer(path.read_bytes(), np.uint8)
        except OSError:
            return None
        pixels = cv2.imdecode(packed, cv2.IMREAD_COLOR_RGB) if packed.size else None
        if pixels is None:
            return None
        whole = Box.of_shape(pixels.shape[:2])
        ratio = (max(1.0, max(whole.shape) / size),) * 2
        smaller = Box.of_shape(target_shape(whole.shape, ratio))
        return area(pixels.astype(np.uint8, copy=False), whole, smaller, ratio, whole.shape)


def amounts(row: Mapping[str, Any], unit: str) -> dict[str, float]:
    """Return what a row of `summary.csv` says of each class, in `mm2` or `ml`."""
    named = {
        key.removesuffix(f"_{unit}").removeprefix("class "): float(value)
        for key, value in row.items()
        if key.endswith(f"_{unit}") and value not in (None, "")
    }
    return {name: value for name, value in named.items() if name not in NO_CLASSES}


def picture_of(folder: Path) -> Path | None:
    """Return the picture in a result's folder, if there is one."""
    return next((path for path in map(folder.joinpath, PICTURES) if path.exists()), None)


def _read(path: Path) -> Mapping[str, Any]:
    try:
        found = orjson.loads(path.read_bytes())
    except (OSError, orjson.JSONDecodeError) as error:
        raise RunError(f"{path}: cannot be read: {error}; run the slide again") from error
    if not isinstance(found, dict):
        raise RunError(f"{path}: needed a JSON object; run the slide again")
    return found

"""Model configurations of the WSInfer zoo (`config.json`) as model cards.

The format: architecture, class names, patch size and spacing, and a list of transforms, described
in https://github.com/SBU-BMI/wsinfer-zoo (config schema 1.0). Keys it does not need are ignored.
"""

import colorsys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, Field, PositiveFloat, PositiveInt, ValidationError

from wsiseg.draw.palette import QUPATH_COLORS
from wsiseg.errors import ModelCardError
from wsiseg.model.class_order import MADE_UP, background_first

__all__ = ["CONFIG_FILE", "TORCHSCRIPT_FILE", "Fitting", "card_from_wsinfer", "spread_colors"]

CONFIG_FILE = "config.json"
TORCHSCRIPT_FILE = "torchscript_model.pt"
MADE_UP_NAME = "background"


@dataclass(frozen=True, slots=True)
class Fitting:
    """How a network becomes that of its card."""

    order: tuple[int, ...]
    """For each class its place in the output; see `background_first`."""

    side: int | None = None
    """Pixels per side to which patches are enlarged before the network sees them."""


class Transform(BaseModel):
    """One step of a transform list, in torchvision's names."""

    name: str
    arguments: dict[str, Any] | None = None


class WsinferConfig(BaseModel):
    """The part of `config.json` that says how to run the network."""

    architecture: str
    num_classes: PositiveInt
    class_names: Annotated[list[str], Field(min_length=1)]
    patch_size_pixels: PositiveInt
    spacing_um_px: PositiveFloat
    transform: list[Transform]


def card_from_wsinfer(path: Path, *, name: str) -> tuple[dict[str, Any], Fitting]:
    """Return the content of a card, hashes left out, and what the network needs to fit it.

    The card's first class stays unannotated; see `background_first`.

    `Resize` to fewer pixels becomes another spacing: a patch of 350 px at 0.25 µm resized to 224 px
    is a patch of 224 px at 0.391 µm. The slide is then sampled once. `Resize` to more becomes part
    of the network, as no slide has pixels so fine.

    Raises
    ------
    ModelCardError
        If the file is no such configuration, or has a transform that the card cannot say.
    """
    try:
        config = WsinferConfig.model_validate_json(path.read_bytes())
    except OSError as error:
        raise ModelCardError(f"{path}: cannot be read: {error.strerror}") from error
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"])) or "file"
        raise ModelCardError(f"{path}: {field}: {first['msg']}; correct the file") from error
    if len(config.class_names) != config.num_classes:
        raise ModelCardError(
            f"{path}: num_classes {config.num_classes} but {len(config.class_names)} class_names; "
            "correct the file"
        )
    order = background_first(config.class_names)
    names = [MADE_UP_NAME if i == MADE_UP else config.class_names[i] for i in order]
    resized, steps = _transforms(config, path)
    patch = min(resized, config.patch_size_pixels)
    spacing = config.spacing_um_px * config.patch_size_pixels / patch
    card = {
        "schema_version": 1,
        "name": name,
        "version": "1",
        "task": "semantic",
        "axes": "yx",
        "classes": spread_colors(names),
        "stages": [
            {
                "name": "patches",
                "kind": "classifier",
                "inputs": [
                    {
                        "from": "slide",
                        "channels": ["R", "G", "B"],
                        "spacing_um": [spacing, spacing],
                        "patch": [patch, patch],
                        "steps": steps,
                    }
                ],
                "output": {"name": "heatmap", "activation": "softmax"},
                "weights": {
                    "file": "patches.onnx",
                    "architecture": "onnx",
                    "layout": "channels_first",
                },
            }
        ],
        "provenance": {
            "license": "not stated in config.json",
            "trained_on": "not stated in config.json",
            "intended_use": f"patch classification with {config.architecture}",
            "limits": f"the first class, {names[0]}, stays unannotated",
        },
    }
    return card, Fitting(order, resized if resized > patch else None)


def spread_colors(names: list[str]) -> list[dict[str, Any]]:
    """Return classes of a card; the first stays grey.

    Those that QuPath knows have its colours, which count there; others lie around the circle.
    """
    classes: list[dict[str, Any]] = [{"name": names[0]}]
    for i, name in enumerate(names[1:]):
        rgb = colorsys.hsv_to_rgb(i / max(1, len(names) - 1), 0.9, 0.8)
        own = tuple(round(255 * value) for value in rgb)
        classes.append({"name": name, "color": list(QUPATH_COLORS.get(name, own))})
    return classes


def _transforms(config: WsinferConfig, path: Path) -> tuple[int, list[dict[str, Any]]]:
    """Return the patch after resizing, and the steps of the card."""
    patch = config.patch_size_pixels
    steps: list[dict[str, Any]] = []
    for transform in config.transform:
        arguments = transform.arguments or {}
        if transform.name == "Resize":
            patch = _resized(arguments.get("size"), path)
        elif transform.name == "ToTensor":
            steps.append({"name": "scale", "divide_by": 255.0})
        elif transform.name == "Normalize":
            steps.append({"name": "normalize", **{k: arguments.get(k) for k in ("mean", "std")}})
        else:
            raise ModelCardError(
                f"{path}: transform {transform.name!r} is unknown: needed Resize, ToTensor or "
                "Normalize; write a model.json by hand"
            )
    return patch, steps


def _resized(size: object, path: Path) -> int:
    sizes = size if isinstance(size, list) else [size]
    if len(set(sizes)) != 1 or not isinstance(sizes[0], int) or sizes[0] < 1:
        raise ModelCardError(f"{path}: Resize to {size!r}: needed one size in pixels")
    return int(sizes[0])

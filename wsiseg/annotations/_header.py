"""What a collection says of its image, its classes and itself."""

import importlib.metadata
from collections.abc import Mapping
from typing import Any

import numpy as np
import orjson

from wsiseg.annotations.base import UNCLASSIFIED, Annotations, Frame
from wsiseg.annotations.frames import frame_size, qupath_frame
from wsiseg.errors import AnnotationError, LabelError

__all__ = ["clean_class_name", "cleaned_classes", "describe_image", "dumps", "is_unicode"]


def clean_class_name(name: str) -> str:
    """Return the name as QuPath will show it, without outer spaces.

    Raises
    ------
    LabelError
        If QuPath would refuse it: nothing in it, or in a part between colons, or a line break.
    """
    parts = [part.strip() for part in name.split(":")]
    if not all(parts):
        raise LabelError(
            f"class name {name!r} has an empty part; QuPath refuses it, rename the class"
        )
    if any(len(part.splitlines()) > 1 for part in parts) or not is_unicode(name):
        raise LabelError(
            f"class name {name!r} needs to be one line of text; QuPath refuses it, rename the class"
        )
    return ": ".join(parts)


def describe_image(annotations: Annotations, frame: Frame) -> dict[str, Any]:
    """Return which image the coordinates belong to, and in which frame; fit for JSON."""
    image, shown = annotations.image, qupath_frame(annotations.image)
    width, height = frame_size(image, frame)
    header: dict[str, Any] = {
        "version": _version(),
        "image": image.name,
        "image_width": width,
        "image_height": height,
        "frame": frame,
        "offset": list(shown.offset) if frame == "qupath" else [0, 0],
        "bounds_applied": shown.bounds_applied and frame == "qupath",
        "level0_width": image.shape[1],
        "level0_height": image.shape[0],
        "mpp": list(reversed(image.spacing.um)),
        "vendor": image.vendor,
        "classes": cleaned_classes(annotations),
    }
    if not len(annotations):
        header["empty"] = True  # nothing was found: no objects is what is meant
    if image.bounds is not None:
        header["bounds"] = [*reversed(image.bounds.start), *reversed(image.bounds.shape)]
    if shown.note is not None:
        header["note"] = shown.note
    return header


def cleaned_classes(annotations: Annotations) -> list[dict[str, Any]]:
    """Return the classes as QuPath takes them."""
    cleaned: list[dict[str, Any]] = []
    for item in annotations.classes:
        name, color = clean_class_name(item.name), [int(value) for value in item.color]
        if len(color) != 3 or not all(0 <= value <= 255 for value in color):
            raise LabelError(f"class {name!r}: color needs three integers 0-255, got {item.color}")
        cleaned.append({"name": name, "color": color})
    names = [item["name"] for item in cleaned]
    if len(set(names)) != len(names):
        raise LabelError(f"class names need to differ without outer spaces, got {names}")
    index = np.asarray(annotations.class_index)
    if len(index) and (index.min() < UNCLASSIFIED or index.max() >= len(names)):
        raise LabelError(
            f"class_index needs 0 to {len(names) - 1}, got {index.min()} to {index.max()}"
        )
    return cleaned


def dumps(value: Mapping[str, Any]) -> bytes:
    """Return members of a collection as JSON."""
    try:
        return orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY)
    except TypeError as error:
        raise AnnotationError(f"the collection's members cannot be JSON: {error}") from error


def _version() -> str:
    try:
        return importlib.metadata.version("wsiseg")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def is_unicode(text: str) -> bool:
    """Tell whether the text can be UTF-8, which half a surrogate pair cannot."""
    return not any("\ud800" <= character <= "\udfff" for character in text)

"""Label images in OME-Zarr: those of wsiseg, and any with the metadata of OME-NGFF."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from wsiseg.errors import AnnotationError, SourceError
from wsiseg.geometry import Box, Spacing
from wsiseg.source._ngff import Multiscale, read_multiscale
from wsiseg.source._zarr_store import CODECS, ZARR_ERRORS, codec_names, open_store

__all__ = ["ZarrLevel", "ZarrMask", "open_mask_zarr"]

KEY = "wsiseg"
"""Our own entry among the attributes of a group."""

LABELS = "labels"


class ZarrLevel:
    """One resolution of a label image."""

    def __init__(self, array: zarr.Array[Any], axes: str, path: Path) -> None:
        sizes = dict(zip(axes, array.shape, strict=True))
        if array.dtype.kind not in "uib" or any(n > 1 for a, n in sizes.items() if a not in "yx"):
            raise AnnotationError(
                f"{path}: needed integers (y, x), found {array.dtype} of axes {axes}, "
                f"{array.shape}; save labels of one plane"
            )
        if unknown := codec_names(array.metadata.to_dict()) - CODECS:
            raise AnnotationError(
                f"{path}: uses the codec {', '.join(sorted(unknown))}, needed one of "
                f"{', '.join(sorted(CODECS))}; write it anew"
            )
        self._array, self._axes, self._path = array, axes, path
        self.shape = (sizes["y"], sizes["x"])

    def read(self, box: Box) -> NDArray[Any]:
        """Return the values of a box inside."""
        index: dict[str, int | slice] = dict(zip("yx", box.slices(), strict=True))
        try:
            values = np.asarray(self._array[tuple(index.get(axis, 0) for axis in self._axes)])
        except ZARR_ERRORS as error:
            raise AnnotationError(
                f"{self._path}: cannot be decoded: {error}; copy the folder anew"
            ) from error
        values = values.astype(np.uint8) if values.dtype == bool else values
        kept = [axis for axis in self._axes if axis in "yx"]
        return values if kept == ["y", "x"] else values.T


@dataclass(frozen=True, slots=True, eq=False)
class ZarrMask:
    """A label image as its metadata describe it."""

    levels: tuple[ZarrLevel, ...]
    names: Mapping[int, str]
    """Names of values, where the file gives them."""

    downsample: tuple[float, float] | None
    """Level-0 pixels per pixel of the finest level, (y, x), where the file says it."""

    origin: tuple[float, float]
    """Level-0 pixels before the first pixel's corner."""

    is_exact: bool = False
    """The file counts in pixels of level 0, not in rounded µm."""


def open_mask_zarr(path: Path, spacing: Spacing | None) -> ZarrMask:
    """Open a label image, or the only one of an image.

    Parameters
    ----------
    path
        Folder of the label image, of `labels`, or of the image it belongs to.
    spacing
        Level-0 µm per pixel of the slide, for metadata in µm.

    Raises
    ------
    AnnotationError
        If there is none, or several, or it holds no integers of one plane.
    """
    try:
        group = zarr.open_group(open_store(path, None), mode="r", use_consolidated=False)
        label = _label_group(group, path)
        attributes = _attributes(label)
        multiscale = _multiscale(attributes, path)
        levels = [
            ZarrLevel(_array(label, data.path, path), multiscale.axis_names, path)
            for data in multiscale.datasets
        ]
    except AnnotationError:
        raise
    except (SourceError, *ZARR_ERRORS) as error:
        raise AnnotationError(f"{path}: no readable OME-Zarr labels: {error}") from error
    levels.sort(key=lambda level: level.shape, reverse=True)
    own = label.attrs.asdict().get(KEY)
    if isinstance(own, dict) and own.get("kind") == "labels":
        names, downsample, origin = _own_words(own, path)
        return ZarrMask(tuple(levels), names, downsample, origin, is_exact=True)
    if isinstance(own, dict):
        raise AnnotationError(f"{path}: needed labels, found a heatmap; name the labels beside it")
    try:
        placed = _placed(label, multiscale, spacing)
    except ZARR_ERRORS as error:
        raise AnnotationError(
            f"{path}: does not say where it lies: {error!r}; write it anew"
        ) from error
    return ZarrMask(tuple(levels), _names(attributes), *placed)


def _own_words(
    own: Mapping[str, Any], path: Path
) -> tuple[dict[int, str], tuple[float, float], tuple[float, float]]:
    """Return names, downsample and origin as wsiseg wrote them."""
    try:
        names = dict(enumerate(map(str, own["names"])))
        downsample, origin = _pair(own["downsample"]), _pair(own["origin"])
    except (KeyError, TypeError, ValueError) as error:
        raise AnnotationError(
            f"{path}: its metadata are damaged: {error!r}; copy it anew"
        ) from error
    if min(downsample) <= 0:
        raise AnnotationError(f"{path}: its metadata are damaged: downsample {downsample}")
    return names, downsample, origin


def _multiscale(attributes: Mapping[str, Any], path: Path) -> Multiscale:
    multiscale = read_multiscale(attributes, path.name)
    if multiscale is None:
        raise AnnotationError(f"{path}: the label image has no multiscales; write it anew")
    return multiscale


def _label_group(group: zarr.Group, path: Path) -> zarr.Group:
    """Return the group of the label image itself."""
    listed = group if LABELS in _attributes(group) else group.get(LABELS)
    if not isinstance(listed, zarr.Group):
        return group
    names = _attributes(listed).get(LABELS) or list(listed.group_keys())
    if len(names) != 1:
        raise AnnotationError(
            f"{path}: needed one label image, found {sorted(names)}; name one of these folders"
        )
    label = listed.get(str(names[0]))
    if not isinstance(label, zarr.Group):
        raise AnnotationError(f"{path}: lists the label image {names[0]!r}, which is not there")
    return label


def _attributes(group: zarr.Group) -> Mapping[str, Any]:
    """Return the metadata of OME-NGFF: under `ome` since 0.5, before that at the top."""
    attributes = group.attrs.asdict()
    inner = attributes.get("ome")
    return inner if isinstance(inner, dict) else attributes


def _array(group: zarr.Group, name: str, path: Path) -> zarr.Array[Any]:
    array = group.get(name)
    if not isinstance(array, zarr.Array):
        raise AnnotationError(f"{path}: needed an array at {name!r}, found none; copy it anew")
    return array


def _names(attributes: Mapping[str, Any]) -> dict[int, str]:
    """Return the names of values in the properties of an `image-label`."""
    entry = attributes.get("image-label")
    listed = entry.get("properties") if isinstance(entry, dict) else None
    names = {}
    for one in listed if isinstance(listed, list) else []:
        name = one.get("class", one.get("name")) if isinstance(one, dict) else None
        if isinstance(name, str) and isinstance(one.get("label-value"), int):
            names[one["label-value"]] = name
    return names


def _placed(
    label: zarr.Group, multiscale: Multiscale, spacing: Spacing | None
) -> tuple[tuple[float, float] | None, tuple[float, float]]:
    """Return downsample and origin as the metadata give them in µm.

    NGFF coordinates are those of pixel centres: without a translation, which many programs leave
    out, corners are taken to lie on one another.
    """
    pixel = multiscale.spacing(0)
    if pixel is None or spacing is None:
        return None, (0.0, 0.0)
    downsample = pixel.ratio_to(spacing)
    entry = _attributes(label)["multiscales"][0]["datasets"][0]
    moves = [t for t in entry["coordinateTransformations"] if t.get("type") == "translation"]
    if not moves:
        return _pair(downsample), (0.0, 0.0)
    unit = _unit(multiscale, entry)
    at = [moves[0]["translation"][multiscale.axis_names.index(axis)] for axis in "yx"]
    origin = (
        move * um / own - (d - 1) / 2
        for move, um, own, d in zip(at, unit, spacing.um, downsample, strict=True)
    )
    return _pair(downsample), _pair(tuple(origin))


def _unit(multiscale: Multiscale, entry: Mapping[str, Any]) -> tuple[float, float]:
    """Return µm per unit of a translation along y and x."""
    scales = next(t["scale"] for t in entry["coordinateTransformations"] if t["type"] == "scale")
    pixel = multiscale.spacing(0)
    um = (0.0, 0.0) if pixel is None else pixel.um
    given = [scales[multiscale.axis_names.index(axis)] for axis in "yx"]
    return _pair([size / scale for size, scale in zip(um, given, strict=True)])


def _pair(values: Sequence[float]) -> tuple[float, float]:
    y, x = (float(value) for value in values)
    if not (math.isfinite(y) and math.isfinite(x)):
        raise ValueError(f"{y}, {x}: not finite")
    return y, x

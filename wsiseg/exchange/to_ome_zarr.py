"""Heatmap and mask as one OME-Zarr: the heatmap as image, the mask as its labels."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from wsiseg.exchange._writing import whole_folder
from wsiseg.exchange.finished import FinishedResult
from wsiseg.exchange.request import ExportReport, ExportRequest

__all__ = ["LABEL", "to_ome_zarr"]

LABEL = "classes"
"""Name of the label image."""


def to_ome_zarr(result: FinishedResult, out: Path, request: ExportRequest) -> ExportReport:
    """Write `<name>.ome.zarr`: the heatmap, and in `labels/classes` the mask.

    Both are pyramids that lie on each other, and on the slide, in µm. Version 0.4 is Zarr v2, which
    all programs read; 0.5 is Zarr v3.

    Raises
    ------
    RunError
        If the folder is there and not to be overwritten, or mask or heatmap are missing.
    DiskFullError
        If there is no room left.
    """
    image, mask = result.heatmap(request.heatmap).path, result.mask.path
    path = out / f"{result.name}.ome.zarr"
    store = _copy_v2 if request.ngff == "0.4" else _copy_v3
    with whole_folder(path, overwrite=request.overwrite) as part:
        store(image, part, result.name)
        _begin_labels(part / "labels", request.ngff)
        store(mask, part / "labels" / LABEL, LABEL)
    return ExportReport((path,))


def _begin_labels(folder: Path, version: str) -> None:
    if version == "0.4":
        zarr.create_group(folder, zarr_format=2, attributes={"labels": [LABEL]})
    else:
        entry = {"ome": {"version": version, "labels": [LABEL]}}
        zarr.create_group(folder, zarr_format=3, attributes=entry)


def _described(source: Path, name: str) -> dict[str, Any]:
    """Return the attributes of a store under another name."""
    attributes: dict[str, Any] = zarr.open_group(source, mode="r").attrs.asdict()
    for entry in attributes["multiscales"]:
        entry["name"] = name
    if "image-label" in attributes:
        attributes["image-label"]["source"] = {"image": "../../"}
    return attributes


def _copy_v2(source: Path, target: Path, name: str) -> None:
    shutil.copytree(source, target, dirs_exist_ok=True)
    zarr.open_group(target, mode="a", zarr_format=2).attrs.put(_described(source, name))


def _copy_v3(source: Path, target: Path, name: str) -> None:
    attributes = _described(source, name)
    (scales,) = attributes["multiscales"]
    group = zarr.create_group(target, zarr_format=3, attributes=_of_0_5(attributes))
    for dataset in scales["datasets"]:
        old = zarr.open_array(source / dataset["path"], mode="r")
        new = group.create_array(
            dataset["path"],
            shape=old.shape,
            chunks=old.chunks,
            dtype=old.dtype,
            fill_value=0,
            dimension_names=[axis["name"] for axis in scales["axes"]],
        )
        _copy_array(old, new)


def _of_0_5(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Return attributes of version 0.4 as version 0.5 has them: all in `ome`, one version."""
    ome = {key: value for key, value in attributes.items() if key != "wsiseg"}
    for key in ("omero", "image-label"):
        if key in ome:
            ome[key] = {name: value for name, value in ome[key].items() if name != "version"}
    scales = ({k: v for k, v in s.items() if k != "version"} for s in ome["multiscales"])
    return {"ome": {**ome, "version": "0.5", "multiscales": list(scales)}}


def _copy_array(old: "zarr.Array[Any]", new: "zarr.Array[Any]") -> None:
    """Copy a chunk at a time; blank ones are left out."""
    for place in np.ndindex(*old.cdata_shape):
        box = tuple(
            slice(i * c, min((i + 1) * c, n))
            for i, c, n in zip(place, old.chunks, old.shape, strict=True)
        )
        chunk = np.asarray(old[box])
        if chunk.any():
            new[box] = chunk

"""A scan and its labels as OME-Zarr in millimetres.

Version 0.4 (Zarr v2) or 0.5 (Zarr v3): https://ngff.openmicroscopy.org/0.5/. Its scales and
translations know no turned or flipped axes, so arrays are written with axes that grow to superior,
anterior and right; what remains of an oblique frame stands in the attribute `wsiseg`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from wsiseg.geometry import Affine
from wsiseg.volume.arrays import Turned, VoxelArray
from wsiseg.volume.preview import class_colors
from wsiseg.volume.statistics import ScanClass

__all__ = ["LABEL", "write_ome_zarr"]

LABEL = "classes"
"""Name of the label image."""

CHUNK = 64
SMALLEST = 96
"""Levels are added until no axis is longer."""

GROWS = {"z": "inferior-to-superior", "y": "posterior-to-anterior", "x": "left-to-right"}
AXES = [
    {
        "name": name,
        "type": "space",
        "unit": "millimeter",
        "orientation": {"type": "anatomical", "value": value},  # RFC 4 of OME-NGFF
    }
    for name, value in GROWS.items()
]


def write_ome_zarr(
    path: Path,
    image: VoxelArray,
    labels: VoxelArray,
    affine: Affine,
    classes: Sequence[ScanClass],
    *,
    name: str,
    version: str = "0.4",
) -> None:
    """Write a pyramid of the scan, and in `labels/classes` one of its labels, slab by slab.

    Parameters
    ----------
    path
        Folder, empty or not there.
    image, labels
        (z, y, x), on the same voxels.
    affine
        Of both.
    classes
        Names and colours of the labels.
    name
        Of the scan.
    version
        `0.4` or `0.5`.
    """
    turn = affine.turn_to("RAS")
    upright = affine.turned(turn, labels.shape)
    group = _group(path, version)
    levels = _write_pyramid(group, Turned(image, turn), upright, mean=True)
    _describe(group, name, levels, upright, version, {})
    _group(path / "labels", version, {"labels": [LABEL]})
    own = _group(path / "labels" / LABEL, version)
    levels = _write_pyramid(own, Turned(labels, turn), upright, mean=False)
    _describe(own, LABEL, levels, upright, version, {"image-label": _label_entry(classes, version)})


@dataclass(frozen=True, slots=True)
class _Level:
    scale: tuple[float, ...]
    translation: tuple[float, ...]


def _group(path: Path, version: str, entry: dict[str, Any] | None = None) -> "zarr.Group":
    if version == "0.4":
        return zarr.create_group(path, zarr_format=2, attributes=entry or {})
    return zarr.create_group(
        path, zarr_format=3, attributes={"ome": {"version": version, **entry}} if entry else {}
    )


def _write_pyramid(
    group: "zarr.Group", array: VoxelArray, affine: Affine, *, mean: bool
) -> list[_Level]:
    """Write all levels; those of labels take every other voxel, those of scans the mean."""
    spacing = np.array(affine.spacing_mm)
    # the place of voxel 0: x, y, z of the world, which the upright axes follow
    start = np.array(affine.origin[::-1])
    levels: list[_Level] = []
    source: Any = array
    factors: NDArray[np.int_] = np.ones(3, int)
    while True:
        shape = tuple(-(-n // f) for n, f in zip(source.shape, factors, strict=True))
        target = _create(group, str(len(levels)), shape, np.dtype(source.dtype))
        _fill(target, source, factors, mean=mean)
        levels.append(_Level(tuple(spacing.tolist()), tuple(start.tolist())))
        source = target
        if max(shape) <= SMALLEST:
            return levels
        # halve the axes along which voxels are finest, so that they become cubes
        finest = (np.array(shape) > 1) & (spacing < 2 * spacing.min())
        factors = np.where(finest, 2, 1).astype(int)
        start = start + (factors - 1) / 2 * spacing if mean else start
        spacing = spacing * factors


def _create(
    group: "zarr.Group", name: str, shape: tuple[int, ...], dtype: np.dtype[Any]
) -> "zarr.Array[Any]":
    options: dict[str, Any] = {"dimension_names": list("zyx")}
    if group.metadata.zarr_format == 2:
        options = {"chunk_key_encoding": {"name": "v2", "separator": "/"}}
    return group.create_array(
        name,
        shape=shape,
        chunks=tuple(min(CHUNK, n) for n in shape),
        dtype=dtype,
        fill_value=0,
        **options,
    )


def _fill(
    target: "zarr.Array[Any]", source: VoxelArray, factors: NDArray[np.int_], *, mean: bool
) -> None:
    """Write a level, as many slices at once as a chunk is deep."""
    down, rows, columns = (int(f) for f in factors)
    for start in range(0, target.shape[0], CHUNK):
        stop = min(start + CHUNK, target.shape[0])
        block = np.asarray(source[start * down : stop * down])
        if mean and max(factors) > 1:
            block = _mean(block, (down, rows, columns))
        else:
            block = block[::down, ::rows, ::columns]
        target[start:stop] = block


def _mean(block: NDArray[Any], factors: tuple[int, ...]) -> NDArray[Any]:
    """Return means of small boxes; at the end the last voxel stands for those that are missing."""
    for axis, factor in enumerate(factors):
        if factor == 1:
            continue
        if block.shape[axis] % factor:
            block = np.concatenate([block, block.take([-1], axis=axis)], axis=axis)
        shape = (*block.shape[:axis], -1, factor, *block.shape[axis + 1 :])
        means = block.reshape(shape).mean(axis=axis + 1, dtype=np.float64)
        block = (np.rint(means) if block.dtype.kind in "iu" else means).astype(block.dtype)
    return block


def _describe(
    group: "zarr.Group",
    name: str,
    levels: Sequence[_Level],
    affine: Affine,
    version: str,
    more: dict[str, Any],
) -> None:
    datasets = [
        {
            "path": str(index),
            "coordinateTransformations": [
                {"type": "scale", "scale": list(level.scale)},
                {"type": "translation", "translation": list(level.translation)},
            ],
        }
        for index, level in enumerate(levels)
    ]
    scales: dict[str, Any] = {"name": name, "axes": AXES, "datasets": datasets}
    own: dict[str, Any] = {"affine_ras_mm": [list(row) for row in affine.matrix], "axes": "SAR"}
    if version == "0.4":
        group.attrs.put({"multiscales": [{"version": version, **scales}], **more, "wsiseg": own})
    else:
        group.attrs.put(
            {"ome": {"version": version, "multiscales": [scales], **more}, "wsiseg": own}
        )


def _label_entry(classes: Sequence[ScanClass], version: str) -> dict[str, Any]:
    colors = class_colors(classes)
    entry = {
        "colors": [
            {"label-value": 0, "rgba": [0, 0, 0, 0]},
            *({"label-value": c.value, "rgba": [*colors[c.value], 255]} for c in classes),
        ],
        "properties": [{"label-value": c.value, "class": c.name} for c in classes],
        "source": {"image": "../../"},
    }
    return {"version": version, **entry} if version == "0.4" else entry

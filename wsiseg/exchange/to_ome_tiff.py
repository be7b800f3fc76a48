"""Mask and heatmap as tiled, compressed, pyramidal OME-TIFF, written a tile at a time."""

import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from wsiseg.exchange._writing import whole_file
from wsiseg.exchange.finished import FinishedResult
from wsiseg.exchange.request import ExportReport, ExportRequest
from wsiseg.stitch import HeatmapStore, LabelStore, Placement
from wsiseg.stitch.store import readable

__all__ = ["to_ome_tiff"]

NAMESPACE = uuid.UUID("8f0c3a54-3f0b-5f5e-9d5c-6a1f2c7f4b10")

TILE = 512
"""As the chunks of the stores, each of which is so decoded once."""


def to_ome_tiff(result: FinishedResult, out: Path, request: ExportRequest) -> ExportReport:
    """Write `<name>.mask.ome.tif` and `<name>.heatmap.ome.tif`.

    Pixel sizes are those of the mask, in µm, and `Plane.PositionX/Y` is where its first pixel lies
    on the slide. The mask holds class values, whose names and colours stand in a map annotation.
    The heatmap has a channel per class: 0 is nodata, 1 to 255 are the probability
    (value - 1) / 254.

    Raises
    ------
    RunError
        If a file is there and not to be overwritten, or mask or heatmap are missing.
    DiskFullError
        If there is no room left.
    """
    mask, heatmap = result.mask, result.heatmap(request.heatmap)
    classes = {
        str(value): f"{item.name} #{item.color[0]:02x}{item.color[1]:02x}{item.color[2]:02x}"
        for value, item in enumerate(result.mask_classes())
    }
    paths = (out / f"{result.name}.mask.ome.tif", out / f"{result.name}.heatmap.ome.tif")
    extra = {"MapAnnotation": {"Namespace": "wsiseg/classes", "Value": classes}}
    with whole_file(paths[0], overwrite=request.overwrite) as part:
        _write(part, mask, {"axes": "YX", "Name": f"{result.name} mask", **extra})
    with whole_file(paths[1], overwrite=request.overwrite) as part:
        names = {"Channel": {"Name": list(heatmap.channels)}}
        _write(part, heatmap, {"axes": "CYX", "Name": f"{result.name} heatmap", **names})
    return ExportReport(paths)


def _write(path: Path, store: LabelStore | HeatmapStore, metadata: Mapping[str, Any]) -> None:
    import tifffile

    placement = store.placement
    described = {
        **metadata,
        **_places(placement, planes=len(getattr(store, "channels", "1"))),
        "UUID": str(uuid.uuid5(NAMESPACE, metadata["Name"])),  # else every file is another one
    }
    with readable(store.path):
        levels = [zarr.open_array(store.path / str(i), mode="r") for i in range(placement.levels)]
    with tifffile.TiffWriter(path, bigtiff=True, ome=True) as tiff:
        for number, level in enumerate(levels):
            um_y, um_x = placement.scale_um(number)
            first: dict[str, Any] = {"subifds": len(levels) - 1, "metadata": described}
            tiff.write(
                _tiles(level),
                shape=level.shape,
                dtype=np.uint8,
                tile=(TILE, TILE),
                photometric="minisblack",
                compression="adobe_deflate",
                resolution=(1e4 / um_x, 1e4 / um_y),
                resolutionunit="CENTIMETER",
                software="wsiseg",
                **(first if number == 0 else {"subfiletype": 1, "metadata": None}),
            )


def _places(placement: Placement, planes: int) -> dict[str, Any]:
    """Return pixel size and position in µm, as tifffile takes them."""
    (um_y, um_x), (down_y, down_x) = placement.spacing.um, placement.downsample
    y, x = placement.origin
    unit = "µm"
    return {
        "PhysicalSizeX": um_x,
        "PhysicalSizeXUnit": unit,
        "PhysicalSizeY": um_y,
        "PhysicalSizeYUnit": unit,
        "Plane": {
            "PositionX": [x * um_x / down_x] * planes,
            "PositionXUnit": [unit] * planes,
            "PositionY": [y * um_y / down_y] * planes,
            "PositionYUnit": [unit] * planes,
        },
    }


def _tiles(level: "zarr.Array[Any]") -> Iterator[NDArray[np.uint8]]:
    """Yield the tiles of a level, plane by plane, those at the edge filled up with 0."""
    *lead, height, width = level.shape
    for plane in np.ndindex(*lead):
        for y in range(0, height, TILE):
            for x in range(0, width, TILE):
                place: Sequence[Any] = (*plane, slice(y, y + TILE), slice(x, x + TILE))
                with readable(str(level.store_path)):
                    found = np.asarray(level[tuple(place)], np.uint8)
                if found.shape == (TILE, TILE):
                    yield np.ascontiguousarray(found)
                else:
                    tile = np.zeros((TILE, TILE), np.uint8)
                    tile[: found.shape[0], : found.shape[1]] = found
                    yield tile

"""A result as SpatialData: heatmap as image, mask as labels, objects as shapes, in one store."""

import shutil
from pathlib import Path
from typing import Any

import zarr

import wsiseg
from wsiseg.annotations.geoparquet import write_geoparquet
from wsiseg.exchange._writing import whole_folder
from wsiseg.exchange.finished import FinishedResult
from wsiseg.exchange.request import ExportReport, ExportRequest
from wsiseg.stitch import HeatmapStore, LabelStore, Placement

__all__ = ["SYSTEM", "to_spatialdata"]

SYSTEM = "global"
"""Coordinate system of all elements: level-0 pixels of the whole slide, x and y."""

CONTAINER, RASTER, SHAPES = "0.1", "0.2", "0.2"
"""Versions of the parts of the format, as SpatialData names them; of Zarr v2."""

ATTRIBUTES = "spatialdata_attrs"
KIND = {"c": "channel", "y": "space", "x": "space"}


def to_spatialdata(result: FinishedResult, out: Path, request: ExportRequest) -> ExportReport:
    """Write `<name>.spatialdata.zarr`, which `spatialdata.read_zarr` opens.

    Elements are `heatmap`, `mask` and `annotations`; all lie in the coordinate system `global`, in
    level-0 pixels. Needs the extra `notebook` for the shapes.

    Raises
    ------
    RunError
        If the folder is there and not to be overwritten, or a part of the result is missing.
    AnnotationError
        If the extra is not installed.
    DiskFullError
        If there is no room left.

    References
    ----------
    Marconato et al. 2025, doi:10.1038/s41592-024-02212-x.
    """
    path = out / f"{result.name}.spatialdata.zarr"
    heatmap, mask = result.heatmap(request.heatmap), result.mask
    with whole_folder(path, overwrite=request.overwrite) as part:
        _group(part, {ATTRIBUTES: {"version": CONTAINER, "spatialdata_software_version": _me()}})
        _group(part / "images", {})
        _raster(heatmap, part / "images" / heatmap.path.stem, "cyx")
        _group(part / "labels", {"labels": ["mask"]})
        _raster(mask, part / "labels" / "mask", "yx")
        _group(part / "shapes", {})
        _begin_shapes(part / "shapes" / "annotations")
        zarr.consolidate_metadata(str(part), zarr_format=2)
        objects = list(result.objects())
        write_geoparquet(objects, part / "shapes/annotations/shapes.parquet", frame="level0")
    count = sum(map(len, objects))
    return ExportReport((path,), count)


def _me() -> str:
    return f"wsiseg {wsiseg.__version__}"


def _group(folder: Path, attributes: dict[str, Any]) -> None:
    zarr.create_group(folder, zarr_format=2, attributes=attributes)


def _raster(store: HeatmapStore | LabelStore, folder: Path, axes: str) -> None:
    shutil.copytree(store.path, folder)
    group = zarr.open_group(folder, mode="a", zarr_format=2)
    attributes: dict[str, Any] = group.attrs.asdict()
    for scales in attributes["multiscales"]:
        scales["coordinateTransformations"] = [_to_global(store.placement, axes)]
        scales["name"] = folder.name
    if isinstance(store, HeatmapStore):
        attributes[ATTRIBUTES] = {"version": RASTER, "channel_names": list(store.channels)}
    else:
        attributes[ATTRIBUTES] = {"version": RASTER}
    group.attrs.put(attributes)


def _begin_shapes(folder: Path) -> None:
    _group(
        folder,
        {
            "encoding-type": "ngff:shapes",
            "axes": ["x", "y"],
            "coordinateTransformations": [{"type": "identity", **_between("xy")}],
            ATTRIBUTES: {"version": SHAPES},
        },
    )


def _to_global(placement: Placement, axes: str) -> dict[str, Any]:
    """Return the way from pixels of a raster, by their corners, to level-0 pixels."""
    lead = len(axes) - 2
    scale = [*(1.0,) * lead, *placement.downsample]
    shift = [*(0.0,) * lead, *placement.origin]
    steps: list[dict[str, Any]] = [{"type": "scale", "scale": scale}]
    if not any(shift):
        return {**steps[0], **_between(axes)}
    steps.append({"type": "translation", "translation": shift})
    return {
        "type": "sequence",
        "transformations": [{**step, **_between(axes)} for step in steps],
        **_between(axes),
    }


def _between(axes: str) -> dict[str, Any]:
    described = [
        {"name": name, "type": KIND[name], **({} if name == "c" else {"unit": "unit"})}
        for name in axes
    ]
    return {
        "input": {"name": axes, "axes": described},
        "output": {"name": SYSTEM, "axes": described},
    }

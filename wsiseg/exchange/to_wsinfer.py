"""Tiles as CSV in the layout of WSInfer: `minx,miny,width,height,prob_<class>`."""

import csv
from pathlib import Path

import numpy as np

from wsiseg.exchange._writing import whole_file
from wsiseg.exchange.finished import FinishedResult
from wsiseg.exchange.request import ExportReport, ExportRequest
from wsiseg.exchange.tiles import HeatmapTiles, whole_edges

__all__ = ["FOLDER", "to_wsinfer"]

FOLDER = "model-outputs-csv"
DECIMALS = 6


def to_wsinfer(result: FinishedResult, out: Path, request: ExportRequest) -> ExportReport:
    """Write `model-outputs-csv/<name>.csv`: whole level-0 pixels and a probability per class.

    Background has a column, too, as in WSInfer's own tables: what the other classes leave of 1.

    Raises
    ------
    RunError
        If the file is there and not to be overwritten, or there is no such heatmap.
    DiskFullError
        If there is no room left.
    """
    tiles = HeatmapTiles(result.heatmap(request.heatmap), result.image.shape, request.tile_um)
    path = out / FOLDER / f"{result.name}.csv"
    count = 0
    with (
        whole_file(path, overwrite=request.overwrite) as part,
        part.open("w", newline="", encoding="utf-8") as file,
    ):
        table = csv.writer(file)
        head = ("minx", "miny", "width", "height")
        background = _left_out(result, tiles)
        table.writerow([*head, *(f"prob_{name}" for name in (*background, *tiles.channels))])
        for some in tiles:
            x0, y0, x1, y1 = whole_edges(some.boxes).T
            places = np.stack([x0, y0, x1 - x0, y1 - y0], axis=1).tolist()
            columns = [some.probabilities]
            if background:
                columns.insert(0, np.clip(1 - some.probabilities.sum(axis=1, keepdims=True), 0, 1))
            probabilities = np.round(np.concatenate(columns, axis=1), DECIMALS).tolist()
            table.writerows([*a, *b] for a, b in zip(places, probabilities, strict=True))
            count += len(some)
    return ExportReport((path,), count)


def _left_out(result: FinishedResult, tiles: HeatmapTiles) -> list[str]:
    """Return what background is called, where the heatmap has no channel for it."""
    if not (result.folder / "mask.zarr").is_dir():
        return []
    name = result.mask_classes()[0].name
    return [] if name in tiles.channels else [name]

"""Coordinates of tiles in HDF5, as CLAM and TRIDENT lay them out."""

from pathlib import Path
from typing import Any

import numpy as np

from wsiseg.errors import RunError, UsageError
from wsiseg.exchange._writing import whole_file
from wsiseg.exchange.finished import FinishedResult
from wsiseg.exchange.request import ExportReport, ExportRequest
from wsiseg.exchange.tiles import HeatmapTiles

__all__ = ["FOLDER", "hdf5", "to_clam"]

FOLDER = "patches"
POWERS = (2.5, 5, 10, 20, 40, 80)
MPP_TIMES_POWER = 10.0
"""µm per pixel times objective power, about, for all scanners."""

ROWS = 1 << 14
SQUARE = 0.02
"""Share by which the sides of a tile may differ: these formats know squares alone."""


def to_clam(result: FinishedResult, out: Path, request: ExportRequest) -> ExportReport:
    """Write `patches/<name>.h5`: the tiles of a heatmap that lie wholly on the slide.

    `coords` is int64 (n, 2), x and y in level-0 pixels, with the attributes of CLAM and of TRIDENT;
    `probabilities` is float32 (n, class), its attribute `classes` their names. Patches are read at
    level 0.

    Raises
    ------
    RunError
        If h5py is not installed, or the file is there and not to be overwritten.
    UsageError
        If tiles are not square in level-0 pixels.
    DiskFullError
        If there is no room left.
    """
    h5py = hdf5()
    image = result.image
    tiles = HeatmapTiles(result.heatmap(request.heatmap), image.shape, request.tile_um)
    high, wide = tiles.tile_pixels
    if abs(high - wide) > SQUARE * wide:
        raise UsageError(
            f"{result.folder}: tiles of {wide:g} x {high:g} level-0 pixels: needed squares; "
            "choose another --tile, or export wsinfer"
        )
    side, left_out = round(wide), 0
    path = out / FOLDER / f"{result.name}.h5"
    with (
        whole_file(path, overwrite=request.overwrite) as part,
        h5py.File(part, "w", track_order=True) as file,
    ):
        coords = _column(file, "coords", 2, "int64")
        probabilities = _column(file, "probabilities", len(tiles.channels), "float32")
        for some in tiles:
            corners = np.floor(some.boxes[:, :2] + 0.5).astype(np.int64)
            whole = ((corners + side) <= image.shape[::-1]).all(axis=1)
            left_out += int(np.count_nonzero(~whole))
            _append(coords, corners[whole])
            _append(probabilities, some.probabilities[whole])
        coords.attrs.update(_attributes(result, side))
        probabilities.attrs["classes"] = list(tiles.channels)
        count = len(coords)
    notes = {"tiles across the slide's edge left out": left_out} if left_out else {}
    return ExportReport((path,), count, notes)


def hdf5() -> Any:  # noqa: ANN401
    """Return h5py.

    Raises
    ------
    RunError
        If it is not installed.
    """
    try:
        import h5py
    except ImportError as error:
        raise RunError(
            'h5py is not installed; install it with: pip install "wsiseg[hdf5]"'
        ) from error
    return h5py


def _column(file: Any, name: str, width: int, dtype: str) -> Any:  # noqa: ANN401
    return file.create_dataset(
        name,
        shape=(0, width),
        maxshape=(None, width),
        dtype=dtype,
        chunks=(ROWS, width),
        compression="gzip",
        track_times=False,
    )


def _append(column: Any, rows: Any) -> None:  # noqa: ANN401
    column.resize(len(column) + len(rows), axis=0)
    column[len(column) - len(rows) :] = rows


def _attributes(result: FinishedResult, side: int) -> dict[str, Any]:
    """Return the attributes of `coords`: first CLAM's, then what TRIDENT adds."""
    image = result.image
    height, width = image.shape
    power = min(POWERS, key=lambda power: abs(power - MPP_TIMES_POWER / image.spacing.um[1]))
    stem = Path(image.name).stem
    return {
        "patch_size": side,
        "patch_level": 0,
        "downsample": np.array([1.0, 1.0]),
        "downsampled_level_dim": np.array([width, height]),
        "level_dim": np.array([width, height]),
        "name": stem,
        "save_path": FOLDER,
        "patch_size_level0": side,
        "level0_magnification": power,
        "target_magnification": power,
        "overlap": 0,
        "savetodir": FOLDER,
        "level0_width": width,
        "level0_height": height,
    }

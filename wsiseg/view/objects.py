"""The objects of a result in arrays on disk, by place: what a tile draws, what lies under a click.

GeoJSON is read once, into files that are mapped into memory: a million objects of 30 vertices take
300 MB there and next to none of the process. Objects are sorted along a curve that fills the slide,
so that neighbours lie side by side, and every `BLOCK` of them has a box: a tile looks at the boxes
first, and at the objects in the few that it touches.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from wsiseg.annotations import Annotations, Polygons, to_frame
from wsiseg.annotations.rectilinear import in_columns
from wsiseg.errors import RunError
from wsiseg.exchange.finished import FinishedResult

__all__ = ["STEPS", "ObjectIndex", "build", "build_beside"]

STEPS = 100
"""Parts of a pixel that vertices are kept in: those of GeoJSON."""

BLOCK = 256
CURVE_BITS = 12
"""Cells per axis, as a power of two, by which objects are sorted."""

COLUMNS = ("points", "rings", "parts", "objects", "class_index", "bounds", "measurements", "ids")
ABOUT = "about.json"

Rows = NDArray[np.int64]


@dataclass(frozen=True)
class ObjectIndex:
    """What `build` wrote, opened."""

    outlines: Polygons
    """Vertices int32, in `STEPS` parts of a level-0 pixel."""

    class_index: NDArray[np.int16]
    """(n,) into `classes`; -1 for none."""

    bounds: NDArray[np.float32]
    """(n, 4) x0, y0, x1, y1 in level-0 pixels."""

    measurements: NDArray[np.float32]
    """(n, m); NaN where an object has no such measurement."""

    ids: NDArray[np.bytes_]
    names: tuple[str, ...]
    """(m,) of the measurements."""

    classes: tuple[tuple[str, tuple[int, int, int]], ...]
    blocks: NDArray[np.float32]
    """(n / BLOCK, 4) the box around each block of objects."""

    @classmethod
    def open(cls, folder: Path) -> "ObjectIndex":
        """Open what `build` wrote into a folder.

        Raises
        ------
        OSError, ValueError
            If the files are not there, or do not belong together; nothing in them is run.
        """
        about = json.loads((folder / ABOUT).read_bytes())
        found = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in COLUMNS}
        _check(found, len(about["measurements"]))
        bounds = np.asarray(found["bounds"])
        outlines = Polygons(*(found[name] for name in COLUMNS[:4]))
        rest = (found["class_index"], bounds, found["measurements"], found["ids"])
        classes = tuple((name, tuple(color)) for name, color in about["classes"])
        return cls(outlines, *rest, tuple(about["measurements"]), classes, _blocks(bounds))

    def __len__(self) -> int:
        return len(self.bounds)

    def inside(self, box: Sequence[float]) -> Rows:
        """Return the rows of the objects whose boxes touch x0, y0, x1, y1 (level-0 pixels)."""
        touched = np.flatnonzero(_touch(self.blocks, box))
        rows: Rows = (touched[:, None] * BLOCK + np.arange(BLOCK)).reshape(-1)
        rows = rows[rows < len(self)]
        return rows[_touch(self.bounds[rows], box)]

    def at(self, x: float, y: float) -> int | None:
        """Return the row of the smallest object over a level-0 place, or `None`."""
        rows = self.inside((x, y, x, y))
        rows = rows[np.argsort(_sizes(self.bounds[rows]), kind="stable")]
        for row in rows.tolist():
            if shapely.contains_xy(self.polygon(row), x, y):
                return int(row)
        return None

    def polygon(self, row: int) -> shapely.Geometry:
        """Return the outline of an object in level-0 pixels."""
        taken = self.outlines.take(np.array([row]))
        return taken.with_points(np.asarray(taken.points, np.float64) / STEPS).to_shapely()[0]

    def class_name(self, row: int) -> str | None:
        """Return the name of an object's class."""
        index = int(self.class_index[row])
        return None if index < 0 else self.classes[index][0]

    def ordered(
        self, measurement: str | None, *, descending: bool, limit: int, class_name: str | None
    ) -> Rows:
        """Return the rows of the first objects by a measurement, or by the size of their boxes."""
        values: NDArray[np.float32] = _sizes(self.bounds)
        if measurement is not None:
            values = self.measurements[:, self.names.index(measurement)]
        usable: NDArray[np.bool_] = ~np.isnan(values)
        if class_name is not None:
            wanted = [name for name, _ in self.classes].index(class_name)
            usable &= self.class_index == wanted
        rows = np.flatnonzero(usable)
        keys = -values[rows] if descending else values[rows]
        if len(rows) > limit:
            rows = rows[np.argpartition(keys, limit)[:limit]]
            keys = -values[rows] if descending else values[rows]
        return rows[np.argsort(keys, kind="stable")]


def build_beside(result: FinishedResult, stem: str, folder: Path) -> None:
    """Write the index in a process of its own, so that reading does not hold up the tiles.

    Raises
    ------
    RunError
        If it fails; it says why.
    """
    command = [sys.executable, "-P", "-m", "wsiseg.view.objects"]
    slide = [] if result.slide_path is None else [str(result.slide_path)]
    done = subprocess.run(
        [*command, str(result.folder.resolve()), stem, str(folder), *slide],
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        check=False,
    )
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise RunError(f"{result.folder}: {stem}.geojson cannot be shown: {said[-1]}")


def build(groups: Iterable[Annotations], folder: Path) -> None:
    """Write objects, group by group, into the files of an index.

    Parameters
    ----------
    groups
        Polygons of one image; points are left out.
    folder
        Made if absent.
    """
    kept = [to_frame(group, "level0") for group in groups if len(group) and not group.are_points]
    folder.mkdir(parents=True, exist_ok=True)
    names = list(dict.fromkeys(name for group in kept for name in group.measurements))
    colors = {known.name: known.color for group in kept for known in group.classes}
    place = {name: i for i, name in enumerate(colors)}
    polygons = [in_columns(group.outlines) for group in kept]
    empty = Polygons(np.empty((0, 2)), *(np.zeros(1, np.int64),) * 3)
    merged = Polygons.concatenate(polygons) if polygons else empty
    low, high = merged.bounds()
    bounds = np.concatenate([low, high], axis=1).astype(np.float32)
    order = _along_curve(bounds)
    merged = merged.take(order)
    measured = [[group.measurements.get(n, np.full(len(group), np.nan)) for n in names]
                for group in kept]  # fmt: skip
    values = [np.stack(columns, axis=1) for columns in measured if columns]
    columns: dict[str, NDArray[Any]] = {
        "points": np.rint(merged.points * STEPS).astype(np.int32),
        "rings": merged.rings,
        "parts": merged.parts,
        "objects": merged.objects,
        "class_index": _joined([_classes(group, place) for group in kept], np.int16)[order],
        "bounds": bounds[order],
        "measurements": _joined(values, np.float32, (0, len(names))).reshape(-1, len(names))[order]
        if names
        else np.empty((len(order), 0), np.float32),
        "ids": _joined([_ids(group) for group in kept], "S36")[order],
    }
    for name, column in columns.items():
        np.save(folder / f"{name}.npy", column)
    about = {"measurements": names, "classes": list(colors.items())}
    (folder / ABOUT).write_text(json.dumps(about), encoding="utf-8")


def _classes(group: Annotations, place: dict[str, int]) -> NDArray[np.int16]:
    table = np.array([*(place[known.name] for known in group.classes), -1], np.int16)
    return table[group.class_index]


def _ids(group: Annotations) -> NDArray[np.bytes_]:
    return np.zeros(len(group), "S36") if group.ids is None else group.ids


def _joined(
    columns: Sequence[NDArray[Any]], dtype: type | str, empty: tuple[int, ...] = (0,)
) -> NDArray[Any]:
    return np.concatenate(columns).astype(dtype) if columns else np.empty(empty, dtype)


def _along_curve(bounds: NDArray[np.float32]) -> Rows:
    """Return the order of boxes along a Z-curve (G. M. Morton, IBM, 1966)."""
    centres = (bounds[:, :2] + bounds[:, 2:]) / 2
    if not len(centres):
        return np.empty(0, np.int64)
    span = max(float(np.ptp(centres, axis=0).max()), 1.0)
    cells = ((centres - centres.min(axis=0)) / span * (2**CURVE_BITS - 1)).astype(np.int64)
    keys = np.zeros(len(cells), np.int64)
    for bit in range(CURVE_BITS):
        keys |= (cells[:, 0] >> bit & 1) << 2 * bit | (cells[:, 1] >> bit & 1) << 2 * bit + 1
    return np.argsort(keys, kind="stable")


def _blocks(bounds: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the box (n / BLOCK, 4) around each block of boxes (n, 4)."""
    if not len(bounds):
        return bounds
    starts = np.arange(0, len(bounds), BLOCK)
    low = np.minimum.reduceat(bounds[:, :2], starts)
    high = np.maximum.reduceat(bounds[:, 2:], starts)
    return np.concatenate([low, high], axis=1)


def _check(found: Mapping[str, NDArray[Any]], measurements: int) -> None:
    """Refuse columns that do not belong together, as after a loss of power."""
    count = len(found["bounds"])
    rows = {"objects": count + 1, "class_index": count, "ids": count}
    fits = all(found[name].shape == (length,) for name, length in rows.items())
    fits &= found["bounds"].shape == (count, 4)
    fits &= found["measurements"].shape == (count, measurements)
    for offsets, of in pairwise(COLUMNS[3::-1]):
        fits &= found[offsets][-1] == len(found[of]) - (of != "points")
    if not fits:
        raise ValueError("columns of an index that do not belong together")


def _touch(boxes: NDArray[np.float32], box: Sequence[float]) -> NDArray[np.bool_]:
    x0, y0, x1, y1 = box
    found: NDArray[np.bool_] = boxes[:, 0] <= x1
    found &= boxes[:, 2] >= x0
    found &= boxes[:, 1] <= y1
    found &= boxes[:, 3] >= y0
    return found


def _sizes(bounds: NDArray[np.float32]) -> NDArray[np.float32]:
    sizes: NDArray[np.float32] = (bounds[:, 2] - bounds[:, 0]) * (bounds[:, 3] - bounds[:, 1])
    return sizes


def _main() -> None:
    """Build an index as the process that `build_beside` starts."""
    if hasattr(os, "nice"):  # not on Windows
        os.nice(10)  # tiles that somebody looks at go first
    folder, stem, target, *slide = sys.argv[1:]
    result = FinishedResult(Path(folder), Path(slide[0]) if slide else None)
    build(result.objects(stem), Path(target))


if __name__ == "__main__":
    _main()

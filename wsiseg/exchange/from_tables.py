"""Tiles of other programs: CSV of WSInfer, HDF5 of CLAM and TRIDENT."""

import csv
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsiseg.annotations import AnnotationClass, Annotations, ImageRef
from wsiseg.annotations.base import UNCLASSIFIED
from wsiseg.annotations.columns import FoundObjects, clean_name, usual_color
from wsiseg.errors import AnnotationError
from wsiseg.exchange.objects import rectangles
from wsiseg.exchange.tiles import BACKGROUND, likeliest
from wsiseg.exchange.to_clam import hdf5

__all__ = ["from_clam", "from_wsinfer"]

PLACE = ("minx", "miny", "width", "height")
PROBABILITY = "prob_"
SCORES = ("probabilities", "attention_scores", "attention")
"""Data sets beside the coordinates that become measurements."""

MAX_TILES = 50_000_000
"""More are no slide's: one of 100,000 pixels a side has 40,000 tiles of 512."""

HDF5_ERRORS = (OSError, RuntimeError, LookupError, ValueError, TypeError, MemoryError, EOFError)
"""What h5py raises where a file is damaged."""


def from_wsinfer(path: Path, image: ImageRef) -> FoundObjects:
    """Read tiles of a CSV with the columns minx, miny, width, height and prob_<class>.

    A tile has its likeliest class, and none where that is called background.

    Raises
    ------
    AnnotationError
        If a column is missing, or a value is no number.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            head = next(csv.reader(file), [])
        missing = [name for name in PLACE if name not in head]
        if missing:
            raise AnnotationError(
                f"{path}: needed the columns {', '.join(PLACE)}, found {', '.join(head)}; is it a "
                "table of WSInfer?"
            )
        scores = [name for name in head if name.startswith(PROBABILITY)]
        wanted = [head.index(name) for name in (*PLACE, *scores)]
        values = np.loadtxt(
            path, delimiter=",", skiprows=1, usecols=wanted, ndmin=2, encoding="utf-8-sig",
            quotechar='"',
        ).reshape(-1, len(wanted))  # fmt: skip
    except (OSError, ValueError, UnicodeDecodeError) as error:
        if isinstance(error, AnnotationError):
            raise
        raise AnnotationError(f"{path}: cannot be read: {error}; make it anew") from error
    x, y, width, height = values[:, :4].T
    boxes = np.stack([x, y, x + width, y + height], axis=1)
    measurements = dict(zip(scores, values[:, 4:].T, strict=True))
    classes, index = _likeliest([name[len(PROBABILITY) :] for name in scores], values[:, 4:])
    return _tiles(boxes, classes, index, measurements, image)


def from_clam(path: Path, image: ImageRef) -> FoundObjects:
    """Read tiles of an HDF5 file with `coords`, as CLAM and TRIDENT write it.

    `probabilities`, as `wsiseg export` writes them, and attention become measurements.

    Raises
    ------
    AnnotationError
        If there are no coordinates (n, 2) with the size of a patch, or the file cannot be read.
    RunError
        If h5py is not installed.
    """
    h5py = hdf5()
    try:
        with h5py.File(path, "r") as file:
            corners = _coordinates(file, path)
            side = _side(path, dict(file["coords"].attrs))
            names, columns = [], [np.empty((len(corners), 0))]
            for name in SCORES:
                if name in file and len(file[name]) == len(corners):
                    values = np.asarray(file[name][:], np.float64).reshape(len(corners), -1)
                    names += _names_of(name, values.shape[1], dict(file[name].attrs))
                    columns.append(values)
    except AnnotationError:
        raise
    except HDF5_ERRORS as error:
        raise AnnotationError(f"{path}: cannot be read as HDF5: {error}; make it anew") from error
    scores = np.concatenate(columns, axis=1)
    boxes = np.concatenate([corners, corners + side], axis=1)
    is_class = [name.startswith(PROBABILITY) for name in names]
    likely = [name[len(PROBABILITY) :] for name in names if name.startswith(PROBABILITY)]
    classes, index = _likeliest(likely, scores[:, np.flatnonzero(is_class)])
    return _tiles(boxes, classes, index, dict(zip(names, scores.T, strict=True)), image)


def _coordinates(file: Any, path: Path) -> NDArray[np.float64]:  # noqa: ANN401 - h5py has no types
    """Return the corners (n, 2) that an open HDF5 file lists."""
    coords = file.get("coords")
    shape: tuple[int, ...] = getattr(coords, "shape", ())
    if len(shape) != 2 or shape[1] != 2:
        raise AnnotationError(f"{path}: needed coords (n, 2), found {sorted(file)}")
    if shape[0] > MAX_TILES:
        raise AnnotationError(f"{path}: claims {shape[0]} tiles: needed at most {MAX_TILES}")
    return np.asarray(coords[:], np.float64)


def _side(path: Path, attributes: dict[str, Any]) -> NDArray[np.float64]:
    """Return the sides (x, y) of a patch in level-0 pixels."""
    for name, factor in (("patch_size_level0", None), ("patch_size", "downsample")):
        if name in attributes:
            ratio = np.asarray(attributes.get(factor, 1.0) if factor else 1.0, np.float64)
            sides: NDArray[np.float64] = float(attributes[name]) * np.broadcast_to(ratio, 2)
            if (sides > 0).all() and np.isfinite(sides).all():
                return sides
    raise AnnotationError(
        f"{path}: coords need the attribute patch_size_level0 or patch_size, found "
        f"{sorted(attributes)}; was it written by CLAM or TRIDENT?"
    )


def _names_of(name: str, count: int, attributes: dict[str, Any]) -> list[str]:
    said = attributes.get("classes")
    if said is not None and len(said) == count:
        texts = (item.decode() if isinstance(item, bytes) else str(item) for item in said)
        return [f"{PROBABILITY}{text}" for text in texts]
    return [name] if count == 1 else [f"{name} {i + 1}" for i in range(count)]


def _likeliest(
    names: list[str], probabilities: NDArray[np.float64]
) -> tuple[tuple[AnnotationClass, ...], NDArray[np.int64]]:
    """Return the classes but for background, and the index (n,) of each tile's."""
    if not names:
        return (), np.full(len(probabilities), UNCLASSIFIED, np.int64)
    kept = [name for name in names if name.lower() != BACKGROUND and clean_name(name)]
    classes = tuple(
        AnnotationClass(clean_name(name) or name, usual_color(name, i))
        for i, name in enumerate(kept)
    )
    index = [kept.index(name) if name in kept else UNCLASSIFIED for name in names]
    best = likeliest(probabilities, has_background=len(kept) < len(names))
    found: NDArray[np.int64] = np.array([*index, UNCLASSIFIED])[best]  # -1 is the last
    return classes, found


def _tiles(
    boxes: NDArray[np.float64],
    classes: tuple[AnnotationClass, ...],
    index: NDArray[np.int64],
    measurements: dict[str, NDArray[np.float64]],
    image: ImageRef,
) -> FoundObjects:
    tiles = Annotations(rectangles(boxes), index, classes, image, measurements, "level0", "tile")
    return FoundObjects((tiles,))

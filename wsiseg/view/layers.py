"""Heatmaps, uncertainty and masks as tiles: the chunks of their own pyramids, coloured.

A tile is a byte per pixel and a table of colours; the bytes are kept compressed, so that another
colour map, threshold or hidden class costs no reading.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import zarr

from wsiseg.geometry import Box, ceil_div
from wsiseg.stitch import HeatmapStore, LabelStore
from wsiseg.stitch.placement import Placement
from wsiseg.stitch.store import read_codes
from wsiseg.view.png import Palette
from wsiseg.view.tiles import TILE

__all__ = ["COLOR_MAPS", "RasterLayer", "class_palette", "color_palette"]

COLOR_MAPS = ("viridis", "cividis", "magma", "inferno", "turbo")
"""Names of colour maps; the first three keep their order of brightness for all eyes."""

Rgb = tuple[int, int, int]
Kind = Literal["heatmap", "uncertainty", "mask"]


@dataclass(frozen=True)
class RasterLayer:
    """A channel of a store, as the page lays it over the slide."""

    kind: Kind
    title: str
    path: Path
    placement: Placement
    levels: int
    """Halvings in the store, and one for the whole."""

    channel: int | None = None
    """`None` for masks, which have none."""

    classes: tuple[tuple[str, Rgb], ...] = ()
    """Of a mask: name and colour of each value; the first one is background."""

    @classmethod
    def of_heatmap(cls, path: Path, kind: Kind) -> "list[RasterLayer]":
        """Return a layer per channel of a heatmap."""
        store = HeatmapStore.open(path)
        levels = _levels(path, store.placement)
        stem = path.stem.removeprefix("uncertainty-").removesuffix("-heatmap")
        named = [name if name == stem else f"{name} ({stem})" for name in store.channels]
        titles = store.channels if stem == "heatmap" else named
        return [
            cls(kind, title, path, store.placement, levels, channel)
            for channel, title in enumerate(titles)
        ]

    @classmethod
    def of_mask(cls, path: Path, classes: Sequence[tuple[str, Rgb]]) -> "RasterLayer":
        """Return the layer of a mask."""
        placement = LabelStore.open(path).placement
        levels = _levels(path, placement)
        return cls("mask", "Classes", path, placement, levels, None, tuple(classes))

    def codes(self, level: int, row: int, column: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """Return the bytes (y, x) of a tile; level 0 is the coarsest.

        Raises
        ------
        IndexError
            If there is no such tile.
        """
        if not 0 <= level < self.levels:
            raise IndexError(level)
        halvings = self.levels - 1 - level
        shape = self.placement.level_shape(halvings)
        if not (0 <= row < ceil_div(shape[0], TILE) and 0 <= column < ceil_div(shape[1], TILE)):
            raise IndexError(row, column)
        box = Box((row * TILE, column * TILE), ((row + 1) * TILE, (column + 1) * TILE))
        read = read_codes(_array(self.path, halvings), box.clip(shape))
        return read if self.channel is None else read[self.channel]

    def code_at(self, x: float, y: float) -> int:
        """Return the finest level's code at a level-0 place; 0 outside."""
        (top, left), (dy, dx) = self.placement.origin, self.placement.downsample
        row, column = int((y - top) // dy), int((x - left) // dx)
        if not (0 <= row < self.placement.shape[0] and 0 <= column < self.placement.shape[1]):
            return 0
        read = read_codes(_array(self.path, 0), Box((row, column), (row + 1, column + 1)))
        return int((read if self.channel is None else read[self.channel])[0, 0])

    def describe(self) -> dict[str, Any]:
        """Return what the page needs to lay it in its place."""
        (top, left), (dy, dx) = self.placement.origin, self.placement.downsample
        height, width = self.placement.shape
        return {
            "kind": self.kind,
            "title": self.title,
            "size": [width, height],
            "levels": self.levels,
            "place": [left, top, left + width * dx, top + height * dy],
            "classes": [{"name": name, "color": list(color)} for name, color in self.classes],
        }


def class_palette(colors: Sequence[Rgb], hidden: frozenset[int] = frozenset()) -> Palette:
    """Return the colours of a mask's values; 0 and hidden ones are clear."""
    palette = np.zeros((256, 4), np.uint8)
    for value, color in enumerate(colors[:256]):
        palette[value] = (*color, 0 if value == 0 or value in hidden else 255)
    return palette


@cache
def color_palette(name: str, least: int = 0) -> Palette:
    """Return the colours of a heatmap's codes; nodata, and what lies below `least` %, is clear."""
    import cv2

    ramp = np.arange(256, dtype=np.uint8)[:, None]
    bgr = cv2.applyColorMap(ramp, getattr(cv2, f"COLORMAP_{name.upper()}"))[:, 0]
    palette = np.zeros((256, 4), np.uint8)
    palette[1:, :3] = bgr[np.rint(np.arange(255) / 254 * 255).astype(int), ::-1]
    palette[1:, 3] = np.where(np.arange(255) / 2.54 >= least, 255, 0)
    return palette


@lru_cache(maxsize=256)
def _array(path: Path, level: int) -> "zarr.Array[Any]":
    return zarr.open_array(path / str(level), mode="r", zarr_format=2)


def _levels(path: Path, placement: Placement) -> int:
    """Return how many levels of the pyramid are there."""
    there = (k for k in range(placement.levels) if (path / str(k)).is_dir())
    return sum(1 for _ in there)

"""Probability heatmaps on disk: OME-Zarr, uint8, one channel per class."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from wsiseg.errors import HeatmapError
from wsiseg.geometry import Box
from wsiseg.stitch.ngff import Color, multiscales, omero
from wsiseg.stitch.placement import Placement
from wsiseg.stitch.pyramid import PyramidWriter
from wsiseg.stitch.reduce import decode
from wsiseg.stitch.slab import Values
from wsiseg.stitch.store import (
    KEY,
    describe,
    open_level_0,
    read_codes,
    read_placement,
    readable,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["HeatmapStore"]


class HeatmapStore:
    """A finished heatmap, read-only. `create` begins one, `open` reads one.

    On disk: OME-Zarr 0.4, uint8 `(channel, y, x)` or `(channel, z, y, x)`; 0 is nodata, 1..255
    the probability (code - 1) / 254; levels are halved by the mean of the covered pixels. Reading
    is safe from many threads.

    Attributes
    ----------
    channels
        Name of each channel.
    placement
        Where it lies; `shape`, `spacing` (µm per pixel) and `downsample` (level-0 pixels per
        pixel) are its parts.
    codes
        Level 0 as it is stored, a Zarr array, uint8 `(channel, *shape)`.
    attributes
        What was given to `create`.

    Raises
    ------
    UnfinishedHeatmapError
        If the heatmap was begun and never finished.
    HeatmapError
        If there is no heatmap at `path`.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        with readable(self.path):
            self.codes, entry = open_level_0(self.path, "heatmap")
            self.channels: tuple[str, ...] = tuple(entry["names"])
            self.placement = read_placement(self.codes.shape[1:], entry)
            self.shape = self.placement.shape
            self.spacing = self.placement.spacing
            self.downsample = self.placement.downsample
            self.attributes: Mapping[str, Any] = entry["attributes"]

    @classmethod
    def open(cls, path: Path | str) -> "HeatmapStore":
        """Open a finished heatmap."""
        return cls(path)

    @staticmethod
    def create(
        path: Path | str,
        placement: Placement,
        *,
        channels: Sequence[str],
        colors: Mapping[str, Color] | None = None,
        attributes: Mapping[str, Any] | None = None,
        overwrite: bool = False,
        turned: bool = False,
    ) -> "PyramidWriter[HeatmapStore]":
        """Begin a heatmap.

        Parameters
        ----------
        path
            Folder to make; it appears there when finished.
        placement
            Shape, spacing, and where the heatmap lies on the slide.
        channels
            One unique name per channel, usually the class names.
        colors
            RGB by channel name; white where not given.
        attributes
            Anything JSON can hold, kept with the heatmap.
        overwrite
            Replace a heatmap that is there, once the new one is finished.
        turned
            What is written comes with its axes swapped; see `PyramidWriter`.

        Raises
        ------
        HeatmapExistsError
            If there is something at `path`, and `overwrite` is not set.
        DiskFullError
            If there is no room left.
        """
        path = Path(path)
        if not channels or len(set(channels)) != len(channels):
            raise HeatmapError(f"{path}: needed unique channel names, found {list(channels)}")
        return PyramidWriter(
            path,
            placement,
            channels=len(channels),
            method="mean",
            attributes={
                "multiscales": multiscales(path.name, placement, channels=True, method="mean"),
                "omero": omero(channels, colors or {}),
                KEY: describe("heatmap", placement, channels, attributes or {}),
            },
            opened=HeatmapStore,
            overwrite=overwrite,
            turned=turned,
        )

    def read(self, box: Box) -> Values:
        """Return probabilities, float32 `(*box.shape, channel)`; 0 for nodata and outside."""
        return decode(np.moveaxis(read_codes(self.codes, box), 0, -1))

    def covered(self, box: Box) -> NDArray[np.bool_]:
        """Return bool `box.shape`: pixels with data; false outside."""
        covered: NDArray[np.bool_] = read_codes(self.codes, box).astype(np.bool_).max(axis=0)
        return covered

    def plot(self, channel: str | int | None = None, *, size: int = 1024) -> "Figure":
        """Return a matplotlib figure of one channel (default: the last), with a scale bar."""
        from wsiseg.stitch.picture import plot_heatmap

        return plot_heatmap(self, channel, size=size)

    def __repr__(self) -> str:
        size = " x ".join(map(str, self.shape))
        return f"<HeatmapStore {self.path.name}: {size}, {', '.join(self.channels)}>"

    def _repr_html_(self) -> str:
        from wsiseg.stitch.picture import heatmap_html

        return heatmap_html(self)

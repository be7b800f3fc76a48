"""Label images (masks) on disk: OME-Zarr, uint8, value k is class k."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wsiseg.errors import HeatmapError
from wsiseg.geometry import Box
from wsiseg.stitch.ngff import LabelClass, image_label, multiscales
from wsiseg.stitch.placement import Placement
from wsiseg.stitch.pyramid import LABELS, PyramidWriter
from wsiseg.stitch.slab import MAX_CLASSES, Codes
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

__all__ = ["LabelClass", "LabelStore"]


class LabelStore:
    """A finished label image, read-only. `create` begins one, `open` reads one.

    On disk: OME-Zarr 0.4 with an `image-label` entry, uint8 `(y, x)` or `(z, y, x)`; 0 is
    background or nodata, k is class k; levels are halved by the most frequent value. At
    `<image>.zarr/labels/<name>` it is listed as a label image of that image.

    Attributes
    ----------
    names
        Name of each value.
    placement
        Where it lies; `shape`, `spacing` (µm per pixel) and `downsample` (level-0 pixels per
        pixel) are its parts.
    labels
        Level 0 as it is stored, a Zarr array, uint8 of `shape`.
    attributes
        What was given to `create`.

    Raises
    ------
    UnfinishedHeatmapError
        If it was begun and never finished.
    HeatmapError
        If there is no label image at `path`.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        with readable(self.path):
            self.labels, entry = open_level_0(self.path, "labels")
            self.names: tuple[str, ...] = tuple(entry["names"])
            self.placement = read_placement(self.labels.shape, entry)
            self.shape = self.placement.shape
            self.spacing = self.placement.spacing
            self.downsample = self.placement.downsample
            self.attributes: Mapping[str, Any] = entry["attributes"]

    @classmethod
    def open(cls, path: Path | str) -> "LabelStore":
        """Open a finished label image."""
        return cls(path)

    @staticmethod
    def create(
        path: Path | str,
        placement: Placement,
        *,
        classes: Sequence[LabelClass],
        attributes: Mapping[str, Any] | None = None,
        overwrite: bool = False,
        turned: bool = False,
    ) -> "PyramidWriter[LabelStore]":
        """Begin a label image.

        Parameters
        ----------
        path
            Folder to make; it appears there when finished.
        placement
            Shape, spacing, and where the labels lie on the slide.
        classes
            Name and colour of the values 0, 1, ...; the first is the background.
        attributes
            Anything JSON can hold, kept with the labels.
        overwrite
            Replace what is there, once the new one is finished.
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
        if not 1 <= len(classes) <= MAX_CLASSES:
            raise HeatmapError(f"{path}: needed 1 to {MAX_CLASSES} classes, found {len(classes)}")
        names = [known.name for known in classes]
        return PyramidWriter(
            path,
            placement,
            channels=None,
            method="mode",
            attributes={
                "multiscales": multiscales(path.name, placement, channels=False, method="mode"),
                "image-label": image_label(classes, of_image=path.parent.name == LABELS),
                KEY: describe("labels", placement, names, attributes or {}),
            },
            opened=LabelStore,
            overwrite=overwrite,
            turned=turned,
        )

    def read(self, box: Box) -> Codes:
        """Return labels, uint8 `box.shape`; 0 outside."""
        return read_codes(self.labels, box)

    def plot(self, *, size: int = 1024) -> "Figure":
        """Return a matplotlib figure of the classes, with legend and scale bar."""
        from wsiseg.stitch.picture import plot_labels

        return plot_labels(self, size=size)

    def __repr__(self) -> str:
        size = " x ".join(map(str, self.shape))
        return f"<LabelStore {self.path.name}: {size}, {', '.join(self.names)}>"

    def _repr_html_(self) -> str:
        from wsiseg.stitch.picture import labels_html

        return labels_html(self)

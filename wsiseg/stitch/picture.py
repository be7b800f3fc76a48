"""Heatmaps and label images as pictures, from the coarsest of their levels that is large enough."""

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from wsiseg.draw.colormap import color_labels, color_values
from wsiseg.draw.notebook import data_image, panel, swatch, text_table
from wsiseg.errors import HeatmapError
from wsiseg.stitch.reduce import decode
from wsiseg.stitch.store import readable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from wsiseg.stitch.heatmap import HeatmapStore
    from wsiseg.stitch.labels import LabelStore

__all__ = ["heatmap_html", "label_colors", "labels_html", "plot_heatmap", "plot_labels"]

THUMBNAIL = 320
"""Longest side in a notebook's table, pixels."""

Picture = NDArray[np.uint8]


def heatmap_html(store: "HeatmapStore") -> str:
    """Return what a notebook shows of a heatmap: a picture per channel, and where it lies."""
    pictures = "".join(
        data_image(_heatmap_picture(store, k, THUMBNAIL)[0], name)
        for k, name in enumerate(store.channels[:4])
    )
    rows = [("channels", ", ".join(store.channels)), *_place(store)]
    return panel(store.path.name, "probabilities", text_table(rows, words=True), picture=pictures)


def labels_html(store: "LabelStore") -> str:
    """Return what a notebook shows of a label image: a picture, its classes, where it lies."""
    colors = label_colors(store)
    pixels, _ = _labels_picture(store, THUMBNAIL)
    classes = [
        (value, swatch(color, name)) for value, (name, color) in enumerate(_named(store, colors))
    ]
    return panel(
        store.path.name,
        "classes",
        text_table(classes, words=True),
        text_table(_place(store), words=True),
        picture=data_image(pixels, store.path.name),
    )


def plot_heatmap(
    store: "HeatmapStore", channel: str | int | None = None, *, size: int = 1024
) -> "Figure":
    """Return a figure of one channel with a scale bar and the key of its colours.

    Parameters
    ----------
    store
        A heatmap; of a volume the plane in the middle is shown.
    channel
        Name or index; default: the last.
    size
        Pixels of the longer side, about.

    Raises
    ------
    HeatmapError
        If there is no such channel.
    """
    from matplotlib.cm import ScalarMappable

    from wsiseg.draw import plot_image

    index = _channel(store, channel)
    pixels, um = _heatmap_picture(store, index, size)
    figure = plot_image(_on_paper(pixels), um, title=f"{store.path.stem}: {store.channels[index]}")
    (axes,) = figure.axes
    figure.colorbar(ScalarMappable(cmap="viridis"), ax=axes, shrink=0.8, label="probability")
    return figure


def plot_labels(store: "LabelStore", *, size: int = 1024) -> "Figure":
    """Return a figure of the classes with a scale bar and a legend."""
    from matplotlib.patches import Patch

    from wsiseg.draw import plot_image

    pixels, um = _labels_picture(store, size)
    figure = plot_image(_on_paper(pixels), um, title=store.path.stem)
    named = list(_named(store, label_colors(store)))[1:]
    patches = [Patch(color=(r / 255, g / 255, b / 255), label=name) for name, (r, g, b) in named]
    figure.axes[0].legend(handles=patches, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return figure


def label_colors(store: "LabelStore") -> list[tuple[int, int, int]]:
    """Return the colour of each value, from the store's `image-label` entry."""
    import zarr

    with readable(store.path):
        entry: Any = zarr.open_group(store.path, mode="r").attrs.asdict().get("image-label", {})
    known = {item["label-value"]: tuple(item["rgba"][:3]) for item in entry.get("colors", ())}
    return [known.get(value, (128, 128, 128)) for value in range(len(store.names))]


def _heatmap_picture(store: "HeatmapStore", channel: int, size: int) -> tuple[Picture, float]:
    codes, um = _level(store, size)
    codes = codes[channel]
    return color_values(decode(codes), codes > 0), um


def _labels_picture(store: "LabelStore", size: int) -> tuple[Picture, float]:
    labels, um = _level(store, size)
    return color_labels(labels, label_colors(store)), um


def _level(store: "HeatmapStore | LabelStore", size: int) -> tuple[Picture, float]:
    """Return the values `(..., y, x)` of a coarse level, and µm per pixel along x."""
    import zarr

    with readable(store.path):
        group: Any = zarr.open_group(store.path, mode="r")
        datasets = group.attrs.asdict()["multiscales"][0]["datasets"]
        levels = [group[entry["path"]] for entry in datasets]
        large = [level for level in levels if max(level.shape[-2:]) >= size]
        array = (large or levels[:1])[-1]
        planes = len(store.shape) == 3
        middle = array.shape[-3] // 2 if planes else 0
        step = max(1, math.ceil(max(array.shape[-2:]) / (2 * size)))
        every = (slice(None, None, step),) * 2
        values = np.asarray(array[(..., middle, *every) if planes else (..., *every)])
    um = store.spacing.um[-1] * store.shape[-1] / values.shape[-1]
    return values, um


def _channel(store: "HeatmapStore", channel: str | int | None) -> int:
    if channel is None:
        return len(store.channels) - 1
    if isinstance(channel, str) and channel in store.channels:
        return store.channels.index(channel)
    if isinstance(channel, int) and -len(store.channels) <= channel < len(store.channels):
        return channel % len(store.channels)
    raise HeatmapError(
        f"{store.path}: no channel {channel!r}: there are {', '.join(store.channels)}"
    )


def _on_paper(pixels: Picture) -> Picture:
    """Return RGB on white where a picture is transparent."""
    return np.where(pixels[..., 3:] > 0, pixels[..., :3], np.uint8(255))


def _named(
    store: "LabelStore", colors: list[tuple[int, int, int]]
) -> "zip[tuple[str, tuple[int, int, int]]]":
    return zip(store.names, colors, strict=True)


def _place(store: "HeatmapStore | LabelStore") -> list[tuple[str, str]]:
    return [
        ("shape", " x ".join(f"{n:,}" for n in store.shape)),
        ("µm per pixel", " x ".join(f"{um:.4g}" for um in store.spacing.um)),
        ("file", str(store.path)),
    ]

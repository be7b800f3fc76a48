"""A result as layers of napari: slide, heatmaps and mask, all of them lazy."""

from pathlib import Path
from typing import Any

from wsiseg.errors import RunError
from wsiseg.exchange.finished import FinishedResult
from wsiseg.stitch import HeatmapStore, LabelStore

__all__ = ["LayerData", "napari_layers"]

LayerData = tuple[Any, dict[str, Any], str]
"""What napari makes a layer of: data, keyword arguments, kind."""


def napari_layers(result: FinishedResult | Path | str, *, slide: bool = True) -> list[LayerData]:
    """Return the layers of a finished result, in world coordinates of µm.

    Parameters
    ----------
    result
        A result folder of `wsiseg segment`.
    slide
        Show the slide, too; it has to be where it was.

    Returns
    -------
    list of (data, dict, str)
        For `napari.layers.Layer.create(*layer)` or `viewer._add_layer_from_data`; data are Dask
        arrays, a list of them from fine to coarse, so that nothing is read before it is seen.

    Raises
    ------
    RunError
        If a part of the result is missing, or the slide is.
    """
    if not isinstance(result, FinishedResult):
        result = FinishedResult(Path(result))
    layers = [_slide(result)] if slide else []
    heatmap = result.heatmap()
    layers += [_channel(heatmap, k) for k in range(len(heatmap.channels))]
    return [*layers, _mask(result)]


def _slide(result: FinishedResult) -> LayerData:
    pyramid = result.slide()
    um = pyramid.spacing.um
    place = {"scale": list(um), "translate": [u / 2 for u in um]}
    data = [level.to_dask() for level in pyramid.levels]
    return data, {"name": pyramid.name, "rgb": True, **place}, "image"


def _channel(store: HeatmapStore, channel: int) -> LayerData:
    data = [array[channel] for array in _levels(store)]
    look = {"colormap": "viridis", "opacity": 0.5, "blending": "translucent"}
    name = f"{store.path.stem}: {store.channels[channel]}"
    return data, {"name": name, "contrast_limits": [0, 255], **look, **_place(store)}, "image"


def _mask(result: FinishedResult) -> LayerData:
    store = result.mask
    colors: dict[int | None, Any] = {None: "transparent", 0: "transparent"}
    for value, known in enumerate(result.mask_classes()):
        if value:
            colors[value] = [*(c / 255 for c in known.color), 1.0]
    features = {"class": list(store.names)}
    look = {"name": "mask", "colormap": colors, "opacity": 0.6, "features": features}
    return _levels(store), {**look, **_place(store)}, "labels"


def _levels(store: HeatmapStore | LabelStore) -> list[Any]:
    import dask.array

    paths = sorted(p for p in store.path.iterdir() if p.name.isdigit())
    if not paths:
        raise RunError(f"{store.path}: has no levels; run the slide again")
    load: Any = dask.array.from_zarr
    return [load(str(path)) for path in sorted(paths, key=lambda p: int(p.name))]


def _place(store: HeatmapStore | LabelStore) -> dict[str, list[float]]:
    """Return where pixel centres lie: napari puts the centre of pixel 0 at `translate`."""
    um = store.spacing.um
    corner = zip(store.placement.origin, store.downsample, um, strict=True)
    return {"scale": list(um), "translate": [(o / d + 0.5) * u for o, d, u in corner]}

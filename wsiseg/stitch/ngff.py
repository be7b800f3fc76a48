"""OME-NGFF metadata, version 0.4 on Zarr v2: plain dictionaries, no files.

0.4 rather than 0.5 because QuPath reads OME-Zarr through Bio-Formats' OMEZarrReader, which stands
on JZarr and knows only Zarr v2, while napari, ome-zarr-py and Fiji read both versions.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from wsiseg.errors import HeatmapError
from wsiseg.stitch.placement import Placement

__all__ = ["NGFF_VERSION", "Color", "LabelClass", "image_label", "multiscales", "omero"]

NGFF_VERSION = "0.4"

Color = tuple[int, int, int]

DEFAULT_COLOR: Color = (255, 255, 255)

SPACE_AXES = ("z", "y", "x")


@dataclass(frozen=True, slots=True)
class LabelClass:
    """A class of a label image: the value is its place in the sequence of classes."""

    name: str
    color: Color = DEFAULT_COLOR


def multiscales(
    name: str, placement: Placement, *, channels: bool, method: str
) -> list[dict[str, Any]]:
    """Return the `multiscales` entry: axes, and per level its scale and translation in µm.

    The translations make the levels lie on one another, and on the slide: NGFF coordinates are
    those of pixel centres.

    Raises
    ------
    HeatmapError
        If the array has other than two or three axes.
    """
    count = len(placement.shape)
    if not 2 <= count <= len(SPACE_AXES):
        raise HeatmapError(f"OME-Zarr needs two or three axes in space, found {placement.shape}")
    space = [{"name": a, "type": "space", "unit": "micrometer"} for a in SPACE_AXES[-count:]]
    lead = [{"name": "c", "type": "channel"}] if channels else []
    datasets = [
        {
            "path": str(level),
            "coordinateTransformations": [
                {"type": "scale", "scale": [*(1.0 for _ in lead), *placement.scale_um(level)]},
                {
                    "type": "translation",
                    "translation": [*(0.0 for _ in lead), *placement.translation_um(level)],
                },
            ],
        }
        for level in range(placement.levels)
    ]
    entry = {"version": NGFF_VERSION, "name": name, "type": method}
    return [{**entry, "axes": [*lead, *space], "datasets": datasets}]


def omero(channels: Sequence[str], colors: Mapping[str, Color]) -> dict[str, Any]:
    """Return how viewers show uint8 channels: names, colours, full range 0-255."""
    shown = [
        {
            "label": name,
            "color": "".join(f"{value:02X}" for value in colors.get(name, DEFAULT_COLOR)),
            "window": {"min": 0, "max": 255, "start": 0, "end": 255},
            "active": True,
            "family": "linear",
            "coefficient": 1,
            "inverted": False,
        }
        for name in channels
    ]
    return {"version": NGFF_VERSION, "channels": shown, "rdefs": {"model": "color"}}


def image_label(classes: Sequence[LabelClass], *, of_image: bool) -> dict[str, Any]:
    """Return names and colours of label values; background (value 0) is transparent."""
    entry: dict[str, Any] = {
        "version": NGFF_VERSION,
        "colors": [
            {"label-value": value, "rgba": [*known.color, 255 if value else 0]}
            for value, known in enumerate(classes)
        ],
        "properties": [
            {"label-value": value, "class": known.name} for value, known in enumerate(classes)
        ],
    }
    if of_image:
        entry["source"] = {"image": "../../"}
    return entry

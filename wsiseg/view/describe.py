"""What the page is told of the results: the list of slides, and one of them."""

from collections.abc import Mapping, Sequence
from typing import Any

from wsiseg.errors import WsisegError
from wsiseg.view.outlines import outline_grid
from wsiseg.view.results import ANNOTATIONS, TISSUE, Shown
from wsiseg.view.tiles import TILE
from wsiseg.view.volumes import describe_volume

__all__ = ["describe_shown", "list_shown"]


def list_shown(results: Sequence[Shown]) -> dict[str, Any]:
    """Return a line per result, and the columns that they can be sorted by."""
    lines = [_line(number, shown) for number, shown in enumerate(results)]
    columns = dict.fromkeys(key for line in lines for key in line["summary"])
    return {"results": lines, "columns": list(columns)}


def describe_shown(shown: Shown, corrections: str) -> dict[str, Any]:
    """Return what the page needs to show one result.

    Parameters
    ----------
    shown
        The result.
    corrections
        Where corrections of it are saved, for people to read.
    """
    about: dict[str, Any] = {
        "name": shown.name,
        "group": shown.group,
        "kind": "volume" if shown.is_volume else "slide",
        "stamp": shown.stamp,
        "folder": str(shown.result.folder),
        "summary": dict(shown.summary),
        "about": _about(shown.result.record),
    }
    if shown.is_volume:
        return about | {"volume": describe_volume(shown)}
    image = shown.image
    height, width = image.shape
    um_y, um_x = image.spacing.um
    colors = shown.colors
    return about | {
        "size": [width, height],
        "mpp": [um_x, um_y],
        "tile": TILE,
        "slide": _slide(shown),
        "layers": [layer.describe() for layer in shown.layers],
        "objects": shown.has_objects(ANNOTATIONS),
        "tissue": shown.has_objects(TISSUE),
        "outlines": _outlines(image.shape),
        "classes": [{"name": name, "color": list(color)} for name, color in colors.items()],
        "corrections": corrections,
    }


def _slide(shown: Shown) -> dict[str, Any]:
    """Return the slide's levels, or why it is not shown: its result is, all the same."""
    try:
        levels = shown.tiles.levels
    except WsisegError as error:
        return {"levels": [], "missing": str(error)}
    return {"levels": [[*reversed(level.shape), level.downsample] for level in levels]}


def _outlines(shape: Sequence[int]) -> dict[str, Any]:
    (height, width), levels = outline_grid(shape)
    return {"size": [width, height], "levels": levels}


def _line(number: int, shown: Shown) -> dict[str, Any]:
    try:
        summary, trouble = dict(shown.summary), None
    except WsisegError as error:
        summary, trouble = {}, str(error)
    return {
        "number": number,
        "name": shown.name,
        "group": shown.group,
        "kind": "volume" if shown.is_volume else "slide",
        "stamp": shown.stamp,
        "summary": {key: value for key, value in summary.items() if _is_shown(value)},
        "trouble": trouble,
    }


def _is_shown(value: object) -> bool:
    return isinstance(value, str | int | float)


def _about(record: Mapping[str, Any]) -> dict[str, str]:
    """Return where a result comes from, in few words."""
    model = record.get("model")
    model = model if isinstance(model, Mapping) else {}
    told = {
        "Model": " ".join(str(model[key]) for key in ("name", "version") if model.get(key)),
        "Ended": str(record.get("ended") or ""),
        "wsiseg": str(record.get("wsiseg") or ""),
    }
    return {name: text for name, text in told.items() if text}

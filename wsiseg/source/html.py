"""What a notebook shows of an open slide: a thumbnail, and a table of its levels."""

from html import escape
from typing import TYPE_CHECKING

from wsiseg.draw.notebook import data_image, panel, text_table
from wsiseg.errors import SourceError
from wsiseg.geometry import Box

if TYPE_CHECKING:
    from wsiseg.source.pyramid import Level, Pyramid

__all__ = ["level_html", "repr_html"]

THUMBNAIL_SIDE = 256
HEADS = ("level", "width x height", "downsample", "µm/px", "block")


def repr_html(pyramid: "Pyramid") -> str:
    """Return HTML that shows a slide, complete in itself, about 20 kB.

    Parameters
    ----------
    pyramid
        An open slide. Its label and macro images, which may show a patient's name, are never
        read. Where its pixels cannot be read the table is shown with the reason.
    """
    levels = text_table([_row(level) for level in pyramid.levels], heads=HEADS, caption="Levels")
    try:
        pixels = pyramid.thumbnail(THUMBNAIL_SIDE)
    except SourceError as error:
        picture = f"<em>no thumbnail: {escape(str(error))}</em>"
    else:
        picture = data_image(pixels, f"Thumbnail of {pyramid.name}")
    return panel(pyramid.name, _summary(pyramid), levels, picture=picture)


def level_html(level: "Level") -> str:
    """Return HTML that shows a level: its figures, and the pixels at its middle."""
    table = text_table([_row(level)], heads=HEADS)
    corner = tuple(max(0, (n - THUMBNAIL_SIDE) // 2) for n in level.shape)
    middle = Box(corner, tuple(c + THUMBNAIL_SIDE for c in corner)).clip(level.shape)
    try:
        picture = data_image(level.read(middle), "Pixels at the middle")
    except SourceError as error:
        return panel(f"Level {level.index}", str(error), table)
    return panel(f"Level {level.index}", "its middle, pixel by pixel", table, picture=picture)


def _summary(pyramid: "Pyramid") -> str:
    metadata = pyramid.metadata
    height, width = pyramid.shape
    if metadata.spacing is None:
        size = "pixel size missing: pass mpp"
    else:
        mpp_y, mpp_x = metadata.spacing.um
        square = f"{mpp_x:.4g} µm/px"
        size = square if mpp_x == mpp_y else f"{mpp_x:.4g} (x), {mpp_y:.4g} (y) µm/px"
        size += f", {width * mpp_x / 1000:.3g} x {height * mpp_y / 1000:.3g} mm"
    return f"{width} x {height} px, {size}; {metadata.vendor}, read by {metadata.reader}"


def _row(level: "Level") -> tuple[object, ...]:
    spacing = level.info.spacing
    return (
        level.index,
        _pair(level.shape, " x ", ","),
        _pair(level.downsample, " x ", ".4g"),
        _pair(spacing.um, " x ", ".4g") if spacing else "?",
        _pair(level.chunk, " x ", "d"),
    )


def _pair(values: tuple[float, ...], separator: str, form: str) -> str:
    """Return (y, x) as text, width first; a single number where both are shown the same."""
    y, x = (format(value, form) for value in values)
    return x if x == y and form == ".4g" else f"{x}{separator}{y}"

"""What a notebook shows of an open slide: a thumbnail, and a table of its levels."""

import base64
import io
from html import escape
from typing import TYPE_CHECKING

from PIL import Image

from wsiseg.errors import SourceError

if TYPE_CHECKING:
    from wsiseg.source.pyramid import Level, Pyramid

__all__ = ["repr_html"]

THUMBNAIL_SIDE = 256

STYLE = """
.wsiseg-slide{display:flex;flex-wrap:wrap;gap:1em;align-items:flex-start;color:inherit}
.wsiseg-slide img{border:1px solid rgba(128,128,128,.5)}
.wsiseg-slide table{border-collapse:collapse;margin:.5em 0 0}
.wsiseg-slide caption{text-align:left}
.wsiseg-slide th,.wsiseg-slide td{padding:.1em .6em;text-align:right;background:none;
border-bottom:1px solid rgba(128,128,128,.35)}
"""
"""Colours come from the page (half-transparent greys), so light and dark themes both work."""


def repr_html(pyramid: "Pyramid") -> str:
    """Return HTML that shows a slide, complete in itself, about 20 kB.

    Parameters
    ----------
    pyramid
        An open slide. Its label and macro images, which may show a patient's name, are never
        read. Where its pixels cannot be read the table is shown with the reason.
    """
    return (
        f'<div class="wsiseg-slide"><style>{STYLE}</style>{_thumbnail(pyramid)}'
        f"<div><strong>{escape(pyramid.name)}</strong><br>{_summary(pyramid)}"
        f"{_table(pyramid)}</div></div>"
    )


def _thumbnail(pyramid: "Pyramid") -> str:
    try:
        pixels = pyramid.thumbnail(THUMBNAIL_SIDE)
    except SourceError as error:
        return f"<em>no thumbnail: {escape(str(error))}</em>"
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=85)
    height, width = pixels.shape[:2]
    return (
        f'<img width="{width}" height="{height}" alt="Thumbnail of {escape(pyramid.name)}" '
        f'src="data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}">'
    )


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
    return escape(f"{width} x {height} px, {size}; {metadata.vendor}, read by {metadata.reader}")


def _table(pyramid: "Pyramid") -> str:
    head = ("level", "width x height", "downsample", "µm/px", "block")
    cells = "".join(f'<th scope="col">{title}</th>' for title in head)
    rows = "".join(map(_row, pyramid.levels))
    return (
        "<table><caption>Levels</caption>"
        f"<thead><tr>{cells}</tr></thead><tbody>{rows}</tbody></table>"
    )


def _row(level: "Level") -> str:
    spacing = level.info.spacing
    cells = (
        _pair(level.shape, " x ", ","),
        _pair(level.downsample, " x ", ".4g"),
        _pair(spacing.um, " x ", ".4g") if spacing else "?",
        _pair(level.chunk, " x ", "d"),
    )
    columns = "".join(f"<td>{cell}</td>" for cell in cells)
    return f'<tr><th scope="row">{level.index}</th>{columns}</tr>'


def _pair(values: tuple[float, ...], separator: str, form: str) -> str:
    """Return (y, x) as text, width first; a single number where both are shown the same."""
    y, x = (format(value, form) for value in values)
    return x if x == y and form == ".4g" else f"{x}{separator}{y}"

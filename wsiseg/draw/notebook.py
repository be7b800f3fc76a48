"""What a notebook shows of an object: a picture beside a table, complete in itself."""

import base64
import io
from collections.abc import Sequence
from html import escape

from wsiseg.draw.canvas import Pixels

__all__ = ["data_image", "panel", "swatch", "text_table"]

STYLE = """
.wsiseg{display:flex;flex-wrap:wrap;gap:1em;align-items:flex-start;color:inherit}
.wsiseg img{border:1px solid rgba(128,128,128,.5);max-width:100%}
.wsiseg table{border-collapse:collapse;margin:.5em 0 0}
.wsiseg caption{text-align:left}
.wsiseg th,.wsiseg td{padding:.1em .6em;text-align:right;background:none;
border-bottom:1px solid rgba(128,128,128,.35)}
.wsiseg .words th,.wsiseg .words td{text-align:left;font-weight:normal}
.wsiseg i{display:inline-block;width:.8em;height:.8em;margin-right:.4em}
"""
"""Colours come from the page (half-transparent greys), so light and dark themes both work."""


def panel(title: str, summary: str, *parts: str, picture: str = "") -> str:
    """Return the HTML of one object.

    Parameters
    ----------
    title, summary
        Plain text.
    *parts
        Tables and the like, as HTML.
    picture
        As HTML; see `data_image`.
    """
    return (
        f'<div class="wsiseg"><style>{STYLE}</style>{picture}'
        f"<div><strong>{escape(title)}</strong><br>{escape(summary)}{''.join(parts)}</div></div>"
    )


def data_image(pixels: Pixels, alt: str) -> str:
    """Return a picture inside the page: JPEG of uint8 (h, w, 3), PNG of (h, w, 4)."""
    from PIL import Image

    file, kind = io.BytesIO(), "png" if pixels.shape[-1] == 4 else "jpeg"
    Image.fromarray(pixels).save(file, kind.upper(), quality=85)
    height, width = pixels.shape[:2]
    data = base64.b64encode(file.getvalue()).decode()
    return (
        f'<img width="{width}" height="{height}" alt="{escape(alt)}" '
        f'src="data:image/{kind};base64,{data}">'
    )


def text_table(
    rows: Sequence[Sequence[object]],
    *,
    heads: Sequence[str] = (),
    caption: str = "",
    words: bool = False,
) -> str:
    """Return a table whose rows are headed by their first cell.

    Parameters
    ----------
    rows
        Plain values; a cell that begins with `<i ` is HTML of `swatch`.
    heads, caption
        Plain text.
    words
        Cells are words, set to the left, and not figures.
    """
    head = "".join(f'<th scope="col">{escape(title)}</th>' for title in heads)
    lines = "".join(_row(row) for row in rows)
    kind = ' class="words"' if words else ""
    return (
        f"<table{kind}>"
        + (f"<caption>{escape(caption)}</caption>" if caption else "")
        + (f"<thead><tr>{head}</tr></thead>" if head else "")
        + f"<tbody>{lines}</tbody></table>"
    )


def swatch(color: Sequence[int], name: str) -> str:
    """Return a name with its colour before it, for a cell."""
    return f'<i style="background:rgb{tuple(map(int, color))}"></i>{escape(name)}'


def _row(row: Sequence[object]) -> str:
    first, *rest = (_cell(value) for value in row)
    return f'<tr><th scope="row">{first}</th>{"".join(f"<td>{cell}</td>" for cell in rest)}</tr>'


def _cell(value: object) -> str:
    text = str(value)
    return text if text.startswith('<i style="background:rgb(') else escape(text)

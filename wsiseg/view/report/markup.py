"""Pieces of an HTML page that holds everything it shows: style, text, tables, pictures, bars."""

import base64
from collections.abc import Mapping, Sequence
from html import escape
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

from wsiseg.draw.palette import OKABE_ITO

__all__ = ["bar", "document", "duration", "facts", "link_to", "number", "picture", "table", "text"]

JPEG_QUALITY = 88

MANY_COLUMNS = 10
"""Tables of more are printed in small type, to fit on the paper."""

STYLE = """
:root { --ink: #1b1b1f; --soft: #5d5d66; --line: #dddde2; --bad: #a11212; --warn: #8a5a00; }
body { font: 15px/1.5 system-ui, "Segoe UI", sans-serif; color: var(--ink); background: #fff;
  margin: 1.5rem auto 3rem; max-width: 74rem; padding: 0 1.25rem; }
h1 { font-size: 1.5rem; margin: 0 0 .15rem; overflow-wrap: anywhere; }
h2 { font-size: 1.12rem; margin: 2rem 0 .4rem; }
p { margin: .4rem 0; } p.lead, .note, figcaption { color: var(--soft); }
.note { font-size: .87rem; max-width: 54rem; }
.bad { color: var(--bad); } .warn { color: var(--warn); }
.box { border-left: 4px solid var(--warn); background: #fff8e8; padding: .5rem .9rem;
  margin: 1rem 0; } .box.bad { border-color: var(--bad); background: #fdeeee; color: inherit; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; margin: .3rem 0; }
th, td { padding: .3rem 1rem .3rem 0; text-align: right; vertical-align: top;
  border-bottom: 1px solid var(--line); }
th { font-weight: 600; border-bottom-color: #888; }
.text { text-align: left; overflow-wrap: anywhere; } td.text { min-width: 6rem; }
.facts th { text-align: left; font-weight: 400; color: var(--soft); border-bottom: 1px solid
  var(--line); white-space: nowrap; } .facts td { text-align: left; overflow-wrap: anywhere; }
figure { margin: 1rem 0; } img { width: auto; height: auto; border: 1px solid var(--line); }
figure img { max-width: 100%; max-height: 46rem; } td img { display: block; max-width: 150px;
  max-height: 150px; }
.key { display: inline-block; width: .8em; height: .8em; margin-right: .4em; border-radius: 2px;
  vertical-align: -.05em; }
.bar { display: flex; height: 1.3rem; border-radius: 3px; overflow: hidden; margin: .5rem 0;
  background: #eee; } .bar i { display: block; height: 100%; }
.keys span { margin-right: 1.2rem; white-space: nowrap; }
small { color: var(--soft); } small.warn { color: var(--warn); }
@page { margin: 14mm 12mm; }
@media print {
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
  body { font-size: 9.5pt; margin: 0; max-width: none; padding: 0; }
  h2 { break-after: avoid; } tr, figure, .box { break-inside: avoid; }
  .scroll { overflow: visible; } thead { display: table-header-group; }
  th, td { padding-right: .6rem; } .many { font-size: 7pt; }
  figure img { max-height: 15cm; } td img { max-width: 2.2cm; max-height: 2.2cm; }
  a { color: inherit; text-decoration: none; }
}
"""


def document(title: str, parts: Sequence[str]) -> str:
    """Return a whole page."""
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{text(title)}</title><style>{STYLE}</style></head>\n<body>\n"
        + "\n".join(part for part in parts if part)
        + "\n</body></html>\n"
    )


def text(value: object) -> str:
    """Return anything as text that stands for itself in HTML."""
    plain = "" if value is None else str(value)
    return escape(plain.encode("utf-8", "backslashreplace").decode("utf-8"))


def link_to(place: str) -> str:
    """Return a relative address, for an attribute."""
    return "./" + escape(quote(place, errors="surrogateescape"))


def number(value: object, digits: int = 4) -> str:
    """Return a number with so many digits; anything else as it is."""
    try:
        found = float(str(value))
    except ValueError:
        return text(value)
    if found.is_integer() and abs(found) < 1e15:
        return f"{int(found):,}"
    return f"{found:,.0f}" if abs(found) >= 10**digits else f"{found:.{digits}g}"


def duration(seconds: float) -> str:
    """Return seconds as people say them."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s"


def table(heads: Sequence[str], rows: Sequence[Sequence[str]], *, left: int = 1) -> str:
    """Return a table of cells that are HTML already; the first `left` columns are text."""

    def line(tag: str, cells: Sequence[str]) -> str:
        marks = (' class="text"' if i < left else "" for i in range(len(cells)))
        parts = zip(marks, cells, strict=True)
        return f"<tr>{''.join(f'<{tag}{mark}>{cell}</{tag}>' for mark, cell in parts)}</tr>"

    body = "\n".join(line("td", row) for row in rows)
    head = f"<thead>{line('th', heads)}</thead>"
    many = ' class="many"' if len(heads) > MANY_COLUMNS else ""
    return f'<div class="scroll"><table{many}>{head}<tbody>\n{body}\n</tbody></table></div>'


def facts(rows: Mapping[str, object]) -> str:
    """Return names and values, one below the other; what has no value is left out."""
    lines = [
        f"<tr><th>{text(name)}</th><td>{text(value)}</td></tr>"
        for name, value in rows.items()
        if value not in (None, "")
    ]
    return f'<div class="scroll"><table class="facts">{"".join(lines)}</table></div>'


def bar(parts: Mapping[str, float]) -> str:
    """Return shares of a whole as one bar with its key; values are seconds."""
    total = sum(parts.values())
    if not total > 0:
        return ""
    shades = [f"rgb{OKABE_ITO[i % len(OKABE_ITO)]}" for i in range(len(parts))]
    pieces = "".join(
        f'<i style="width:{100 * value / total:.3f}%;background:{shade}" '
        f'title="{text(name)}: {duration(value)}"></i>'
        for (name, value), shade in zip(parts.items(), shades, strict=True)
    )
    keys = "".join(
        f'<span><span class="key" style="background:{shade}"></span>{text(name)} '
        f"{duration(value)} ({value / total:.0%})</span>"
        for (name, value), shade in zip(parts.items(), shades, strict=True)
    )
    return f'<div class="bar">{pieces}</div><p class="keys note">{keys}</p>'


def picture(pixels: NDArray[np.uint8], alt: str) -> str:
    """Return a picture, `(y, x, 3)` uint8 RGB, inside the page."""
    from simplejpeg import encode_jpeg  # type: ignore[import-untyped]

    packed = encode_jpeg(np.ascontiguousarray(pixels), quality=JPEG_QUALITY, colorsubsampling="444")
    data = base64.b64encode(packed).decode()
    y, x = pixels.shape[:2]
    return f'<img src="data:image/jpeg;base64,{data}" width="{x}" height="{y}" alt="{text(alt)}">'

"""`report.html`: the slides of an output folder with their pictures, figures and failures."""

import os
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote

from wsiseg.view.report.finished import FinishedSlide
from wsiseg.view.report.markup import picture

__all__ = ["MOST_EMBEDDED", "page"]

PICTURE = "overview.png"

MOST_EMBEDDED = 200
"""Slides whose pictures are put into the page itself; of more, the page would grow too large."""

THUMBNAIL_PIXELS = 320

APART = frozenset({"folder", "path", "warnings", "slide"})
"""Columns that are not figures."""

STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; color: #1a1a1a; background: #fff;
  margin: 1.5rem auto; max-width: 90rem; padding: 0 1.25rem; }
h1 { font-size: 1.5rem; margin-bottom: .2rem; } h2 { font-size: 1.2rem; margin-top: 2rem; }
p.lead { color: #555; margin-top: 0; } .scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .8rem .3rem 0; text-align: right; vertical-align: top;
  border-bottom: 1px solid #ddd; }
th { border-bottom-color: #888; } .text { text-align: left; overflow-wrap: anywhere; }
td.text { min-width: 7rem; } .bad { color: #a11212; } small { color: #8a5a00; }
img { width: 160px; max-height: 160px; object-fit: contain; border: 1px solid #ddd; }
@media print { body { font-size: 9pt; margin: 0; max-width: none; } tr { break-inside: avoid; }
  .scroll { overflow: visible; } img { width: 80px; } thead { display: table-header-group; } }
"""

Row = Mapping[str, Any]


def page(out: Path, summary: Sequence[Row], failures: Sequence[Row], *, embed: bool = False) -> str:
    """Return the page: failures first, then a line per slide.

    Parameters
    ----------
    out
        The output folder.
    summary, failures
        Rows of its tables.
    embed
        Put small pictures into the page, so that it can be sent alone; else they are linked.
    """
    name = out.resolve().name
    done, bad = len(summary), len(failures)
    lead = f"{done} slide{'s' * (done != 1)} done, {bad} failed"
    parts = [f"<h1>{_text(name)}</h1>", f'<p class="lead">{lead}</p>']
    if failures:
        parts += ["<h2>Failures</h2>", _failures(failures)]
    if summary:
        parts += ["<h2>Slides</h2>", _slides(out, summary, embed=embed)]
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{_text(name)}: {lead}</title><style>{STYLE}</style></head>\n<body>\n"
        + "\n".join(parts)
        + "\n</body></html>\n"
    )


def _failures(rows: Sequence[Row]) -> str:
    heads = ("Slide", "What failed", "What to do", "Older result")
    lines = [
        f'<tr><td class="text" title="{_text(row.get("path"))}">{_text(_last(row.get("path")))}'
        f'</td><td class="text bad">{_text(row.get("message"))} '
        f'({_text(row.get("error_class"))})</td><td class="text">{_text(row.get("remedy"))}</td>'
        f'<td class="text">{_text(row.get("older_result"))}</td></tr>'
        for row in rows
    ]
    return _table([f'<th class="text">{head}</th>' for head in heads], lines)


def _slides(out: Path, rows: Sequence[Row], *, embed: bool) -> str:
    figures = list(dict.fromkeys(key for row in rows for key in row if key not in APART))
    texts = {key for key in figures if not all(_is_number(row.get(key)) for row in rows)}
    heads = ['<th class="text">Overview</th>', '<th class="text">Slide</th>']
    heads += [f"<th{_aligned(key, texts)}>{_text(key)}</th>" for key in figures]
    lines = []
    for row in rows:
        cells = [f'<td class="text">{_picture(out, row, embed=embed)}</td>', _name(row)]
        cells += [
            f"<td{_aligned(key, texts)}>{_text(_short(row.get(key)))}</td>" for key in figures
        ]
        lines.append(f"<tr>{''.join(cells)}</tr>")
    return _table(heads, lines)


def _name(row: Row) -> str:
    said = f"<br><small>{_text(row['warnings'])}</small>" if row.get("warnings") else ""
    link = f'<a href="{_link(str(row.get("folder", "")))}/">{_text(row.get("slide"))}</a>'
    return f'<td class="text" title="{_text(row.get("path"))}">{link}{said}</td>'


def _picture(out: Path, row: Row, *, embed: bool) -> str:
    place = f"{row.get('folder', '')}/{PICTURE}"
    if not os.path.exists(out / place):  # noqa: PTH110 - of a hundred thousand slides
        return ""
    link, name = _link(place), _text(row.get("slide"))
    folder = FinishedSlide(out / str(row.get("folder", "")))
    pixels = folder.picture(THUMBNAIL_PIXELS) if embed else None
    if pixels is not None:
        return f'<a href="{link}">{picture(pixels, str(row.get("slide")))}</a>'
    return f'<a href="{link}"><img src="{link}" alt="{name}" loading="lazy"></a>'


def _table(heads: Sequence[str], lines: Sequence[str]) -> str:
    body = "\n".join(lines)
    head = f"<thead><tr>{''.join(heads)}</tr></thead>"
    return f'<div class="scroll"><table>{head}<tbody>\n{body}\n</tbody></table></div>'


def _aligned(key: str, texts: set[str]) -> str:
    return ' class="text"' if key in texts else ""


LONGEST_NUMBER = 9
"""Characters; longer ones are rounded: the table has them in full."""


def _is_number(value: object) -> bool:
    try:
        float(str(value or 0))
    except ValueError:
        return False
    return True


def _link(place: str) -> str:
    return "./" + escape(quote(place, errors="surrogateescape"))


def _last(path: object) -> str:
    return str(path or "").replace("\\", "/").rpartition("/")[2]


def _short(value: object) -> object:
    is_long = "." in str(value) and len(str(value)) > LONGEST_NUMBER
    return f"{float(str(value)):.6g}" if is_long and _is_number(value) else value


def _text(value: object) -> str:
    text = "" if value is None else str(value)
    return escape(text.encode("utf-8", "backslashreplace").decode("utf-8"))

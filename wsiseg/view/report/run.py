"""The report of a run: how it went, what failed and what to do, every slide with its picture."""

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from wsiseg.errors import RunError
from wsiseg.view.report.finished import FinishedSlide, amounts, picture_of
from wsiseg.view.report.markup import (
    bar,
    document,
    duration,
    link_to,
    number,
    picture,
    table,
    text,
)

__all__ = ["MOST_EMBEDDED", "run_page"]

MOST_EMBEDDED = 200
"""Slides whose pictures are put into the page itself; of more, the page would grow too large."""

THUMBNAIL_PIXELS = 300

TOLD_OTHERWISE = frozenset(
    {
        *("slide", "folder", "path", "model", "warnings"),
        *("mpp_x", "mpp_y", "width", "height", "windows_px", "voxels", "spacing_mm"),
        *("tissue_mm2", "degraded_mm2", "nodata_mm2", "unpredicted_mm2"),
        *("corrupt_blocks", "corrupt_share", "objects", "seconds"),
    }
)
"""Columns that have a place of their own on the page, or are for programs; others get a column."""

Row = Mapping[str, Any]


def run_page(
    out: Path,
    rows: Sequence[Row],
    failures: Sequence[Row],
    *,
    pages: Mapping[str, str] | None = None,
    embed: bool = True,
) -> str:
    """Return `report.html` of a run.

    Parameters
    ----------
    out
        The output folder.
    rows, failures
        Rows of its tables, `summary.csv` and `failures.csv`; empty texts are no values.
    pages
        Folder of a slide -> its own report, both as seen from `out`.
    embed
        Put small pictures into the page, so that it can be sent alone; else they are linked.
    """
    name = out.resolve().name
    rows = sorted(rows, key=lambda row: str(row.get("folder", "")))
    done = [f"{count} {name}{'s' * (count != 1)}" for name, count in _counts(rows).items()]
    lead = f"{' and '.join(done)} done, {len(failures)} failed"
    models = dict.fromkeys(str(row.get("model") or "") for row in rows)
    return document(
        f"{name}: {lead}",
        [
            f"<h1>{text(name)}</h1>",
            f'<p class="lead">{text(lead)}. {text(", ".join(filter(None, models)))}</p>',
            _failures(failures),
            _totals(rows),
            _damaged(rows),
            _time(out, rows, in_parts=embed),
            _slides(out, rows, pages or {}, embed=embed),
        ],
    )


def _counts(rows: Sequence[Row]) -> dict[str, int]:
    """Return how many slides and scans there are, of what there is."""
    scans = sum(bool(row.get("voxels")) for row in rows)
    counts = {"slide": len(rows) - scans, "scan": scans}
    return {name: count for name, count in counts.items() if count} or {"slide": 0}


def _failures(rows: Sequence[Row]) -> str:
    if not rows:
        return ""
    cells = [
        [
            f'<span title="{text(row.get("path"))}">{text(_last(row.get("path")))}</span>',
            f'<span class="bad">{text(row.get("message"))}</span> ({text(row.get("error_class"))})',
            text(row.get("remedy"))
            + ("<br><small>an older result stands</small>" if row.get("older_result") else ""),
        ]
        for row in rows
    ]
    return "<h2>Failures</h2>" + table(("Slide", "What failed", "What to do"), cells, left=3)


def _totals(rows: Sequence[Row]) -> str:
    slides = [row for row in rows if "tissue_mm2" in row]
    if not slides:
        return ""
    tissue = math.fsum(_figure(row, "tissue_mm2") for row in slides)
    found = [amounts(row, "mm2") for row in slides]
    lines = [["Tissue", number(tissue), "", ""]]
    for name in dict.fromkeys(name for areas in found for name in areas):
        areas = [one.get(name, 0.0) for one in found]
        whole = math.fsum(areas)
        share = f"{whole / tissue:.1%}" if tissue else ""
        lines.append([text(name), number(whole), share, str(sum(value > 0 for value in areas))])
    heads = ("Class", "mm²", "of tissue", "slides that have it")
    return "<h2>Areas of all slides</h2>" + table(heads, lines)


def _damaged(rows: Sequence[Row]) -> str:
    found = [row for row in rows if _figure(row, "corrupt_blocks")]
    if not found:
        return ""
    said = ", ".join(
        f"{text(row.get('slide'))} ({_figure(row, 'corrupt_share'):.2%} of the tissue)"
        for row in found
    )
    return f'<div class="box">Slides with blocks that cannot be decoded: {said}.</div>'


def _time(out: Path, rows: Sequence[Row], *, in_parts: bool) -> str:
    parts: dict[str, float] = {}
    for row in rows:
        for name, seconds in _seconds(out, row, in_parts=in_parts).items():
            parts[name] = parts.get(name, 0.0) + seconds
    total = math.fsum(parts.values())
    return f"<h2>Time: {duration(total)}, summed over all</h2>{bar(parts)}" if total else ""


def _seconds(out: Path, row: Row, *, in_parts: bool) -> dict[str, float]:
    """Return where the time of a slide went; as a whole where its record does not say."""
    try:
        if in_parts:
            return FinishedSlide(out / str(row.get("folder", ""))).seconds
    except RunError:  # results of other commands have no record
        pass
    return {"all": _figure(row, "seconds")}


def _slides(out: Path, rows: Sequence[Row], pages: Mapping[str, str], *, embed: bool) -> str:
    if not rows:
        return ""
    areas, volumes = ([amounts(row, unit) for row in rows] for unit in ("mm2", "ml"))
    of_area, of_volume = (
        list(dict.fromkeys(name for one in found for name in one)) for found in (areas, volumes)
    )
    figures = _other_figures(rows)
    columns: dict[str, list[str]] = {
        "": [_thumbnail(out, row, embed=embed) for row in rows],
        "Name": [_name(row, pages) for row in rows],
        "Tissue, mm²": [_shown(row, "tissue_mm2") for row in rows],
    }
    for name in of_area:
        shares = zip(areas, rows, strict=True)
        columns[f"{text(name)}, mm²"] = [_with_share(one.get(name), row) for one, row in shares]
    for name in of_volume:
        columns[f"{text(name)}, ml"] = [number(one.get(name, "")) for one in volumes]
    columns["Objects"] = [_shown(row, "objects") for row in rows]
    for key in figures:
        columns[text(_words(key))] = [_shown(row, key) for row in rows]
    columns["Damaged"] = [_damage(row) for row in rows]
    columns["Time"] = [duration(_figure(row, "seconds")) for row in rows]
    shown = {head: cells for head, cells in columns.items() if any(cells) or not head}
    lines = list(zip(*shown.values(), strict=True))
    note = '<p class="note">All figures of each: summary.csv.</p>'
    heading = " and ".join(f"{name}s" for name in _counts(rows)).capitalize()
    return f"<h2>{heading}</h2>" + table(tuple(shown), lines, left=2) + note


def _other_figures(rows: Sequence[Row]) -> list[str]:
    """Return the columns that are neither areas nor volumes nor have a place of their own."""
    keys = dict.fromkeys(key for row in rows for key in row if key not in TOLD_OTHERWISE)
    return [key for key in keys if not key.endswith(("_mm2", "_ml"))]


def _thumbnail(out: Path, row: Row, *, embed: bool) -> str:
    folder = str(row.get("folder", ""))
    place = picture_of(out / folder)
    if place is None:
        return ""
    link, name = link_to(f"{folder}/{place.name}"), text(row.get("slide"))
    pixels = FinishedSlide(out / folder).picture(THUMBNAIL_PIXELS) if embed else None
    if pixels is not None:
        return picture(pixels, str(row.get("slide")))
    return f'<a href="{link}"><img src="{link}" alt="{name}" loading="lazy"></a>'


def _name(row: Row, pages: Mapping[str, str]) -> str:
    folder = str(row.get("folder", ""))
    page = link_to(pages.get(folder, f"{folder}/"))
    said = f'<br><small class="warn">{text(row["warnings"])}</small>' if row.get("warnings") else ""
    return f'<a href="{page}" title="{text(row.get("path"))}">{text(row.get("slide"))}</a>{said}'


def _with_share(area_mm2: float | None, row: Row) -> str:
    if area_mm2 is None:
        return ""
    tissue = _figure(row, "tissue_mm2")
    share = f"<br><small>{area_mm2 / tissue:.1%}</small>" if tissue else ""
    return number(area_mm2) + share


def _damage(row: Row) -> str:
    blocks = int(_figure(row, "corrupt_blocks"))
    return f'<span class="warn">{blocks} blocks</span>' if blocks else ""


def _shown(row: Row, key: str) -> str:
    value = row.get(key)
    return "" if value is None else number(value)


def _figure(row: Row, key: str) -> float:
    return float(row.get(key) or 0)


def _words(key: str) -> str:
    return key[:1].upper() + key[1:].replace("_", " ")


def _last(path: object) -> str:
    return str(path or "").replace(os.sep, "/").replace("\\", "/").rpartition("/")[2]

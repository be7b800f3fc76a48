"""The report of a run: how it went, what failed and what to do, every slide with its picture."""

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from wsiseg.errors import RunError
from wsiseg.view.report.finished import FinishedSlide
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

__all__ = ["FAILURES", "run_page"]

FAILURES = "failures.csv"
THUMBNAIL_PIXELS = 300

Row = Mapping[str, str]


def run_page(out: Path, slides: Sequence[FinishedSlide], *, pages: Mapping[Path, str]) -> str:
    """Return `report.html` of a run; it holds everything it shows.

    Parameters
    ----------
    out
        The output folder; its `failures.csv` is told.
    slides
        What is finished in it.
    pages
        Folder of a slide -> its own report, as seen from `out`.

    Raises
    ------
    RunError
        If a file of a result cannot be read.
    """
    failures = _failures_of(out)
    name = out.resolve().name
    lead = f"{len(slides)} slide{'s' * (len(slides) != 1)} done, {len(failures)} failed"
    return document(
        f"{name}: {lead}",
        [
            f"<h1>{text(name)}</h1>",
            f'<p class="lead">{text(lead)}. {text(_models(slides))}</p>',
            _failures(failures),
            _totals(slides),
            _damaged(slides),
            _time(slides),
            _slides(slides, pages),
        ],
    )


def _failures_of(out: Path) -> list[Row]:
    path = out / FAILURES
    if not path.exists():
        return []
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            return list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise RunError(f"{path}: cannot be read: {error}; run the slides again") from error


def _models(slides: Sequence[FinishedSlide]) -> str:
    names = dict.fromkeys(str(slide.summary.get("model", "")) for slide in slides)
    return ", ".join(name for name in names if name)


def _failures(rows: Sequence[Row]) -> str:
    if not rows:
        return ""
    cells = [
        [
            f'<span title="{text(row.get("path"))}">{text(_last(row.get("path")))}</span>',
            f'<span class="bad">{text(row.get("message"))}</span> ({text(row.get("error_class"))})',
            text(row.get("remedy")),
        ]
        for row in rows
    ]
    return "<h2>Failures</h2>" + table(("Slide", "What failed", "What to do"), cells, left=3)


def _totals(slides: Sequence[FinishedSlide]) -> str:
    if not slides:
        return ""
    tissue = math.fsum(float(slide.summary.get("tissue_mm2") or 0) for slide in slides)
    names = dict.fromkeys(name for slide in slides for name in slide.class_areas)
    rows = [["Tissue", number(tissue), "", ""]]
    for name in names:
        areas = [slide.class_areas.get(name, 0.0) for slide in slides]
        whole = math.fsum(areas)
        share = f"{whole / tissue:.1%}" if tissue else ""
        rows.append([text(name), number(whole), share, str(sum(value > 0 for value in areas))])
    return "<h2>Areas of all slides</h2>" + table(
        ("Class", "mm²", "of tissue", "slides that have it"), rows
    )


def _damaged(slides: Sequence[FinishedSlide]) -> str:
    found = [slide for slide in slides if int(slide.summary.get("corrupt_blocks") or 0)]
    if not found:
        return ""
    said = ", ".join(
        f"{text(slide.name)} ({float(slide.summary['corrupt_share']):.2%} of the tissue)"
        for slide in found
    )
    return f'<div class="box">Slides with blocks that cannot be decoded: {said}.</div>'


def _time(slides: Sequence[FinishedSlide]) -> str:
    parts: dict[str, float] = {}
    for slide in slides:
        for name, seconds in slide.seconds.items():
            parts[name] = parts.get(name, 0.0) + seconds
    total = math.fsum(parts.values())
    return f"<h2>Time: {duration(total)}, summed over slides</h2>{bar(parts)}" if total else ""


def _slides(slides: Sequence[FinishedSlide], pages: Mapping[Path, str]) -> str:
    if not slides:
        return ""
    names = list(dict.fromkeys(name for slide in slides for name in slide.class_areas))
    rows = []
    for slide in slides:
        tissue = float(slide.summary.get("tissue_mm2") or 0)
        areas = [slide.class_areas.get(name) for name in names]
        rows.append(
            [
                _thumbnail(slide),
                _linked(slide, pages),
                number(tissue),
                *("" if area is None else _with_share(area, tissue) for area in areas),
                number(slide.summary.get("objects", "")),
                _damage(slide),
                duration(float(slide.summary.get("seconds") or 0)),
            ]
        )
    heads = ("", "Slide", "Tissue, mm²", *(f"{text(name)}, mm²" for name in names))
    heads += ("Objects", "Damaged", "Time")
    return "<h2>Slides</h2>" + table(heads, rows, left=2)


def _thumbnail(slide: FinishedSlide) -> str:
    pixels = slide.picture(THUMBNAIL_PIXELS)
    return "" if pixels is None else picture(pixels, slide.name)


def _linked(slide: FinishedSlide, pages: Mapping[Path, str]) -> str:
    page = pages.get(slide.folder)
    name = text(slide.name)
    return f'<a href="{link_to(page)}">{name}</a>' if page else name


def _with_share(area_mm2: float, tissue_mm2: float) -> str:
    share = f"<br><small>{area_mm2 / tissue_mm2:.1%}</small>" if tissue_mm2 else ""
    return number(area_mm2) + share


def _damage(slide: FinishedSlide) -> str:
    blocks = int(slide.summary.get("corrupt_blocks") or 0)
    return f'<span class="warn">{blocks} blocks</span>' if blocks else ""


def _last(path: str | None) -> str:
    return str(path or "").replace("\\", "/").rpartition("/")[2]

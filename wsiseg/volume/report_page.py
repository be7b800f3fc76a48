"""The report of a scan as one HTML file that holds everything, pictures included."""

import base64
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape

from wsiseg.volume.report_text import DISCLAIMER
from wsiseg.volume.statistics import ENLARGED_MM, ClassStatistics, ScanStatistics

__all__ = ["Picture", "report_page"]

LISTED = 50
"""Lesions of a class on the page; the table has all."""

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1a1a1a; background: #fff;
  max-width: 1220px; margin: 2rem auto; padding: 0 1.25rem; }
h1 { font-size: 1.6rem; margin-bottom: .2rem; } h2 { font-size: 1.2rem; margin-top: 2rem; }
.note, figcaption { color: #555; font-size: .87rem; max-width: 52rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; margin: .6rem 0; }
th, td { padding: .28rem .8rem .28rem 0; text-align: right; border-bottom: 1px solid #e4e4e4; }
th { font-weight: 600; border-bottom-color: #999; } .text { text-align: left; }
.scroll { overflow-x: auto; } figure { margin: 1rem 0; break-inside: avoid; }
img { max-width: 100%; } .lesions { display: flex; flex-wrap: wrap; gap: 1.2rem; }
.lesions figure { margin: 0; max-width: 360px; } b.flag { color: #a33c00; }
"""


@dataclass(frozen=True, slots=True)
class Picture:
    """A PNG file and what is below it."""

    caption: str
    content: bytes


def report_page(
    statistics: ScanStatistics, about: Mapping[str, str], pictures: Sequence[Picture]
) -> str:
    """Return the page: scan, picture, classes, lesions, definitions.

    Parameters
    ----------
    statistics
        The figures.
    about
        Name -> text, shown at the top.
    pictures
        The first one large, the others side by side.
    """
    found = [one for one in statistics.classes if one.voxels]
    missing = [one.name for one in statistics.classes if not one.voxels]
    title = about.get("scan", "Segmented scan")
    z, y, x = statistics.shape
    mm = " x ".join(f"{value:.4g}" for value in reversed(statistics.spacing_mm))
    told = [*about.items(), ("voxels", f"{x} x {y} x {z} of {mm} mm, {statistics.orientation}")]
    parts = [
        f"<h1>{escape(title)}</h1>",
        _table(("", ""), [[_text(k), _text(v)] for k, v in told], text_columns=2),
        *(_figure(picture) for picture in pictures[:1]),
        "<h2>Classes</h2>",
        _class_table(found) if found else "<p>No class was found.</p>",
    ]
    if missing:
        parts.append(f'<p class="note">Not found: {escape(", ".join(missing))}.</p>')
    if pictures[1:]:
        figures = "".join(map(_figure, pictures[1:]))
        parts.append(f'<h2>Largest parts</h2><div class="lesions">{figures}</div>')
    if found:
        parts += ["<h2>Parts</h2>", _lesion_table(found)]
    if any(one.shells for one in found):
        parts += ["<h2>Surroundings of the largest part</h2>", _shell_table(found)]
    parts.append(_definitions(statistics))
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head>\n<body>"
        + "\n".join(parts)
        + "</body></html>\n"
    )


def _class_table(classes: Sequence[ClassStatistics]) -> str:
    nodes = any(one.enlarged_count is not None for one in classes)
    lines = []
    for one in classes:
        largest = one.lesions[0]
        line = [
            _text(one.name),
            _number(one.volume_ml, 3),
            str(one.component_count),
            *(_number(v) for v in (largest.long_axis_mm, largest.short_axis_mm, largest.feret_mm)),
            _number(one.surface_mm2, 0),
            f"{one.left_percent:.0f} / {100 - one.left_percent:.0f}",
            _intensity(largest.intensity),
        ]
        if nodes:
            line.append("" if one.enlarged_count is None else _flagged(one.enlarged_count))
        lines.append(line)
    heads = ["Class", "Volume, ml", "Parts", "Long axis, mm", "Short axis, mm", "Feret, mm"]
    heads += ["Surface, mm²", "Left / right, %", "Intensity"] + ["Enlarged"] * nodes
    note = '<p class="note">Axes, Feret diameter and intensity are those of the largest part.</p>'
    return _table(heads, lines, text_columns=1) + note


def _lesion_table(classes: Sequence[ClassStatistics]) -> str:
    lines = []
    for one in classes:
        for lesion in one.lesions[:LISTED]:
            place = ", ".join(f"{value:.0f}" for value in lesion.centroid_mm)
            flag = '<b class="flag">enlarged</b>' if lesion.enlarged else ""
            lines.append(
                [
                    _text(one.name),
                    str(lesion.number),
                    _number(lesion.volume_ml, 3),
                    _number(lesion.long_axis_mm),
                    _number(lesion.short_axis_mm),
                    _number(lesion.feret_mm),
                    _number(lesion.equivalent_diameter_mm),
                    place,
                    _intensity(lesion.intensity),
                    escape(lesion.station or "") + flag,
                ]
            )
    heads = ["Class", "Part", "Volume, ml", "Long axis, mm", "Short axis, mm", "Feret, mm"]
    heads += ["Equivalent diameter, mm", "Centre (x, y, z), mm", "Intensity", ""]
    hidden = sum(max(0, one.component_count - LISTED) for one in classes)
    note = f'<p class="note">{hidden} smaller parts are left out here.</p>' if hidden else ""
    return _table(heads, lines, text_columns=1) + note


def _shell_table(classes: Sequence[ClassStatistics]) -> str:
    lines = [
        [
            _text(one.name),
            f"{shell.inner_mm:g} to {shell.outer_mm:g}",
            _number(shell.volume_ml, 2),
            _intensity(shell.intensity),
        ]
        for one in classes
        for shell in one.shells
    ]
    return _table(("Class", "Distance, mm", "Volume, ml", "Intensity"), lines, text_columns=1)


def _definitions(statistics: ScanStatistics) -> str:
    return (
        '<h2>Definitions</h2><p class="note">Volume: voxels times the volume of one. Parts: voxels '
        "connected over faces, edges and corners "
        f"({statistics.connectivity}-connectivity). Long axis: the largest diameter in an axial "
        "slice, of all slices; short axis: the longest line at right angles to it in that slice. "
        "Feret: the largest distance of two points of the surface. Surface: marching cubes, which "
        "on steps of voxels gives some per cent too much. Left and right are the patient's, parted "
        f"at x = {statistics.midline_mm:.1f} mm. Coordinates: mm, x to the right, y to anterior, z "
        f"to superior. Lymph nodes are enlarged from a short axis of {ENLARGED_MM:g} mm. "
        f'Intensity: mean ± standard deviation.</p><p class="note">{DISCLAIMER}</p>'
    )


def _table(heads: Sequence[str], lines: Iterable[Sequence[str]], *, text_columns: int) -> str:
    def row(cells: Sequence[str], tag: str) -> str:
        kinds = (' class="text"' if i < text_columns else "" for i in range(len(cells)))
        return "".join(f"<{tag}{k}>{c}</{tag}>" for k, c in zip(kinds, cells, strict=True))

    head = f"<tr>{row([escape(name) for name in heads], 'th')}</tr>" if any(heads) else ""
    body = "".join(f"<tr>{row(cells, 'td')}</tr>" for cells in lines)
    return f'<div class="scroll"><table>{head}{body}</table></div>'


def _figure(picture: Picture) -> str:
    data = base64.b64encode(picture.content).decode("ascii")
    caption = escape(picture.caption)
    return (
        f'<figure><img alt="{caption}" src="data:image/png;base64,{data}">'
        f"<figcaption>{caption}</figcaption></figure>"
    )


def _intensity(known: Mapping[str, float] | None) -> str:
    if known is None or math.isnan(known["mean"]):
        return ""
    return f"{known['mean']:.1f} ± {known['sd']:.1f}"


def _flagged(count: int) -> str:
    return f'<b class="flag">{count}</b>' if count else "0"


def _number(value: float, digits: int = 1) -> str:
    return "" if math.isnan(value) else f"{value:,.{digits}f}"


def _text(value: str) -> str:
    return escape(value)

"""The page people open: one HTML file that holds everything, pictures included."""

import base64
import itertools
import math
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

from wsiseg.evaluate.calibration import Calibrated
from wsiseg.evaluate.evaluation import Evaluation, SummaryRow
from wsiseg.evaluate.pictures import PREDICTED, REFERENCE, WRONG, Picture
from wsiseg.evaluate.plots import figure_by_slide, reliability_diagram

__all__ = ["page"]

TITLES = {
    "dice": "Dice",
    "iou": "IoU",
    "precision": "Precision",
    "recall": "Recall",
    "predicted_um2": "Predicted, µm²",
    "reference_um2": "Reference, µm²",
    "hd95_um": "HD95, µm",
    "average_distance_um": "Average distance, µm",
    "boundary_f1": "Boundary F1",
    "surface_dice": "Surface Dice",
    "aji": "AJI",
    "aji_plus": "AJI+",
    "pq": "PQ",
    "dq": "DQ",
    "sq": "SQ",
    "object_f1": "F1 of objects",
    "object_precision": "Precision of objects",
    "object_recall": "Recall of objects",
    "points_patherea_f1": "F1 of points (Patherea)",
    "points_patherea_precision": "Precision of points (Patherea)",
    "points_patherea_recall": "Recall of points (Patherea)",
    "points_hungarian_f1": "F1 of points (Hungarian)",
    "points_hungarian_precision": "Precision of points (Hungarian)",
    "points_hungarian_recall": "Recall of points (Hungarian)",
    "points_count_error": "Error of the count of points",
    "consensus_dice": "Dice of the raters' consensus",
    "consensus_confidence": "Confidence in the consensus",
    "crps_um2": "CRPS of the area, µm²",
    "predicted_ml": "Predicted, ml",
    "reference_ml": "Reference, ml",
    "hd95_mm": "HD95, mm",
    "average_distance_mm": "Average distance, mm",
    "lesion_f1": "F1 of lesions",
    "lesion_precision": "Precision of lesions",
    "lesion_recall": "Recall of lesions",
    "crps_ml": "CRPS of the volume, ml",
}

SLIDE_FIGURES = (
    *("dice", "iou", "precision", "recall", "hd95_um", "hd95_mm", "average_distance_mm"),
    *("surface_dice", "boundary_f1", "lesion_f1", "pq", "aji"),
)
"""What the table of slides shows, where it is there; the CSV has everything."""

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1a1a1a; background: #fff;
  max-width: 1180px; margin: 2rem auto; padding: 0 1.25rem; }
h1 { font-size: 1.6rem; margin-bottom: .2rem; } h2 { font-size: 1.2rem; margin-top: 2.4rem; }
p.lead, .note, figcaption { color: #555; } .note { font-size: .87rem; max-width: 52rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; margin: .6rem 0; }
th, td { padding: .28rem .8rem .28rem 0; text-align: right; border-bottom: 1px solid #e4e4e4; }
th { font-weight: 600; border-bottom-color: #999; }
th.text, td.text { text-align: left; } td small { color: #666; white-space: nowrap; }
.scroll { overflow-x: auto; } .tiles { margin-bottom: 1.6rem; break-inside: avoid; }
.tiles div { display: flex; gap: .8rem; flex-wrap: wrap; align-items: flex-start; }
.tiles img { max-width: min(100%, 36rem); max-height: 36rem; border: 1px solid #ddd; }
.key { display: inline-block; width: 1.6em; height: .28em; margin: 0 .35em 0 1em;
  vertical-align: middle; } .key:first-of-type { margin-left: 0; }
.wide { height: .8em; }
"""


def page(evaluation: Evaluation) -> str:
    """Return the page: summary, groups, calibration, worst slides, all slides, definitions."""
    rows = evaluation.summary
    count = len(evaluation.slides)
    parts = [
        f"<h1>Evaluation of {count} {evaluation.noun}{'s' if count != 1 else ''}</h1>",
        f'<p class="lead">{escape(", ".join(evaluation.classes[1:]))}, against '
        f"{escape(evaluation.classes[0])}.</p>",
        "<h2>Summary</h2>",
        _summary_table([row for row in rows if not row.column], evaluation.noun),
        _interval_note(evaluation),
        _by_slide(evaluation),
    ]
    for column in evaluation.options.strata:
        parts.append(f"<h2>By {escape(column)}</h2>")
        parts.append(_strata_table([row for row in rows if row.column == column], evaluation.noun))
    calibration = evaluation.calibration()
    if calibration is not None:
        parts.append(_calibration(calibration))
    if evaluation.pictures:
        parts.append(_pictures(evaluation.pictures, evaluation.noun))
    parts += [
        f"<h2>All {evaluation.noun}s</h2>",
        _slide_table(evaluation),
        _definitions(evaluation),
    ]
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>wsiseg evaluation</title><style>{STYLE}</style></head>\n<body>"
        + "\n".join(parts)
        + "</body></html>\n"
    )


def _summary_table(rows: Sequence[SummaryRow], noun: str) -> str:
    """Return one line per figure and class."""
    lines = []
    named = ""
    for row in rows:
        lines.append(
            [
                _text(row.class_name) if row.class_name != named else "",
                _text(_title(row.figure)),
                _interval(row),
                _number(row.median),
                _number(row.pooled),
                str(row.interval.count),
                _left_out(row),
            ]
        )
        named = row.class_name
    pixels = "All voxels" if noun == "scan" else "All pixels"
    several = f"{noun.capitalize()}s"
    heads = ("Class", "Figure", f"Mean over {noun}s", "Median", pixels, several, "Left out")
    return _table(heads, lines, text_columns=2)


def _strata_table(rows: Sequence[SummaryRow], noun: str) -> str:
    """Return one line per class and stratum, with the figures that matter most."""
    shown = [name for name in SLIDE_FIGURES if any(row.figure == name for row in rows)]
    by_place = {(row.class_name, row.stratum, row.figure): row for row in rows}
    names = dict.fromkeys(row.class_name for row in rows)
    strata = dict.fromkeys(row.stratum for row in rows)
    lines = []
    for class_name, stratum in itertools.product(names, strata):
        found = [by_place.get((class_name, stratum, name)) for name in shown]
        slides = max((row.interval.count for row in found if row), default=0)
        cells = [_interval(row) if row else "" for row in found]
        lines.append([_text(class_name), _text(stratum or "(none)"), str(slides), *cells])
    heads = ("Class", "Group", f"{noun.capitalize()}s", *map(_title, shown))
    return _table(heads, lines, text_columns=2)


def _slide_table(evaluation: Evaluation) -> str:
    """Return one line per slide and class, the worst slide first."""
    table = [(slide, one, one.figures()) for slide in evaluation.worst() for one in slide.classes]
    shown = [name for name in SLIDE_FIGURES if any(name in figures for *_, figures in table)]
    columns = list(dict.fromkeys(name for slide in evaluation.slides for name in slide.columns))
    lines = [
        [
            _text(slide.name),
            *(_text(slide.columns.get(name, "")) for name in columns),
            _text(scores.name),
            *(_number(figures.get(name, math.nan)) for name in shown),
        ]
        for slide, scores, figures in table
    ]
    heads = (evaluation.noun.capitalize(), *columns, "Class", *map(_title, shown))
    return _table(heads, lines, text_columns=len(columns) + 2)


def _by_slide(evaluation: Evaluation) -> str:
    noun = evaluation.noun
    known = evaluation.slides[0].classes[0].figures() if evaluation.slides[0].classes else {}
    for name in ("dice", "pq", "points_patherea_f1"):
        if name in known and len(evaluation.slides) > 1:
            plot = figure_by_slide(evaluation.slides, name, f"{_title(name)}, a dot per {noun}")
            return f"<figure>{_image(plot, f'{_title(name)} of each {noun}')}</figure>"
    return ""


def _calibration(calibrated: Calibrated) -> str:
    return (
        "<h2>Calibration</h2>"
        f"<figure>{_image(reliability_diagram(calibrated), 'Reliability diagram')}<figcaption>"
        f"{calibrated.pixels:,} pixels in {len(calibrated.bins)} bins: Brier score "
        f"{calibrated.brier:.4f}, negative log likelihood {calibrated.nll:.4f}. Bars below the "
        "dashed line: surer than right.</figcaption></figure>"
    )


def _pictures(pictures: Iterable[Picture], noun: str) -> str:
    key = "".join(
        f'<span class="key{extra}" style="background: rgb{color}"></span>{name}'
        for color, name, extra in (
            (REFERENCE, "reference", ""),
            (PREDICTED, "prediction", ""),
            (WRONG, "wrong pixels", " wide"),
        )
    )
    parts = [f"<h2>The worst {noun}s</h2><p>{key}</p>"]
    for picture in pictures:
        images = [
            _image(content, f"{picture.name}, {what}")
            for content, what in ((picture.whole, "whole"), (picture.detail, "worst place"))
            if content is not None
        ]
        parts.append(
            f'<figure class="tiles"><div>{"".join(images)}</div><figcaption>'
            f"<b>{escape(picture.name)}</b>: {escape(picture.caption)}"
            f"{'; right: where most pixels are wrong' if len(images) > 1 else ''}"
            "</figcaption></figure>"
        )
    return "".join(parts)


def _interval_note(evaluation: Evaluation) -> str:
    options = evaluation.options
    noun = evaluation.noun
    drawn = options.group_by or noun
    return (
        f'<p class="note">In brackets: {100 * options.confidence:g} % confidence interval of the '
        f"mean, bootstrap by {escape(drawn)} ({options.resamples} resamples, {options.method}, "
        f"seed {options.seed}); none with fewer than two. Left out of means: {noun}s on which "
        "neither side has anything of the class (undefined), and infinite distances, where one "
        "side has nothing; the median counts those.</p>"
    )


def _definitions(evaluation: Evaluation) -> str:
    options = evaluation.options
    outline = {
        "pixels": "pixels of a class beside another class",
        "contour": "corners between pixels, weighted by the length of the outline there",
    }[options.boundary]
    scans = evaluation.noun == "scan"
    tolerance = f"{options.tolerance_um / 1000:g} mm" if scans else f"{options.tolerance_um:g} µm"
    parts = (
        "Lesions are the parts of a class that are connected over faces, edges or corners "
        "(26-connectivity); " * (scans and options.lesions)
    )
    return (
        '<h2>Definitions</h2><p class="note">Pixels where nobody knows the truth (255) are not '
        "scored; pixels without a prediction count as background. Dice and IoU are undefined where "
        "both sides are empty and 0 where one is; precision is undefined without prediction, "
        f"recall without reference. Outlines: {outline}; the frame of the image is "
        f"{'an outline' if options.edge == 'closed' else 'no outline'}; tolerance "
        f"{tolerance}. HD95: the larger of the two directed 95th percentiles. {parts}"
        f"{'they' if parts else 'Objects'} match at IoU above 0.5. Points match within "
        f"{options.point_tolerance_um:g} µm; Patherea: as many pairs as possible, counts pooled; "
        "Hungarian: least sum of distances, then the tolerance, mean over slides. ECE: the most "
        f"probable class, {options.bins} bins.</p>"
    )


def _table(heads: Sequence[str], lines: Sequence[Sequence[str]], *, text_columns: int) -> str:
    def row(cells: Sequence[str], tag: str) -> str:
        kinds = (' class="text"' if i < text_columns else "" for i in range(len(cells)))
        return "".join(f"<{tag}{k}>{c}</{tag}>" for k, c in zip(kinds, cells, strict=True))

    head = f"<tr>{row([escape(name) for name in heads], 'th')}</tr>"
    body = "".join(f"<tr>{row(cells, 'td')}</tr>" for cells in lines)
    return f'<div class="scroll"><table>{head}{body}</table></div>'


def _interval(row: SummaryRow) -> str:
    interval = row.interval
    if math.isnan(interval.low):
        return _number(interval.value)
    ends = f"[{_number(interval.low)}, {_number(interval.high)}]"
    return f"{_number(interval.value)} <small>{ends}</small>"


def _left_out(row: SummaryRow) -> str:
    counts = ((row.undefined, "undefined"), (row.infinite, "infinite"))
    return ", ".join(f"{count} {what}" for count, what in counts if count)


def _number(value: float) -> str:
    if math.isnan(value):
        return ""
    if math.isinf(value):
        return "∞"
    return f"{value:.3f}" if abs(value) < 10 else f"{value:,.1f}"


def _title(figure: str) -> str:
    return TITLES.get(figure, figure)


def _text(value: Any) -> str:  # noqa: ANN401 - columns of a table hold what they hold
    return escape(str(value))


def _image(content: bytes, alt: str) -> str:
    data = base64.b64encode(content).decode("ascii")
    return f'<img alt="{escape(alt)}" src="data:image/png;base64,{data}">'

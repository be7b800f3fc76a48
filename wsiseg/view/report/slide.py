"""The report of one slide: picture, areas, how sure, what is damaged, time, where it comes from."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from wsiseg.options import SegmentOptions
from wsiseg.view.report.finished import FinishedSlide
from wsiseg.view.report.markup import (
    bar,
    document,
    duration,
    facts,
    number,
    picture,
    table,
    text,
)

__all__ = ["slide_page"]

PICTURE_PIXELS = 1280
MOST_BLOCKS = 50
"""Damaged blocks listed; `corrupt.json` has all."""

LAYERS = {
    "mean_entropy": "entropy (0 sure, 1 undecided)",
    "mean_overlap": "disagreement of overlapping patches (standard deviation)",
    "mean_tta": "disagreement of turned views (standard deviation)",
    "mean_dropout": "disagreement under dropout (standard deviation)",
}


def slide_page(slide: FinishedSlide) -> str:
    """Return `report.html` of one slide; it holds everything it shows."""
    record, model = slide.record, slide.record.get("model", {})
    lead = f"{model.get('name')} {model.get('version')}, {_when(record)}"
    parts = [
        f"<h1>{text(slide.name)}</h1>",
        f'<p class="lead">{text(lead)}</p>',
        _intended(model),
        _picture(slide),
        "<h2>Areas</h2>",
        _areas(slide),
        _uncertainty(slide),
        _calibration(slide),
        _damage(slide),
        "<h2>Time</h2>",
        _time(slide),
        "<h2>Where it comes from</h2>",
        facts(_provenance(slide)),
        _versions(record),
    ]
    return document(f"{slide.name}: {model.get('name')}", parts)


def _when(record: Mapping[str, Any]) -> str:
    return str(record.get("ended", "")).replace("T", " ").removesuffix("+00:00")[:16] + " UTC"


def _intended(model: Mapping[str, Any]) -> str:
    said = model.get("intended_use")
    return f'<p class="note">{text(said)}</p>' if said else ""


def _picture(slide: FinishedSlide) -> str:
    pixels = slide.picture(PICTURE_PIXELS)
    return f"<figure>{picture(pixels, slide.name)}</figure>" if pixels is not None else ""


def _areas(slide: FinishedSlide) -> str:
    tissue = float(slide.summary.get("tissue_mm2") or 0)
    rows = [["Tissue", number(tissue), ""]]
    for name, area_mm2 in slide.class_areas.items():
        share = f"{area_mm2 / tissue:.1%}" if tissue else ""
        rows.append([text(name), number(area_mm2), share])
    objects = slide.summary.get("objects")
    note = f'<p class="note">{number(objects)} objects.</p>' if objects is not None else ""
    return table(("Class", "mm²", "of tissue"), rows) + note


def _uncertainty(slide: FinishedSlide) -> str:
    found = {key: slide.summary[key] for key in LAYERS if slide.summary.get(key) not in (None, "")}
    if not found:
        return ""
    rows = [[text(LAYERS[key]), number(value, 3)] for key, value in found.items()]
    return "<h2>Uncertainty</h2>" + table(("Mean over what was predicted", ""), rows)


def _calibration(slide: FinishedSlide) -> str:
    card = slide.card
    if card is None:
        return ""
    how = {
        "none": "Probabilities are the network's own: they were not calibrated.",
        "temperature": "Probabilities are calibrated by a temperature.",
        "vector": "Probabilities are calibrated by a weight and a bias per class.",
    }[card.calibration.method]
    told = {k: v for k, v in card.provenance.metrics.items() if "ece" in k.lower().split()}
    rows = [[text(name), number(value, 3)] for name, value in told.items()]
    errors = table(("Calibration error, as the model's card says", ""), rows) if rows else ""
    return f"<h2>How far to trust it</h2><p>{how}</p>{errors}<p>{text(card.provenance.limits)}</p>"


def _damage(slide: FinishedSlide) -> str:
    blocks = slide.damage.get("blocks", ())
    if not blocks:
        return ""
    share = float(slide.damage.get("corrupt_share", 0))
    lead = (
        f'<div class="box bad">{len(blocks)} blocks of the slide cannot be decoded; '
        f"{share:.3g} of its tissue is affected ({number(slide.damage.get('degraded_mm2'))} mm² "
        f"replaced by a coarser level, {number(slide.damage.get('nodata_mm2'))} mm² lost, "
        f"{number(slide.damage.get('unpredicted_mm2'))} mm² without a result).</div>"
    )
    rows = [
        [
            f"{block['level']}, {block['row']}, {block['column']}",
            text(block["state"]),
            text(block["reason"]),
            "{x}, {y}: {width} x {height}".format(**block["level0"]),
        ]
        for block in blocks[:MOST_BLOCKS]
    ]
    rest = len(blocks) - len(rows)
    more = f'<p class="note">{rest} more in corrupt.json.</p>' if rest > 0 else ""
    heads = ("Level, row, column", "What became of it", "Reason", "Level-0 pixels: size")
    return "<h2>Damage</h2>" + lead + table(heads, rows, left=3) + more


def _time(slide: FinishedSlide) -> str:
    stages = [
        [
            text(stage["stage"]),
            number(stage["tiles"]),
            *(duration(float(stage[key])) for key in ("seconds", "read_s", "predict_s", "write_s")),
        ]
        for stage in slide.record.get("stages", ())
    ]
    heads = ("Stage", "Tiles", "Time", "Reading", "Network", "Stitching, writing")
    note = (
        '<p class="note">Reading and network are summed over workers, which run at once, so they '
        "may add up to more than the time.</p>"
    )
    return bar(slide.seconds) + table(heads, stages) + note


def _provenance(slide: FinishedSlide) -> dict[str, object]:
    record = slide.record
    image, model = record.get("slide", {}), record.get("model", {})
    sizes = " x ".join(f"{n:,}" for n in image.get("size", ()))
    mpp = " x ".join(f"{value:.6g}" for value in image.get("mpp", ()))
    spacing = "; ".join(
        f"{stage['stage']}: {' x '.join(f'{um:.4g}' for um in stage['effective_um'])} µm per pixel "
        f"from level {stage['level']}"
        for stage in record.get("plan", {}).get("stages", ())
    )
    return {
        "Slide": image.get("path"),
        "Size": f"{sizes} pixels, {mpp} µm per pixel (from the {image.get('mpp_from')})",
        "Slide, SHA-256 of samples": image.get("sha256_sampled"),
        "Read by": f"{image.get('reader')} ({image.get('vendor')})",
        "Networks saw": spacing,
        "Model": f"{model.get('name')} {model.get('version')}, {model.get('license', '')}",
        "Model, digest": model.get("digest"),
        "Ran on": f"{model.get('device')}, {model.get('backend')}, {model.get('precision')}",
        "Options": _options(record.get("options", {})) or "as by default",
        "To repeat it": f"wsiseg replay {slide.folder.name}",
    }


def _options(groups: Mapping[str, Any]) -> str:
    """Return the options that are not as by default."""
    usual = asdict(SegmentOptions())
    pairs = (
        f"{key} {', '.join(map(str, value)) if isinstance(value, list) else value}"
        for name, group in groups.items()
        for key, value in group.items()
        if not _same(value, usual.get(name, {}).get(key))
    )
    return "; ".join(pairs)


def _same(value: object, usual: object) -> bool:
    return value == (list(usual) if isinstance(usual, tuple) else usual)


def _versions(record: Mapping[str, Any]) -> str:
    told = {"wsiseg": record.get("wsiseg"), **record.get("versions", {})}
    return f'<p class="note">{text(", ".join(f"{k} {v}" for k, v in told.items()))}</p>'

"""The files of an evaluation: tables, JSON, and the page people open."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import orjson

from wsiseg.errors import unwritable
from wsiseg.evaluate.evaluation import Evaluation
from wsiseg.evaluate.page import page
from wsiseg.evaluate.slide import SlideScores
from wsiseg.files import csv_table, write_whole

__all__ = ["to_json", "write_evaluation"]


def write_evaluation(evaluation: Evaluation, folder: Path) -> Path:
    """Write all files of an evaluation, see `Evaluation.write`."""
    summary = [row.to_dict() for row in evaluation.summary]
    files = {
        "evaluation.csv": csv_table(evaluation.table()),
        "summary.csv": csv_table(summary),
        "evaluation.json": orjson.dumps(
            to_json(evaluation), option=orjson.OPT_INDENT_2 | orjson.OPT_SERIALIZE_NUMPY
        ),
        "evaluation.html": page(evaluation).encode(),
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable(error, folder) from error
    for name, content in files.items():
        write_whole(folder / name, content)
    return folder


def to_json(evaluation: Evaluation) -> dict[str, Any]:
    """Return everything as plain values; figures that are NaN or infinite become null."""
    calibration = evaluation.calibration()
    return {
        "classes": list(evaluation.classes),
        "options": asdict(evaluation.options),
        "summary": [row.to_dict() for row in evaluation.summary],
        "calibration": calibration and asdict(calibration),
        "points": {
            protocol: {name: asdict(scores) for name, scores in by_class.items()}
            for protocol, by_class in evaluation.points().items()
        },
        "slides": [_slide(slide) for slide in evaluation.slides],
    }


def _slide(slide: SlideScores) -> dict[str, Any]:
    confusion = slide.confusion
    calibration = slide.calibration and slide.calibration.scores()
    return {
        "name": slide.name,
        "columns": dict(slide.columns),
        "classes": {
            scores.name: {"empty": scores.empty, **scores.figures()} for scores in slide.classes
        },
        "confusion": confusion and confusion.counts.tolist(),
        "ignored_pixels": confusion and confusion.ignored,
        "accuracy": confusion and confusion.accuracy,
        "ece": calibration and calibration.ece,
        "ece_of_raters": [against.ece for against in slide.rater_calibrations],
    }

"""`wsiseg evaluate`: predictions against labels."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from wsiseg.errors import UsageError

from .arguments import AsJson

if TYPE_CHECKING:
    from wsiseg.evaluate import Evaluation, EvaluationOptions

__all__ = ["evaluate"]

PRINTED = (
    *("dice", "iou", "precision", "recall", "aji", "pq", "dq", "sq", "object_f1"),
    *("points_patherea_f1", "points_hungarian_f1", "consensus_dice"),
    *("surface_dice", "hd95_mm", "average_distance_mm", "lesion_precision", "lesion_recall"),
    *("lesion_f1", "crps_ml"),
)
"""The other figures are in the report."""


OF_SLIDES = ("spacing", "point_tolerance", "compare", "stratify")
OF_LABEL_FOLDERS = ("rater",)


def evaluate(
    context: typer.Context,
    dataset: Annotated[
        Path,
        typer.Argument(
            help="dataset.toml, the config.toml that names one, or a CSV with --classes; of scans, "
            "the folder (or one file) of label volumes.",
            show_default=False,
        ),
    ],
    predictions: Annotated[
        Path,
        typer.Argument(
            help="What `wsiseg segment` wrote, or a mask, annotations or labels per slide or scan, "
            "named after it.",
            show_default=False,
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the report.")] = Path(
        "evaluation"
    ),
    split: Annotated[
        Literal["train", "val", "test"], typer.Option(help="Which slides of the data set.")
    ] = "test",
    spacing: Annotated[
        float, typer.Option(min=0.05, help="µm per pixel at which masks are compared.")
    ] = 1.0,
    classes: Annotated[
        str,
        typer.Option(help="For a CSV, or scans: classes, background first, with commas between."),
    ] = "",
    tolerance: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            help="Up to which an outline counts as right: µm of slides (10), mm of scans (1).",
            show_default=False,
        ),
    ] = None,
    point_tolerance: Annotated[
        float, typer.Option(min=0.0, help="µm up to which points match.")
    ] = 8.0,
    compare: Annotated[
        list[str] | None,
        typer.Option(help="masks (default), objects or points; may be given several times."),
    ] = None,
    stratify: Annotated[
        list[str] | None, typer.Option(help="Column of the data set to tell results apart by.")
    ] = None,
    rater: Annotated[
        list[Path] | None,
        typer.Option(help="Of scans: folder of labels by another person; several times for more."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Score predictions: Dice, outlines, calibration, with intervals; CSV, JSON and a page."""
    from wsiseg.evaluate import EvaluationOptions
    from wsiseg.evaluate.write import to_json
    from wsiseg.source import is_volume

    named = [name.strip() for name in classes.split(",") if name.strip()]
    if dataset.is_dir() or is_volume(dataset):
        _refuse(context, (*OF_SLIDES, "split"), "folders of label volumes")
        evaluation = _of_scans(dataset, predictions, named, rater or [], tolerance)
    else:
        evaluation = _of_dataset(
            context,
            dataset,
            predictions,
            named,
            split,
            spacing,
            compare,
            tolerance,
            EvaluationOptions(
                tolerance_um=10.0 if tolerance is None else tolerance,
                point_tolerance_um=point_tolerance,
                point_protocols=("patherea", "hungarian"),
                group_by="patient",
                strata=tuple(stratify or ()),
            ),
        )
    folder = evaluation.write(out)
    if as_json:
        typer.echo(json.dumps(to_json(evaluation)))
        return
    for row in evaluation.summary:
        if row.figure in PRINTED:
            where = f", {row.column} {row.stratum}" if row.column else ""
            mean, low, high = row.interval.value, row.interval.low, row.interval.high
            between = f" ({low:.4f} to {high:.4f})" if low == low else ""
            typer.echo(f"{row.class_name}{where}: {row.figure} {mean:.4f}{between}")
    typer.echo(str(folder / "evaluation.html"))


def _of_scans(
    references: Path,
    predictions: Path,
    classes: list[str],
    raters: list[Path],
    tolerance: float | None,
) -> "Evaluation":
    from wsiseg.evaluate import evaluate_scans, find_pairs, scan_options
    from wsiseg.evaluate.volumes import TOLERANCE_MM

    wanted = TOLERANCE_MM if tolerance is None else tolerance
    return evaluate_scans(
        find_pairs(references, predictions, raters=raters),
        classes=classes,
        options=scan_options(tolerance_mm=wanted),
    )


def _refuse(context: typer.Context, names: Sequence[str], what: str) -> None:
    """Refuse options that would count for nothing."""
    sources = {name: context.get_parameter_source(name) for name in names}
    given = [
        f"--{name.replace('_', '-')}"
        for name, source in sources.items()
        if source is not None and source.name == "COMMANDLINE"
    ]
    if given:
        raise UsageError(f"{', '.join(given)}: not for {what}, where it would change nothing")


def _of_dataset(
    context: typer.Context,
    dataset: Path,
    predictions: Path,
    named: list[str],
    split: Literal["train", "val", "test"],
    spacing: float,
    compare: list[str] | None,
    tolerance: float | None,
    options: "EvaluationOptions",
) -> "Evaluation":
    from wsiseg.evaluate import scan_options
    from wsiseg.evaluate.volumes import TOLERANCE_MM
    from wsiseg.train.config import read_dataset_of
    from wsiseg.train.scoring import evaluate_dataset

    content = read_dataset_of(dataset, classes=named)
    _refuse(context, OF_LABEL_FOLDERS, "data sets, which have columns rater...")
    if content.volumes:
        _refuse(context, OF_SLIDES, "data sets of scans")
        options = scan_options(tolerance_mm=TOLERANCE_MM if tolerance is None else tolerance)
    return evaluate_dataset(
        content,
        predictions,
        splits=(split,),
        spacing_um=spacing,
        compared=tuple(compare or ("masks",)),
        options=options,
    )

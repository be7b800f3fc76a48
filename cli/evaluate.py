"""`wsiseg evaluate`: predictions against labels."""

import json
from pathlib import Path
from typing import Annotated, Literal

import typer

from .arguments import AsJson

__all__ = ["evaluate"]

PRINTED = (
    *("dice", "iou", "precision", "recall", "aji", "pq", "dq", "sq", "object_f1"),
    *("points_patherea_f1", "points_hungarian_f1", "consensus_dice"),
)
"""The other figures are in the report."""


def evaluate(
    dataset: Annotated[
        Path,
        typer.Argument(
            help="dataset.toml, the config.toml that names one, or a CSV with --classes.",
            show_default=False,
        ),
    ],
    predictions: Annotated[
        Path,
        typer.Argument(
            help="What `wsiseg segment` wrote, or a mask or annotations per slide, named after it.",
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
        str, typer.Option(help="For a CSV: classes, background first, with commas between.")
    ] = "",
    tolerance: Annotated[
        float, typer.Option(min=0.0, help="µm up to which an outline counts as right.")
    ] = 10.0,
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
    as_json: AsJson = False,
) -> None:
    """Score predictions: Dice, outlines, calibration, with intervals; CSV, JSON and a page."""
    from wsiseg.evaluate import EvaluationOptions
    from wsiseg.evaluate.write import to_json
    from wsiseg.train.config import read_dataset_of
    from wsiseg.train.scoring import evaluate_dataset

    named = [name.strip() for name in classes.split(",") if name.strip()]
    evaluation = evaluate_dataset(
        read_dataset_of(dataset, classes=named),
        predictions,
        splits=(split,),
        spacing_um=spacing,
        compared=tuple(compare or ("masks",)),
        options=EvaluationOptions(
            tolerance_um=tolerance,
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

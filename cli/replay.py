"""`wsiseg replay`: a run once more, and whether it gives the same bytes."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .arguments import AsJson, Quiet
from .console import say, stoppable

if TYPE_CHECKING:
    from wsiseg.run.replay import ReplayReport

__all__ = ["replay"]


def replay(
    record: Annotated[
        Path,
        typer.Argument(help="The run.json of a slide or scan, or its folder.", show_default=False),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the new files.")] = Path(
        "replay"
    ),
    slide: Annotated[
        Path | None, typer.Option("--slide", help="The slide or scan, if it is not where it was.")
    ] = None,
    model: Annotated[
        Path | None, typer.Option("--model", "-m", help="The model, if it is not where it was.")
    ] = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Repeat a run from its run.json: the same bytes, or what differs. Exit 1 if any do."""
    from wsiseg.run.replay import replay as repeat

    from .progress import show_progress

    with stoppable(out), show_progress(1, quiet=quiet) as (listen, _):
        report = repeat(record, out, slide=slide, model=model, listen=listen)
    if as_json:
        typer.echo(json.dumps(asdict(report) | {"identical": report.is_identical}, default=str))
    else:
        _print(report)
    if not report.is_identical:
        raise typer.Exit(1)


def _print(report: "ReplayReport") -> None:
    for name in report.same:
        typer.echo(f"same bytes: {name}")
    for difference in report.differences:
        typer.echo(f"differs: {difference.name}: {difference.what}")
    for line in report.circumstances:
        say(f"not as it was: {line}")
    say(f"the new files are in {report.folder}")

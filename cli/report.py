"""`wsiseg report`: a page per slide and one for the run, from finished results."""

from pathlib import Path
from typing import Annotated

import typer

from wsiseg.errors import WsisegError

from .console import failed

__all__ = ["report"]


def report(
    results: Annotated[
        list[Path],
        typer.Argument(help="The --out folders of runs, or folders of single slides or scans."),
    ],
) -> None:
    """Write report.html for each slide or scan and for the run: to read, to send, to print."""
    from wsiseg.view.report import write_reports

    bad = 0
    for path in results:
        try:
            for page in write_reports(path):
                typer.echo(str(page))
        except WsisegError as error:
            failed(error)
            bad += 1
    if bad:
        raise typer.Exit(1)

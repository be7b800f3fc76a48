"""`wsiseg view`: results in the browser, with corrections."""

import webbrowser
from pathlib import Path
from typing import Annotated

import typer

__all__ = ["view"]


def view(
    out: Annotated[
        Path, typer.Argument(help="The --out of a run, or the folder of a slide in it.")
    ],
    slides: Annotated[
        list[Path] | None,
        typer.Argument(help="Where the slides are, if they were moved.", show_default=False),
    ] = None,
    compare: Annotated[
        list[Path] | None,
        typer.Option("--compare", help="Another run, to be seen side by side; repeatable."),
    ] = None,
    corrections: Annotated[
        Path | None,
        typer.Option(
            help="Folder for corrections; default: corrections.geojson in each result.",
            show_default=False,
        ),
    ] = None,
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port on 127.0.0.1; 0 takes a free one.")
    ] = 0,
    browser: Annotated[bool, typer.Option(help="Open the link.")] = True,
) -> None:
    """Show slides with their results in the browser, and correct them."""
    from wsiseg.view.serve import serve

    def ready(link: str) -> None:
        typer.echo(link)
        typer.echo("Ctrl-C ends it.", err=True)
        if browser:
            webbrowser.open(link)

    serve([out, *(compare or [])], slides or [], port=port, corrections=corrections, ready=ready)

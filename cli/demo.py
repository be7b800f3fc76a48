"""`wsiseg demo`: the whole flow on bundled slides."""

from pathlib import Path

import typer

from .arguments import Out
from .console import log

__all__ = ["demo"]


def demo(out: Out = Path("wsiseg-demo")) -> None:
    """Run everything on bundled slides with the bundled model."""
    from wsiseg.run.demo import run_demo

    from .progress import show_progress

    with show_progress(2) as (listen, slide_done):
        written = run_demo(out, listen=listen, slide_done=slide_done)
    for path, what in written:
        typer.echo(f"{path}  {what}")
    log().print(
        "The model is a demonstration, not for diagnosis. In QuPath: open the slide, then drag "
        "annotations.geojson onto it.",
        markup=False,
        highlight=False,
    )

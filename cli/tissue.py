"""`wsiseg tissue`: where the tissue is."""

from pathlib import Path

import typer

from wsiseg.options import TissueOptions

from .arguments import (
    DEFAULT_TISSUE,
    Mpp,
    Nested,
    Out,
    Reader,
    Recursive,
    Slides,
    Tissue,
    parse_mpp,
)
from .console import failed

__all__ = ["tissue"]


def tissue(
    slides: Slides,
    out: Out = Path("tissue"),
    mpp: Mpp = None,
    reader: Reader = None,
    detector: Tissue = DEFAULT_TISSUE.detector,
    recursive: Recursive = False,
    nested: Nested = False,
) -> None:
    """Find tissue: write OUT/<slide>/tissue.geojson and overview.png."""
    from wsiseg.run import list_slides, tissue_folder

    jobs = list_slides(
        slides, mpp=parse_mpp(mpp), reader=reader, recursive=recursive, nested=nested
    )
    report = tissue_folder(jobs, out, options=TissueOptions(detector=detector))
    for row in report.done:
        typer.echo(row.folder)
    for row in report.failures:
        failed(row.error)
    if report.failures:
        raise typer.Exit(1)

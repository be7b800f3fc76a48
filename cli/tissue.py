"""`wsiseg tissue`: where the tissue is."""

from pathlib import Path

import typer

from wsiseg.options import TissueOptions

from .arguments import DEFAULT_TISSUE, Mpp, Out, Reader, Slides, Tissue, parse_mpp
from .console import log

__all__ = ["tissue"]


def tissue(
    slides: Slides,
    out: Out = Path("out"),
    mpp: Mpp = None,
    reader: Reader = None,
    detector: Tissue = DEFAULT_TISSUE.detector,
    recursive: bool = typer.Option(False, "--recursive", help="Look into subfolders."),
    nested: bool = typer.Option(False, "--nested", help="Tell slides of one name apart."),
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
        log().print(f"failed: {row.error}", style="red", markup=False, soft_wrap=True)
    if report.failures:
        raise typer.Exit(1)

"""`wsiseg tiles`: patches of tissue as PNG."""

from pathlib import Path
from typing import Annotated

import typer

from wsiseg.options import TissueOptions

from .arguments import (
    DEFAULT_TISSUE,
    Again,
    AsJson,
    Expiry,
    Isolate,
    Limit,
    Match,
    MinTissue,
    Mpp,
    Nested,
    NoWait,
    Out,
    Quiet,
    Reader,
    Recursive,
    Slides,
    Tissue,
    folder_options,
    parse_mpp,
)
from .console import print_report, stoppable

__all__ = ["tiles"]


def tiles(
    slides: Slides,
    out: Out = Path("tiles"),
    spacing: Annotated[float, typer.Option(help="µm per pixel of the patches.")] = 0.5,
    patch: Annotated[int, typer.Option(min=1, help="Side of a patch in pixels.")] = 256,
    stride: Annotated[
        int | None, typer.Option(min=1, help="Distance between patches; default: the patch.")
    ] = None,
    coordinates_only: Annotated[
        bool, typer.Option("--coordinates-only", help="Write tiles.csv without pictures.")
    ] = False,
    mpp: Mpp = None,
    reader: Reader = None,
    tissue: Tissue = DEFAULT_TISSUE.detector,
    min_tissue: MinTissue = 0.5,
    recursive: Recursive = False,
    nested: Nested = False,
    match: Match = None,
    limit: Limit = None,
    again: Again = False,
    expiry: Expiry = "2m",
    no_wait: NoWait = False,
    isolate: Isolate = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Export tissue patches as PNG with their coordinates, in OUT/<slide>/."""
    from wsiseg.run import list_slides, tiles_folder

    from .progress import show_progress

    folder = folder_options(again=again, expiry=expiry, no_wait=no_wait, isolate=isolate)
    jobs = list_slides(
        slides,
        mpp=parse_mpp(mpp),
        reader=reader,
        recursive=recursive,
        nested=nested,
        match=match or (),
        limit=limit,
    )
    with stoppable(out), show_progress(len(jobs), quiet=quiet) as (_, slide_done):
        report = tiles_folder(
            jobs,
            out,
            spacing_um=spacing,
            patch=patch,
            stride=stride,
            pictures=not coordinates_only,
            options=TissueOptions(detector=tissue, min_fraction=min_tissue),
            folder=folder,
            slide_done=slide_done,
        )
    print_report(report, as_json=as_json)

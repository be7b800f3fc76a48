"""`wsiseg tissue`: where the tissue is."""

from pathlib import Path

from wsiseg.options import TissueOptions

from .arguments import (
    DEFAULT_TISSUE,
    Again,
    AsJson,
    Expiry,
    Isolate,
    Limit,
    Match,
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

__all__ = ["tissue"]


def tissue(
    slides: Slides,
    out: Out = Path("tissue"),
    mpp: Mpp = None,
    reader: Reader = None,
    detector: Tissue = DEFAULT_TISSUE.detector,
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
    """Find tissue: write OUT/<slide>/tissue.geojson and overview.png."""
    from wsiseg.run import list_slides, tissue_folder

    from .progress import show_progress

    options = TissueOptions(detector=detector)
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
        report = tissue_folder(jobs, out, options=options, folder=folder, slide_done=slide_done)
    print_report(report, as_json=as_json)

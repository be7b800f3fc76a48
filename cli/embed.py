"""`wsiseg embed`: slides in, a vector per tile out."""

from pathlib import Path
from typing import Annotated

import typer

from wsiseg.options import EmbedOptions, TissueOptions

from .arguments import (
    DEFAULT_TISSUE,
    Again,
    AsJson,
    Batch,
    Device,
    Expiry,
    Isolate,
    Limit,
    Match,
    Memory,
    MinTissue,
    Mpp,
    Nested,
    NoWait,
    Numbers,
    Out,
    Quiet,
    Reader,
    Recursive,
    RunBy,
    Scheduler,
    Slides,
    Threads,
    Timeout,
    Tissue,
    folder_options,
    parse_mpp,
    run_options,
)
from .console import print_report, stoppable

__all__ = ["embed"]


def embed(
    slides: Slides,
    model: Annotated[
        str, typer.Option("--model", "-m", help="Name of an embedding model, or its folder.")
    ],
    out: Out = Path("embeddings"),
    mpp: Mpp = None,
    reader: Reader = None,
    tissue: Tissue = DEFAULT_TISSUE.detector,
    min_tissue: MinTissue = 0.5,
    recursive: Recursive = False,
    nested: Nested = False,
    match: Match = None,
    limit: Limit = None,
    again: Again = False,
    timeout: Timeout = None,
    expiry: Expiry = "2m",
    no_wait: NoWait = False,
    isolate: Isolate = False,
    scheduler: Scheduler = None,
    no_parquet: Annotated[
        bool, typer.Option("--no-parquet", help="Write embeddings.zarr only.")
    ] = False,
    backend: RunBy = "auto",
    device: Device = "auto",
    precision: Numbers = "float32",
    batch: Batch = None,
    memory: Memory = None,
    threads: Threads = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Compute a vector per tissue tile: embeddings.zarr and .parquet, in OUT/<slide>/."""
    from wsiseg.run import list_slides
    from wsiseg.run.embed import embed_folder

    from .progress import show_progress

    options = EmbedOptions(
        tissue=TissueOptions(detector=tissue, min_fraction=min_tissue),
        run=run_options(backend, device, precision, batch, threads, memory),
        parquet=not no_parquet,
    )
    folder = folder_options(
        again=again, timeout=timeout, expiry=expiry, no_wait=no_wait, isolate=isolate
    )
    jobs = list_slides(
        slides,
        mpp=parse_mpp(mpp),
        reader=reader,
        recursive=recursive,
        nested=nested,
        match=match or (),
        limit=limit,
    )
    with stoppable(out), show_progress(len(jobs), quiet=quiet) as (listen, slide_done):
        report = embed_folder(
            jobs,
            model,
            out,
            options=options,
            folder=folder,
            scheduler=scheduler,
            listen=listen,
            slide_done=slide_done,
        )
    print_report(report, as_json=as_json)

"""`wsiseg segment`: slides in, annotations out."""

import json
import threading
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from wsiseg.errors import UsageError, WsisegError
from wsiseg.options import (
    DamageOptions,
    Decoding,
    ExportOptions,
    Frame,
    SegmentOptions,
    TissueOptions,
    UncertaintyOptions,
)

from .arguments import (
    DEFAULT_TISSUE,
    Again,
    AllowGap,
    AsJson,
    Batch,
    Device,
    Expiry,
    Isolate,
    Limit,
    Match,
    Memory,
    MemoryPlanName,
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
    Series,
    SplitOver,
    Threads,
    Tilt,
    Timeout,
    Tissue,
    folder_options,
    parse_files,
    parse_layers,
    parse_mpp,
    run_options,
)
from .console import failed, print_report, stoppable

if TYPE_CHECKING:
    from wsiseg.run import FolderReport, SlideJob

__all__ = ["segment"]

CERTAIN = UncertaintyOptions()
DEFAULT_DAMAGE = DamageOptions()

Option = typer.Option
SlidesOrChannels = Annotated[
    list[str] | None,
    typer.Argument(
        help="Slide or scan files, folders, globs, URLs, or a CSV with the columns slide,mpp or "
        "scan.",
        show_default=False,
    ),
]
Channels = Annotated[
    list[str] | None,
    Option(help="NAME=FILE: a channel of one scan, as the model's card names it; repeatable."),
]
Priors = Annotated[
    list[str] | None,
    Option(help="NAME=FILE: a channel known from elsewhere, such as a mask; on any grid."),
]
ModelOrDemo = Annotated[
    str | None,
    Option(
        "--model",
        "-m",
        help="Name or folder; default: the bundled model for slides, or for scans.",
        show_default=False,
    ),
]
InFrame = Annotated[Frame, Option(help="Pixels of the image QuPath shows, or of level 0.")]
Simplify = Annotated[
    float, Option(min=0.0, help="Simplify outlines by this many µm; 0 keeps them exact.")
]
MinArea = Annotated[float, Option(min=0.0, help="Drop objects below this many µm².")]
MinHole = Annotated[float, Option(min=0.0, help="Fill holes below this many µm².")]
Detections = Annotated[bool, Option("--detections", help="Write QuPath detections.")]
Gzip = Annotated[bool, Option("--gzip", help="Write .geojson.gz.")]
Probabilities = Annotated[
    str,
    Option(
        "--probabilities",
        help="Of scans: write the probabilities of these classes, too, by commas; or all.",
    ),
]
Decode = Annotated[
    Decoding, Option("--decoding", help="Reduce JPEG (2000) while decoding: exact, auto, scaled.")
]
Skip = Annotated[
    float, Option("--skip-below", min=0.0, max=1.0, help="Refine only where likelier than this.")
]
Uncertainty = Annotated[
    str, Option("--uncertainty", help="Layers to add: entropy, overlap, tta, dropout; by commas.")
]
Views = Annotated[int, Option("--tta-views", help="8, or 4: without quarter turns.")]
Samples = Annotated[int, Option("--dropout-samples", min=2, help="Networks with units dropped.")]
Seed = Annotated[int, Option("--seed", min=0, help="Of the units dropped.")]
MaxCorrupt = Annotated[
    float,
    Option(
        "--max-corrupt",
        min=0.0,
        max=1.0,
        help="Share of the tissue that damage may affect; above it the slide fails.",
    ),
]
NoDegraded = Annotated[
    bool, Option("--no-degraded", help="No result where only a coarser level can be read.")
]
Crate = Annotated[
    bool, Option("--ro-crate", help="Describe OUT in ro-crate-metadata.json (RO-Crate).")
]
PlanOnly = Annotated[bool, Option("--plan", help="Print tiles, bytes and seconds, and stop.")]


def segment(
    slides: SlidesOrChannels = None,
    out: Out = Path("out"),
    model: ModelOrDemo = None,
    channel: Channels = None,
    prior: Priors = None,
    mpp: Mpp = None,
    reader: Reader = None,
    series: Series = None,
    allow_gap: AllowGap = False,
    tilt: Tilt = None,
    tissue: Tissue = DEFAULT_TISSUE.detector,
    min_tissue: MinTissue = DEFAULT_TISSUE.min_fraction,
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
    split_over: SplitOver = None,
    frame: InFrame = "qupath",
    simplify: Simplify = 0.0,
    min_area: MinArea = 0.0,
    min_hole: MinHole = 0.0,
    detections: Detections = False,
    gzip: Gzip = False,
    probabilities: Probabilities = "",
    backend: RunBy = "auto",
    device: Device = "auto",
    precision: Numbers = "float32",
    decoding: Decode = "exact",
    skip_below: Skip = 0.0,
    uncertainty: Uncertainty = "",
    tta_views: Views = CERTAIN.tta_views,
    dropout_samples: Samples = CERTAIN.dropout_samples,
    seed: Seed = CERTAIN.seed,
    max_corrupt: MaxCorrupt = DEFAULT_DAMAGE.max_corrupt,
    no_degraded: NoDegraded = False,
    batch: Batch = None,
    memory: Memory = None,
    memory_plan: MemoryPlanName = None,
    threads: Threads = None,
    ro_crate: Crate = False,
    plan: PlanOnly = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Segment slides: heatmap, mask and QuPath annotations for each, in OUT/<slide>/."""
    threading.Thread(target=_prepare).start()
    from wsiseg.model import card_of
    from wsiseg.run import (
        SeriesChoice,
        hold_scans,
        list_slides,
        plan_folder,
        scan_of_channels,
        segment_folder,
    )
    from wsiseg.segmenting import SCAN_DEMO, SLIDE_DEMO
    from wsiseg.source import is_volume

    from .progress import show_progress

    options = SegmentOptions(
        tissue=TissueOptions(detector=tissue, min_fraction=min_tissue),
        export=ExportOptions(
            frame=frame,
            simplify_um=simplify,
            min_area_um2=min_area,
            min_hole_um2=min_hole,
            object_type="detection" if detections else "annotation",
            compress=gzip,
            probabilities=tuple(name.strip() for name in probabilities.split(",") if name.strip()),
        ),
        run=replace(
            run_options(backend, device, precision, batch, threads, memory, memory_plan),
            decoding=decoding,
            skip_below=skip_below,
        ),
        uncertainty=UncertaintyOptions(
            layers=parse_layers(uncertainty),
            tta_views=tta_views,
            dropout_samples=dropout_samples,
            seed=seed,
        ),
        damage=DamageOptions(max_corrupt=max_corrupt, degraded=not no_degraded),
    )
    folder = folder_options(
        again=again,
        timeout=timeout,
        expiry=expiry,
        no_wait=no_wait,
        isolate=isolate,
        split_over=split_over,
    )
    named, known = parse_files("--channel", channel), parse_files("--prior", prior)
    given = slides or []
    if model is None:
        are_scans = all(is_volume(one) for one in given) or hold_scans(given, recursive=recursive)
        model = SCAN_DEMO if are_scans else SLIDE_DEMO
    card = card_of(model)
    if named or known:
        if len(given) > 1:
            raise UsageError(f"--channel and --prior are of one scan, found {len(given)}")
        job = scan_of_channels(card.scan_channels, named, known, given[0] if given else None)
        jobs: tuple[SlideJob, ...] = (replace(job, reader=reader),)
    elif not given:
        raise UsageError("needed slides or scans, or --channel NAME=FILE for each of a scan")
    else:
        jobs = list_slides(
            given,
            mpp=parse_mpp(mpp),
            reader=reader,
            recursive=recursive,
            nested=nested,
            match=match or (),
            limit=limit,
            volumes=card.axes == "zyx",
            channels=max(1, len(card.scan_channels)),
        )
    choice = SeriesChoice(series, allow_gap, tilt)
    jobs = tuple(replace(job, choice=choice) for job in jobs)
    if plan:
        _print_plans(plan_folder(jobs, model, options=options, folder=folder), as_json=as_json)
        return
    with stoppable(out), show_progress(len(jobs), quiet=quiet) as (listen, slide_done):
        report = segment_folder(
            jobs,
            model,
            out,
            options=options,
            folder=folder,
            scheduler=scheduler,
            listen=listen,
            slide_done=slide_done,
        )
    if ro_crate and report.done:
        report = _described(report, out)
    print_report(report, as_json=as_json)


def _described(report: "FolderReport", out: Path) -> "FolderReport":
    """Write or replace the description of a run; somebody else's stays, which is a problem."""
    from wsiseg.exchange.to_ro_crate import CRATE, describe_in_place, is_own_crate

    try:
        describe_in_place(out, overwrite=is_own_crate(out / CRATE))
    except WsisegError as error:
        return replace(report, problem=report.problem or str(error))
    return report


def _prepare() -> None:
    """Load what takes long and is needed late, while the model is loaded and tissue looked for."""
    import cv2
    import numpy as np

    cv2.cvtColor(np.zeros((1, 1, 3), np.float32), cv2.COLOR_RGB2LAB)  # makes tables: 0.2 s
    import zarr  # noqa: F401


def _print_plans(records: Iterable[dict[str, Any]], *, as_json: bool) -> None:
    some_failed = False
    for record in records:
        some_failed |= "error" in record
        if as_json:
            typer.echo(json.dumps(record))
        elif "error" in record:
            failed(record["error"])
        elif "looked_at" in record:
            typer.echo(_scan_plan_text(record))
        else:
            typer.echo(_plan_text(record))
    if some_failed:
        raise typer.Exit(1)


def _walk_text(stage: dict[str, Any]) -> str:
    """Say in how many columns a stage is walked, which way, and what that costs."""
    count, turned = stage["columns"], stage["pace"]["turned"]
    text = f"{count} column{'s' * (count > 1)}{' from left to right' * turned}"
    often = stage["amplification"]
    decoded = f"decoded {often:.2f} x" if often is not None else "decoded as the cache allows"
    return f"{text} of {stage['front_bytes'] / 1e6:.0f} MB, {decoded}"


def _passes_text(stage: dict[str, Any]) -> str:
    """Say how often each batch is predicted, where that is more than once."""
    return f"{stage['passes']} predictions of each batch, " if stage["passes"] > 1 else ""


def _patch_text(stage: dict[str, Any]) -> str:
    """Say what the network runs on, and what of the card's it stands for."""
    patch, own = (" x ".join(map(str, stage[key])) for key in ("patch", "card_patch"))
    return f"{patch} px" if patch == own else f"windows of {patch} px (patch {own})"


def _scan_plan_text(record: dict[str, Any]) -> str:
    lines = [
        f"{record['output']}: {record['model']}, {' x '.join(map(str, record['shape']))} voxels, "
        f"peak memory {record['projected_bytes'] / 1e6:.0f} MB, "
        f"{record['work_bytes'] / 1e6:.0f} MB on disk while it runs, about "
        f"{record['seconds']:.0f} s"
    ]
    for stage in record["stages"]:
        mm = " x ".join(f"{value:.4g}" for value in stage["spacing_mm"])
        lines.append(
            f"  {stage['stage']}: {stage['windows']} of {stage['windows_total']} windows of "
            f"{' x '.join(map(str, stage['patch']))} voxels at {mm} mm, {stage['folds']} networks, "
            f"{stage['views']} views, {_memory_text(stage)}, about {stage['seconds']:.0f} s"
        )
    return "\n".join(lines)


def _memory_text(stage: dict[str, Any]) -> str:
    front = f"with a front of {stage['front_bytes'] / 1e6:.0f} MB"
    if stage["memory"] != "blocks":
        return f"memory plan {stage['memory']} {front}"
    return (
        f"memory plan blocks ({stage['blocks']}, {stage['amplification']:.2f} times the windows) "
        f"{front} each"
    )


def _plan_text(record: dict[str, Any]) -> str:
    lines = [
        f"{record['output']}: {record['model']}, tissue {record['tissue_share']:.1%}, "
        f"peak memory {record['projected_bytes'] / 1e6:.0f} MB, about {record['seconds']:.0f} s"
    ]
    for stage in record["stages"]:
        effective = " x ".join(f"{um:.4g}" for um in stage["effective_um"])
        requested = " x ".join(f"{um:.4g}" for um in stage["requested_um"])
        lines.append(
            f"  {stage['stage']}: {stage['tiles']} of {stage['tiles_total']} tiles, "
            f"level {stage['level']}, {effective} µm (asked {requested}), batch "
            f"{stage['batch_size']} of {_patch_text(stage)}, "
            f"{stage['read_bytes'] / 1e6:.0f} MB of pixels, {_walk_text(stage)}, "
            f"{_passes_text(stage)}about {stage['seconds']:.0f} s"
        )
    return "\n".join(lines)

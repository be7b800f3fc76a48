"""`wsiseg segment`: slides in, annotations out."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from wsiseg.options import (
    Backend,
    ExportOptions,
    Frame,
    RunOptions,
    SegmentOptions,
    TissueOptions,
)

from .arguments import (
    DEFAULT_TISSUE,
    MinTissue,
    Mpp,
    Out,
    Reader,
    Slides,
    Tissue,
    parse_mpp,
)
from .console import log

if TYPE_CHECKING:
    from wsiseg.run import FolderReport

__all__ = ["segment"]


def segment(
    slides: Slides,
    out: Out = Path("out"),
    model: Annotated[
        str, typer.Option("--model", "-m", help="Name of a model, or its folder.")
    ] = "breast-tumour-demo",
    mpp: Mpp = None,
    reader: Reader = None,
    tissue: Tissue = DEFAULT_TISSUE.detector,
    min_tissue: MinTissue = DEFAULT_TISSUE.min_fraction,
    recursive: Annotated[bool, typer.Option("--recursive", help="Look into subfolders.")] = False,
    nested: Annotated[
        bool, typer.Option("--nested", help="Tell slides of one name apart by their folder.")
    ] = False,
    frame: Annotated[
        Frame, typer.Option(help="Pixels of the image QuPath shows, or of level 0.")
    ] = "qupath",
    simplify: Annotated[
        float, typer.Option(min=0.0, help="Simplify outlines by this many µm; 0 keeps them exact.")
    ] = 0.0,
    min_area: Annotated[
        float, typer.Option(min=0.0, help="Drop objects below this many µm².")
    ] = 0.0,
    min_hole: Annotated[float, typer.Option(min=0.0, help="Fill holes below this many µm².")] = 0.0,
    detections: Annotated[
        bool, typer.Option("--detections", help="Write QuPath detections, not annotations.")
    ] = False,
    gzip: Annotated[bool, typer.Option("--gzip", help="Write .geojson.gz.")] = False,
    backend: Annotated[Backend, typer.Option(help="What runs the networks.")] = "auto",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    batch: Annotated[
        int | None, typer.Option("--batch", "-b", min=1, help="Patches per batch.")
    ] = None,
    memory: Annotated[
        str | None, typer.Option(help="Refuse plans above this, for example 4GB.")
    ] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads that read.")] = None,
    plan: Annotated[
        bool, typer.Option("--plan", help="Print tiles, bytes and seconds, and stop.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Results as JSON lines.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")] = False,
) -> None:
    """Segment slides: heatmap, mask and QuPath annotations for each, in OUT/<slide>/."""
    from wsiseg.run import list_slides, parse_bytes, plan_folder, segment_folder

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
        ),
        run=RunOptions(
            backend=backend,
            device=device,
            batch_size=batch,
            read_threads=threads,
            memory_bytes=parse_bytes(memory) if memory else None,
        ),
    )
    jobs = list_slides(
        slides, mpp=parse_mpp(mpp), reader=reader, recursive=recursive, nested=nested
    )
    if plan:
        records = list(plan_folder(jobs, model, options=options))
        for record in records:
            typer.echo(json.dumps(record) if as_json else _plan_text(record))
        raise typer.Exit(int(any("error" in record for record in records)))
    with show_progress(len(jobs), quiet=quiet) as (listen, slide_done):
        report = segment_folder(
            jobs, model, out, options=options, listen=listen, slide_done=slide_done
        )
    _print(report, as_json=as_json)
    if report.failures:
        raise typer.Exit(1)


def _print(report: "FolderReport", *, as_json: bool) -> None:
    for row in (*report.done, *report.failures):
        if as_json:
            typer.echo(json.dumps(row.to_dict()))
        elif row.error is None:
            typer.echo(row.folder)
    if report.failures and not as_json:
        for row in report.failures:
            log().print(
                f"failed: {row.error}", style="red", markup=False, highlight=False, soft_wrap=True
            )
    if not as_json:
        log().print(
            f"{len(report.done)} of {len(report.done) + len(report.failures)} slides done; "
            f"summary in {report.summary}",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )


def _plan_text(record: dict[str, object]) -> str:
    if "error" in record:
        return f"{record['slide']}: {record['error']}"
    lines = [
        f"{record['slide']}: {record['model']}, tissue {record['tissue_share']:.1%}, "
        f"peak memory {record['projected_bytes'] / 1e6:.0f} MB, about {record['seconds']:.0f} s"  # type: ignore[operator]
    ]
    stages = record["stages"]
    for stage in stages if isinstance(stages, list) else []:
        effective = " x ".join(f"{um:.4g}" for um in stage["effective_um"])
        requested = " x ".join(f"{um:.4g}" for um in stage["requested_um"])
        lines.append(
            f"  {stage['stage']}: {stage['tiles']} of {stage['tiles_total']} tiles, "
            f"level {stage['level']}, {effective} µm (asked {requested}), batch "
            f"{stage['batch_size']}, {stage['read_bytes'] / 1e6:.0f} MB of pixels, "
            f"about {stage['seconds']:.0f} s"
        )
    return "\n".join(lines)

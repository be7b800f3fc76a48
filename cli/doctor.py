"""`wsiseg doctor`: what a segmentation will take here, what slows it down, what would help."""

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from wsiseg.options import SegmentOptions, TissueOptions

from .arguments import (
    DEFAULT_TISSUE,
    Batch,
    Device,
    ModelName,
    Mpp,
    Numbers,
    Out,
    Reader,
    RunBy,
    Threads,
    Tissue,
    parse_mpp,
    run_options,
)

if TYPE_CHECKING:
    from wsiseg.run.checkup import Checkup

__all__ = ["doctor"]

Slide = Annotated[
    str | None,
    typer.Argument(help="A slide file or URL; default: a bundled one.", show_default=False),
]


def doctor(
    slide: Slide = None,
    model: ModelName = "breast-tumour-demo",
    out: Out = Path("out"),
    mpp: Mpp = None,
    reader: Reader = None,
    tissue: Tissue = DEFAULT_TISSUE.detector,
    backend: RunBy = "auto",
    device: Device = "auto",
    precision: Numbers = "float32",
    batch: Batch = None,
    threads: Threads = None,
    as_json: Annotated[bool, typer.Option("--json", help="JSON instead of text.")] = False,
) -> None:
    """Measure a slide on this machine: seconds, disk, the bottleneck, and what would help."""
    from wsiseg.run.doctor import examine

    begun_s = time.process_time()  # a segmentation starts as this command did
    options = SegmentOptions(
        tissue=TissueOptions(detector=tissue),
        run=run_options(backend, device, precision, batch, threads),
    )
    checkup = examine(slide, model, out=out, mpp=parse_mpp(mpp), reader=reader, options=options)
    checkup = replace(checkup, start_s=checkup.start_s + begun_s)
    typer.echo(json.dumps(checkup.to_dict()) if as_json else _text(checkup))


def _text(checkup: "Checkup") -> str:
    machine, rates, work, seconds = checkup.machine, checkup.rates, checkup.work, checkup.seconds
    gpus = f"{machine.gpus} GPU{'s' * (machine.gpus > 1)}" if machine.gpus else "no GPU"
    lines = [
        f"{checkup.slide}: {checkup.model}, {checkup.backend} on {checkup.device}, "
        f"{checkup.precision}",
        f"machine: {machine.cores} cores, {checkup.cores_used} used, "
        f"{machine.memory_bytes / 1e9:.3g} GB of memory, {gpus}",
        "versions: " + ", ".join(f"{name} {version}" for name, version in machine.versions.items()),
        "",
        "step      seconds  measured",
    ]
    cuts = ", ".join(f"{r.stage} {r.cut_per_s:.0f}" for r in rates.stages)
    calls = ", ".join(
        f"{r.stage} {r.predict_per_s:.3g} (batch {w.batch_size} of {w.patch})"
        for r, w in zip(rates.stages, work.stages, strict=True)
    )
    measured = {
        "tissue": "opened, and found in full",
        "plan": "with a timed batch per stage",
        "file": _known(rates.file_mb_s, "MB/s, first read here; the system may have had it cached"),
        "decode": f"{rates.decode_mpx_s:.0f} Mpx/s, one thread {rates.decode_one_mpx_s:.0f}",
        "reduce": _known(rates.reduce_mpx_s, "Mpx/s to the model's spacing"),
        "cut": f"patches/s: {cuts}",
        "copy": _known(rates.copy_mb_s, "MB/s to the GPU"),
        "predict": f"patches/s: {calls}",
        "write": f"{rates.write_mpx_s:.1f} Mpx/s of heatmap and mask",
        "files": f"outlines {rates.outline_mpx_s:.2f} Mpx/s, picture {work.picture_s:.1f} s",
    }
    for step, took in seconds.items():
        mark = "  <- the bottleneck" if step == checkup.bottleneck else ""
        lines.append(f"{step:9} {took:7.2f}  {measured[step]}{mark}")
    lines += [
        f"{'total':9} {checkup.total_s:7.2f}  and {checkup.start_s:.1f} s to start, model included",
        "",
        f"disk: {checkup.disk_bytes / 1e6:.1f} MB of results, "
        f"{checkup.free_disk_bytes / 1e6:.0f} MB free",
        f"memory: {checkup.projected_memory_bytes / 1e6:.0f} MB at the peak, by the plan",
        "",
        "what would help:",
        *(f"- {sentence}" for sentence in checkup.remedies),
    ]
    return "\n".join(lines)


def _known(rate: float | None, unit: str) -> str:
    return "none" if rate is None else f"{rate:.0f} {unit}"

"""`wsiseg doctor`: where the time goes on this machine with this slide, and what would help."""

import shutil
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from importlib.resources import as_file, files
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wsiseg.annotations import ImageRef, write_annotations
from wsiseg.draw import overview, save_png
from wsiseg.engine import Plan, StageSetup, annotate_tissue, lay_out, versions
from wsiseg.errors import ModelError, RunError
from wsiseg.machine import machine_memory, release_memory, usable_cores
from wsiseg.model import Model, Tuning, load_for_run, load_model, tune
from wsiseg.model.gpus import count_gpus
from wsiseg.options import RunOptions, SegmentOptions
from wsiseg.pipeline import plan_run
from wsiseg.result import overview_pixels
from wsiseg.run.checkup import Checkup, Machine, Rates, StageWork, Work
from wsiseg.run.demo import TUMOUR
from wsiseg.run.devices import on_first_device
from wsiseg.run.gauges import (
    NOTHING,
    Needed,
    OutputSample,
    copy_rate,
    decode_rates,
    folder_bytes,
    needed_tiles,
    reduce_rate,
    sample_output,
    scaled_gain,
    stage_rates,
)
from wsiseg.source import Pyramid
from wsiseg.source import open as open_slide
from wsiseg.tissue import TissueMask, find_tissue

__all__ = ["Alternatives", "examine", "remedies"]

MODEL = "breast-tumour-demo"
WORTH_IT = 1.05
"""How many times faster something must be to be worth a word."""


@dataclass(frozen=True, slots=True)
class Alternatives:
    """What else was measured, by the tuning of the model or here."""

    seconds_per_mm2: dict[str, float] = field(default_factory=dict)
    """Networks alone, per backend tried."""

    int8_seconds_per_mm2: float | None = None
    """`None` where int8 was not tried, or the model does not pass its check with it."""

    tuned_batches: dict[str, int] = field(default_factory=dict)
    """By stage: the batch size measured to be the fastest."""


def examine(
    slide: str | Path | None = None,
    model: str | Path = MODEL,
    *,
    out: str | Path = "out",
    mpp: float | tuple[float, float] | None = None,
    reader: str | None = None,
    options: SegmentOptions | None = None,
) -> Checkup:
    """Measure each step of a segmentation on this machine, and say what the whole will take.

    Parameters
    ----------
    slide
        What `wsiseg.open` takes; default: a bundled one.
    model
        Name of a model, or its folder.
    out
        The output folder that is meant: a piece of output is written in its file system, and
        removed. It need not exist.
    mpp, reader
        As for `wsiseg.open`.
    options
        As for `wsiseg.segment`.

    Raises
    ------
    SourceError, ModelError, PlanError
        As `wsiseg.segment`.
    RunError
        If there is no tissue to measure on, or nothing can be written at `out`.
    """
    options = options or SegmentOptions()
    with ExitStack() as stack:
        if slide is None:
            slide = stack.enter_context(as_file(files("wsiseg.bundled") / "slides")) / TUMOUR
        started = time.perf_counter()
        opened = stack.enter_context(open_slide(slide, mpp=mpp, reader=reader))
        open_s = time.perf_counter() - started
        started = time.perf_counter()
        options = replace(options, run=on_first_device(options.run))
        loaded = load_for_run(model, options.run)
        start_s = time.perf_counter() - started
        checkup = _measured(opened, loaded, Path(out), options)
        work = replace(checkup.work, tissue_s=checkup.work.tissue_s + open_s)
        checkup = replace(checkup, work=work, start_s=start_s)
    return checkup.with_remedies(
        remedies(checkup, _alternatives(checkup, loaded, options), options)
    )


def remedies(
    checkup: Checkup, found: Alternatives, options: SegmentOptions | None = None
) -> tuple[str, ...]:
    """Return what would make the run faster, or possible: sentences that name options of `segment`.

    Parameters
    ----------
    checkup
        Whose bottleneck is looked at.
    found
        What else was measured. Nothing is said that no measurement supports.
    options
        What the checkup was made with.
    """
    run = (options or SegmentOptions()).run
    said = []
    if checkup.free_disk_bytes < checkup.disk_bytes:
        said.append(
            f"choose another --out: the results take {checkup.disk_bytes / 1e6:.0f} MB, "
            f"{checkup.free_disk_bytes / 1e6:.0f} MB are free there"
        )
    cores = checkup.machine.cores
    if checkup.cores_used < cores and checkup.bottleneck not in ("tissue", "file", "files"):
        said.append(f"--threads {cores}: {checkup.cores_used} of {cores} cores are used")
    if checkup.bottleneck == "predict":
        said += _for_prediction(checkup, found, run)
    elif checkup.bottleneck in ("decode", "reduce"):
        gain = checkup.rates.scaled_gain
        if gain is not None and gain > WORTH_IT and run.decoding == "exact":
            said.append(
                f"--decoding auto: the first stage's pixels come {gain:.1f} times as fast where "
                "JPEG is reduced while it is decoded; done only if probabilities hardly change"
            )
    elif checkup.bottleneck == "file":
        said.append(
            f"the file comes at {checkup.rates.file_mb_s or 0:.0f} MB/s, slower than anything "
            "else here: copy the slide to a local disk; no option makes that faster"
        )
    elif checkup.bottleneck == "write":
        said.append("--out on a faster disk, if there is one: stitching and writing take longest")
    if not said:
        said.append(f"no option was measured to help where '{checkup.bottleneck}' takes longest")
    return tuple(said)


def _for_prediction(checkup: Checkup, found: Alternatives, run: RunOptions) -> list[str]:
    said = []
    share = checkup.seconds["predict"] / checkup.total_s
    if not checkup.on_device:
        if checkup.machine.gpus:
            said.append("--device cuda: there is a GPU, and the network takes most of the time")
        else:
            said.append(
                f"the network takes {share:.0%} of the time and there is no GPU that torch can "
                "use; with one, --device cuda would take that off the cores"
            )
    used = found.seconds_per_mm2.get(checkup.backend)
    for name, seconds in sorted(found.seconds_per_mm2.items(), key=lambda pair: pair[1]):
        if used and used > WORTH_IT * seconds and checkup.precision == "float32":
            said.append(
                f"--backend {name}: its networks take {seconds:.3g} s per mm², {checkup.backend}'s "
                f"{used:.3g}"
            )
            break
    best = min(found.seconds_per_mm2.values(), default=None)
    int8 = found.int8_seconds_per_mm2
    if int8 is not None and best is not None and best > WORTH_IT * int8:
        said.append(
            f"--precision int8: networks then take {int8:.3g} s per mm² instead of {best:.3g}; "
            "probabilities change a little, see the model's card"
        )
    if run.batch_size is not None:
        better = {s: n for s, n in found.tuned_batches.items() if n != run.batch_size}
        if better:
            sizes = ", ".join(f"{n} for {stage}" for stage, n in better.items())
            said.append(f"leave out --batch: the fastest sizes measured here are {sizes}")
    return said


def _measured(slide: Pyramid, model: Model, out: Path, options: SegmentOptions) -> Checkup:
    started = time.perf_counter()
    tissue = find_tissue(slide, options.tissue)
    tissue_s = time.perf_counter() - started
    started = time.perf_counter()
    model, counted = plan_run(slide, model, options=options, tissue=tissue)
    exact = zip(lay_out(model.card, slide), counted.stages, strict=True)
    setups = tuple(setup.in_windows(stage.patch) for setup, stage in exact)
    running = counted.running
    release_memory()
    plan_s = time.perf_counter() - started
    if not counted.selected[0].any():
        raise RunError(
            f"{slide.name}: no tissue, so there is nothing to measure on; take another slide, or "
            "--tissue none"
        )
    cores = options.run.threads or usable_cores()
    needed = needed_tiles(setups, running)
    read = [decode_rates(slide, one, cores) for one in needed]
    sample = sample_output(slide, model.card, setups[-1], out)
    picture_s, picture_bytes = _picture(slide, tissue, options)
    pixels = [one.mpx for one in needed]
    bytes_read = [(one.compressed_mb, one.file_mb_s) for one in read]
    rates = Rates(
        file_mb_s=_joint([(mb, rate) for mb, rate in bytes_read if mb and rate]),
        decode_one_mpx_s=_joint([(n, one.one_mpx_s) for n, one in zip(pixels, read, strict=True)])
        or NOTHING,
        decode_mpx_s=_joint([(n, one.all_mpx_s) for n, one in zip(pixels, read, strict=True)])
        or NOTHING,
        reduce_mpx_s=reduce_rate(needed, cores),
        scaled_gain=scaled_gain(slide, setups, needed[0]),
        copy_mb_s=copy_rate(model.predictors[0], setups[0]),
        write_mpx_s=sample.write_mpx_s,
        outline_mpx_s=sample.outline_mpx_s,
        stages=stage_rates(setups, model, counted.stages, running),
    )
    work = _work(setups, counted, needed, sample)
    work = replace(
        work,
        compressed_mb=sum(one.compressed_mb for one in read),
        tissue_s=tissue_s,
        plan_s=plan_s,
        picture_s=picture_s,
        picture_bytes=picture_bytes,
    )
    return Checkup(
        slide=slide.name,
        model=counted.model,
        backend=model.backend,
        device=model.device,
        precision=model.precision,
        cores_used=cores,
        machine=Machine(usable_cores(), machine_memory(), count_gpus(), versions()),
        rates=rates,
        work=work,
        projected_memory_bytes=counted.projected_bytes,
        free_disk_bytes=_free(out),
        start_s=0.0,
    )


def _joint(parts: Sequence[tuple[float, float]]) -> float | None:
    """Return the rate over several amounts with their rates: their seconds add up."""
    seconds = sum(amount / rate for amount, rate in parts)
    return sum(amount for amount, _ in parts) / seconds if seconds else None


def _work(
    setups: Sequence[StageSetup], counted: Plan, needed: Sequence[Needed], sample: OutputSample
) -> Work:
    stages = []
    for setup, stage, chosen in zip(setups, counted.stages, counted.selected, strict=True):
        inputs = [np.empty(i.batch_shape(stage.batch_size), i.dtype).nbytes for i in setup.inputs]
        stages.append(
            StageWork(
                stage=stage.stage,
                patches=stage.batches * stage.batch_size,
                batch_size=stage.batch_size,
                workers=stage.pace.workers,
                batch_bytes=sum(inputs),
                output_mpx=_output_mpx(setup, chosen),
                patch=" x ".join(map(str, stage.patch)) + " px",
            )
        )
    coarser = [sum(any(r != 1 for r in ratio) for ratio in one.ratios) for one in needed]
    return Work(
        compressed_mb=0.0,
        decode_mpx=sum(one.mpx for one in needed),
        reduce_mpx=sum(one.mpx * n for one, n in zip(needed, coarser, strict=True)),
        stages=tuple(stages),
        tissue_s=0.0,
        plan_s=0.0,
        picture_s=0.0,
        output_bytes_per_px=sample.output_bytes_per_px,
        outline_bytes_per_px=sample.outline_bytes_per_px,
        picture_bytes=0,
    )


def _output_mpx(setup: StageSetup, chosen: NDArray[np.bool_]) -> float:
    """Return the million pixels that a stage's selected tiles decide."""
    if setup.spec.kind == "classifier":
        return float(chosen.sum()) / 1e6
    whole = float(np.prod(setup.placement.shape))
    return whole * float(chosen.mean()) / 1e6


def _picture(slide: Pyramid, tissue: TissueMask, options: SegmentOptions) -> tuple[float, int]:
    """Draw and pack the overview and write the tissue outline; return seconds and bytes."""
    started = time.perf_counter()
    pixels = overview_pixels(slide, tissue)
    um = slide.spacing.um[1] * slide.shape[1] / pixels.shape[1]
    pieces = annotate_tissue(tissue, ImageRef.of(slide), options.export)
    with tempfile.TemporaryDirectory(prefix="wsiseg-doctor-") as name:
        folder = Path(name)
        write_annotations(folder, pieces, name="tissue", frame=options.export.frame)
        release_memory()
        save_png(folder / "overview.png", overview(pixels, um))
        return time.perf_counter() - started, folder_bytes(folder)


def _free(out: Path) -> int:
    """Return the free bytes where a folder is, or will be."""
    there = next(folder for folder in (out, *out.absolute().parents) if folder.exists())
    return shutil.disk_usage(there).free


def _alternatives(checkup: Checkup, model: Model, options: SegmentOptions) -> Alternatives:
    """Return what the tuning knows; it measures where it does not know yet."""
    if checkup.bottleneck != "predict" or checkup.on_device:
        return Alternatives()
    run = options.run
    tuning = model.tuning
    try:
        if tuning is None and run.precision == "float32":
            tuning = tune(model.path, threads=run.threads)
    except ModelError:
        tuning = None
    batches = {s.stage: s.batch_size for s in tuning.stages} if tuning is not None else {}
    known = dict(tuning.seconds_per_mm2) if tuning is not None else {}
    int8 = _int8(model, run) if run.precision == "float32" else None
    return Alternatives(known, int8, batches)


def _int8(model: Model, run: RunOptions) -> float | None:
    """Return the seconds per mm² with int8; `None` where the model does not pass its check so."""
    try:
        tuning: Tuning | None = load_model(
            model.path, device="cpu", precision="int8", threads=run.threads
        ).tuning
    except ModelError:
        return None
    return min(tuning.seconds_per_mm2.values(), default=None) if tuning is not None else None

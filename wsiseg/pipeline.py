"""THE FLOW: source -> grid -> tissue -> model -> engine -> stitch -> annotations -> files."""

import math
import time
from contextlib import nullcontext
from functools import partial
from pathlib import Path

from wsiseg.annotations import ImageRef
from wsiseg.engine import (
    EXACT,
    Listener,
    Plan,
    annotate_labels,
    annotate_tissue,
    choose_decoding,
    ignore,
    lay_out,
    make_plan,
    run_cascade,
    sampled_model,
    select_tiles,
    temporary_folder,
)
from wsiseg.machine import beside, release_memory, set_allocator, usable_cores
from wsiseg.model import Model, load_for_run, require_task
from wsiseg.options import SegmentOptions
from wsiseg.result import Result
from wsiseg.source import Pyramid, as_pyramid
from wsiseg.tissue import TissueMask, find_tissue

__all__ = ["plan", "segment"]

DEFAULTS = SegmentOptions()

PREPARED_PIXELS = 1_000_000_000
"""Of smaller slides the networks are compiled beside the tissue step. Of larger ones tenths of a
second do not count, and the memory of the two would add up."""


def plan(
    slide: Pyramid | str | Path,
    model: Model | str | Path,
    *,
    options: SegmentOptions = DEFAULTS,
    tissue: TissueMask | None = None,
) -> Plan:
    """Return the tiles, bytes, memory and seconds a segmentation will take, without doing it.

    Only the tissue step reads pixels, at low resolution; give `tissue` and nothing is read. With
    `decoding="auto"` some patches are read and predicted, to compare.

    Raises
    ------
    SourceError, ModelError, PlanError
        As `segment`.
    """
    require_task(model, "semantic")
    slide, model = as_pyramid(slide), load_for_run(model, options.run)
    return _plan(slide, model, sampled_model(model, options.uncertainty), options, tissue)


def _plan(
    slide: Pyramid,
    model: Model,
    running: Model,
    options: SegmentOptions,
    tissue: TissueMask | None,
) -> Plan:
    """Return the plan of `running`: the model, its last stage asked as often as layers need."""
    setups = lay_out(model.card, slide, uncertainty=options.uncertainty)
    tissue = tissue or find_tissue(slide, options.tissue)
    decoding = EXACT
    if options.run.decoding != "exact":
        scaled = lay_out(model.card, slide, scaled=True, uncertainty=options.uncertainty)
        selected = [select_tiles(s, tissue, options.tissue.min_fraction) for s in setups]
        run = options.run
        decoding = choose_decoding(setups, scaled, selected, model, run.decoding, run.threads)
        setups = scaled if decoding.scaled else setups
    return make_plan(
        setups,
        running,
        tissue,
        slide=slide.name,
        tissue_options=options.tissue,
        options=options.run,
        decoding=decoding,
    )


def segment(
    slide: Pyramid | str | Path,
    model: Model | str | Path = "breast-tumour-demo",
    *,
    options: SegmentOptions = DEFAULTS,
    work_dir: Path | None = None,
    listen: Listener = ignore,
) -> Result:
    """Segment one slide.

    Parameters
    ----------
    slide
        An open slide, or what `wsiseg.open` takes.
    model
        A loaded model, or the name or folder of one.
    options
        What counts as tissue, what annotations look like, how the machine is used.
    work_dir
        Where heatmaps are written; default: a temporary folder that lives as long as the program.
    listen
        Called with progress events (`wsiseg.engine.events`).

    Returns
    -------
    Result
        Tissue, heatmaps, mask and annotations (level-0 pixels); `write` makes the files.

    Raises
    ------
    MissingSpacingError
        If the slide does not say how large its pixels are; open it with `mpp=`.
    SpacingUnavailableError
        If the model wants finer pixels than the slide has.
    DamagedFileError
        If a needed block of the slide cannot be decoded.
    MemoryBudgetError
        If the run would need more memory than allowed.
    UsageError
        If the model gives no classes (see `wsiseg.embed`), or not the uncertainty asked for.

    Warns
    -----
    EmptyTissueWarning
        If there is no tissue; the result is then empty and valid.
    """
    started = time.perf_counter()
    require_task(model, "semantic")
    slide, model = as_pyramid(slide), load_for_run(model, options.run)
    set_allocator(model.backend)
    running = sampled_model(model, options.uncertainty)
    lay_out(model.card, slide)  # what does not fit is an error before anything is read
    cores = options.run.threads or usable_cores()
    small = math.prod(slide.shape) < PREPARED_PIXELS
    with beside(partial(model.prepare, cores)) if cores > 1 and small else nullcontext():
        tissue = find_tissue(slide, options.tissue)
    slide.forget()  # at its resolution nobody comes back
    counted = _plan(slide, model, running, options, tissue)
    release_memory()
    folder = work_dir or temporary_folder()
    output = run_cascade(running, counted, folder, skip_below=options.run.skip_below, listen=listen)
    image = ImageRef.of(slide)
    *_, heatmap = output.heatmaps.values()
    pieces = annotate_tissue(tissue, image, options.export)
    annotations = annotate_labels(
        output.labels, heatmap, model.card, image, options.export, layers=output.uncertainty
    )
    release_memory()
    return Result(
        slide=slide,
        model=model,
        options=options,
        plan=counted,
        tissue=tissue,
        tissue_annotations=pieces,
        heatmaps=output.heatmaps,
        uncertainty=output.uncertainty,
        labels=output.labels,
        annotations=annotations,
        reports=output.reports,
        seconds=time.perf_counter() - started,
    )

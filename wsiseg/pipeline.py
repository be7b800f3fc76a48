"""THE FLOW: source -> grid -> tissue -> model -> engine -> stitch -> annotations -> files."""

import math
import time
import warnings
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from wsiseg.annotations import ImageRef
from wsiseg.engine import (
    EXACT,
    Damage,
    DamageWatch,
    Journal,
    Listener,
    Part,
    Pinned,
    Plan,
    Resume,
    StageSetup,
    annotate_labels,
    annotate_tissue,
    begin_parts,
    choose_decoding,
    choose_window,
    ignore,
    lay_out,
    lost_places,
    make_plan,
    rest_later_stages,
    run_cascade,
    run_part,
    sampled_model,
    select_tiles,
    temporary_folder,
    with_degraded_shares,
)
from wsiseg.errors import IncompleteSlideWarning, MemoryBudgetError
from wsiseg.machine import beside, release_memory, set_allocator, usable_cores
from wsiseg.model import Model, load_for_run, require_task
from wsiseg.options import SegmentOptions
from wsiseg.result import Result
from wsiseg.source import OnDamage, Pyramid, as_pyramid
from wsiseg.tissue import TissueMask, find_tissue

__all__ = ["plan", "plan_run", "segment", "segment_part"]

DEFAULTS = SegmentOptions()
NOTHING_PINNED = Pinned()

PREPARED_PIXELS = 1_000_000_000
"""Of smaller slides the networks are compiled beside the tissue step, and stay ready. Of larger
ones tenths of a second do not count, and memory would add up: of the two, and of the stages."""


def plan(
    slide: Pyramid | str | Path,
    model: Model | str | Path,
    *,
    options: SegmentOptions = DEFAULTS,
    tissue: TissueMask | None = None,
    pinned: Pinned = NOTHING_PINNED,
) -> Plan:
    """Return the tiles, bytes, memory and seconds a segmentation will take, without doing it.

    Only the tissue step reads pixels, at low resolution; give `tissue` and nothing is read. With
    `decoding="auto"` some patches are read and predicted, to compare.

    Parameters
    ----------
    slide, model, options
        As for `segment`.
    tissue
        Where it is worth looking, if that is known.
    pinned
        Choices of an earlier run, to be taken again.

    Raises
    ------
    SourceError, ModelError, PlanError
        As `segment`.
    """
    return plan_run(slide, model, options=options, tissue=tissue, pinned=pinned)[1]


def plan_run(
    slide: Pyramid | str | Path,
    model: Model | str | Path,
    *,
    options: SegmentOptions = DEFAULTS,
    tissue: TissueMask | None = None,
    pinned: Pinned = NOTHING_PINNED,
) -> tuple[Model, Plan]:
    """Return the model as it will run on this slide, and the plan; see `plan`."""
    require_task(model, "semantic")
    slide, model = _readable(slide, options), load_for_run(model, options.run)
    sampled = sampled_model(model, options.uncertainty)
    tissue = tissue or find_tissue(slide, options.tissue)
    return _plan_run(slide, model, sampled, options, tissue, pinned)


def _plan_run(
    slide: Pyramid,
    model: Model,
    sampled: Model,
    options: SegmentOptions,
    tissue: TissueMask,
    pinned: Pinned,
) -> tuple[Model, Plan]:
    """Return `sampled`, the model asked as often as layers need, on its windows, and the plan.

    Stages whose card allows it run on the window that suits the slide, or on a smaller one where
    memory does not do.
    """
    setups = lay_out(model.card, slide, uncertainty=options.uncertainty)
    ladders = [_ladder(model, s, setups[s], tissue, options, pinned) for s in range(len(setups))]
    while True:
        patches = [ladder[0] for ladder in ladders]
        alone = model.on_patches(patches)
        asked = _asked(alone, model, sampled, options)
        try:
            return asked, _plan(slide, alone, asked, options, tissue, pinned, patches)
        except MemoryBudgetError:
            if all(len(ladder) == 1 for ladder in ladders):
                raise
        release_memory()
        ladders = [ladder[1:] or ladder for ladder in ladders]


def _asked(alone: Model, model: Model, sampled: Model, options: SegmentOptions) -> Model:
    """Return a model on its windows, its last stage asked as often as that of `sampled`."""
    if sampled is model:
        return alone
    if alone.predictors[-1] is not model.predictors[-1]:
        return sampled_model(alone, options.uncertainty)
    return replace(alone, predictors=(*alone.predictors[:-1], sampled.predictors[-1]))


def _ladder(
    model: Model,
    s: int,
    setup: StageSetup,
    tissue: TissueMask,
    options: SegmentOptions,
    pinned: Pinned,
) -> tuple[tuple[int, ...], ...]:
    """Return the patches for a stage on a slide, best first, each smaller than the one before."""
    patches, layers = model.patches(s), setup.layers
    skips = options.run.skip_below > 0 and any(item.view is None for item in setup.inputs)
    # What will be skipped is not known yet, and what units are dropped depends on the patch.
    if len(patches) == 1 or skips or layers.samples:
        return patches[-1:]
    if layers.views > 1:  # those turned by a quarter
        patches = tuple(p for p in patches if len(set(p)) == 1 or p == patches[-1])
    earlier = pinned.patches.get(setup.spec.name)
    if earlier in patches:
        return patches[patches.index(earlier) :]
    selected = select_tiles(setup, tissue, options.tissue.min_fraction)
    return patches[patches.index(choose_window(setup, selected, patches)) :]


def _plan(
    slide: Pyramid,
    model: Model,
    asked: Model,
    options: SegmentOptions,
    tissue: TissueMask,
    pinned: Pinned,
    patches: Sequence[tuple[int, ...]],
) -> Plan:
    """Return the plan of `asked`: the model, its last stage asked as often as layers need."""

    def laid_out(*, scaled: bool) -> tuple[StageSetup, ...]:
        layers = options.uncertainty
        setups = lay_out(model.card, slide, scaled=scaled, uncertainty=layers)
        return tuple(s.in_windows(patch) for s, patch in zip(setups, patches, strict=True))

    setups, run = laid_out(scaled=False), options.run
    decoding = EXACT
    if run.decoding != "exact":
        scaled = laid_out(scaled=True)
        if pinned.decoding is not None and pinned.decoding.asked == run.decoding:
            decoding = pinned.decoding
        else:
            least = options.tissue.min_fraction
            tiles = [s.runs(select_tiles(s, tissue, least)) for s in setups]
            decoding = choose_decoding(
                setups, scaled, tiles, model, run.decoding, run.threads, run.batch_size
            )
        setups = scaled if decoding.scaled else setups
    return make_plan(
        setups,
        asked,
        tissue,
        slide=slide.name,
        tissue_options=options.tissue,
        options=options.run,
        decoding=decoding,
        paces=pinned.paces,
    )


def segment(
    slide: Pyramid | str | Path,
    model: Model | str | Path = "breast-tumour-demo",
    *,
    options: SegmentOptions = DEFAULTS,
    work_dir: Path | None = None,
    journal: Journal | None = None,
    pinned: Pinned = NOTHING_PINNED,
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
    journal
        Keeps what is finished, in its own folder instead of `work_dir`: a run that was ended goes
        on from there when it is called again with the same journal.
    pinned
        Choices of an earlier run that may change the last bits, to be taken again.
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
    TooDamagedError
        If blocks of the slide that cannot be decoded affect more of the tissue than allowed.
    MemoryBudgetError
        If the run would need more memory than allowed.
    UsageError
        If the model gives no classes (see `wsiseg.embed`), or not the uncertainty asked for.

    Warns
    -----
    EmptyTissueWarning
        If there is no tissue; the result is then empty and valid.
    IncompleteSlideWarning
        If blocks of the slide could not be decoded; see `Result.damage`.
    """
    started = time.perf_counter()
    run = _prepare(slide, model, options, journal, pinned)
    slide, tissue, counted = run.slide, run.tissue, run.plan
    folder = journal.folder if journal is not None else work_dir or temporary_folder()
    output = run_cascade(
        run.running,
        counted,
        folder,
        skip_below=options.run.skip_below,
        resume=run.resume,
        listen=listen,
        check=run.watch.check,
    )
    slide.forget()
    release_memory()
    damage = _warned(run.watch.look(output.reports[-1].lost_mm2), slide)
    image = ImageRef.of(slide)
    *_, heatmap = output.heatmaps.values()
    pieces = annotate_tissue(tissue, image, options.export)
    annotations = annotate_labels(
        output.labels,
        heatmap,
        run.model.card,
        image,
        options.export,
        layers=output.uncertainty,
        offsets=output.offsets,
    )
    annotations = with_degraded_shares(annotations, output.gaps)
    release_memory()
    return Result(
        slide=slide,
        model=run.model,
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
        damage=damage,
        corrupt=lost_places(slide, damage.blocks, output.gaps) if damage.blocks else None,
    )


def segment_part(
    slide: Pyramid,
    model: Model,
    journal: Journal,
    part: Part | None,
    *,
    options: SegmentOptions = DEFAULTS,
    listen: Listener = ignore,
) -> tuple[int, ...]:
    """Make a part of a stage of a huge slide, or begin so that parts can be made.

    Parameters
    ----------
    slide, model, options, listen
        As for `segment`.
    journal
        Gets the rows of the part. It has what was begun, and the parts of earlier stages
        (`Journal.adopt`), or makes these itself.
    part
        Which; `None`: write down what parts are to depend on, and no more.

    Returns
    -------
    tuple of int
        Tiles that run in each stage.

    Raises
    ------
    SourceError, ModelError, PlanError, TooDamagedError
        As `segment`.
    """
    run = _prepare(slide, model, options, journal, NOTHING_PINNED)
    assert run.resume is not None
    if part is None:
        return begin_parts(run.running, run.plan, run.resume)
    run_part(
        run.running,
        run.plan,
        journal.folder,
        part,
        skip_below=options.run.skip_below,
        resume=run.resume,
        listen=listen,
        check=run.watch.check,
    )
    return ()


@dataclass(frozen=True, slots=True)
class _Prepared:
    """A slide with all that is known before its first stage runs."""

    slide: Pyramid
    model: Model
    running: Model
    """On the windows of the plan, asked as often as layers need."""

    plan: Plan
    tissue: TissueMask
    watch: DamageWatch
    resume: Resume | None


def _prepare(
    slide: Pyramid | str | Path,
    model: Model | str | Path,
    options: SegmentOptions,
    journal: Journal | None,
    pinned: Pinned,
) -> _Prepared:
    require_task(model, "semantic")
    whole = as_pyramid(slide).with_damage("raise")  # so that the ledger is this run's own
    slide, model = _readable(whole, options), load_for_run(model, options.run)
    set_allocator(model.backend)
    sampled = sampled_model(model, options.uncertainty)
    lay_out(model.card, slide)  # what does not fit is an error before anything is read
    cores = options.run.threads or usable_cores()
    small = math.prod(slide.shape) < PREPARED_PIXELS
    with beside(partial(model.prepare, cores)) if cores > 1 and small else nullcontext():
        tissue = find_tissue(slide, options.tissue)
    watch = DamageWatch(slide, tissue, options.damage)
    watch.check()
    slide.forget()  # at its resolution nobody comes back
    if not small:
        release_memory()  # of the picture that tissue was looked for on
    resume = Resume(journal, slide, options.run) if journal is not None else None
    if resume is not None and pinned == NOTHING_PINNED:
        setups = lay_out(model.card, slide, uncertainty=options.uncertainty)
        least = options.tissue.min_fraction
        selected = [select_tiles(setup, tissue, least) for setup in setups]
        model, pinned = resume.again(model, setups, selected)
        sampled = sampled_model(model, options.uncertainty)
    running, counted = _plan_run(slide, model, sampled, options, tissue, pinned)
    if not small:
        rest_later_stages(running)
    release_memory()
    return _Prepared(slide, model, running, counted, tissue, watch, resume)


def _readable(slide: Pyramid | str | Path, options: SegmentOptions) -> Pyramid:
    """Return the slide, to be read to its end where it is damaged."""
    wanted: OnDamage = "replace" if options.damage.degraded else "nodata"
    return as_pyramid(slide).with_damage(wanted)


def _warned(damage: Damage, slide: Pyramid) -> Damage:
    if damage.blocks:
        text = f"{slide.name}: {damage}; see the annotations 'Corrupt' and corrupt.json"
        warnings.warn(text, IncompleteSlideWarning, stacklevel=3)
    return damage

"""The flow of a scan: source -> frame of the model -> windows -> engine -> stitch -> labels."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from wsiseg.engine import Journal, Listener, ignore, temporary_folder
from wsiseg.engine.execute import Pace
from wsiseg.engine.scan_focus import run_in_focus
from wsiseg.engine.scan_graph import lay_out_scan
from wsiseg.engine.scan_plan import NO_PACES, ScanPlan, plan_scan
from wsiseg.engine.scan_resume import ScanResume
from wsiseg.engine.scan_run import ScanOutput, run_scan, windows_with_body
from wsiseg.errors import ModelError, UsageError
from wsiseg.machine import release_memory, set_allocator
from wsiseg.model import Model, ModelCard, load_for_run, require_task
from wsiseg.options import RunOptions
from wsiseg.scan_result import ScanResult
from wsiseg.source import Volume, open_volume
from wsiseg.volume.body import Body, find_body
from wsiseg.volume.regrid import on_grid_of
from wsiseg.volume.scan import Scan

__all__ = ["OneScan", "Scans", "kept_classes", "place_scan", "plan_of_scan", "segment_scan"]

DEFAULTS = RunOptions()

OneScan = Volume | str | Path
Scans = OneScan | Sequence[OneScan] | Mapping[str, OneScan]
"""A scan, or one for each channel that the model reads: in the order of its card, or by name."""

NO_PRIORS: Mapping[str, OneScan] = MappingProxyType({})


def plan_of_scan(
    scan: Scans,
    model: Model | str | Path,
    *,
    priors: Mapping[str, OneScan] = NO_PRIORS,
    options: RunOptions = DEFAULTS,
    probabilities: Sequence[str] = (),
) -> ScanPlan:
    """Return the windows, bytes, memory and seconds a segmentation will take, without doing it.

    The scan is read once where the model crops to a body. A stage that looks around what another
    one found (`within`) is counted as if that were everywhere.

    Raises
    ------
    SourceError, ModelError, PlanError
        As `segment_scan`.
    """
    require_task(model, "semantic")
    model = load_for_run(model, options)
    placed, body = place_scan(scan, model.card, priors)
    setups = lay_out_scan(model.card, placed)
    selected = windows_with_body(body, setups)
    kept = kept_classes(model.card, probabilities)
    return plan_scan(model, placed, setups, selected, options, probabilities=kept)


def segment_scan(  # noqa: PLR0913 - what runs, how it is driven, and where it waits
    scan: Scans,
    model: Model | str | Path,
    *,
    priors: Mapping[str, OneScan] = NO_PRIORS,
    options: RunOptions = DEFAULTS,
    probabilities: Sequence[str] = (),
    paces: Mapping[str, Pace] = NO_PACES,
    work_dir: Path | None = None,
    journal: Journal | None = None,
    listen: Listener = ignore,
) -> ScanResult:
    """Segment one scan.

    Parameters
    ----------
    scan
        An open volume or what `wsiseg.open_volume` takes; several for a model of several channels,
        in the order of its card, or by the names that stand there.
    model
        A loaded model, or the name or folder of one; of axes `zyx`.
    priors
        Channels that are known from elsewhere, such as a mask of the lungs, by name; on any grid.
        Whole numbers are brought to the scan's voxels by the nearest one, others linearly; 0
        outside.
    options
        How the machine is used.
    probabilities
        Classes whose probabilities are kept beside the labels; `("all",)`: every one. They take
        two bytes per voxel and class, on the disk.
    paces
        How stages were driven by a run that is to be repeated, by their names; `journal` knows how
        those of the run were that it goes on with.
    work_dir
        Where voxels wait while it runs; default: a temporary folder that lives as long as the
        program.
    journal
        Keeps what is finished, in its own folder instead of `work_dir`: a run that was ended goes
        on from there when it is called again with the same journal.
    listen
        Called with progress events (`wsiseg.engine.events`).

    Returns
    -------
    ScanResult
        Labels on the scan's own voxels; `write` makes the files.

    Raises
    ------
    SourceError
        If the scan cannot be read.
    ModelError
        If the model cannot be used, or is one for slides.
    UsageError
        If the scan has other channels than the model reads, or there is no such class.
    MemoryBudgetError
        If the run would need more memory than allowed.
    """
    started = time.perf_counter()
    require_task(model, "semantic")
    model = load_for_run(model, options)
    set_allocator(model.backend)
    kept = kept_classes(model.card, probabilities)
    placed, body = place_scan(scan, model.card, priors)
    folder = journal.folder if journal is not None else work_dir or temporary_folder()
    run = _Run(body, options, kept, paces, folder, journal, listen)
    focus = None
    if model.card.stages[-1].within is not None:
        focus = run_in_focus(model, placed, run)
        placed, plan, output = focus.scan, focus.plan, focus.output
    else:
        plan, output = run(model, placed)
    release_memory()
    return ScanResult(
        scan=placed,
        model=model,
        options=options,
        plan=plan,
        files=output.files,
        reports=output.reports,
        seconds=time.perf_counter() - started,
        heatmaps=output.heatmaps,
        focus=focus,
    )


@dataclass(frozen=True, slots=True)
class _Run:
    """Lays a model over the part of a scan that is looked at, plans it and runs it."""

    body: Body
    options: RunOptions
    kept: tuple[str, ...]
    paces: Mapping[str, Pace]
    folder: Path
    journal: Journal | None
    listen: Listener

    def __call__(self, model: Model, placed: Scan) -> tuple[ScanPlan, ScanOutput]:
        """Return the plan, and what came of it."""
        setups = lay_out_scan(model.card, placed)
        selected = windows_with_body(self.body, setups)
        resume, paces = None, self.paces
        if self.journal is not None:
            resume = ScanResume(self.journal, placed, model, self.kept)
            paces = {**paces, **resume.paces(setups, selected)}
        plan = plan_scan(
            model,
            placed,
            setups,
            selected,
            self.options,
            probabilities=self.kept,
            paces=paces,
            folder=self.folder,
        )
        output = run_scan(
            model,
            placed,
            setups,
            selected,
            plan,
            self.folder,
            resume=resume,
            listen=self.listen,
        )
        return plan, output


def kept_classes(card: ModelCard, wanted: Sequence[str]) -> tuple[str, ...]:
    """Return the classes whose probabilities are kept, in the order of the card.

    Raises
    ------
    UsageError
        If there is no such class, or the model is for slides.
    """
    known = card.channel_names
    if wanted and card.axes != "zyx":
        raise UsageError(
            f"probabilities: are written of scans, {card.name} is a model for slides, which have "
            "heatmaps in any case; leave --probabilities out"
        )
    if tuple(wanted) == ("all",):
        return known
    if strange := [name for name in wanted if name not in known]:
        raise UsageError(
            f"probabilities: {card.name} has no class {strange[0]!r}; needed some of "
            f"{', '.join(known)}, or all"
        )
    return tuple(name for name in known if name in wanted)


def place_scan(
    scan: Scans, card: ModelCard, priors: Mapping[str, OneScan] = NO_PRIORS
) -> tuple[Scan, Body]:
    """Return the scan in the frame of a model, the part that is looked at; and the body there.

    Raises
    ------
    SourceError, ModelError, UsageError
        As `segment_scan`.
    """
    if card.scan is None:
        raise ModelError(
            f"{card.name}: is a model for slides (axes {card.axes!r}): needed one for volumes "
            "(axes 'zyx'); see `wsiseg models list`"
        )
    given = _in_order(scan, card, priors)
    volumes = [one if isinstance(one, Volume) else open_volume(one) for one in given]
    if priors:
        volumes = _with_priors(volumes, card, priors)
    whole = Scan.of(volumes, card.scan)
    body = find_body(whole, card.scan.crop)
    return whole.within(body.box), body


def _in_order(scan: Scans, card: ModelCard, priors: Mapping[str, OneScan]) -> list[OneScan]:
    """Return the scans but for priors, in the order of the card."""
    _require_known(priors, card, "priors")
    if isinstance(scan, Volume | str | Path):
        return [scan]
    if not isinstance(scan, Mapping):
        return list(scan)
    _require_known(scan, card, "channels")
    wanted = [name for name in card.scan_channels if name not in priors]
    if missing := [name for name in wanted if name not in scan]:
        raise UsageError(
            f"{card.name}: needed a scan for each of its channels {', '.join(wanted)}, found none "
            f"for {', '.join(missing)}; name one"
        )
    return [scan[name] for name in wanted]


def _require_known(named: Mapping[str, OneScan], card: ModelCard, what: str) -> None:
    if strange := [name for name in named if name not in card.scan_channels]:
        raise UsageError(
            f"{what}: {card.name} has no channel {strange[0]!r}; needed some of "
            f"{', '.join(card.scan_channels)}"
        )


def _with_priors(
    volumes: Sequence[Volume], card: ModelCard, priors: Mapping[str, OneScan]
) -> list[Volume]:
    """Return a volume for each channel of the card, priors on the voxels of the first scan."""
    names = card.scan_channels
    own = [name for name in names if name not in priors]
    if names[0] in priors or [volume.channels for volume in volumes] != [1] * len(own):
        raise UsageError(
            f"{card.name}: needed one scan of one channel each for {', '.join(own) or names[0]}, "
            f"the first of them no prior, found {len(volumes)} beside {', '.join(priors)}"
        )
    scans = dict(zip(own, volumes, strict=True))
    found = []
    for name in names:
        if name in scans:
            found.append(scans[name])
            continue
        prior = priors[name]
        opened = prior if isinstance(prior, Volume) else open_volume(prior)
        found.append(on_grid_of(opened, volumes[0]))
    return found

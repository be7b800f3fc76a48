"""`wsiseg.segment` and `wsiseg.plan`: of slides and of scans; the model's axes decide."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import overload

from wsiseg import pipeline
from wsiseg.engine import Journal, Listener, Plan, ignore
from wsiseg.engine.scan_plan import ScanPlan
from wsiseg.errors import UsageError
from wsiseg.model import Model, card_of
from wsiseg.options import SegmentOptions
from wsiseg.result import Result
from wsiseg.scan_result import ScanResult
from wsiseg.scans import NO_PRIORS, OneScan, Scans, kept_classes, plan_of_scan, segment_scan
from wsiseg.source import Pyramid, Volume, is_volume
from wsiseg.tissue import TissueMask

__all__ = ["SCAN_DEMO", "SLIDE_DEMO", "demo_for", "plan", "segment"]

SLIDE_DEMO, SCAN_DEMO = "breast-tumour-demo", "spinal-cord-demo"
"""What runs where no model is named."""

DEFAULTS = SegmentOptions()

AnyModel = Model | str | Path | None


def demo_for(image: Pyramid | Scans) -> str:
    """Return the bundled model that takes a slide, or a scan."""
    if isinstance(image, str | Path):
        return SCAN_DEMO if is_volume(image) else SLIDE_DEMO
    return SLIDE_DEMO if isinstance(image, Pyramid) else SCAN_DEMO


@overload
def segment(
    image: Pyramid,
    model: AnyModel = None,
    *,
    priors: Mapping[str, OneScan] = NO_PRIORS,
    options: SegmentOptions = DEFAULTS,
    work_dir: Path | None = None,
    journal: Journal | None = None,
    listen: Listener = ignore,
) -> Result: ...
@overload
def segment(
    image: Volume | Sequence[Volume] | Mapping[str, OneScan],
    model: AnyModel = None,
    *,
    priors: Mapping[str, OneScan] = NO_PRIORS,
    options: SegmentOptions = DEFAULTS,
    work_dir: Path | None = None,
    journal: Journal | None = None,
    listen: Listener = ignore,
) -> ScanResult: ...
@overload
def segment(
    image: str | Path,
    model: AnyModel = None,
    *,
    priors: Mapping[str, OneScan] = NO_PRIORS,
    options: SegmentOptions = DEFAULTS,
    work_dir: Path | None = None,
    journal: Journal | None = None,
    listen: Listener = ignore,
) -> Result | ScanResult: ...
def segment(
    image: Pyramid | Scans,
    model: AnyModel = None,
    *,
    priors: Mapping[str, OneScan] = NO_PRIORS,
    options: SegmentOptions = DEFAULTS,
    work_dir: Path | None = None,
    journal: Journal | None = None,
    listen: Listener = ignore,
) -> Result | ScanResult:
    """Segment one slide or one scan.

    Parameters
    ----------
    image
        An open slide or scan, or what `wsiseg.open` or `wsiseg.open_volume` takes; several scans
        for a model of several channels, in the order of its card or by the names there.
    model
        A loaded model, or the name or folder of one; default: the bundled demonstration for slides,
        or that for scans.
    priors
        Of scans: channels known from elsewhere, by name; see `wsiseg.scans.segment_scan`.
    options
        What counts as tissue, what annotations look like, how the machine is used; of scans the
        last counts, and whose probabilities are written.
    work_dir
        Where heatmaps are written; default: a temporary folder that lives as long as the program.
    journal
        Keeps what is finished, in its own folder instead of `work_dir`: a run that was ended goes
        on from there when it is called again with the same journal.
    listen
        Called with progress events (`wsiseg.engine.events`).

    Returns
    -------
    Result or ScanResult
        Of a slide tissue, heatmaps, mask and annotations in level-0 pixels; of a scan labels on its
        own voxels. `write` makes the files.

    Raises
    ------
    SourceError, ModelError, PlanError, UsageError
        As `wsiseg.pipeline.segment` and `wsiseg.scans.segment_scan`.
    """
    model = demo_for(image) if model is None else model
    if card_of(model).axes == "zyx":
        _require_plain(options)
        return segment_scan(
            _scans(image, model),
            model,
            priors=priors,
            options=options.run,
            probabilities=options.export.probabilities,
            work_dir=work_dir,
            journal=journal,
            listen=listen,
        )
    kept_classes(card_of(model), options.export.probabilities)
    return pipeline.segment(
        _slide(image, model, priors),
        model,
        options=options,
        work_dir=work_dir,
        journal=journal,
        listen=listen,
    )


def plan(
    image: Pyramid | Scans,
    model: AnyModel = None,
    *,
    priors: Mapping[str, OneScan] = NO_PRIORS,
    options: SegmentOptions = DEFAULTS,
    tissue: TissueMask | None = None,
) -> Plan | ScanPlan:
    """Return the tiles, bytes, memory and seconds a segmentation will take, without doing it.

    Parameters
    ----------
    image, model, priors, options
        As for `segment`.
    tissue
        Of slides: where it is worth looking, if that is known; nothing is read then.

    Raises
    ------
    SourceError, ModelError, PlanError, UsageError
        As `segment`.
    """
    model = demo_for(image) if model is None else model
    if card_of(model).axes == "zyx":
        _require_plain(options)
        return plan_of_scan(
            _scans(image, model),
            model,
            priors=priors,
            options=options.run,
            probabilities=options.export.probabilities,
        )
    return pipeline.plan(_slide(image, model, priors), model, options=options, tissue=tissue)


def _scans(image: Pyramid | Scans, model: Model | str | Path) -> Scans:
    if isinstance(image, Pyramid):
        raise UsageError(
            f"{image.name}: is a slide, {card_of(model).name} is a model for volumes; choose a "
            "model for slides, or open the file with wsiseg.open_volume"
        )
    return image


def _slide(
    image: Pyramid | Scans, model: Model | str | Path, priors: Mapping[str, OneScan]
) -> Pyramid | str | Path:
    if priors or not isinstance(image, Pyramid | str | Path):
        raise UsageError(
            f"{card_of(model).name}: is a model for slides, found a scan or priors; choose a "
            "model for volumes (axes 'zyx'), see `wsiseg models list`"
        )
    return image


def _require_plain(options: SegmentOptions) -> None:
    if layers := options.uncertainty.layers:
        raise UsageError(f"uncertainty {', '.join(layers)}: is for slides; scans have none yet")

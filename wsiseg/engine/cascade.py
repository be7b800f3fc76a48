"""The stage graph, run: each stage's heatmap is a source for the next, the last gives the mask."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from wsiseg.engine.events import Listener
from wsiseg.engine.execute import StageReport, Threaded, run_stage
from wsiseg.engine.gaps import Gaps
from wsiseg.engine.graph import kept_channels
from wsiseg.engine.inputs import connect
from wsiseg.engine.kept import KeptRows
from wsiseg.engine.on_device import DeviceOutput, device_of
from wsiseg.engine.plan import Plan
from wsiseg.engine.resume import Resume
from wsiseg.engine.share import share_levels
from wsiseg.engine.skip import skip_unlikely
from wsiseg.engine.uncertainty import begin_layers, layer_path, neighbour_layer, stitched_layers
from wsiseg.machine import release_memory
from wsiseg.model import Model, ModelCard
from wsiseg.stitch import (
    ArgmaxLabels,
    ClassPlanes,
    HeatmapStore,
    LabelClass,
    LabelStore,
    LayerMean,
    Probabilities,
    Reducer,
    Reducers,
    Sink,
    ThresholdLabels,
)

__all__ = ["CascadeOutput", "labeller", "run_cascade"]

MASK = "mask.zarr"
CODES, LABELS = "codes", "labels"
"""Names of the arrays of a stage, for what is kept."""


@dataclass(frozen=True, slots=True)
class CascadeOutput:
    """What the stages wrote."""

    heatmaps: dict[str, HeatmapStore]
    """By output name, in the order of the stages; the last is the result."""

    labels: LabelStore
    """The mask of the last stage."""

    reports: tuple[StageReport, ...]

    uncertainty: dict[str, HeatmapStore]
    """Layers of the last stage, by name."""

    gaps: Gaps
    """What damage did to the last stage."""


def run_cascade(
    model: Model,
    plan: Plan,
    folder: Path,
    *,
    skip_below: float = 0.0,
    resume: Resume | None = None,
    listen: Listener,
    check: Callable[[], None] = lambda: None,
) -> CascadeOutput:
    """Run the stages one after the other and write their heatmaps into `folder`.

    Parameters
    ----------
    model, plan
        The plan is this model's.
    folder
        Where the heatmaps are written.
    skip_below
        See `RunOptions`.
    resume
        What an earlier run has finished is not done again; stores in `folder` are replaced.
    listen
        Called with progress events.
    check
        Called after each stage; may raise to end the run.

    Returns
    -------
    CascadeOutput
        `heatmap.zarr` and `mask.zarr` are the last stage's; earlier heatmaps are
        `stage-<output name>.zarr`, layers of uncertainty `uncertainty-<name>.zarr`.

    Raises
    ------
    DamagedFileError, OutputShapeError, DiskFullError
        See `run_stage`; nothing unfinished is left under a final name.
    """
    heatmaps: dict[str, HeatmapStore] = {}
    gaps: dict[str, Gaps] = {}
    reports = []
    with share_levels(plan.setups, plan.running, folder) as shared:
        for s, setup in enumerate(plan.setups):
            background = model.card.classes[0].name
            skipping = skip_unlikely(
                setup, heatmaps, plan.selected[s], background=background, below=skip_below
            )
            own = gaps[setup.spec.output.name] = Gaps(setup, gaps)
            selected = plan.selected[s] if skipping is None else skipping.selected
            with ExitStack() as stack:
                output = _begin(model, plan, s, folder, stack, resume)
                report = run_stage(
                    setup,
                    connect(setup, heatmaps, {k: v for (i, k), v in shared.items() if i == s}),
                    selected,
                    model.predictors[s],
                    output.reducer,
                    pace=plan.stages[s].pace,
                    device_output=output.on_device,
                    kept=output.kept,
                    folder=folder if plan.stages[s].cut_bytes else None,
                    gaps=own,
                    slide=plan.slide,
                    listen=listen,
                )
            report = replace(report, lost_mm2=own.lost_mm2(selected))
            heatmap = heatmaps[setup.spec.output.name] = HeatmapStore.open(output.path)
            if skipping:
                report = replace(report, skipped=skipping.report(heatmap))
            means = output.means | neighbour_layer(setup, heatmap, folder, again=resume is not None)
            if means:
                found = {str(name): means[name].mean for name in setup.layers.names}
                report = replace(report, uncertainty=found)
            reports.append(report)
            predictor = model.predictors[s]
            if isinstance(predictor, Threaded) and model.device == "cpu":
                predictor.rest()  # its activations are not needed beside the outlines
            release_memory()
            check()
    names = plan.setups[-1].layers.names
    layers = {str(name): HeatmapStore.open(layer_path(folder, name)) for name in names}
    return CascadeOutput(heatmaps, LabelStore.open(folder / MASK), tuple(reports), layers, own)


@dataclass(frozen=True, slots=True)
class _Output:
    """Where a stage writes."""

    path: Path
    reducer: Reducer
    on_device: DeviceOutput | None
    kept: KeptRows | None
    means: dict[str, LayerMean]
    """Of the layers of uncertainty, once they are written."""


def _begin(
    model: Model, plan: Plan, s: int, folder: Path, stack: ExitStack, resume: Resume | None
) -> _Output:
    """Begin the heatmap of a stage and, for the last one, the mask; `stack` ends them."""
    card, setup, turned = model.card, plan.setups[s], plan.stages[s].pace.turned
    last, again = s == len(card.stages) - 1, resume is not None
    kept = _kept(model, plan, s, resume)
    path = folder / ("heatmap.zarr" if last else f"stage-{setup.spec.output.name}.zarr")
    channels = kept_channels(card, setup)
    codes: Sink = stack.enter_context(
        HeatmapStore.create(
            path,
            setup.placement,
            channels=[setup.channels[i] for i in channels],
            colors={spec.name: spec.color for spec in card.classes},
            overwrite=again,
            turned=turned,
        )
    )
    codes = codes if kept is None else kept.sink(CODES, codes)
    reducers: list[Reducer] = [Probabilities(codes, channels=channels)]
    labels: Sink | None = None
    if last:
        labels = stack.enter_context(
            LabelStore.create(
                folder / MASK,
                setup.placement,
                classes=[LabelClass(spec.name, spec.color) for spec in card.classes],
                overwrite=again,
                turned=turned,
            )
        )
        labels = labels if kept is None else kept.sink(LABELS, labels)
        reducers.append(labeller(card, labels))
    reducer: Reducer = Reducers(reducers)
    if setup.layers.names:
        layers, means = begin_layers(setup, folder, stack, turned=turned, kept=kept)
        reducer = Reducers([ClassPlanes(reducer, len(setup.channels)), *layers])
        return _Output(path, reducer, None, kept, means)  # layers are made of slabs on the host
    device = device_of(model.predictors[s])
    on_device = None
    if setup.spec.kind == "segmenter" and device is not None and device.startswith("cuda"):
        on_device = _device_output(card, device, channels, codes, labels)
    return _Output(path, reducer, on_device, kept, {})


def _kept(model: Model, plan: Plan, s: int, resume: Resume | None) -> KeptRows | None:
    """Return what an earlier run has finished of a stage; `None` where nobody is to know."""
    if resume is None:
        return None
    setup, last = plan.setups[s], s == len(plan.setups) - 1
    return resume.stage(
        model,
        setup,
        plan.selected[s],
        pace=plan.stages[s].pace,
        decoding=plan.decoding,
        parts=(CODES, LABELS, *stitched_layers(setup)) if last else (CODES,),
    )


def labeller(card: ModelCard, sink: Sink) -> Reducer:
    """Return what makes a label image of the last stage: by threshold, or the likeliest class."""
    if card.threshold is not None:
        return ThresholdLabels(sink, card.threshold)
    return ArgmaxLabels(sink)


def _device_output(
    card: ModelCard, device: str, kept: Sequence[int], codes: Sink, labels: Sink | None
) -> DeviceOutput:
    """Return what is kept of a dense stage on a GPU."""
    from wsiseg.stitch.device import CodeWriter, Kept

    rule: Literal["none", "argmax", "threshold"] = "none"
    if labels is not None:
        rule = "argmax" if card.threshold is None else "threshold"
    threshold = 0.5 if card.threshold is None else card.threshold
    return DeviceOutput(device, Kept(tuple(kept), rule, threshold), CodeWriter(codes, labels))

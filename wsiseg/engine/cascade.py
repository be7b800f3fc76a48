"""The stage graph, run: each stage's heatmap is a source for the next, the last gives the mask."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from wsiseg.engine.events import Listener, ignore
from wsiseg.engine.execute import StageReport, Threaded, run_stage
from wsiseg.engine.gaps import Gaps
from wsiseg.engine.graph import StageSetup, kept_channels
from wsiseg.engine.inputs import connect
from wsiseg.engine.kept import KeptRows, Span
from wsiseg.engine.on_device import DeviceOutput, device_of
from wsiseg.engine.plan import Plan
from wsiseg.engine.resume import Resume
from wsiseg.engine.share import SharedView, share_levels
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

__all__ = ["Cascade", "CascadeOutput", "labeller", "rest_later_stages", "run_cascade"]

MASK = "mask.zarr"
OFFSETS_STORE = "offsets.zarr"
CODES, LABELS, OFFSETS = "codes", "labels", "offsets"
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

    offsets: HeatmapStore | None = None
    """Where each pixel lies in its object, down and to the right, where the model says so."""


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
    with share_levels(plan.setups, plan.running, folder) as shared:
        cascade = Cascade(
            model, plan, folder, shared, skip_below=skip_below, resume=resume, listen=listen
        )
        reports = []
        for s in range(len(plan.setups)):
            report = cascade.run(s)
            assert report is not None
            reports.append(report)
            check()
    names = plan.setups[-1].layers.names
    layers = {str(name): HeatmapStore.open(layer_path(folder, name)) for name in names}
    labels = LabelStore.open(folder / MASK)
    last = plan.setups[-1].spec.output
    gaps = cascade.gaps[last.name]
    offsets = HeatmapStore.open(folder / OFFSETS_STORE) if last.offsets else None
    return CascadeOutput(cascade.heatmaps, labels, tuple(reports), layers, gaps, offsets)


class Cascade:
    """The stages of a model on a slide, to be run one after the other.

    Parameters
    ----------
    model, plan, folder, skip_below, resume, listen
        As for `run_cascade`.
    shared
        Views that stages share, by (stage, input).

    Attributes
    ----------
    heatmaps, gaps
        What the stages that ran have written, and what damage did to it, by output name.
    """

    def __init__(
        self,
        model: Model,
        plan: Plan,
        folder: Path,
        shared: Mapping[tuple[int, int], SharedView],
        *,
        skip_below: float = 0.0,
        resume: Resume | None = None,
        listen: Listener = ignore,
    ) -> None:
        self._model, self._plan, self._folder, self._shared = model, plan, folder, shared
        self._skip_below, self._resume, self._listen = skip_below, resume, listen
        self.heatmaps: dict[str, HeatmapStore] = {}
        self.gaps: dict[str, Gaps] = {}

    def run(self, s: int, rows: Mapping[Span, slice] | None = None) -> StageReport | None:
        """Run a stage; given `rows` of its columns, only these, into the journal: no report.

        Raises
        ------
        DamagedFileError, OutputShapeError, DiskFullError
            See `run_stage`.
        """
        model, plan, folder, setup = self._model, self._plan, self._folder, self._plan.setups[s]
        background = model.card.classes[0].name
        skipping = skip_unlikely(
            setup,
            self.heatmaps,
            plan.selected[s],
            background=background,
            below=self._skip_below,
        )
        own = self.gaps[setup.spec.output.name] = Gaps(setup, self.gaps)
        selected = plan.selected[s] if skipping is None else skipping.selected
        with ExitStack() as stack:
            kept = self.kept(s, rows)
            output = _begin(model, plan, s, folder, stack, kept)
            report = run_stage(
                setup,
                connect(
                    setup, self.heatmaps, {k: v for (i, k), v in self._shared.items() if i == s}
                ),
                selected,
                model.predictors[s],
                output.reducer,
                pace=plan.stages[s].pace,
                device_output=output.on_device,
                kept=kept,
                folder=folder if plan.stages[s].cut_bytes else None,
                gaps=own,
                slide=plan.slide,
                listen=self._listen,
            )
        if rows is not None:
            return None
        report = replace(report, lost_mm2=own.lost_mm2(selected))
        heatmap = self.heatmaps[setup.spec.output.name] = HeatmapStore.open(output.path)
        if skipping:
            report = replace(report, skipped=skipping.report(heatmap))
        again = self._resume is not None
        means = output.means | neighbour_layer(setup, heatmap, folder, again=again)
        if means:
            found = {str(name): means[name].mean for name in setup.layers.names}
            report = replace(report, uncertainty=found)
        _rest(model, s)  # its activations are not needed beside the outlines
        release_memory()
        return report

    def kept(self, s: int, rows: Mapping[Span, slice] | None = None) -> KeptRows | None:
        """Return what an earlier run has finished of a stage; `None` where nobody is to know."""
        if self._resume is None:
            return None
        plan, setup, last = self._plan, self._plan.setups[s], s == len(self._plan.setups) - 1
        return self._resume.stage(
            self._model,
            setup,
            plan.selected[s],
            pace=plan.stages[s].pace,
            decoding=plan.decoding,
            parts=_parts(setup) if last else (CODES,),
            wanted=rows,
        )


def rest_later_stages(model: Model) -> None:
    """Free the activations that the plan's timing has left to all stages but the first."""
    for s in range(1, len(model.predictors)):
        _rest(model, s)


def _rest(model: Model, s: int) -> None:
    predictor = model.predictors[s]
    if isinstance(predictor, Threaded) and model.device == "cpu":
        predictor.rest()


def _parts(setup: StageSetup) -> tuple[str, ...]:
    """Return what the last stage writes."""
    offsets = (OFFSETS,) if setup.spec.output.offsets else ()
    return (CODES, LABELS, *stitched_layers(setup), *offsets)


@dataclass(frozen=True, slots=True)
class _Output:
    """Where a stage writes."""

    path: Path
    reducer: Reducer
    on_device: DeviceOutput | None
    means: dict[str, LayerMean]
    """Of the layers of uncertainty, once they are written."""


def _begin(
    model: Model, plan: Plan, s: int, folder: Path, stack: ExitStack, kept: KeptRows | None
) -> _Output:
    """Begin the heatmap of a stage and, for the last one, the mask; `stack` ends them."""
    card, setup, turned = model.card, plan.setups[s], plan.stages[s].pace.turned
    last, again = s == len(card.stages) - 1, kept is not None
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
    if setup.planes > len(setup.channels) or setup.layers.names:
        layers, means = begin_layers(setup, folder, stack, turned=turned, kept=kept)
        if setup.spec.output.offsets:
            layers.append(_offsets(setup, folder, stack, turned, kept))
        reducer = Reducers([ClassPlanes(reducer, len(setup.channels)), *layers])
        return _Output(path, reducer, None, means)  # layers are made of slabs on the host
    device = device_of(model.predictors[s])
    on_device = None
    if setup.spec.kind == "segmenter" and device is not None and device.startswith("cuda"):
        on_device = _device_output(card, device, channels, codes, labels)
    return _Output(path, reducer, on_device, {})


def _offsets(
    setup: StageSetup, folder: Path, stack: ExitStack, turned: bool, kept: KeptRows | None
) -> Reducer:
    """Begin the store of the offsets; `stack` ends it."""
    sink: Sink = stack.enter_context(
        HeatmapStore.create(
            folder / OFFSETS_STORE,
            setup.placement,
            channels=["down", "right"],
            attributes={"meaning": "place in the object: 0 and 1 are its edges, 0.5 its centre"},
            overwrite=kept is not None,
            turned=turned,
        )
    )
    sink = sink if kept is None else kept.sink(OFFSETS, sink)
    classes = len(setup.channels)
    return Probabilities(sink, channels=range(classes, setup.predicted))


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

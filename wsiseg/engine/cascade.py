"""The stage graph, run: each stage's heatmap is a source for the next, the last gives the mask."""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from wsiseg.engine.events import Listener
from wsiseg.engine.execute import StageReport, Threaded, run_stage
from wsiseg.engine.graph import StageSetup
from wsiseg.engine.inputs import connect
from wsiseg.engine.plan import Plan
from wsiseg.engine.share import share_levels
from wsiseg.machine import release_memory
from wsiseg.model import Model, ModelCard
from wsiseg.stitch import (
    ArgmaxLabels,
    HeatmapStore,
    LabelClass,
    LabelStore,
    Probabilities,
    Reducer,
    Reducers,
    Sink,
    ThresholdLabels,
)

__all__ = ["CascadeOutput", "run_cascade"]


@dataclass(frozen=True, slots=True)
class CascadeOutput:
    """What the stages wrote."""

    heatmaps: dict[str, HeatmapStore]
    """By output name, in the order of the stages; the last is the result."""

    labels: LabelStore
    """The mask of the last stage."""

    reports: tuple[StageReport, ...]


def run_cascade(
    setups: Sequence[StageSetup],
    model: Model,
    plan: Plan,
    folder: Path,
    *,
    slide: str,
    listen: Listener,
) -> CascadeOutput:
    """Run the stages one after the other and write their heatmaps into `folder`.

    Returns
    -------
    CascadeOutput
        `heatmap.zarr` and `mask.zarr` are the last stage's; earlier heatmaps are
        `stage-<output name>.zarr`.

    Raises
    ------
    DamagedFileError, OutputShapeError, DiskFullError
        See `run_stage`; nothing unfinished is left under a final name.
    """
    card = model.card
    heatmaps: dict[str, HeatmapStore] = {}
    reports = []
    with share_levels(setups, plan.selected, folder) as shared:
        for s, setup in enumerate(setups):
            last = setup is setups[-1]
            name = "heatmap.zarr" if last else f"stage-{setup.spec.output.name}.zarr"
            mask = folder / "mask.zarr"
            with ExitStack() as stack:
                kept = _kept_channels(card, setup)
                sink = stack.enter_context(
                    HeatmapStore.create(
                        folder / name,
                        setup.placement,
                        channels=[setup.channels[i] for i in kept],
                        colors={spec.name: spec.color for spec in card.classes},
                    )
                )
                reducers: list[Reducer] = [Probabilities(sink, channels=kept)]
                if last:
                    labels = LabelStore.create(
                        mask,
                        setup.placement,
                        classes=[LabelClass(spec.name, spec.color) for spec in card.classes],
                    )
                    reducers.append(_labeller(card, stack.enter_context(labels)))
                reports.append(
                    run_stage(
                        setup,
                        connect(setup, heatmaps, {k: v for (i, k), v in shared.items() if i == s}),
                        plan.selected[s],
                        model.predictors[s],
                        Reducers(reducers),
                        pace=plan.stages[s].pace,
                        slide=slide,
                        listen=listen,
                    )
                )
            heatmaps[setup.spec.output.name] = HeatmapStore.open(folder / name)
            predictor = model.predictors[s]
            if isinstance(predictor, Threaded):
                predictor.rest()  # its activations are not needed beside the outlines
            release_memory()
    return CascadeOutput(heatmaps, LabelStore.open(mask), tuple(reports))


def _kept_channels(card: ModelCard, setup: StageSetup) -> list[int]:
    """Return the classes worth keeping: all but the background, unless a later stage reads it."""
    output = setup.spec.output.name
    wanted = {
        channel
        for stage in card.stages
        for spec in stage.inputs
        if spec.source == output
        for channel in spec.channels
    }
    return [i for i, name in enumerate(setup.channels) if i > 0 or name in wanted]


def _labeller(card: ModelCard, sink: Sink) -> Reducer:
    if card.threshold is not None:
        return ThresholdLabels(sink, card.threshold)
    return ArgmaxLabels(sink)

"""The stage graph on a scan, run by the engine of slides; the last stage writes labels."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wsiseg.engine.blocks import Readable
from wsiseg.engine.events import Listener
from wsiseg.engine.execute import Kept, Pace, StageReport, run_stage
from wsiseg.engine.graph import StageSetup, kept_channels
from wsiseg.engine.inputs import connect
from wsiseg.engine.kept import KeptRows, Span, column_span
from wsiseg.engine.on_device import device_of
from wsiseg.engine.scan_export import (
    ScanFiles,
    blank_values,
    label_rule,
    labels_of_scan,
    parts_of_scan,
)
from wsiseg.engine.scan_labels import StageLabels, label_readers, labels_of
from wsiseg.engine.scan_memory import beyond_of
from wsiseg.engine.scan_plan import ScanPlan, mirrored
from wsiseg.engine.scan_resume import CODES, KeptPlanes, ScanResume
from wsiseg.model import Model, ModelCard
from wsiseg.model.activation import activate
from wsiseg.model.card import SCAN, StageSpec
from wsiseg.stitch import HeatmapStore, Probabilities, Reducer, Reducers, Sink, Slab
from wsiseg.volume.body import Body
from wsiseg.volume.prepare import PreparedScan, prepare_scan
from wsiseg.volume.scan import Scan

__all__ = ["ScanOutput", "prepare_inputs", "run_scan", "windows_with_body"]


@dataclass(frozen=True, slots=True)
class ScanOutput:
    """What the stages gave."""

    files: ScanFiles
    """Labels, and probabilities where wanted, of the whole scan in the network's axes."""

    heatmaps: Mapping[str, HeatmapStore]
    """Of earlier stages, by output name."""

    reports: tuple[StageReport, ...]


def run_scan(
    model: Model,
    scan: Scan,
    setups: Sequence[StageSetup],
    selected: Sequence[NDArray[np.bool_]],
    plan: ScanPlan,
    folder: Path,
    *,
    resume: ScanResume | None = None,
    listen: Listener,
) -> ScanOutput:
    """Run the stages one after the other.

    Parameters
    ----------
    model, plan
        The plan is this model's.
    scan
        The part looked at.
    setups, selected
        The stages laid over it, and which of their tiles run.
    folder
        Where heatmaps of earlier stages are written, and voxels wait.
    resume
        What an earlier run has finished is not done again.
    listen
        Called with progress events.

    Raises
    ------
    DamagedFileError, OutputShapeError, DiskFullError
        See `run_stage`.
    """
    card = model.card
    heatmaps: dict[str, HeatmapStore] = {}
    reports: list[StageReport] = []
    files = ScanFiles.create(scan.whole, folder, plan.probabilities)
    as_labels: dict[tuple[int, int], StageLabels] = {}
    for s, setup in enumerate(setups):
        stage, last = plan.stages[s], s == len(setups) - 1
        rows, readers = None, label_readers(setups, setup.spec.output.name)
        if resume is not None and not readers:
            rows = resume.stage(setup, selected[s], stage.pace, last=last)
        kept: Kept | None = rows
        with ExitStack() as stack:
            spans = _spans(setup, stage.pace)
            device = device_of(model.predictors[s]) if stage.memory == "device" else None
            if last:
                parts = parts_of_scan(setup, scan, spans)
                kept = planes = None if rows is None else KeptPlanes(rows, setup, scan, parts)
                reducer = labels_of_scan(card, setup, scan, parts, files, planes, device=device)
            else:
                reducer = _between(card, setups, s, folder, stack, rows, as_labels, spans)
            scans: dict[int, Readable] = {**prepare_inputs(card, scan, setup, folder, stack)}
            scans |= {k: found for (reader, k), found in as_labels.items() if reader == s}
            report = run_stage(
                setup,
                connect(setup, heatmaps, scans=scans),
                selected[s],
                mirrored(model.predictors[s], setup),
                reducer,
                pace=stage.pace,
                kept=kept,
                spill=folder if stage.memory == "spill" else None,
                sums_on=device,
                beyond=beyond_of(setup, labels=last or bool(readers)),
                slide=scan.name,
                listen=listen,
            )
        reports.append(report)
        name = setup.spec.output.name
        if s < len(setups) - 1 and _reads_heatmap(setups, name):
            heatmaps[name] = HeatmapStore.open(folder / f"stage-{name}.zarr")
    for found in as_labels.values():
        found.close()
    return ScanOutput(files, heatmaps, tuple(reports))


def prepare_inputs(
    card: ModelCard, scan: Scan, setup: StageSetup, folder: Path, stack: ExitStack
) -> dict[int, PreparedScan]:
    """Return what the inputs of a stage that read the scan read; `stack` ends them."""
    assert card.scan is not None
    found: dict[int, PreparedScan] = {}
    made: dict[object, PreparedScan] = {}
    for k, item in enumerate(setup.inputs):
        if item.spec.source != SCAN or item.layout is None:
            continue
        channels = tuple(card.scan_channels.index(name) for name in item.spec.channels)
        key = (item.layout, item.spec.steps, channels)
        if key not in made:
            made[key] = prepare_scan(
                scan.select(channels),
                item.layout,
                item.spec.steps,
                folder,
                normalize_first=card.scan.order == "normalize_first",
                every=scan,
            )
            stack.callback(made[key].close)
        found[k] = made[key]
    return found


def _between(
    card: ModelCard,
    setups: Sequence[StageSetup],
    s: int,
    folder: Path,
    stack: ExitStack,
    rows: KeptRows | None,
    as_labels: dict[tuple[int, int], StageLabels],
    spans: Sequence[Span],
) -> Reducer:
    """Return what writes an earlier stage as later ones read it; labels go to `as_labels`."""
    setup = setups[s]
    rule, blank = label_rule(card, setup.spec), blank_values(card, setup.spec)
    reducers: list[Reducer] = []
    for reader, k in label_readers(setups, setup.spec.output.name):
        item = setups[reader].inputs[k]
        classes = [setup.channels.index(name) for name in item.spec.channels]
        as_labels[reader, k] = StageLabels(item.shape, classes, folder)
        sink = as_labels[reader, k]
        reducers.append(labels_of(setup, item, sink, spans=spans, rule=rule, blank=blank))
    if _reads_heatmap(setups, setup.spec.output.name):
        reducers.append(_Trimmed(_heatmap(card, setup, folder, stack, rows), spans))
    return reducers[0] if len(reducers) == 1 else Reducers(reducers)


def _reads_heatmap(setups: Sequence[StageSetup], name: str) -> bool:
    """Whether an output is kept as probabilities: where one reads them, or nobody reads labels."""
    encodings = {
        item.spec.encoding for setup in setups for item in setup.inputs if item.spec.source == name
    }
    return encodings != {"labels"}


def _heatmap(
    card: ModelCard, setup: StageSetup, folder: Path, stack: ExitStack, rows: KeptRows | None
) -> Reducer:
    """Return what writes the heatmap of an earlier stage."""
    channels = kept_channels(card, setup)
    store = HeatmapStore.create(
        folder / f"stage-{setup.spec.output.name}.zarr",
        setup.placement,
        channels=[setup.channels[i] for i in channels],
        overwrite=True,
    )
    sink: Sink = stack.enter_context(store)
    codes = Probabilities(rows.sink(CODES, sink) if rows else sink, channels=channels)
    return _Activated(codes, setup.spec) if setup.spec.output.stitched == "raw" else codes


def _spans(setup: StageSetup, pace: Pace) -> list[Span]:
    """Return what each column decides along the last axis."""
    return [column_span(setup, column) for column in setup.columns(pace.column)]


class _Activated:
    """Hands slabs of raw values on as probabilities."""

    def __init__(self, reducer: Reducer, stage: StageSpec) -> None:
        self._reducer = reducer
        self._activation = stage.output.activation

    def push(self, slab: Slab) -> None:
        values = activate(slab.values, self._activation)
        self._reducer.push(Slab(slab.box, values, slab.covered))

    def finish(self) -> None:
        self._reducer.finish()


def windows_with_body(body: Body, setups: Sequence[StageSetup]) -> list[NDArray[np.bool_]]:
    """Return per stage which windows run, bool of `grid.counts`: those that touch the body."""
    found = []
    for setup in setups:
        selected = np.ones(setup.grid.counts, np.bool_)
        first = setup.reference
        for tile in setup.grid if body.blocks is not None else ():
            ends = (
                [o + n * d for n, o, d in zip(end, first.origin, first.downsample, strict=True)]
                for end in (tile.write.start, tile.write.stop)
            )
            selected[tile.index] = body.touches(*ends)
        found.append(selected)
    return found


class _Trimmed:
    """Hands on what a column decides, without the pixels beyond it."""

    def __init__(self, reducer: Reducer, spans: Sequence[Span]) -> None:
        self._reducer = reducer
        self._right = dict(spans)

    def push(self, slab: Slab) -> None:
        left = slab.box.start[-1]
        self._reducer.push(slab.within(left, self._right[left]))

    def finish(self) -> None:
        self._reducer.finish()

"""Short measurements on one slide: reading, reducing, cutting, predicting, copying, writing.

Each takes some tenths of a second, on real tiles within tissue where pixels count, with as many
threads as the run will have.
"""

import itertools
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import cv2
import numpy as np
from numpy.typing import NDArray

from wsiseg.annotations import ImageRef, write_annotations
from wsiseg.engine import StagePlan, StageSetup, annotate_labels
from wsiseg.engine.blocks import BlockUses, block_box
from wsiseg.engine.cascade import labeller
from wsiseg.engine.execute import Threaded
from wsiseg.engine.graph import StageInput, kept_channels
from wsiseg.engine.inputs import BLOCK, HeatmapInput, Input, SlideInput, TileReader
from wsiseg.engine.share import share_levels
from wsiseg.engine.walk import batches_of, runs_of
from wsiseg.errors import unwritable
from wsiseg.geometry import Box
from wsiseg.model import Model, ModelCard, Predictor
from wsiseg.model.predictor import StagePredictor
from wsiseg.options import ExportOptions
from wsiseg.resample import area, area_span, target_shape
from wsiseg.run.checkup import StageRates
from wsiseg.source import Level, Pyramid, View
from wsiseg.source.base import CompressedTile, CompressedTileSource, Pixels
from wsiseg.stitch import (
    HeatmapStore,
    LabelClass,
    LabelStore,
    Placement,
    Probabilities,
    Reducers,
    Slab,
)

__all__ = [
    "NOTHING",
    "DecodeRates",
    "Needed",
    "OutputSample",
    "copy_rate",
    "decode_rates",
    "needed_tiles",
    "reduce_rate",
    "sample_output",
    "scaled_gain",
    "stage_rates",
]

SECONDS = 0.6
"""After this a measurement takes no further piece."""

MOST_TILES = 512
"""Compressed tiles decoded for a rate."""

ROUNDS = 5
"""Of which the median counts; the first, which allocates, does not."""

CALLS, STREAMED = 2, 8
"""Batches per round: of each worker, and of the stream to a GPU."""

SAMPLE_SIDE = 1024
"""Output pixels of the piece that is written."""

BLOB = 24
"""Output pixels between knots of the smooth field that stands for probabilities."""

SPREAD = 12.0
"""Logits of the field: most pixels are then near 0 or 1, as of a trained network."""

COPY_BYTES = 1 << 26

NOTHING = 1e9
"""Rate of what there is nothing of to do: it takes no time, and JSON has no infinity."""


Job = tuple[int, Callable[[], Any]]
"""Pixels, and what reads or reduces them."""


@dataclass(frozen=True, slots=True)
class Needed:
    """The compressed tiles of one level that the stages touch."""

    level: Level
    indices: NDArray[np.int64]
    """Places in the grid of the level's blocks, (n, 2), in row-major order."""

    ratios: tuple[tuple[float, ...], ...]
    """Level pixels per pixel of each view that reads it."""

    @property
    def mpx(self) -> float:
        """Million level pixels."""
        return sum(box.size for box in map(self.box, self.indices)) / 1e6

    def box(self, index: NDArray[np.int64]) -> Box:
        """Return the level pixels of a block."""
        chunk = self.level.chunk
        start = tuple(int(i) * n for i, n in zip(index, chunk, strict=True))
        stop = tuple(a + n for a, n in zip(start, chunk, strict=True))
        return Box(start, stop).clip(self.level.shape)


@dataclass(frozen=True, slots=True)
class DecodeRates:
    """Reading and decoding of one level."""

    file_mb_s: float | None
    compressed_mb: float
    """Of all needed tiles; 0 where the reader does not say."""

    one_mpx_s: float
    all_mpx_s: float


@dataclass(frozen=True, slots=True)
class OutputSample:
    """A piece of output, written and outlined."""

    write_mpx_s: float
    outline_mpx_s: float
    output_bytes_per_px: float
    outline_bytes_per_px: float


def needed_tiles(
    setups: Sequence[StageSetup], selected: Sequence[NDArray[np.bool_]]
) -> tuple[Needed, ...]:
    """Return the compressed tiles that the stages read, by level; each once, in whole blocks."""
    found: dict[int, tuple[Level, list[NDArray[np.int64]], list[tuple[float, ...]]]] = {}
    with share_levels(setups, selected, Path(tempfile.gettempdir())) as shared:
        blocks = {place: view.block for place, view in shared.items()}
    for s, (setup, chosen) in enumerate(zip(setups, selected, strict=True)):
        for k, item in enumerate(setup.inputs):
            if item.view is None or not chosen.any():
                continue
            level, ratio = item.view.level, item.view.ratio
            read = _blocks_read(setup, item, chosen, blocks.get((s, k), (BLOCK, BLOCK)))
            spans = (area_span(box, ratio).clip(level.shape) for box in read)
            uses = BlockUses.of_boxes((span for span in spans if span.size), level.chunk)
            _, places, ratios = found.setdefault(level.index, (level, [], []))
            places.append(np.argwhere(uses.counts > 0) + np.array(uses.first))
            ratios.append(ratio)
    return tuple(
        Needed(level, np.unique(np.concatenate(places), axis=0), tuple(ratios))
        for level, places, ratios in found.values()
    )


def _blocks_read(
    setup: StageSetup, item: StageInput, chosen: NDArray[np.bool_], block: tuple[int, ...]
) -> Iterator[Box]:
    """Yield the blocks of a view that a stage reads whole, in view pixels."""
    runs = (run.tiles(setup.grid) for run in runs_of(np.argwhere(chosen)))
    ends = ([item.box_of(tile.read, setup.reference) for tile in run] for run in runs)
    uses = BlockUses.of_boxes((Box(first.start, last.stop) for first, last in ends), block)
    for index in np.argwhere(uses.counts > 0) + np.array(uses.first):
        yield block_box(index.tolist(), block)


def decode_rates(slide: Pyramid, needed: Needed, workers: int) -> DecodeRates:
    """Return how fast tiles of a level are read from the file and decoded.

    The file comes first, so that decoding finds its bytes in the system's cache: the two add up.

    Raises
    ------
    DamagedFileError
        If a tile cannot be decoded.
    """
    count = min(MOST_TILES, len(needed.indices))
    places = np.linspace(0, len(needed.indices) - 1, count).astype(np.int64)
    chosen = needed.indices[np.unique(places)]
    tiles = _compressed(slide, needed)
    file_mb_s = None
    jobs: list[Job] = []
    if tiles:
        source = cast("CompressedTileSource", slide.source)
        picked = [t for t in (tiles.get(tuple(map(int, i))) for i in chosen) if t is not None]
        file_mb_s = _file_rate(slide.path, picked)
        for tile in picked:
            pixels = tile.box.clip(needed.level.shape).size
            jobs.append((pixels, _call(source.decode, needed.level.index, tile)))
    else:
        boxes = [needed.box(index) for index in chosen]
        jobs = [(box.size, _call(needed.level.read, box)) for box in boxes]
    if not jobs:  # the file leaves all of them out: nothing to decode
        return DecodeRates(file_mb_s, 0.0, NOTHING, NOTHING)
    # Sources other than those of compressed tiles keep what they decoded: no tile twice.
    half = len(jobs) // 2 if not tiles and len(jobs) > 1 else 0
    one = _rate(jobs[:half] or jobs, 1)
    together = _rate(jobs[half:], workers)
    total = sum(tile.nbytes for tile in tiles.values()) / 1e6
    return DecodeRates(file_mb_s, total, one, together)


def reduce_rate(needed: Sequence[Needed], workers: int) -> float | None:
    """Return million level pixels reduced per second; `None` where no view is coarser."""
    for one in needed:
        for ratio in one.ratios:
            if any(r != 1 for r in ratio):
                return _reduce_rate(one, ratio, workers)
    return None


def scaled_gain(slide: Pyramid, setups: Sequence[StageSetup], needed: Needed) -> float | None:
    """Return how many times faster a view is read whose codec reduces.

    `None` where none can, or the model's card does not allow it. The first stage counts; each way
    reads pieces of tissue of its own, so that no cache serves.
    """
    alone = [s.spec for s in setups if all(item.view is not None for item in s.inputs)]
    if not all(spec.allows_scaled_decoding for spec in alone):
        return None
    exact = setups[0].inputs[0].view
    if exact is None or exact.level.index != needed.level.index:
        return None
    scaled = View(slide, exact.requested, scaled=True)
    if not scaled.scaled:
        return None
    count = min(MOST_TILES, len(needed.indices)) // 2 * 2
    places = np.linspace(0, len(needed.indices) - 1, count).astype(np.int64)
    jobs: tuple[list[Job], list[Job]] = [], []
    for i, place in enumerate(places):
        box = needed.box(needed.indices[place])
        start = tuple(int(a // r) for a, r in zip(box.start, exact.ratio, strict=True))
        stop = tuple(-int(-b // r) for b, r in zip(box.stop, exact.ratio, strict=True))
        view = (exact, scaled)[i % 2]
        jobs[i % 2].append((box.size, _call(view.read, Box(start, stop))))
    return _rate(jobs[1], 1) / _rate(jobs[0], 1) if count else None


def stage_rates(
    setups: Sequence[StageSetup],
    model: Model,
    plans: Sequence[StagePlan],
    selected: Sequence[NDArray[np.bool_]],
) -> tuple[StageRates, ...]:
    """Return how fast each stage cuts and predicts patches, with the plan's batch and threads."""
    rates = []
    for s, (setup, plan, chosen) in enumerate(zip(setups, plans, selected, strict=True)):
        if not chosen.any():
            rates.append(StageRates(setup.spec.name, NOTHING, NOTHING))
            continue
        cut = _cut_rate(setup, setups[:s], plan, chosen)
        predict, start_s = _predict_rate(setup, model.predictors[s], plan)
        rates.append(StageRates(setup.spec.name, cut, predict, start_s))
    return tuple(rates)


def copy_rate(predictor: Predictor, setup: StageSetup) -> float | None:
    """Return MB/s from pinned host memory to the GPU; `None` where the network is on none."""
    if not isinstance(predictor, StagePredictor) or not predictor.device:
        return None
    if not predictor.device.startswith("cuda"):
        return None
    from wsiseg.model.cuda import CudaDevice
    from wsiseg.model.torch_backend import require_device

    device = CudaDevice(require_device(predictor.device))
    arrays = tuple(np.zeros(item.batch_shape(1), item.dtype) for item in setup.inputs)
    dtype = next(iter(predictor.stream_on_device([arrays]))).dtype
    shape = (COPY_BYTES // dtype.itemsize,)
    host, there = device.host_buffer(shape, dtype), device.buffer(shape, dtype)

    def copy() -> None:
        there.copy_(host, non_blocking=True)
        device.synchronize()

    _, seconds = _timed(copy)
    return COPY_BYTES / 1e6 / seconds


def sample_output(slide: Pyramid, card: ModelCard, setup: StageSetup, out: Path) -> OutputSample:
    """Write a piece of heatmap and mask beside where the run will, and outline it.

    The probabilities are a smooth random field with a little noise: they compress about as those
    of a network do. What was written is removed.

    Raises
    ------
    RunError
        If the folder cannot be written.
    """
    try:
        out = next(folder for folder in (out, *out.absolute().parents) if folder.exists())
        with tempfile.TemporaryDirectory(prefix=".wsiseg-doctor-", dir=out) as folder:
            return _sample_output(slide, card, setup, Path(folder))
    except OSError as error:
        raise unwritable(error, out) from error


def _compressed(slide: Pyramid, needed: Needed) -> dict[tuple[int, ...], CompressedTile]:
    """Return the needed tiles of the file by their place; none where the reader has no such."""
    if not isinstance(slide.source, CompressedTileSource):
        return {}
    wanted = set(map(tuple, needed.indices.tolist()))
    chunk, found = needed.level.chunk, {}
    for tile in slide.source.compressed_tiles(needed.level.index):
        place = tuple(a // n for a, n in zip(tile.box.start, chunk, strict=True))
        if tile.nbytes and place in wanted:
            found[place] = tile
    return found


def _file_rate(path: Path | str | None, tiles: Sequence[CompressedTile]) -> float | None:
    """Return MB/s of the first read of the tiles' bytes; `None` where there is no local file."""
    if path is None or not tiles or not Path(path).is_file():
        return None
    nbytes = 0
    started = time.perf_counter()
    with Path(path).open("rb", buffering=0) as file:
        for tile in tiles:
            file.seek(tile.offset)
            nbytes += len(file.read(tile.nbytes))
            if time.perf_counter() - started > SECONDS:
                break
    return nbytes / 1e6 / max(time.perf_counter() - started, 1e-9)


def _call(function: Callable[..., Pixels], *arguments: object) -> Callable[[], Pixels]:
    return lambda: function(*arguments)


def _rate(jobs: Sequence[Job], workers: int) -> float:
    """Return million pixels per second of jobs done by so many threads, for a limited time.

    One is done in any case, also where the machine is so busy that time is up before it begins.
    """
    started = time.perf_counter()
    deadline = started + SECONDS

    def work(number: int, job: Job) -> int:
        if number and time.perf_counter() > deadline:
            return 0
        pixels, call = job
        call()
        return pixels

    with ThreadPoolExecutor(workers) as pool:
        done = sum(pool.map(work, range(len(jobs)), jobs))
    return done / 1e6 / max(time.perf_counter() - started, 1e-9)


def _reduce_rate(needed: Needed, ratio: tuple[float, ...], workers: int) -> float:
    """Reduce some decoded tissue again and again, as many pieces at once as there are workers."""
    box = needed.box(needed.indices[len(needed.indices) // 2])
    pixels, inner = needed.level.read(box), Box.of_shape(box.shape)
    target = Box.of_shape(target_shape(box.shape, ratio))
    job = (box.size, _call(area, pixels, inner, target, ratio, box.shape))
    _rate([job], 1)  # the first call loads what it needs
    return _rate([job] * MOST_TILES, workers)


class _Blank:
    """An image without content, whose blocks cost nothing: what remains is the cutting."""

    def __init__(self, shape: tuple[int, ...], channels: int, dtype: Any) -> None:  # noqa: ANN401
        self.shape = shape
        self._channels = channels
        self._dtype = dtype

    def read(self, box: Box) -> NDArray[Any]:
        return np.zeros((*box.shape, self._channels), self._dtype)


def _inputs(setup: StageSetup, earlier: Sequence[StageSetup]) -> Iterator[Input]:
    """Yield the inputs of a stage, over blank images."""
    for item in setup.inputs:
        if item.view is not None:
            yield SlideInput(_Blank(item.shape, len(item.spec.channels), item.dtype))
            continue
        producer = next(p for p in earlier if p.spec.output.name == item.spec.source)
        place = producer.placement
        pairs = zip(item.downsample, place.downsample, strict=True)
        channels = range(len(item.spec.channels))
        image = _Blank(place.shape, len(channels), np.float32)
        yield HeatmapInput(image, channels, [mine / theirs for mine, theirs in pairs])


def _cut_rate(
    setup: StageSetup, earlier: Sequence[StageSetup], plan: StagePlan, chosen: NDArray[np.bool_]
) -> float:
    """Return patches per second cut from the middle of the slide, all workers busy."""
    columns = setup.columns(plan.pace.column, turned=plan.pace.turned)
    parts = [column.part_of(chosen) for column in columns]
    fullest = max(range(len(parts)), key=lambda i: int(parts[i].sum()))
    size, workers = plan.batch_size, plan.pace.workers
    batches = list(batches_of(parts[fullest], size))
    count = min(len(batches), 16 * workers)
    first = (len(batches) - count) // 2
    sample = batches[first : first + count]
    reader = TileReader(setup, tuple(_inputs(setup, earlier)), columns[fullest], sample)
    patches = sum(map(len, sample))
    started = time.perf_counter()
    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(lambda batch: len(reader.read(batch, size)), sample))
    return patches / max(time.perf_counter() - started, 1e-9)


def _predict_rate(setup: StageSetup, predictor: Predictor, plan: StagePlan) -> tuple[float, float]:
    """Return patches per second through the network, and the seconds its start takes.

    Batch, workers and threads are the plan's.
    """
    pace, random = plan.pace, np.random.default_rng(0)
    shapes = [(item.batch_shape(pace.batch_size), item.dtype) for item in setup.inputs]
    arrays = tuple(_random(shape, dtype, random) for shape, dtype in shapes)
    if pace.on_device:
        calls = STREAMED

        def work() -> None:
            for _ in predictor.stream(itertools.repeat(arrays, calls)):
                pass

        first, seconds = _timed(work)
    else:
        if pace.threads is not None and isinstance(predictor, Threaded):
            predictor = predictor.for_workers(pace.workers, pace.threads)
        call, calls = predictor, CALLS * pace.workers
        with ThreadPoolExecutor(pace.workers) as pool:
            first, seconds = _timed(lambda: list(pool.map(lambda _: call(*arrays), range(calls))))
    if isinstance(predictor, Threaded):
        predictor.rest()
    return pace.batch_size * calls / seconds, max(0.0, first - seconds)


def _random(shape: tuple[int, ...], dtype: Any, random: np.random.Generator) -> NDArray[Any]:  # noqa: ANN401
    values = random.random(shape, np.float32)
    return values if dtype == np.float32 else (values * 255).astype(np.uint8)


def _timed(call: Callable[[], object]) -> tuple[float, float]:
    """Return the seconds of the first call, and the median of a few that follow."""
    times: list[float] = []
    begun = time.perf_counter()
    while len(times) <= ROUNDS and (len(times) < 3 or time.perf_counter() - begun < 3 * SECONDS):
        started = time.perf_counter()
        call()
        times.append(time.perf_counter() - started)
    return times[0], statistics.median(times[1:])


def _sample_output(
    slide: Pyramid, card: ModelCard, setup: StageSetup, folder: Path
) -> OutputSample:
    whole = setup.placement
    shape = tuple(min(SAMPLE_SIDE, n) for n in whole.shape)
    placement = Placement(shape, whole.spacing, whole.downsample)
    slab = Slab(Box.of_shape(shape), _field(shape, len(setup.channels)), np.ones(shape, np.bool_))
    kept = kept_channels(card, setup)
    names = [setup.channels[i] for i in kept]
    classes = [LabelClass(spec.name, spec.color) for spec in card.classes]
    paths = folder / "heatmap.zarr", folder / "mask.zarr"
    started = time.perf_counter()
    with (
        HeatmapStore.create(paths[0], placement, channels=names) as heatmap,
        LabelStore.create(paths[1], placement, classes=classes) as mask,
    ):
        reducers = Reducers([Probabilities(heatmap, channels=kept), labeller(card, mask)])
        reducers.push(slab)
        reducers.finish()
    written = time.perf_counter()
    options = ExportOptions()
    stores = LabelStore.open(paths[1]), HeatmapStore.open(paths[0])
    plain = card.model_copy(update={"instances": None})  # offsets are not there to split by
    annotations = annotate_labels(*stores, plain, ImageRef.of(slide), options)
    write_annotations(folder, annotations, name="annotations", frame=options.frame)
    outlined = time.perf_counter()
    mpx = slab.box.size / 1e6
    return OutputSample(
        write_mpx_s=mpx / (written - started),
        outline_mpx_s=mpx / (outlined - written),
        output_bytes_per_px=sum(map(folder_bytes, paths)) / slab.box.size,
        outline_bytes_per_px=folder_bytes(folder, "*.geojson") / slab.box.size,
    )


def folder_bytes(folder: Path, pattern: str = "**/*") -> int:
    """Return the bytes of the files in a folder."""
    return sum(path.stat().st_size for path in folder.glob(pattern) if path.is_file())


def _field(shape: tuple[int, ...], channels: int) -> NDArray[np.float32]:
    """Return probabilities `(*shape, channel)` with blobs, flat areas and a little noise."""
    random = np.random.default_rng(0)
    height, width = shape
    coarse = (height // BLOB + 2, width // BLOB + 2, channels)
    knots = random.standard_normal(coarse).astype(np.float32)
    logits = cv2.resize(knots, (width, height), interpolation=cv2.INTER_CUBIC) * SPREAD
    logits = logits.reshape(height, width, channels)
    logits += random.standard_normal(logits.shape).astype(np.float32) / 4
    logits -= logits.max(axis=-1, keepdims=True)
    np.exp(logits, out=logits)
    values: NDArray[np.float32] = logits / logits.sum(axis=-1, keepdims=True)
    return values

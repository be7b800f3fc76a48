"""What a stage reads: the slide at its spacing, or what an earlier stage gave, on its own grid."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from wsiseg.engine.blocks import BlockCache, BlockUses, Readable
from wsiseg.engine.graph import StageSetup
from wsiseg.engine.share import SharedView
from wsiseg.engine.walk import Run, runs_of
from wsiseg.geometry import Box
from wsiseg.grid import Column
from wsiseg.resample import linear
from wsiseg.resample.linear import linear_span
from wsiseg.stitch import HeatmapStore

__all__ = [
    "BLOCK",
    "HeatmapInput",
    "Input",
    "ScanInput",
    "SlideInput",
    "TileReader",
    "block_uses",
    "connect",
]

BLOCK = 256
"""Side of a block in pixels, where the file's own blocks do not give one."""

NONE_SHARED: Mapping[int, SharedView] = MappingProxyType({})
NO_SCANS: Mapping[int, Readable] = MappingProxyType({})


class Input(Protocol):
    """Where the patches of one input of a stage come from."""

    source: Readable
    """The image that is read, in blocks."""

    @property
    def block(self) -> tuple[int, ...] | None:
        """Pixels of a block of the source; `None`: reading again is cheap, so none are kept."""
        ...

    def span(self, box: Box) -> Box:
        """Return the pixels of the source that a patch needs."""
        ...

    def patch(self, pixels: NDArray[Any], span: Box, box: Box) -> NDArray[Any]:
        """Return the patch, `(*box.shape, channel)`, from the pixels of its span."""
        ...


class SlideInput:
    """Pixels of the slide at the spacing of the stage: patches are parts of them.

    Parameters
    ----------
    source
        The slide on the grid of the stage.
    block
        Pixels of a block; default: `BLOCK` along each axis.
    """

    def __init__(self, source: Readable, block: tuple[int, ...] | None = None) -> None:
        self.source = source
        self.block = block or (BLOCK,) * len(source.shape)

    def span(self, box: Box) -> Box:
        """Return the box itself."""
        return box

    def patch(self, pixels: NDArray[Any], span: Box, box: Box) -> NDArray[Any]:
        """Return the pixels as they are."""
        return pixels


class ScanInput:
    """Voxels on the grid of the stage, which lie in a file as they are read: no block is kept.

    Parameters
    ----------
    source
        The scan on that grid.
    """

    def __init__(self, source: Readable) -> None:
        self.source = source

    @property
    def block(self) -> None:
        """None are kept."""

    def span(self, box: Box) -> Box:
        """Return the box itself."""
        return box

    def patch(self, pixels: NDArray[Any], span: Box, box: Box) -> NDArray[Any]:
        """Return the voxels as they are."""
        return pixels


class HeatmapInput:
    """Probabilities of an earlier stage, interpolated to the pixels of another grid.

    Parameters
    ----------
    heatmap
        Gives float32 probabilities; 0 outside and where nothing was computed.
    channels
        Indices of the channels wanted.
    ratio
        Heatmap pixels per pixel of the wanted grid, per axis.
    offset
        Heatmap pixels from the origin of the wanted grid to the heatmap's; default: none.
    """

    def __init__(
        self,
        heatmap: Readable,
        channels: Sequence[int],
        ratio: Sequence[float],
        *,
        offset: Sequence[float] | None = None,
    ) -> None:
        self.source = heatmap
        self.block = (BLOCK,) * len(heatmap.shape)
        self._offset = offset
        self._channels = list(channels)
        self._ratio = tuple(ratio)

    def span(self, box: Box) -> Box:
        """Return the heatmap pixels whose centres surround those of the patch."""
        return linear_span(box, self._ratio, offset=self._offset)

    def patch(self, pixels: NDArray[Any], span: Box, box: Box) -> NDArray[np.float32]:
        """Return float32 `(*box.shape, channel)`."""
        values = pixels[..., self._channels]
        return linear(values, span, box, self._ratio, offset=self._offset)


def connect(
    setup: StageSetup,
    outputs: Mapping[str, HeatmapStore],
    shared: Mapping[int, SharedView] = NONE_SHARED,
    scans: Mapping[int, Readable] = NO_SCANS,
) -> tuple[Input, ...]:
    """Return what each input of a stage reads from.

    Parameters
    ----------
    setup
        The stage.
    outputs
        What earlier stages wrote, by output name.
    shared
        Views of levels that other stages read, too, by input.
    scans
        What inputs that read a scan read, by input.
    """
    inputs: list[Input] = []
    for k, item in enumerate(setup.inputs):
        if k in shared:
            inputs.append(SlideInput(shared[k], shared[k].block))
        elif item.view is not None:
            inputs.append(SlideInput(item.view))
        elif k in scans:
            inputs.append(ScanInput(scans[k]))
        else:
            heatmap = outputs[item.spec.source]
            channels = [heatmap.channels.index(name) for name in item.spec.channels]
            pairs = zip(item.downsample, heatmap.downsample, strict=True)
            ratio = tuple(mine / theirs for mine, theirs in pairs)
            own = item.origin or (0.0,) * len(item.shape)
            triples = zip(heatmap.placement.origin, own, heatmap.downsample, strict=True)
            offset = tuple((start - mine) / d for start, mine, d in triples)
            inputs.append(HeatmapInput(heatmap, channels, ratio, offset=offset))
    return tuple(inputs)


def block_uses(
    setup: StageSetup, k: int, one: Input, column: Column, batches: Iterable[NDArray[np.int64]]
) -> BlockUses:
    """Count the reads of the blocks of input `k` that the tiles of a column need.

    Parameters
    ----------
    setup
        The stage.
    k, one
        Index of the input, and the input.
    column
        The part of the stage's grid that is walked.
    batches
        Indices of tiles of `column.grid`, int (n, axes) each.
    """
    assert one.block is not None, "an input without blocks has no uses of them"
    runs = (run for batch in batches for run in runs_of(batch))
    boxes = (one.span(_run_box(setup, k, column, run)) for run in runs)
    return BlockUses.of_boxes(boxes, one.block)


class TileReader:
    """Reads the tiles of one column, each block of a source once.

    Parameters
    ----------
    setup
        The stage.
    inputs
        One per input of the stage.
    column
        The part of the stage's grid that is walked.
    batches
        Indices of tiles of `column.grid`, int (n, axes) each: what will be read, each once.
    """

    def __init__(
        self,
        setup: StageSetup,
        inputs: Sequence[Input],
        column: Column,
        batches: Iterable[NDArray[np.int64]],
    ) -> None:
        self._setup = setup
        self._inputs = tuple(inputs)
        self._column = column
        batches = list(batches)
        self._caches = [
            BlockCache(one.source, block_uses(setup, k, one, column, batches))
            if one.block is not None
            else one.source
            for k, one in enumerate(inputs)
        ]

    def read(self, indices: NDArray[np.int64], size: int) -> list[NDArray[Any]]:
        """Return the patches of one batch.

        Parameters
        ----------
        indices
            Tiles of the column's grid, int (n, axes).
        size
            Patches of the result; those beyond `n` are zero.

        Returns
        -------
        list of ndarray
            One per input, `(size, *patch, channel)`.
        """
        return [self._read_input(k, indices, size) for k in range(len(self._inputs))]

    def _read_input(self, k: int, indices: NDArray[np.int64], size: int) -> NDArray[Any]:
        item = self._setup.inputs[k]
        out = np.zeros(item.batch_shape(size), item.dtype)
        filled = 0
        for run in runs_of(indices):
            whole = _run_box(self._setup, k, self._column, run)
            span = self._inputs[k].span(whole)
            pixels = self._inputs[k].patch(self._caches[k].read(span), span, whole)
            for box in self._boxes(k, run):
                out[filled] = pixels[box.relative_to(whole).slices()]
                filled += 1
        return out

    def _boxes(self, k: int, run: Run) -> Iterator[Box]:
        """Yield the pixels of input `k` of each tile of a run."""
        grid, *lead = self._column.grid, *run.first[:-1]
        for step in range(run.count):
            read = grid.tile((*lead, run.first[-1] + step)).read
            yield _patch_box(self._setup, k, self._column, read)


def _run_box(setup: StageSetup, k: int, column: Column, run: Run) -> Box:
    """Return the pixels of input `k` that hold the patches of a run."""
    first, last = (_patch_box(setup, k, column, tile.read) for tile in run.tiles(column.grid))
    return Box(first.start, last.stop)


def _patch_box(setup: StageSetup, k: int, column: Column, read: Box) -> Box:
    """Return the pixels of input `k` from a box of the column's grid."""
    return setup.inputs[k].box_of(column.on_image(read), setup.reference)

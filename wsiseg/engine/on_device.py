"""Dense outputs stitched on the device that made them: a byte per pixel and class leaves it.

Of volumes, whose sums may stay there until labels are made of them, only a byte per voxel.
"""

import logging
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from wsiseg.engine.clock import Clock
from wsiseg.engine.graph import StageSetup
from wsiseg.engine.stream import Background
from wsiseg.errors import DeviceMemoryError
from wsiseg.grid import Column
from wsiseg.model import Predictor
from wsiseg.stitch.stitcher import AddWeighted

if TYPE_CHECKING:
    from wsiseg.stitch.device import CodeSlab, CodeWriter, DeviceStitcher, Kept
    from wsiseg.stitch.device_volume import TensorSlab

__all__ = [
    "DeviceOutput",
    "DevicePredictor",
    "adder_of",
    "device_of",
    "make_stitcher",
    "stitched_on_device",
    "summed_on_device",
]

log = logging.getLogger(__name__)

Indices = NDArray[np.int64]
Batch = tuple[Indices, list[NDArray[Any]]]


@runtime_checkable
class DevicePredictor(Predictor, Protocol):
    """A predictor whose results may stay on a device."""

    @property
    def device(self) -> str | None:
        """Its name; `None` where there is no such thing after all."""
        ...

    def stream_on_device(
        self, batches: Iterable[tuple[NDArray[Any], ...]]
    ) -> Generator[Any, None, None]:
        """Yield the raw values of each batch, tensors valid until the next is asked for."""
        ...


def device_of(predictor: Predictor) -> str | None:
    """Return where a predictor can leave its results."""
    return predictor.device if isinstance(predictor, DevicePredictor) else None


def adder_of(predictor: Predictor) -> AddWeighted | None:
    """Return what adds weighted values of volumes on the host; `None`: NumPy.

    Where torch runs on the CPU, its kernel does, in half the time; it rounds otherwise by a bit.
    """
    if device_of(predictor) != "cpu":
        return None
    from wsiseg.stitch.device_volume import add_fused

    return add_fused


@dataclass(frozen=True, slots=True)
class DeviceOutput:
    """What a stage keeps, for sinks that take codes instead of probabilities."""

    device: str
    """Where the predictor leaves its results: `cuda`, `cuda:<n>`; `cpu` for tests."""

    kept: "Kept"
    writer: "CodeWriter"


def make_stitcher(
    setup: StageSetup, column: Column, output: DeviceOutput
) -> "DeviceStitcher | None":
    """Return the stitcher of one column; `None` where its front does not fit on the device."""
    from wsiseg.stitch.device import DeviceStitcher

    try:
        return DeviceStitcher(
            column.grid,
            len(setup.channels),
            output.kept,
            blend=setup.spec.output.blend,
            activation=setup.spec.output.activation,
            scaling=setup.scaling,
            device=output.device,
        )
    except DeviceMemoryError as error:
        log.info("%s", error)
        return None


def stitched_on_device(
    column: Column,
    batches: Generator[Batch, None, None],
    predictor: DevicePredictor,
    stitcher: "DeviceStitcher",
    write: Callable[["CodeSlab"], None],
    clock: Clock,
) -> Iterator[int]:
    """Predict and stitch one column on the device; yield the tiles of each batch.

    Parameters
    ----------
    column
        The part of the grid.
    batches
        Indices and patches, in order.
    predictor
        One with a device.
    stitcher
        The column's.
    write
        Gets each slab, in the pixels of the column, from a thread of its own.
    clock
        Gets the seconds of predicting, and those in which the device waits for patches.
    """
    waiting: deque[Indices] = deque()

    def arrays() -> Iterator[tuple[NDArray[Any], ...]]:
        for indices, patches in clock.counted("starve", batches, instead_of="predict"):
            waiting.append(indices)
            yield tuple(patches)

    outputs = predictor.stream_on_device(arrays())
    with Background(write, depth=4) as writer, closing(batches), closing(outputs):
        for raw in clock.counted("predict", outputs):
            indices = waiting.popleft()
            tiles = [column.grid.tile(tuple(index)) for index in indices.tolist()]
            for slab in stitcher.add(tiles, raw.swapaxes(1, 2) if column.turned else raw):
                writer.put(slab)
            yield len(indices)
        for slab in stitcher.finish():
            writer.put(slab)


def summed_on_device(
    setup: StageSetup,
    column: Column,
    batches: Generator[Batch, None, None],
    predictor: DevicePredictor,
    device: str,
    give: Callable[["TensorSlab"], None],
    clock: Clock,
) -> Iterator[int]:
    """Predict and stitch one column of a volume on the device; yield the tiles of each batch.

    Parameters
    ----------
    setup, column
        The stage, and the part of its grid.
    batches
        Indices and patches, in order.
    predictor
        One with that device.
    device
        Where the sums are.
    give
        Gets each slab, in the pixels of the column.
    clock
        Gets the seconds of predicting, and those in which the device waits for patches.
    """
    from wsiseg.stitch.device_volume import TensorStitcher

    blend = setup.spec.output.blend
    stitcher = TensorStitcher(column.grid, len(setup.channels), blend=blend, device=device)
    waiting: deque[Indices] = deque()

    def arrays() -> Iterator[tuple[NDArray[Any], ...]]:
        for indices, patches in clock.counted("starve", batches, instead_of="predict"):
            waiting.append(indices)
            yield tuple(patches)

    outputs = predictor.stream_on_device(arrays())
    with closing(batches), closing(outputs):
        for raw in clock.counted("predict", outputs):
            indices = waiting.popleft()
            for index, values in zip(indices.tolist(), raw, strict=False):
                for slab in stitcher.add(column.grid.tile(tuple(index)), values):
                    give(slab)
            yield len(indices)
        for slab in stitcher.finish():
            give(slab)

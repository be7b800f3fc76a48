"""Batches through a device in slots: one is copied there, one computed, one copied back.

Work is put on lanes (CUDA streams), each of which does its own work in order; events say what
must be done before something on another lane. The host waits for nothing but a host buffer that
it has to fill or to hand out. What a device must offer is `Device`; `wsiseg.model.cuda` has it.
"""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

__all__ = ["BufferSpec", "Device", "Event", "Forward", "Lane", "SlotPipeline", "specs_of"]

Batch = tuple[NDArray[Any], ...]
Forward = Callable[..., torch.Tensor]

BufferSpec = tuple[tuple[int, ...], str]
"""Shape and NumPy dtype of one input."""

SLOTS = 3
"""One batch on its way there, one being computed, one on its way back."""


class Event(Protocol):
    """A point on a lane."""

    def synchronize(self) -> None:
        """Wait, on the host, until the lane has passed it."""
        ...


class Lane(Protocol):
    """Work done in the order given, while the host goes on."""

    def run(self, work: Callable[[], object]) -> None:
        """Add work."""
        ...

    def wait(self, event: Any) -> None:  # noqa: ANN401 - each device has its own events
        """Do nothing that is added from now on before `event` has passed."""
        ...

    def record(self) -> Event:
        """Return an event that passes when all work added so far is done."""
        ...


L = TypeVar("L", bound=Lane)


class Device(Protocol[L]):
    """Where batches are computed."""

    def lane(self) -> L:
        """Return a new lane."""
        ...

    def current(self) -> L:
        """Return the lane on which the caller works."""
        ...

    def host_buffer(self, shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
        """Return memory of the host which the device can copy from and to."""
        ...

    def buffer(self, shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
        """Return memory of the device."""
        ...

    def prepare(
        self, forward: Forward, inputs: Sequence[torch.Tensor], lane: L
    ) -> tuple[Forward, torch.Tensor]:
        """Return the fastest way of calling `forward` on such inputs, and what it gives."""
        ...

    def synchronize(self) -> None:
        """Wait for all lanes."""
        ...


class _Slot:
    """The buffers of one batch, and what was last done with them."""

    def __init__(
        self, device: Device[Any], specs: Sequence[BufferSpec], output: torch.Tensor
    ) -> None:
        kinds = [(shape, _torch_dtype(dtype)) for shape, dtype in specs]
        self.host_inputs = [device.host_buffer(*kind) for kind in kinds]
        self.inputs = [device.buffer(*kind) for kind in kinds]
        self.output = device.buffer(output.shape, output.dtype)
        self.host_output = device.host_buffer(output.shape, output.dtype)
        self.copied_in: Event | None = None
        self.computed: Event | None = None
        self.taken: Event | None = None
        """The output was copied back, or used up on the device."""


class SlotPipeline:
    """A network for batches of one shape, with buffers of its own.

    Not for several threads at once: one stream at a time.

    Parameters
    ----------
    forward
        From tensors on the device to a float32 tensor there.
    specs
        Shape and dtype of each input.
    device
        Where to compute.
    slots
        Batches under way at once.
    """

    def __init__(
        self,
        forward: Forward,
        specs: Sequence[BufferSpec],
        device: Device[Any],
        *,
        slots: int = SLOTS,
    ) -> None:
        self._device = device
        self._in, self._compute, self._out = device.lane(), device.lane(), device.lane()
        examples = [device.buffer(shape, _torch_dtype(dtype)).zero_() for shape, dtype in specs]
        device.synchronize()  # the examples are written on another lane than they are read
        self._forward, output = device.prepare(forward, examples, self._compute)
        self._slots = [_Slot(device, specs, output) for _ in range(slots)]
        device.synchronize()

    def to_host(self, batches: Iterable[Batch]) -> Generator[NDArray[np.float32], None, None]:
        """Yield the output of each batch, in order; the receiver owns it."""
        for slot in self._rotate(batches, self._copy_back):
            if slot.taken is not None:
                slot.taken.synchronize()
            yield slot.host_output.numpy().copy()

    def on_device(self, batches: Iterable[Batch]) -> Generator[torch.Tensor, None, None]:
        """Yield the output of each batch, in order, as a tensor of the device.

        It can be used on the caller's current lane until the next one is asked for.
        """
        for slot in self._rotate(batches, None):
            lane = self._device.current()
            lane.wait(slot.computed)
            yield slot.output
            slot.taken = lane.record()

    def _rotate(
        self, batches: Iterable[Batch], after: Callable[[_Slot], None] | None
    ) -> Generator[_Slot, None, None]:
        """Start each batch in the next free slot; yield the slots in order, as late as possible."""
        free = deque(self._slots)
        busy: deque[_Slot] = deque()
        try:
            for batch in batches:
                if not free:
                    yield busy[0]
                    free.append(busy.popleft())
                slot = free.popleft()
                self._start(slot, batch)
                if after is not None:
                    after(slot)
                busy.append(slot)
            while busy:
                yield busy.popleft()
        finally:
            self._device.synchronize()  # nothing may still use buffers that are given back

    def _start(self, slot: _Slot, batch: Batch) -> None:
        if slot.copied_in is not None:
            slot.copied_in.synchronize()  # the host buffers may be filled anew
        for host, array in zip(slot.host_inputs, batch, strict=True):
            host.copy_(torch.from_numpy(np.require(array, requirements=["C", "W"])))
        if slot.computed is not None:
            self._in.wait(slot.computed)
        self._in.run(lambda: _copy(slot.inputs, slot.host_inputs))
        slot.copied_in = self._in.record()
        self._compute.wait(slot.copied_in)
        if slot.taken is not None:
            self._compute.wait(slot.taken)
        self._compute.run(lambda: slot.output.copy_(self._forward(*slot.inputs)))
        slot.computed = self._compute.record()

    def _copy_back(self, slot: _Slot) -> None:
        self._out.wait(slot.computed)
        self._out.run(lambda: _copy([slot.host_output], [slot.output]))
        slot.taken = self._out.record()


def specs_of(batch: Batch) -> tuple[BufferSpec, ...]:
    """Return shape and dtype of each array."""
    return tuple((array.shape, array.dtype.name) for array in batch)


def _copy(targets: Sequence[torch.Tensor], sources: Sequence[torch.Tensor]) -> None:
    for target, source in zip(targets, sources, strict=True):
        target.copy_(source, non_blocking=True)


def _torch_dtype(name: str) -> torch.dtype:
    return torch.from_numpy(np.empty(0, name)).dtype

"""CUDA for `SlotPipeline`: streams as lanes, pinned host memory, CUDA graphs, memory in numbers."""

import gc
import logging
from collections.abc import Callable, Sequence

import torch

from wsiseg.model.slots import Forward

__all__ = ["CudaDevice", "CudaLane", "describe_memory", "is_out_of_memory", "release_cached"]

log = logging.getLogger(__name__)

WARM_UP = 2
"""Eager calls before a capture: libraries load kernels and choose algorithms in the first."""

ALLOCATION_FAILURES = (
    "out of memory",
    "alloc_failed",
    "not enough memory",
    "can't allocate memory",
)
"""What torch, cuBLAS, cuDNN and the CPU's allocator say; not all raise `OutOfMemoryError`."""


class CudaLane:
    """A CUDA stream."""

    def __init__(self, stream: torch.cuda.Stream) -> None:
        self.stream = stream

    def run(self, work: Callable[[], object]) -> None:
        """Add work; returns at once."""
        with torch.inference_mode(), torch.cuda.stream(self.stream):
            work()

    def wait(self, event: torch.cuda.Event) -> None:
        """Let the stream wait for an event of another one."""
        self.stream.wait_event(event)

    def record(self) -> torch.cuda.Event:
        """Return an event after all work so far; waiting for it leaves the core to the readers."""
        event = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
        event.record(self.stream)
        return event


class CudaDevice:
    """One GPU.

    Parameters
    ----------
    device
        `cuda` or `cuda:<n>`.
    """

    def __init__(self, device: torch.device) -> None:
        index = torch.cuda.current_device() if device.index is None else device.index
        self.device = torch.device("cuda", index)

    def lane(self) -> CudaLane:
        """Return a stream of its own."""
        return CudaLane(torch.cuda.Stream(self.device))  # type: ignore[no-untyped-call]

    def current(self) -> CudaLane:
        """Return the stream current in this thread."""
        return CudaLane(torch.cuda.current_stream(self.device))

    def host_buffer(self, shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
        """Return pinned memory, which the copy engines reach without the host's help."""
        with torch.cuda.device(self.device):
            return torch.empty(tuple(shape), dtype=dtype, pin_memory=True)

    def buffer(self, shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
        """Return memory of the GPU."""
        return torch.empty(tuple(shape), dtype=dtype, device=self.device)

    def prepare(
        self, forward: Forward, inputs: Sequence[torch.Tensor], lane: CudaLane
    ) -> tuple[Forward, torch.Tensor]:
        """Return `forward` as a CUDA graph that is replayed, or itself where that cannot be.

        A graph costs one launch instead of hundreds. It reads and writes memory of its own, so
        inputs are copied into it on the device; its output must be used before the next call.
        """
        outputs: list[torch.Tensor] = []

        def warm_up() -> None:
            outputs[:] = [forward(*inputs)]

        for _ in range(WARM_UP):
            lane.run(warm_up)
        self.synchronize()
        try:
            return self._capture(forward, inputs, lane)
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise  # a smaller batch may be captured
            reason = str(error).splitlines()[0]
            log.warning("%s: no CUDA graph, each layer is launched alone: %s", self.device, reason)
        self.synchronize()
        return forward, outputs[0]

    def _capture(
        self, forward: Forward, inputs: Sequence[torch.Tensor], lane: CudaLane
    ) -> tuple[Forward, torch.Tensor]:
        graph = torch.cuda.CUDAGraph()
        with torch.inference_mode(), torch.cuda.device(self.device):
            before = torch.cuda.current_stream()
            try:
                # thread_local: other threads may pin memory meanwhile.
                with torch.cuda.graph(graph, stream=lane.stream, capture_error_mode="thread_local"):
                    output = forward(*inputs)
            except RuntimeError:
                torch.cuda.set_stream(before)  # a capture that breaks leaves its own one current
                raise

        def replay(*given: torch.Tensor) -> torch.Tensor:
            for own, new in zip(inputs, given, strict=True):
                own.copy_(new)
            graph.replay()
            return output

        return replay, output

    def synchronize(self) -> None:
        """Wait for all streams."""
        torch.cuda.synchronize(self.device)


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an error of torch means that memory could not be had."""
    if isinstance(error, torch.OutOfMemoryError):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(hint in text for hint in ALLOCATION_FAILURES)


def release_cached(device: torch.device) -> None:
    """Give back what torch keeps for later, so that another plan finds it."""
    gc.collect()
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.empty_cache()


def describe_memory(device: torch.device) -> str:
    """Return free and total memory of a device in words."""
    if device.type != "cuda":
        return "the machine's memory"
    free, total = torch.cuda.mem_get_info(device)
    return f"{free / 1e9:.2f} of {total / 1e9:.2f} GB free"

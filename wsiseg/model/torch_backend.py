"""Networks run by torch: on a GPU, or on the CPU where a network cannot be exported."""

import threading
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator
from itertools import chain
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from wsiseg.errors import DeviceMemoryError, ModelError, SmallerBatchWarning
from wsiseg.machine import keep_big_buffers
from wsiseg.model.batches import Batch, Unanswered, in_parts, join_arrays
from wsiseg.model.cuda import CudaDevice, describe_memory, is_out_of_memory, release_cached
from wsiseg.model.slots import BufferSpec, Device, SlotPipeline, specs_of

__all__ = ["Precision", "TorchNetwork", "require_device"]

Precision = Literal["float32", "bfloat16"]

Output = TypeVar("Output")
Join = Callable[[Iterator[Output], int], Output]
Run = Callable[[Iterator[Batch]], Generator[Output, None, None]]


class TorchNetwork:
    """A network like `PreprocessedNetwork` called with NumPy arrays.

    On a GPU kernels are made deterministic and TF32 is switched off, so that float32 means
    float32; both are settings of the whole process. A batch that the memory cannot hold is
    computed in halves, or in halves of them, from then on; the order of the results stays.

    Parameters
    ----------
    module
        Moved to the device; memory order channels_last.
    device
        `cpu`, `cuda` or `cuda:<n>`.
    precision
        `bfloat16` runs convolutions and matrix products under autocast; CUDA only, since CPUs
        without AMX or AVX512-BF16 emulate it at a tenth of the speed.
    threads
        CPU only; torch has one setting for the whole process.
    """

    def __init__(
        self,
        module: nn.Module,
        *,
        device: str = "cpu",
        precision: Precision = "float32",
        threads: int | None = None,
    ) -> None:
        self.device = require_device(device)
        self.precision = precision
        if self.device.type == "cpu":
            if precision != "float32":
                raise ModelError(
                    f"precision {precision} needs a GPU, found device cpu; leave the precision at "
                    "float32"
                )
            keep_big_buffers()
            if threads is not None:
                torch.set_num_threads(threads)
        else:
            torch.backends.cudnn.allow_tf32 = False
            torch.backends.cudnn.benchmark = False
            torch.backends.cudnn.deterministic = True
        self._module = module.to(self.device).eval()
        for parameter in self._module.parameters():
            if parameter.dim() == 4:
                parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
        self._threads: int | None = None
        self._gpu: Device[Any] | None = None
        if self.device.type == "cuda":
            self._gpu = CudaDevice(self.device)
        self._largest: dict[tuple[tuple[int, ...], ...], int] = {}
        """Patches of a shape that fit, where that was found out."""
        self._idle: dict[tuple[BufferSpec, ...], SlotPipeline] = {}
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"TorchNetwork(device={str(self.device)!r}, precision={self.precision!r})"

    def for_workers(self, workers: int, threads: int) -> "TorchNetwork":
        """Return this network, each call of which takes `threads` cores of a CPU from now on."""
        if self.device.type == "cpu":
            self._threads = threads
        return self

    def rest(self) -> None:
        """Free buffers and cached memory of a GPU, until the next call."""
        if self._gpu is not None:
            with self._lock:
                self._idle.clear()
            release_cached(self.device)

    def __call__(self, *inputs: NDArray[Any]) -> NDArray[np.float32]:
        """Return the output of the network for one batch.

        Raises
        ------
        DeviceMemoryError
            If not even a batch of one patch fits into memory.
        """
        (output,) = self._halving([inputs], self._one_by_one, join_arrays)
        return output

    def stream(self, batches: Iterable[Batch]) -> Generator[NDArray[np.float32], None, None]:
        """Yield the output of each batch, in order; the receiver owns it.

        On a GPU copying there, computing and copying back overlap; batches of one shape are
        replayed as a CUDA graph.

        Raises
        ------
        DeviceMemoryError
            If not even a batch of one patch fits into memory.

        Warns
        -----
        SmallerBatchWarning
            If a batch did not fit and smaller ones are taken.
        """
        gpu = self._gpu
        run = self._overlapped(gpu, SlotPipeline.to_host) if gpu else self._one_by_one
        return self._halving(batches, run, join_arrays)

    def stream_on_device(self, batches: Iterable[Batch]) -> Generator[torch.Tensor, None, None]:
        """Yield the output of each batch as a tensor on the device; see `stream`.

        It may be used on the stream current in this thread, until the next one is asked for.
        """
        gpu = self._gpu
        run = self._overlapped(gpu, SlotPipeline.on_device) if gpu else self._one_by_one_on_device
        return self._halving(batches, run, _join_tensors)

    def _halving(
        self, batches: Iterable[Batch], run: Run[Output], join: Join[Output]
    ) -> Generator[Output, None, None]:
        """Yield the outputs of `run`, fed with parts that fit into memory."""
        source = Unanswered(batches)
        while (batch := source.peek()) is not None:
            size = min(self._largest.get(_patches(batch), len(batch[0])), len(batch[0]))
            try:
                for output in in_parts(run, source.feed(), size, join):
                    source.answered()
                    yield output
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                reason = " ".join(str(error).split())[:200]
            else:
                return
            # Outside of the handler, whose traceback keeps the tensors that filled the memory.
            self._halve(size, batch, reason)

    def _halve(self, size: int, batch: Batch, reason: str) -> None:
        self._idle.clear()
        release_cached(self.device)
        patches = " and ".join(map(str, _patches(batch)))
        found = f"{self.device}: out of memory with {size} patches of {patches} at once"
        memory = f"{describe_memory(self.device)}: {reason}"
        if size == 1:
            raise DeviceMemoryError(
                f"{found} ({memory}); take a model with smaller patches, end what else uses the "
                "device, or use --device cpu"
            )
        half = self._largest[_patches(batch)] = size // 2
        warnings.warn(
            f"{found} ({memory}); goes on with {half}; --batch {half} saves the attempt",
            SmallerBatchWarning,
            stacklevel=2,
        )

    def _one_by_one(self, batches: Iterator[Batch]) -> Generator[NDArray[np.float32], None, None]:
        for output in self._one_by_one_on_device(batches):
            # A volume's classes stay apart in memory: putting them together would copy all of it.
            host = output.cpu()
            array: NDArray[np.float32] = (host if host.dim() == 5 else host.contiguous()).numpy()
            yield array

    def _one_by_one_on_device(
        self, batches: Iterator[Batch]
    ) -> Generator[torch.Tensor, None, None]:
        for batch in batches:
            if self._threads is not None and torch.get_num_threads() != self._threads:
                torch.set_num_threads(self._threads)  # of the thread that calls
            with torch.inference_mode():
                output = self._forward(*(self._to_device(array) for array in batch))
            yield output

    def _overlapped(
        self,
        gpu: Device[Any],
        flow: Callable[[SlotPipeline, Iterable[Batch]], Generator[Output, None, None]],
    ) -> Run[Output]:
        """Return what sends batches of one shape through a pipeline that nobody else uses."""

        def run(batches: Iterator[Batch]) -> Generator[Output, None, None]:
            first = next(batches, None)
            if first is None:
                return
            specs = specs_of(first)
            with self._lock:
                pipeline = self._idle.pop(specs, None)
            if pipeline is None:
                pipeline = SlotPipeline(self._forward, specs, gpu)
            yield from flow(pipeline, chain([first], batches))
            self._give_back(specs, pipeline)

        return run

    def _give_back(self, specs: tuple[BufferSpec, ...], pipeline: SlotPipeline) -> None:
        """Keep one pipeline for the next slide. One that failed is not given back."""
        with self._lock:
            self._idle = {specs: pipeline}

    def _forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        reduced = self.precision == "bfloat16"
        # Weights cast once would be cached, which a graph cannot take along.
        with torch.autocast(self.device.type, torch.bfloat16, reduced, cache_enabled=False):
            output: torch.Tensor = self._module(*inputs)
        return output

    def _to_device(self, array: NDArray[Any]) -> torch.Tensor:
        tensor = torch.from_numpy(np.require(array, requirements=["C", "W"]))
        return tensor.to(self.device)


def _patches(batch: Batch) -> tuple[tuple[int, ...], ...]:
    """Return the shape of a patch of each input."""
    return tuple(array.shape[1:] for array in batch)


def _join_tensors(outputs: Iterator[torch.Tensor], n: int) -> torch.Tensor:
    first = next(outputs)
    if n <= len(first):
        return first[:n]
    # Each is valid until the next one is asked for.
    return torch.cat([first.clone(), *(output.clone() for output in outputs)])[:n]


def require_device(name: str) -> torch.device:
    """Return a device that is there.

    Raises
    ------
    ModelError
        If torch does not know the device, or this machine does not have it.
    """
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ModelError(
            f"device {name!r} is unknown: needed auto, cpu, cuda or cuda:<number>"
        ) from error
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (device.index or 0) >= count:
            raise ModelError(
                f"device {name}: torch {torch.__version__} finds {count} CUDA devices; use "
                "--device cpu, or install a CUDA build of torch"
            )
    elif device.type != "cpu":
        raise ModelError(f"device {name!r} is not supported: needed auto, cpu, cuda or cuda:<n>")
    return device

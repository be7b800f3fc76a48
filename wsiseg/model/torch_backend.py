"""Networks run by torch: on a GPU, or on the CPU where a network cannot be exported."""

import ctypes
import logging
import sys
from functools import cache
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from wsiseg.errors import ModelError
from wsiseg.model.preprocessed import PreprocessedNetwork

__all__ = ["Precision", "TorchNetwork", "require_device"]

log = logging.getLogger(__name__)

Precision = Literal["float32", "bfloat16"]

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Names of glibc's malloc.h."""

KEEP_BYTES = 1 << 30


class TorchNetwork:
    """A `PreprocessedNetwork` called with NumPy arrays.

    On a GPU kernels are made deterministic and TF32 is switched off, so that float32 means
    float32; both are settings of the whole process.

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
        module: PreprocessedNetwork,
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

    def __repr__(self) -> str:
        return f"TorchNetwork(device={str(self.device)!r}, precision={self.precision!r})"

    def __call__(self, *inputs: NDArray[Any]) -> NDArray[np.float32]:
        """Return the output of the network for one batch."""
        reduced = self.precision == "bfloat16"
        with torch.inference_mode(), torch.autocast(self.device.type, torch.bfloat16, reduced):
            output: torch.Tensor = self._module(*(self._to_device(array) for array in inputs))
            result: NDArray[np.float32] = output.cpu().contiguous().numpy()
        return result

    def _to_device(self, array: NDArray[Any]) -> torch.Tensor:
        tensor = torch.from_numpy(np.require(array, requirements=["C", "W"]))
        if self.device.type == "cpu":
            return tensor
        return tensor.pin_memory().to(self.device, non_blocking=True)


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


@cache
def keep_big_buffers() -> None:
    """Stop glibc from giving big buffers back to the kernel after each layer.

    Without this more than half of torch's time on CPU goes into page faults. Other C libraries
    have other allocators; nothing is done there.
    """
    if not sys.platform.startswith("linux"):
        return
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        log.debug("no glibc: allocator left as it is")
        return
    mallopt(M_MMAP_THRESHOLD, KEEP_BYTES)
    mallopt(M_TRIM_THRESHOLD, KEEP_BYTES)

"""Which GPUs there are. torch is imported only where the machine has a driver."""

import ctypes
import sys

__all__ = ["count_gpus", "gpu_name", "make_current"]


def count_gpus() -> int:
    """Return how many CUDA devices torch can use; without a driver torch is not even imported."""
    library = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
    try:
        ctypes.CDLL(library)
    except OSError:
        return 0
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def make_current(device: str) -> None:
    """Make `cuda:<n>` the device on which this process does what names no device."""
    if device.partition(":")[0] == "cuda":
        import torch

        torch.cuda.set_device(device)


def gpu_name(device: str) -> str:
    """Return the name of the GPU `cuda` or `cuda:<n>`."""
    import torch

    return torch.cuda.get_device_name(device)

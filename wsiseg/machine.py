"""What this machine gives this process: cores and memory, containers and job limits counted."""

import ctypes
import gc
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

__all__ = [
    "HeapTrimmer",
    "beside",
    "bound_allocator",
    "cpu_name",
    "keep_big_buffers",
    "machine_memory",
    "peak_memory",
    "release_memory",
    "resident_memory",
    "set_allocator",
    "trim_heap",
    "usable_cores",
]

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8
"""Names of glibc's malloc.h."""

CPUINFO = Path("/proc/cpuinfo")

CGROUPS = Path("/sys/fs/cgroup")
OWN_CGROUPS = Path("/proc/self/cgroup")
"""Control groups, by which containers and jobs are limited, and those this process is in."""


def cpu_name() -> str:
    """Return what the system calls its processors."""
    try:
        with CPUINFO.open(encoding="utf-8") as lines:
            return next((line.strip() for line in lines if line.startswith("model name")), "")
    except OSError:
        return f"{platform.machine()} {platform.processor()}"


def usable_cores() -> int:
    """Return the cores this process may use."""
    here = os.cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):
        here = len(os.sched_getaffinity(0))
    for quota in _limits("cpu", "cpu.max"):
        with suppress(ValueError):  # no limit: "max"
            used, period = map(int, quota.split())
            here = min(here, -(-used // period))
    return max(1, here)


def machine_memory() -> int:
    """Return the bytes of memory there are; 8 GB where the system does not say."""
    try:
        physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 8_000_000_000
    for limit in _limits("memory", "memory.max", "memory.limit_in_bytes"):
        with suppress(ValueError):  # no limit: "max"
            physical = min(physical, int(limit))
    return physical


def _limits(controller: str, name: str, name_v1: str = "") -> Iterator[str]:
    """Yield what the groups of this process say, its own and those around it.

    A container sees its group as the root; that of a job (SLURM, systemd) lies deep in the tree.

    Parameters
    ----------
    controller
        What is limited.
    name, name_v1
        File of the limit in version 2, and in version 1, where each controller has its own tree.
    """
    try:
        groups = OWN_CGROUPS.read_text().splitlines()
    except OSError:
        return
    for group in groups:
        _, controllers, path = group.split(":", 2)
        root, file = CGROUPS, name
        if controllers:
            root, file = CGROUPS / controller, name_v1
        if not file or controller not in (controllers or controller).split(","):
            continue
        own = root / path.lstrip("/")
        for folder in (own, *own.parents):
            with suppress(OSError):
                yield (folder / file).read_text()
            if folder == root:
                break


def resident_memory() -> int:
    """Return the resident bytes of this process now; its peak so far where that is all there is."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        pass
    return peak_memory()


def peak_memory() -> int:
    """Return the most resident bytes this process has had; 1 GB where the system does not say."""
    try:
        status = Path("/proc/self/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    try:
        import resource
    except ImportError:
        return 1_000_000_000
    # On Linux this would count the parent's memory too, which a child has until its program starts.
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def bound_allocator() -> None:
    """Have large buffers given back to the system when they are freed, where the C library can.

    glibc raises its own limits as buffers are freed, and keeps one heap per thread: the readers'
    and the writer's buffers then stay resident long after they are gone (measured on a slide of
    80,000 x 60,000 pixels: 180 MB). Small blocks stay on the heap, where they are quick.
    """
    _set_allocator(mmap_threshold=2 << 20, trim_threshold=32 << 20, arenas=4)


def keep_big_buffers() -> None:
    """Keep large buffers in the process when they are freed, where the C library can (glibc).

    Without this more than half of torch's time on a CPU goes into page faults. Arenas of other
    threads are limited to 64 MB, whatever the thresholds: workers share the main one, or their big
    buffers go back all the same (measured: 3.1 s of system time against 0.1).
    """
    _set_allocator(mmap_threshold=1 << 30, trim_threshold=1 << 30, arenas=1)


def set_allocator(backend: str) -> None:
    """Set what suits the networks' backend; a run before this one may have needed the other."""
    if backend == "torch":
        keep_big_buffers()
    else:
        bound_allocator()


def _set_allocator(*, mmap_threshold: int, trim_threshold: int, arenas: int) -> None:
    """Set the limits of glibc's malloc; other C libraries have other allocators."""
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_ARENA_MAX, arenas)
        mallopt(M_MMAP_THRESHOLD, mmap_threshold)
        mallopt(M_TRIM_THRESHOLD, trim_threshold)


@contextmanager
def beside(work: Callable[[], object]) -> Iterator[None]:
    """Do `work` in a thread of its own beside the body; what it raises is raised at the end."""
    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(work)
        yield
        done.result()


def release_memory() -> None:
    """Give freed memory back to the system between steps, where the C library can (glibc).

    Otherwise each step's buffers stay resident behind the next one's, and the peak is their sum.
    """
    gc.collect()
    trim_heap()


class HeapTrimmer:
    """Gives freed memory back whenever this process has grown, where the C library can (glibc).

    Threads that allocate and free blocks of many sizes leave holes in the heap, so that a long run
    would grow and grow (measured: 100 MB in 25 s). Called often; it mostly does nothing. The first
    call always gives back what the preparations of a million tiles have left (70 MB).

    What a network works with comes and goes with each call. Given back, it would be taken anew page
    by page, a third of the time of a small network. So memory that is there again by the next look
    is left alone from then on.

    Parameters
    ----------
    buffers
        Bytes that are known to come and go with each call.
    """

    GROWTH = 6 << 20

    LOOK_S = 0.05
    """Between two looks: each costs as much as putting a patch together."""

    def __init__(self, *, buffers: int = 0) -> None:
        self._growth = self.GROWTH + buffers
        self._before_last = self._after_last = 0
        self._next_look = 0.0

    def __call__(self) -> None:
        """Look now and then, and give memory back if need be."""
        now = time.monotonic()
        if now < self._next_look:
            return
        self._next_look = now + self.LOOK_S
        found = resident_memory()
        given_back = self._before_last - self._after_last
        if found - self._after_last > given_back / 2 > 0:
            self._growth = max(self._growth, given_back + self.GROWTH)
        self._before_last = self._after_last
        if found > self._after_last + self._growth:
            trim_heap()
            self._before_last, self._after_last = found, resident_memory()


def trim_heap() -> None:
    """Give what is free on the heap back to the system, where the C library can (glibc)."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if os.name == "posix" else None
    if trim is not None:
        trim(0)

"""Several GPUs, or slides that may crash a process: processes that take slide after slide.

A process has one device, its own copy of the model and its own readers; nothing is shared. The
processes are spawned, since a fork would inherit a CUDA context that does not work in the child.
A script that starts them must be importable without starting them again: it needs the usual
`if __name__ == "__main__":`.
"""

import logging
import math
import multiprocessing
import re
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, Generic, TypeVar

from wsiseg.engine import Listener, ignore
from wsiseg.errors import RunError, UsageError
from wsiseg.machine import machine_memory, usable_cores
from wsiseg.model.gpus import count_gpus, make_current
from wsiseg.options import FolderOptions, RunOptions
from wsiseg.run.child_log import levels, say_again, tell_parent

__all__ = ["devices_to_use", "each_on_a_device", "on_cpu", "on_first_device", "share_of"]

log = logging.getLogger(__name__)

Job = TypeVar("Job")
Report = TypeVar("Report")

Work = Callable[[Job, Listener], Report]
MakeWork = Callable[[str], Work[Job, Report]]

MEMORY_SHARE = 0.75
"""Of the machine's memory, for all processes together."""

END_S = 10.0
"""How long a process may take to end when there is nothing left to do."""


def devices_to_use(spec: str) -> tuple[str, ...]:
    """Return the devices that `--device` names.

    Parameters
    ----------
    spec
        `auto`: all GPUs, or `cpu` where there are none; `cuda`: all GPUs; `cuda:0,2`: these;
        `cpu`.

    Returns
    -------
    tuple of str
        `cpu`, or `cuda:<n>` for each GPU; `load_model` takes each of them.

    Raises
    ------
    UsageError
        If `spec` is none of these, or names a GPU that is not there.
    """
    if spec == "cpu":
        return ("cpu",)
    if spec == "auto":
        return tuple(f"cuda:{i}" for i in range(count_gpus())) or ("cpu",)
    match = re.fullmatch(r"cuda(?::(\d+(?:,\d+)*))?", spec)
    if match is None:
        raise UsageError(
            f"device {spec!r} is unknown: needed auto, cpu, cuda, cuda:<number> or a list such as "
            "cuda:0,1"
        )
    count = count_gpus()
    chosen = [int(i) for i in match[1].split(",")] if match[1] else list(range(count))
    if not chosen or max(chosen) >= count or len(set(chosen)) != len(chosen):
        raise UsageError(
            f"device {spec!r}: needed GPUs that are there, each once; torch finds {count}; use "
            "--device cpu, or install a CUDA build of torch and a driver"
        )
    return tuple(f"cuda:{i}" for i in chosen)


def on_cpu(folder: FolderOptions | None) -> tuple[str, ...]:
    """Return the devices of work without networks: this process, or one that can be ended."""
    return ("cpu",) if folder is not None and folder.apart else ()


def on_first_device(options: RunOptions) -> RunOptions:
    """Return the options of a run in one process; `auto` is left to the model.

    Raises
    ------
    UsageError
        As `devices_to_use`.
    """
    if options.device in ("auto", "cpu"):
        return options
    return replace(options, device=devices_to_use(options.device)[0])


def share_of(options: RunOptions, device: str, processes: int) -> RunOptions:
    """Return the options of one of several processes: its device, its cores and its memory."""
    memory = options.memory_bytes or int(machine_memory() * MEMORY_SHARE)
    threads = max(1, (options.threads or usable_cores()) // processes)
    return replace(options, device=device, threads=threads, memory_bytes=memory // processes)


def each_on_a_device(
    jobs: Sequence[Job],
    devices: Sequence[str],
    make_work: MakeWork[Job, Report],
    lost: Callable[[Job, str], Report],
    *,
    listen: Listener = ignore,
    limit_s: float | None = None,
) -> Iterator[Report]:
    """Yield a report of each job, in the order they end, done by one process per device.

    Parameters
    ----------
    jobs
        Given out in order, each to the process that is free first. Values that can be pickled.
    devices
        One process each; a device may be named twice.
    make_work
        Called once in each process, with its device; returns what does one job. Both it and the
        reports must be picklable: a function of a module, or a `functools.partial` of one.
    lost
        Makes the report of a job whose process died, given the job and what is known. A new
        process takes the place of the dead one; the job is not tried again.
    listen
        Gets the events of all processes.
    limit_s
        The process of a job that takes longer is killed; `None`: never.

    Raises
    ------
    Exception
        What `make_work` raised, or a job; the other processes are ended.
    RunError
        If no process could even begin.
    """
    pool = _Pool(devices, make_work, listen, limit_s)
    try:
        yield from pool.run(jobs, lost)
    finally:
        pool.close()


@dataclass(slots=True)
class _Worker(Generic[Job]):
    """A process, the pipe to it, and what it does."""

    device: str
    process: BaseProcess
    pipe: Connection
    ready: bool = False
    job: Job | None = None
    overdue_at: float = math.inf
    """When its job is to be ended by force, by the monotonic clock."""


@dataclass(frozen=True, slots=True)
class _Message:
    """What a process says: `ready`, `event`, `log`, `done` or `failed`, with what belongs to it."""

    kind: str
    value: Any = None


class _Pool(Generic[Job, Report]):
    def __init__(
        self,
        devices: Sequence[str],
        make_work: MakeWork[Job, Report],
        listen: Listener,
        limit_s: float | None,
    ) -> None:
        self._limit_s = math.inf if limit_s is None else limit_s
        self._devices = devices
        self._make_work = make_work
        self._listen = listen
        self._workers: list[_Worker[Job]] = []

    def run(self, jobs: Sequence[Job], lost: Callable[[Job, str], Report]) -> Iterator[Report]:
        todo = deque(jobs)
        _start_tracker()
        self._workers = [self._start(device) for device in self._devices[: len(jobs)]]
        while todo or any(worker.job is not None for worker in self._workers):
            if not self._workers:
                raise RunError(
                    "no process could be started on "
                    f"{', '.join(self._devices)}; see what it said; a script has to call this "
                    'under `if __name__ == "__main__":`'
                )
            wait([worker.pipe for worker in self._workers], self._until_overdue())
            for worker in [w for w in self._workers if time.monotonic() > w.overdue_at]:
                worker.process.kill()  # found to be dead below
                worker.process.join()
            for worker in [w for w in self._workers if w.pipe.poll()]:
                try:
                    message = worker.pipe.recv()
                except (EOFError, OSError):
                    if worker.job is not None:
                        yield lost(worker.job, _death(worker))
                    self._replace(worker)
                    continue
                if message.kind == "done":
                    yield message.value
                self._answer(worker, message, todo)

    def _until_overdue(self) -> float | None:
        """Return the seconds until a job takes too long; `None` where none can."""
        first = min(worker.overdue_at for worker in self._workers)
        return None if math.isinf(first) else max(0.0, first - time.monotonic())

    def close(self) -> None:
        """End all processes: those without work at once by themselves, the others by force."""
        for worker in self._workers:
            worker.pipe.close()  # an idle process reads the end of its work from this
            if worker.job is not None or not worker.ready:
                worker.process.terminate()
        for worker in self._workers:
            worker.process.join(END_S)
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()
        self._workers = []

    def _answer(self, worker: _Worker[Job], message: _Message, todo: deque[Job]) -> None:
        if message.kind == "event":
            self._listen(message.value)
        elif message.kind == "log":
            say_again(message.value)
        elif message.kind == "failed":
            raise message.value
        else:
            worker.ready = True
            worker.job = todo.popleft() if todo and worker.process.is_alive() else None
            worker.overdue_at = math.inf
            if worker.job is not None:
                worker.overdue_at = time.monotonic() + self._limit_s
                # A process that died meanwhile is found out by reading from it.
                _send(worker.pipe, worker.job)

    def _start(self, device: str) -> _Worker[Job]:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(
            target=_serve,
            args=(theirs, device, self._make_work, levels()),
            name=device,
            daemon=True,
        )
        process.start()
        theirs.close()  # so that its death closes the pipe
        return _Worker(device, process, ours)

    def _replace(self, dead: _Worker[Job]) -> None:
        """Start a new process, unless the old one did not even get ready."""
        self._workers.remove(dead)
        dead.pipe.close()
        dead.process.join(END_S)
        if dead.ready:
            self._workers.append(self._start(dead.device))
        else:
            log.warning("%s: left out: %s", dead.device, _death(dead))


def _death(worker: _Worker[Any]) -> str:
    """Return what is known of the end of a process."""
    worker.process.join(END_S)
    if time.monotonic() > worker.overdue_at:
        return (
            "took longer than allowed and did not end by itself, so its process was ended; allow "
            "more (--timeout), or leave the slide out"
        )
    code = worker.process.exitcode
    if code is not None and code < 0:
        how = f"killed by {signal.Signals(-code).name}"
        how += " (out of memory?)" if code == -signal.SIGKILL else ""
    else:
        how = f"exit code {code}"
    return (
        f"the process on {worker.device} died: {how}; run the slide again, alone, or leave it out"
    )


def _start_tracker() -> None:
    """Start what frees the semaphores of processes that crash, without its complaint at the end."""
    if sys.platform == "win32":
        return
    from multiprocessing import resource_tracker

    quiet = "ignore:resource_tracker:UserWarning"
    sys.warnoptions.append(quiet)  # read by the process that this starts, unless it is there
    try:
        resource_tracker.ensure_running()
    finally:
        sys.warnoptions.remove(quiet)


def _send(pipe: Connection, value: object) -> None:
    try:
        pipe.send(value)
    except (BrokenPipeError, ConnectionResetError):
        log.debug("a process has gone", exc_info=True)


def _serve(
    pipe: Connection, device: str, make_work: MakeWork[Any, Any], wanted: Mapping[str, int]
) -> None:
    """Do job after job, until the other end of the pipe closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends its processes
    lock = threading.Lock()  # events and lines of the log come from several threads

    def tell(kind: str, value: object = None) -> None:
        with lock:
            pipe.send(_Message(kind, value))

    tell_parent(wanted, partial(tell, "log"))
    try:
        make_current(device)
        work = make_work(device)
        tell("ready")
        while True:
            try:
                job = pipe.recv()
            except EOFError:
                return
            tell("done", work(job, partial(tell, "event")))
    except Exception as error:  # told to the parent, which raises it
        log.debug("%s failed", device, exc_info=True)
        with suppress(BrokenPipeError, ConnectionResetError):
            tell("failed", error)

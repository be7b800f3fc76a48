"""What the workers of a Dask cluster do: introduce themselves, take the model, do slides.

A worker is trusted with slides once it has shown that it has the same wsiseg, sees the output
folder, and has the model, told by its digest. Its threads are its cores, its memory limit its
memory; whatever their number, a worker process does one slide at a time.
"""

import math
import os
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Hashable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Literal, Protocol, Self, cast

from wsiseg.engine import Event, Listener, Part, StageFinished, StageStarted, TilesDone
from wsiseg.errors import ModelError, RunError, UsageError, WeightsError, WsisegError
from wsiseg.model.cache import kept_models
from wsiseg.model.card import CARD_FILE
from wsiseg.model.package import Package
from wsiseg.model.registry import find_model
from wsiseg.options import EmbedOptions, RunOptions, SegmentOptions
from wsiseg.run.leases import Leases
from wsiseg.run.limits import raise_open_files
from wsiseg.run.parts import Made, make_part
from wsiseg.run.records import own_wsiseg, wsiseg_differences
from wsiseg.run.reports import SlideReport, failure_text
from wsiseg.run.turns import Ground, Task, Work, take_turn
from wsiseg.source import open as open_slide

__all__ = [
    "ABOUT",
    "Errand",
    "ModelWork",
    "Order",
    "Parcel",
    "do_order",
    "install",
    "introduce",
    "kill_process",
    "packed",
    "refuse_another",
    "to_event",
]

MEMORY_SHARE = 0.75
"""Of the worker's memory limit; Dask takes no new work above 80 % and kills at 95 %."""

SEEN_WITHIN_S = 10.0
"""How long a file that the client has made may take to be seen on another machine."""

TELL_S = 1.0
"""Between two times that a worker tells of tiles."""

ABOUT = "__import__('wsiseg.run.records').run.records.own_wsiseg()"
"""What a worker is asked first, as text for `eval`: of what it cannot unpickle, it would die."""

Parcel = Mapping[str, bytes]
"""The files of a model package."""

EVENTS = {kind.__name__: kind for kind in (StageStarted, TilesDone, StageFinished)}

_one_slide = threading.Lock()


class ModelWork(Protocol):
    """Work on slides by a model, named or a folder; a frozen dataclass that can be pickled."""

    @property
    def model(self) -> object:
        """Name or folder of the model; a loaded one stays where it is."""
        ...

    @property
    def options(self) -> SegmentOptions | EmbedOptions:
        """All options."""
        ...

    @property
    def command(self) -> str:
        """As that of `SlideWork`."""
        ...

    def settings(self) -> dict[str, Any]:
        """As that of `SlideWork`."""
        ...

    def load(self, device: str = "", processes: int = 1) -> Work:
        """As that of `SlideWork`."""
        ...


@dataclass(frozen=True, slots=True)
class Order:
    """What a worker is given to do."""

    task: Task
    part: Part | Literal["begin", "all"] = "all"
    """`begin`: all of it, unless it is large enough to be shared."""


@dataclass(frozen=True, slots=True)
class Errand:
    """What all slides of a run have in common, as a worker is told; plain values."""

    ground: Ground
    """Paths in it are absolute."""

    work: ModelWork
    sign: Path
    """A file in the output folder that the client has just made."""

    topic: str
    """Where events are told; empty: nobody listens."""

    @property
    def digest(self) -> str:
        """Of the model."""
        return str(self.ground.settings["model"]["digest"])

    def with_model(self, folder: str, run: RunOptions) -> Self:
        """Return the errand with the model where this worker has it, and its share of a machine."""
        options = replace(self.work.options, run=run)
        work = replace(self.work, model=Path(folder), options=options)  # type: ignore[type-var]
        return replace(self, work=work)


def refuse_another(settings: Mapping[str, Any], there: Mapping[str, str]) -> None:
    """Raise `RunError` where a worker has another wsiseg than the client: results would differ."""
    told = wsiseg_differences(settings, there)
    if told:
        raise RunError(f"it has another wsiseg: {'; '.join(told)}; install the same one there")


def introduce(errand: Errand) -> str | None:
    """Return where this worker has the model; `None` if it is to be sent.

    Raises
    ------
    RunError
        If this worker cannot take part; says why.
    """
    _look_for(errand)
    with suppress(ModelError):
        folder = find_model(errand.work.model).absolute()  # type: ignore[arg-type]
        if _has(folder, errand.digest):
            return str(folder)
    folder = kept_models() / errand.digest
    return str(folder) if _has(folder, errand.digest) else None


def packed(model: str | Path) -> Parcel:
    """Return the files of a model package that another machine needs.

    Raises
    ------
    ModelError
        If there is no such model.
    """
    package = Package.open(find_model(model))
    card = package.card
    names = {CARD_FILE, card.check.file, *(w.file for s in card.stages for w in s.every_weights)}
    return {name: (package.folder / name).read_bytes() for name in sorted(names)}


def install(errand: Errand, parcel: Parcel) -> str:
    """Keep a model that was sent in this machine's cache, and return its folder.

    Raises
    ------
    WeightsError
        If it is not the one that was asked for.
    """
    root = kept_models()
    folder = root / errand.digest
    if _has(folder, errand.digest):  # a neighbour on this machine was faster
        return str(folder)
    root.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=".new-", dir=root))
    try:
        ready = work / "new"
        for name, content in parcel.items():
            path = ready / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        found = Package.open(ready).digest
        if found != errand.digest:
            raise WeightsError(
                f"the model sent has another digest: needed {errand.digest[:12]}, found "
                f"{found[:12]}; start again"
            )
        with suppress(FileNotFoundError):
            folder.rename(work / "old")  # what is there does not hold
        with suppress(OSError):  # a neighbour has put it there
            ready.rename(folder)
        return str(folder)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def do_order(errand: Errand, model: str, order: Order) -> SlideReport | Made | None:
    """Do a slide, or a part of one, on this worker; `None` if the client has called it off.

    Parameters
    ----------
    model
        Folder of the model here.

    Raises
    ------
    ModelError, RunError
        If this worker cannot take part; what is wrong with the slide is in the report.
    """
    from distributed import get_worker

    worker = get_worker()
    here = errand.with_model(model, _share_of(worker, errand.work.options.run))
    with _one_slide:
        refuse_another(
            errand.ground.settings, own_wsiseg()
        )  # in the place of a worker that was asked, there may be another
        raise_open_files()
        work = _loaded(cast("Hashable", here.work))
        listen = _Teller(worker, str(worker.get_current_task()), errand.topic)
        with Leases(errand.ground.out, expiry_s=errand.ground.options.expiry_s) as leases:
            try:
                if order.part == "all" or (order.part == "begin" and not _is_huge(errand, order)):
                    return take_turn(order.task, errand.ground, work, leases, listen)
                return _make_part(errand, order, work, leases, listen)
            except _CalledOffError:
                return None


def to_event(told: Mapping[str, Any]) -> Event:
    """Return the event that a worker told of."""
    values = dict(told["event"])
    return EVENTS[values.pop("kind")](**values)


def _is_huge(errand: Errand, order: Order) -> bool:
    """Tell whether a slide is to be shared by several workers."""
    job, over = order.task.job, errand.ground.options.split_over_gigapixels
    try:
        with open_slide(job.path, mpp=job.mpp, reader=job.reader) as slide:
            return over is not None and math.prod(slide.shape) > over * 1e9
    except (WsisegError, OSError):  # doing it will tell
        return False


def _make_part(errand: Errand, order: Order, work: Work, leases: Leases, listen: Listener) -> Made:
    """Make a part; what is wrong with the slide is told by whoever does the slide."""
    job, part = order.task.job, order.part if isinstance(order.part, Part) else None
    loaded = cast("partial[Any]", work).keywords  # the model, and the options of this worker
    try:
        return make_part(job, errand.ground, part, **loaded, leases=leases, listen=listen)
    except (WsisegError, OSError, MemoryError) as error:
        return Made(note=failure_text(error, job.path))


def _has(folder: Path, digest: str) -> bool:
    """Tell whether a folder holds the model of a digest, every file of it whole."""
    try:
        return Package.open(folder).digest == digest
    except ModelError:
        return False


def _look_for(errand: Errand) -> None:
    """Refuse to work where the results would go to a folder that nobody else sees."""
    deadline = time.monotonic() + SEEN_WITHIN_S
    while not errand.sign.exists():
        if time.monotonic() > deadline:
            raise RunError(
                f"it does not see the output folder {errand.ground.out}: needed a folder that all "
                "machines see by the same path; mount it there, or choose another --out"
            )
        with suppress(OSError):  # a client of NFS asks its server anew
            list(errand.sign.parent.iterdir())
        time.sleep(0.1)


def _share_of(worker: Any, options: RunOptions) -> RunOptions:  # noqa: ANN401 - Dask has no types
    """Return the options with this worker's cores and memory."""
    limit = worker.memory_manager.memory_limit
    memory = None if limit is None else int(limit * MEMORY_SHARE)
    if options.memory_bytes is not None:
        memory = min(options.memory_bytes, memory or options.memory_bytes)
    threads = options.threads or worker.state.nthreads
    if ":" in options.device:
        raise UsageError("a worker has one GPU, the first it sees; needed --device auto or cuda")
    return replace(options, threads=threads, memory_bytes=memory)


@lru_cache(maxsize=1)
def _loaded(work: Hashable) -> Work:
    """Return what does one slide after the other; the model stays loaded."""
    return cast("ModelWork", work).load()


class _CalledOffError(BaseException):
    """The client has gone, or does not want the slide any more; no failure of the slide."""


class _Teller:
    """Tells the client of events, tiles no more often than need be; ends what nobody wants."""

    def __init__(self, worker: Any, key: str, topic: str) -> None:  # noqa: ANN401
        self._worker = worker
        self._key = key
        self._topic = topic
        self._tiles = 0
        self._told = time.monotonic()

    def __call__(self, event: Event) -> None:
        task = self._worker.state.tasks.get(self._key)
        if task is not None and task.state == "cancelled":
            raise _CalledOffError
        if not self._topic:
            return
        if isinstance(event, TilesDone):
            self._tiles += event.tiles
            if time.monotonic() - self._told < TELL_S:
                return
            event, self._tiles = replace(event, tiles=self._tiles), 0
        self._told = time.monotonic()
        told = {"kind": type(event).__name__, **asdict(event)}
        self._worker.log_event(self._topic, {"event": told})  # Dask adds the worker


def kill_process(dask_worker: Any) -> None:  # noqa: ANN401 - a nanny, by the name Dask gives it
    """Kill the process of the worker that a nanny watches; run by the nanny."""
    if dask_worker.pid is not None:
        os.kill(dask_worker.pid, signal.SIGKILL)

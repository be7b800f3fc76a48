"""Slides spread over the workers of a Dask cluster: its connections and processes, our leases.

Each worker is asked first whether it can take part (`cluster_worker.introduce`), gets the model if
it has not got it, and then one slide after the other, never two at once. What is finished stands in
the output folder, guarded by leases. So a worker or scheduler that is lost costs nothing but the
batches under way: the slide is given to the next worker, which goes on with it, or finds it done.
"""

import importlib
import logging
import os
import threading
import time
import uuid
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, Literal

from wsiseg.engine import Listener, Part, ignore
from wsiseg.errors import RunError, UsageError
from wsiseg.model import Model
from wsiseg.model.registry import find_model
from wsiseg.run import cluster_worker
from wsiseg.run.cluster_worker import (
    Errand,
    ModelWork,
    Order,
    do_order,
    install,
    introduce,
    kill_process,
    packed,
    refuse_another,
    to_event,
)
from wsiseg.run.leases import Leases
from wsiseg.run.parts import Made, lease_of
from wsiseg.run.reports import SlideReport
from wsiseg.run.turns import Ground, Task, lost
from wsiseg.source.remote import is_url

__all__ = ["each_on_a_worker", "import_distributed", "require_cluster"]

log = logging.getLogger(__name__)

CONNECT_S = 20.0
"""How long the scheduler may take to answer, at first and later."""

RECONNECT_S = 120.0
"""How long a scheduler that is lost is waited for."""

POLL_S = 1.0
"""Between two looks at which workers there are, while none has anything to say."""

RESULT_S = 30.0
"""How long a finished worker may take to hand over its report, a few lines."""

END_S = 30.0
"""How long ending a worker's process may take; Dask gives up its nanny, too, after that."""

SAY_S = 5.0
"""After which people are told that there is no worker."""

TROUBLE = (OSError, RuntimeError, ValueError, CancelledError)
"""What Dask raises where a scheduler or a worker does not answer; its own errors are among them."""

PARTS_OF_A_WORKER, LEAST_TILES = 2, 64
"""How many parts of a huge slide a worker gets, about, and the fewest tiles of one."""

State = Literal["met", "asked", "sent", "ready", "busy", "silent", "refused"]


def import_distributed() -> Any:  # noqa: ANN401 - a module
    """Return `distributed`.

    Raises
    ------
    UsageError
        If it is not installed.
    """
    try:
        return importlib.import_module("distributed")
    except ImportError as error:
        raise UsageError(
            f"a cluster needs dask.distributed, which cannot be imported ({error}); install it "
            'with: pip install "wsiseg[cluster]"'
        ) from error


def require_cluster(scheduler: str, model: object, device: str) -> None:
    """Refuse, before anything is begun, what cannot go to a cluster.

    Raises
    ------
    UsageError
        If `scheduler` is no address and no file, the model is loaded already, or the device is one
        of this machine's GPUs.
    """
    import_distributed()
    if "://" not in scheduler and not Path(scheduler).is_file():
        raise UsageError(
            f"scheduler {scheduler!r}: needed an address such as tcp://host:8786, or a scheduler "
            "file; `wsiseg cluster local` and `wsiseg cluster slurm` start one"
        )
    if isinstance(model, Model):
        raise UsageError("a cluster needs the name or the folder of a model, found a loaded one")
    if ":" in device:
        raise UsageError(
            f"device {device!r}: a worker has one GPU, the first it sees; needed auto, cpu or cuda"
        )


def each_on_a_worker(
    tasks: Sequence[Task],
    scheduler: str,
    work: ModelWork,
    ground: Ground,
    leases: Leases,
    *,
    listen: Listener = ignore,
) -> Iterator[SlideReport]:
    """Yield a report of each slide, in the order they end, done by the workers of a cluster.

    Parameters
    ----------
    tasks
        Given out in order, each to the worker that is free first. A slide whose worker is lost is
        given to another one, after all others; `FolderOptions.attempts` lost at one place of it are
        a failure.
    scheduler
        Its address, or a scheduler file.
    work, ground
        What is done, and what all slides have in common.
    leases
        Of this process, in the output folder.
    listen
        Gets the events of all workers.

    Raises
    ------
    RunError
        If the scheduler cannot be reached, or all workers are refused.
    """
    crew = _Crew(scheduler, work, ground, leases, listen)
    try:
        yield from crew.run(tasks)
    finally:
        crew.close()


@dataclass(slots=True)
class _Worker:
    """A worker process, and what it is at."""

    address: str
    state: State = "met"
    future: Any = None
    """Of what it is at."""

    order: Order | None = None
    model: str = ""
    """Folder of the model there."""

    overdue_at: float = float("inf")


@dataclass(slots=True)
class _Split:
    """A slide that several workers make parts of, stage by stage."""

    tiles: tuple[int, ...]
    """Of each stage."""

    stage: int = -1
    parts: int = 0
    """Under way or waiting."""


@dataclass(slots=True)
class _Losses:
    """How often a worker was lost with a slide, or a part of it, since it got any further."""

    far: int = -1
    workers: list[str] = field(default_factory=list)


class _SchedulerLostError(Exception):
    """The scheduler does not answer."""


class _Crew:
    def __init__(
        self,
        scheduler: str,
        work: ModelWork,
        ground: Ground,
        leases: Leases,
        listen: Listener,
    ) -> None:
        self._dask = import_distributed()
        self._scheduler = scheduler
        self._model = work.model
        self._ground = ground
        self._leases = leases
        self._listen = listen
        topic = "" if listen is ignore else f"wsiseg-{uuid.uuid4().hex}"
        away = replace(ground, out=ground.out.absolute())
        self._errand = Errand(away, _from_anywhere(work), leases.sign.absolute(), topic)
        self._client: Any = None
        self._workers: dict[str, _Worker] = {}
        self._refused: dict[str, str] = {}
        self._losses: dict[Order, _Losses] = {}
        self._splits: dict[Task, _Split] = {}
        self._parcel: Any = None
        self._todo: deque[Order] = deque()
        self._heard: SimpleQueue[tuple[_Worker, Any]] = SimpleQueue()
        self._idle_since = time.monotonic()
        self._told = False
        self._next_look = 0.0
        self._ending: list[threading.Thread] = []

    def run(self, tasks: Sequence[Task]) -> Iterator[SlideReport]:
        """Yield a report of each slide."""
        is_split = self._ground.options.split_over_gigapixels is not None
        self._todo.extend(Order(task, "begin" if is_split else "all") for task in tasks)
        self._connect(CONNECT_S)
        while self._todo or any(worker.order for worker in self._workers.values()):
            try:
                yield from self._look_around()
                self._give_out()
                yield from self._hear()
            except _SchedulerLostError:
                self._find_again()

    def close(self) -> None:
        """Call off what is under way, and leave the scheduler."""
        client, self._client = self._client, None
        if client is None:
            return
        for thread in self._ending:
            thread.join(END_S)
        with suppress(*TROUBLE):  # it may be gone, in whatever way
            client.cancel([w.future for w in self._workers.values() if w.future], force=True)
        for worker in self._workers.values():
            worker.future = None
        self._workers = {}
        self._parcel = None
        with suppress(*TROUBLE):
            client.close(timeout=2)

    def _connect(self, within_s: float) -> None:
        is_file = "://" not in self._scheduler
        where = {"scheduler_file" if is_file else "address": self._scheduler}
        deadline = time.monotonic() + within_s
        while True:
            try:
                if is_file and not Path(self._scheduler).is_file():
                    raise FileNotFoundError(self._scheduler)
                self._client = self._dask.Client(
                    **where, timeout=min(CONNECT_S, within_s), set_as_default=False
                )
                if self._errand.topic:
                    self._client.subscribe_topic(
                        self._errand.topic, lambda told: self._listen(to_event(told[1]))
                    )
            except TROUBLE as error:
                if time.monotonic() < deadline:
                    time.sleep(min(POLL_S, within_s))
                    continue
                raise RunError(
                    f"{self._scheduler}: the scheduler could not be reached within {within_s:g} s; "
                    f"finished slides are in {self._ground.out}; start the scheduler, and the same "
                    "command goes on"
                ) from error
            return

    def _find_again(self) -> None:
        """Connect to the scheduler that comes after one that was lost; it knows nothing."""
        under_way = [worker.order for worker in self._workers.values() if worker.order]
        self._todo.extendleft(reversed(under_way))
        self.close()
        log.warning(
            "%s: the scheduler is lost; waiting for it for %g s", self._scheduler, RECONNECT_S
        )
        self._connect(RECONNECT_S)
        self._idle_since, self._told, self._next_look = time.monotonic(), False, 0.0

    def _look_around(self) -> Iterator[SlideReport]:
        """Ask new workers to introduce themselves, and see to the slides of those that are gone."""
        if time.monotonic() < self._next_look:
            return
        self._next_look = time.monotonic() + POLL_S
        there = self._addresses()
        for address in there - self._workers.keys():
            worker = self._workers[address] = _Worker(address)
            self._send(worker, "met", eval, cluster_worker.ABOUT)
        for address in self._workers.keys() - there:
            worker = self._workers.pop(address)
            self._refused.pop(address, None)
            if worker.order is not None:
                yield from self._lost(worker)
        for worker in [w for w in self._workers.values() if w.order is not None]:
            if time.monotonic() > worker.overdue_at:
                yield from self._overdue(worker)
            else:
                self._look_at_lease(worker)
        self._say_whom_we_wait_for()

    def _look_at_lease(self, worker: _Worker) -> None:
        """Give the slide of a worker that gives no sign of life to another one."""
        order = worker.order
        assert order is not None
        try:
            found = [self._leases.abandoned(name) for name in _leases_of(order)]
        except OSError:  # the next look will tell
            return
        for holder in found:
            if holder is None or holder.is_dead():  # the dead are started again by their nannies
                continue
            job = order.task.job
            log.warning("%s: %s gives no sign of life; another goes on", job.path, holder)
            worker.state, worker.order = "silent", None
            if isinstance(order.part, Part):
                self._made(order, Made(), worker.address)
            else:
                task = replace(order.task, displacing=holder.name)
                self._todo.append(replace(order, task=task))

    def _addresses(self) -> set[str]:
        client = self._client
        if client.status != "running":
            raise _SchedulerLostError
        try:
            cores = client.sync(client.scheduler.ncores, callback_timeout=CONNECT_S)
        except TROUBLE as error:
            raise _SchedulerLostError from error
        return set(cores)

    def _give_out(self) -> None:
        """Give each worker that is free a slide."""
        for worker in self._workers.values():
            if worker.state == "ready" and self._todo:
                worker.order = order = self._todo.popleft()
                self._send(worker, "busy", do_order, self._errand, worker.model, _from_here(order))
                options = self._ground.options
                if options.timeout_s is not None:
                    worker.overdue_at = time.monotonic() + options.timeout_s + options.grace_s

    def _send(self, worker: _Worker, state: State, function: Any, *arguments: object) -> None:  # noqa: ANN401
        """Have a worker, and no other one, do something."""
        worker.state = state
        try:
            worker.future = self._client.submit(
                function,
                *arguments,
                workers=[worker.address],
                key=f"wsiseg-{function.__name__}-{uuid.uuid4().hex}",
                pure=False,
            )
        except TROUBLE as error:  # the scheduler or the worker is gone
            raise _SchedulerLostError from error
        worker.future.add_done_callback(lambda future: self._heard.put((worker, future)))

    def _hear(self) -> Iterator[SlideReport]:
        """Wait until a worker is done with something, or for a moment."""
        try:
            worker, future = self._heard.get(timeout=POLL_S)
        except Empty:
            return
        if worker.future is not future or self._workers.get(worker.address) is not worker:
            return  # of a worker, or of a connection, that is no more
        if future.status == "finished":
            yield from self._take(worker, future)
        elif future.status == "error":
            yield from self._failed(worker, future)
        else:  # cancelled by the loss of the scheduler, or the worker is gone
            yield from self._again(worker)

    def _take(self, worker: _Worker, future: Any) -> Iterator[SlideReport]:  # noqa: ANN401
        try:
            result = future.result(timeout=RESULT_S)
        except TROUBLE:  # lost on its way; the slide will be found done
            log.debug("%s: no result", worker.address, exc_info=True)
            yield from self._again(worker)
            return
        order, was = worker.order, worker.state  # one that was silent may have slides again
        worker.state, worker.future, worker.order = "ready", None, None
        worker.overdue_at = float("inf")
        if was == "busy" and order is not None:
            if result is None:  # called off, but not by this client
                self._todo.append(order)
            elif isinstance(result, Made):
                self._made(order, result, worker.address)
            else:
                folder = str(self._ground.out / order.task.job.output)
                yield replace(result, path=order.task.job.path, folder=folder)
        elif was == "met":
            self._ask(worker, result)
        elif was == "asked" and result is None:
            self._send(worker, "sent", install, self._errand, self._own_parcel())
        elif was != "silent":
            worker.model = result
        if not any(w.state == "sent" for w in self._workers.values()):
            self._parcel = None  # frees the memory of the workers that have it

    def _ask(self, worker: _Worker, wsiseg: dict[str, str]) -> None:
        """Ask a worker to introduce itself, if it has the very same wsiseg."""
        try:
            refuse_another(self._ground.settings, wsiseg)
        except RunError as error:
            self._refuse(worker, error)
            return
        self._send(worker, "asked", introduce, self._errand)

    def _made(self, order: Order, made: Made, address: str) -> None:
        """Go on with a slide of which a part is made, or was given up."""
        task = order.task
        if made.note:
            log.warning("%s: a part made by %s is not used: %s", task.job.path, address, made.note)
        if order.part == "begin":
            self._splits[task] = _Split(made.tiles)
        split = self._splits[task]
        split.parts -= order.part != "begin"
        if split.parts:
            return
        most = PARTS_OF_A_WORKER * max(1, sum(w.state != "refused" for w in self._workers.values()))
        last = len(split.tiles) - 1
        split.stage += 1
        if split.stage <= last:
            count = max(1, min(most, split.tiles[split.stage] // LEAST_TILES))
            if split.stage < last or count > 1:
                split.parts = count
                parts = [Part(split.stage, index, count) for index in range(count)]
                self._todo.extendleft(Order(task, part) for part in reversed(parts))
                return
        self._todo.appendleft(Order(task))

    def _own_parcel(self) -> Any:  # noqa: ANN401 - a future
        """Return the model on its way: sent to one worker, the others have it from each other."""
        if self._parcel is None or self._parcel.status != "finished":
            try:
                content = packed(self._model)  # type: ignore[arg-type]
                self._parcel = self._client.scatter([content], hash=False)[0]
            except TROUBLE as error:
                raise _SchedulerLostError from error
        return self._parcel

    def _failed(self, worker: _Worker, future: Any) -> Iterator[SlideReport]:  # noqa: ANN401
        error = future.exception(timeout=RESULT_S)
        if isinstance(error, self._dask.scheduler.KilledWorker):
            yield from self._again(worker)
            return
        if worker.state == "sent" and isinstance(error, self._dask.client.FutureCancelledError):
            self._send(worker, "asked", introduce, self._errand)  # who had the model is gone
            return
        self._refuse(worker, error)

    def _refuse(self, worker: _Worker, error: BaseException) -> None:
        """Leave a worker out; what it was to do is for others."""
        if worker.order is not None:
            self._todo.appendleft(worker.order)
        worker.state, worker.order, worker.future = "refused", None, None
        text = " ".join(str(error).split()) or type(error).__name__
        if isinstance(error, ImportError | AttributeError):
            version = self._ground.settings["wsiseg"]
            text = f"it has no wsiseg, or another one ({text}); install wsiseg {version} there"
        self._refused[worker.address] = f"worker {worker.address} is left out: {text}"
        log.warning("%s", self._refused[worker.address])
        if all(w.state == "refused" for w in self._workers.values()):
            raise RunError(f"no worker is left: {next(iter(self._refused.values()))}")

    def _again(self, worker: _Worker) -> Iterator[SlideReport]:
        """See to a worker that did not answer: it is gone, or was started again."""
        self._addresses()  # unless the scheduler itself is lost
        self._workers.pop(worker.address, None)  # if it is there, it is asked anew
        if worker.order is not None:
            yield from self._lost(worker)

    def _lost(self, worker: _Worker) -> Iterator[SlideReport]:
        """Put a slide behind all others, unless it takes one worker after the other."""
        order = worker.order
        assert order is not None
        if worker.future is not None:
            with suppress(*TROUBLE):
                worker.future.cancel()
        job = order.task.job
        losses = self._losses.setdefault(order, _Losses())
        far = max(self._leases.far(name) for name in _leases_of(order))
        if far > losses.far:
            losses.far, losses.workers = far, []
        losses.workers.append(worker.address)
        if len(losses.workers) < self._ground.options.attempts:
            log.warning("%s: its worker %s is gone; another one goes on", job.path, worker.address)
            self._todo.append(order)
            return
        if isinstance(order.part, Part):
            self._made(order, Made(note="its workers died"), worker.address)
            return
        yield lost(
            job,
            self._ground,
            f"{len(losses.workers)} workers died or left at the same place of it, last "
            f"{worker.address} (out of memory?); run it again alone, with less memory (--memory) "
            "or fewer cores (--threads)",
            self._leases,
        )

    def _overdue(self, worker: _Worker) -> Iterator[SlideReport]:
        """End the process of a worker whose slide takes longer than allowed."""
        order, worker.order = worker.order, None
        assert order is not None
        worker.overdue_at = float("inf")
        worker.state = "refused"  # the process, not the one that its nanny starts instead
        arguments = (self._client, worker.address, worker.future)
        thread = threading.Thread(target=_end_process, args=arguments, daemon=True)
        thread.start()
        self._ending.append(thread)
        if isinstance(order.part, Part):
            self._made(order, Made(note="it took longer than allowed"), worker.address)
            return
        yield lost(
            order.task.job,
            self._ground,
            "took longer than allowed and did not end by itself, so its worker was ended; allow "
            "more (--timeout), or leave the slide out",
            self._leases,
        )

    def _say_whom_we_wait_for(self) -> None:
        if any(worker.state != "refused" for worker in self._workers.values()):
            self._idle_since, self._told = time.monotonic(), False
        elif not self._told and time.monotonic() - self._idle_since > SAY_S:
            self._told = True
            log.warning("%s: has no worker yet; waiting for one", self._scheduler)


def _from_anywhere(work: ModelWork) -> ModelWork:
    """Return the work with a model that is named so that other folders and machines may find it."""
    model = str(work.model)
    folder, here = find_model(model).absolute(), Path(model).expanduser().absolute()
    if not isinstance(work.model, Path) and folder != here:
        return work  # a name that is known there, too
    return replace(work, model=folder)  # type: ignore[type-var]


def _end_process(client: Any, address: str, future: Any) -> None:  # noqa: ANN401
    """End the process of a worker, however it hangs; its nanny starts another one."""
    with suppress(*TROUBLE):
        future.cancel()
        # Asked to close, a worker that hangs may take its nanny with it.
        client.run(kill_process, workers=[address], nanny=True, on_error="ignore")


def _leases_of(order: Order) -> tuple[str, ...]:
    """Return the leases under which an order may be worked on."""
    job = order.task.job
    if isinstance(order.part, Part):
        return (lease_of(job, order.part),)
    return (job.output,) if order.part == "all" else (job.output, lease_of(job, None))


def _from_here(order: Order) -> Order:
    """Return the order with the path of the slide as seen from any folder."""
    task = order.task
    if is_url(task.job.path):
        return order
    job = replace(task.job, path=os.path.abspath(task.job.path))  # noqa: PTH100 - any text
    return replace(order, task=replace(task, job=job))

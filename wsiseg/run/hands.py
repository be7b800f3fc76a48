"""Who does the slides of a run: this process, one for each device, or the workers of a cluster."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, cast

from wsiseg.engine import Listener
from wsiseg.run.devices import each_on_a_device
from wsiseg.run.leases import Leases
from wsiseg.run.limits import bear_the_blame, bound_memory, raise_open_files
from wsiseg.run.reports import SlideReport
from wsiseg.run.turns import Ground, Task, Work, lost, take_turn

if TYPE_CHECKING:
    from wsiseg.run.cluster_worker import ModelWork

__all__ = ["Hands", "SlideWork", "hands_for"]


class SlideWork(Protocol):
    """What a run does with each slide; can be pickled, for other processes to do it."""

    @property
    def command(self) -> str:
        """The command; results of another one are not replaced."""
        ...

    def settings(self) -> dict[str, Any]:
        """Return what results are made from, see `records.settings_of`."""
        ...

    def load(self, device: str = "", processes: int = 1) -> Work:
        """Return what does one slide after the other, in this process or one of several."""
        ...


Hands = Callable[[Sequence[Task]], Iterator[SlideReport]]
"""What does slides in other processes, and reports each."""


def hands_for(
    work: SlideWork,
    ground: Ground,
    leases: Leases,
    devices: Sequence[str],
    scheduler: str | None,
    listen: Listener,
) -> Hands | None:
    """Return who does the slides; `None`: this process."""
    if scheduler is not None:
        from wsiseg.run.cluster import each_on_a_worker

        return partial(
            each_on_a_worker,
            scheduler=scheduler,
            work=cast("ModelWork", work),
            ground=ground,
            leases=leases,
            listen=listen,
        )

    def one_each(tasks: Sequence[Task]) -> Iterator[SlideReport]:
        used, options = devices[: len(tasks)], ground.options
        yield from each_on_a_device(
            tasks,
            used,
            partial(_worker, work=work, ground=ground, processes=len(used)),
            lambda task, what: lost(task.job, ground, what, leases),
            listen=listen,
            limit_s=None if options.timeout_s is None else options.timeout_s + options.grace_s,
        )

    return one_each if devices else None


def _worker(
    device: str, *, work: SlideWork, ground: Ground, processes: int
) -> Callable[[Task, Listener], SlideReport]:
    """Return what does one slide after the other in a process of its own."""
    raise_open_files()
    if ground.options.isolate:
        bear_the_blame()
    leases = Leases(ground.out, expiry_s=ground.options.expiry_s)
    loaded = work.load(device, processes)
    if ground.options.isolate and device == "cpu":
        bound_memory()

    def turn(task: Task, listen: Listener) -> SlideReport:
        return take_turn(task, ground, loaded, leases, listen)

    return turn

"""The slides of a run, in rounds: what is not done, found done or left by others, until all are."""

import logging
import time
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path

from wsiseg.engine import Listener
from wsiseg.errors import WsisegError
from wsiseg.run.hands import Hands, SlideWork
from wsiseg.run.inputs import SlideJob
from wsiseg.run.leases import Leases
from wsiseg.run.reports import SlideReport
from wsiseg.run.turns import AGAIN, Ground, Task, Work, failed_elsewhere, standing, take_turn

__all__ = ["Rounds"]

log = logging.getLogger(__name__)

SOON_S, SELDOM_S = 0.05, 5.0
"""Between two looks at slides that others have, at first and later."""

SAY_S = 2.0
"""After which people are told whom the run waits for."""


class Rounds:
    """The slides of a run, each done here, found done, or seen to be done by others."""

    def __init__(
        self,
        jobs: Sequence[SlideJob],
        ground: Ground,
        work: SlideWork,
        leases: Leases,
        hands: Hands | None,
        listen: Listener,
    ) -> None:
        self._jobs = {str(ground.out / job.output): job for job in jobs}
        self._ground = ground
        self._work = work
        self._leases = leases
        self._hands = hands
        self._listen = listen
        self._loaded: Work | None = None
        self._told: set[tuple[str, ...]] = set()

    def reports(self) -> Generator[SlideReport, None, None]:
        """Yield a report of each slide."""
        todo = [Task(job) for job in self._jobs.values()]
        held: dict[str, SlideReport] = {}
        pause, since, told = SOON_S, time.monotonic(), False
        while todo or held:
            for report in self._round(todo):
                if report.held_by is None:
                    yield report
                else:
                    held[report.folder] = report
            if held and not self._ground.options.wait:
                yield from held.values()
                return
            todo = []
            for folder in list(held):
                found = self._look_at(self._jobs[folder])
                if found is None:
                    continue
                del held[folder]
                if isinstance(found, Task):
                    todo.append(found)
                else:
                    yield found
                pause, since = SOON_S, time.monotonic()
            if held and not todo:
                if not told and time.monotonic() - since > SAY_S:
                    told = True
                    _say_whom_we_wait_for(list(held.values()))
                time.sleep(pause)
                pause = min(2 * pause, SELDOM_S, self._leases.expiry_s / 4)

    def _round(self, tasks: Sequence[Task]) -> Iterator[SlideReport]:
        """Yield the reports of slides, done in this process or by others."""
        if self._hands is not None:
            yield from self._round_elsewhere(tasks, self._hands)
            return
        for task in tasks:
            report = self._known(task)
            if report is None:
                self._loaded = self._loaded or self._work.load()
                report = take_turn(task, self._ground, self._loaded, self._leases, self._listen)
            yield report

    def _round_elsewhere(self, tasks: Sequence[Task], hands: Hands) -> Iterator[SlideReport]:
        todo = []
        for task in tasks:
            report = self._known(task)
            if report is None:
                todo.append(task)
            else:
                yield report
        if todo:
            yield from hands(todo)

    def _known(self, task: Task) -> SlideReport | None:
        """Return the report of a slide that is done or under way; `None`: it is to be tried."""
        try:
            return self._looked_up(task)
        except (OSError, WsisegError):  # trying will tell
            return None

    def _looked_up(self, task: Task) -> SlideReport | None:
        job = task.job
        holder = self._leases.holder(job.output)
        if holder is not None and holder.name != task.displacing and not holder.is_dead():
            row = {"slide": Path(job.path).name}
            return SlideReport(
                job.path, str(self._ground.out / job.output), row, held_by=str(holder)
            )
        found = standing(job, self._ground)
        if isinstance(found, SlideReport):
            return found
        if found and found != AGAIN and found not in self._told:
            self._told.add(found)
            log.warning(
                "%s: is done again, as changed since its result was made: %s%s",
                job.path,
                "; ".join(found),
                "" if len(self._jobs) == 1 else " (said once for all slides of which it is true)",
            )
        return None

    def _look_at(self, job: SlideJob) -> SlideReport | Task | None:
        """Return what has become of a slide that somebody else had; `None`: they still have it."""
        try:
            if self._leases.holder(job.output) is not None:
                abandoned = self._leases.abandoned(job.output)
                return Task(job, abandoned.name) if abandoned is not None else None
        except OSError:  # to be seen to when it is tried
            return Task(job)
        found = standing(job, self._ground)
        if isinstance(found, SlideReport):
            return found
        return failed_elsewhere(job, self._ground) or Task(job)


def _say_whom_we_wait_for(held: Sequence[SlideReport]) -> None:
    others = f" and {len(held) - 1} more" if len(held) > 1 else ""
    log.warning(
        "waiting for other processes: %s has %s%s; stop this one if they can be left to them",
        held[0].held_by,
        held[0].path,
        others,
    )

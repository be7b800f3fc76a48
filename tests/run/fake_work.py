"""Work on slides for the tests of runs: real folders and leases, hardly any pixels.

Spawned processes find it in this module.
"""

import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wsiseg import __version__
from wsiseg.engine import TilesDone, finished_folder
from wsiseg.errors import SourceError
from wsiseg.options import SegmentOptions
from wsiseg.run.records import settings_of


@dataclass(frozen=True)
class FakeWork:
    """Writes `annotations.geojson`, some steps of pretended work later."""

    command: str = "segment"
    model: str = "m"
    steps: int = 0
    step_s: float = 0.05
    fail: frozenset[str] = frozenset()
    """Outputs that fail."""

    log: Path | None = None
    """Gets a line for each slide begun and each one published."""

    hook: Callable[[Any], None] | None = field(default=None, compare=False)
    """Called with the turn when the work begins."""

    def settings(self):
        return {"command": self.command, "model": {"digest": self.model}, "options": {}}

    def load(self, device="", processes=1):
        return self.work

    def say(self, what, turn):
        if self.log is not None:
            line = f"{what} {turn.job.output} {os.getpid()} {time.time():.3f}\n".encode()
            descriptor = os.open(self.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
            os.write(descriptor, line)  # one write: lines of several processes stay whole
            os.close(descriptor)

    def work(self, slide, turn):
        self.say("begun", turn)
        if self.hook is not None:
            self.hook(turn)
        for _ in range(self.steps):
            time.sleep(self.step_s)
            turn.listen(TilesDone(slide.name, "stage", 1))
        if turn.job.output in self.fail:
            raise SourceError(f"{turn.job.path}: broke; mend it")
        row = {"slide": slide.name, "model": str(self.model), "figure": 1.5}
        with finished_folder(
            turn.ground.out,
            turn.job.output,
            kind=self.command,
            publishing=turn.publishing(row),
        ) as folder:
            (folder / "annotations.geojson").write_text("{}")
            (folder / "pid").write_text(str(os.getpid()))
        self.say("done", turn)
        return row


def hang_native(turn):
    """Hang as a decoder would: nothing of Python is asked meanwhile."""
    if turn.job.output == "hang":
        time.sleep(600)


@dataclass(frozen=True)
class FakeModelWork(FakeWork):
    """The same, as a cluster wants it: by a model, which is looked at and not loaded."""

    model: str | Path = ""
    options: SegmentOptions = field(default_factory=SegmentOptions)
    wsiseg: str = __version__

    def settings(self):
        return settings_of(self.command, {}, self.model) | {"wsiseg": self.wsiseg}


def die(turn):
    """End the process at the slides named `deadly...`, as the system does out of memory."""
    if turn.job.output.startswith("deadly"):
        os.kill(os.getpid(), signal.SIGKILL)


def stop(turn):
    """Stop the process at the slide named `silent`, the first time."""
    flag = turn.ground.out / "stopped"
    if turn.job.output == "silent" and not flag.exists():
        flag.write_text(str(os.getpid()))
        os.kill(os.getpid(), signal.SIGSTOP)

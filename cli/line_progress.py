"""Progress as lines for programs that show it, such as QuPath's script; see `progress`."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from wsiseg.engine.events import Event, Listener, StageStarted, TilesDone

from .console import say

__all__ = ["line_progress"]

EVERY_S = 1.0
"""Seconds between two lines of a stage."""


@dataclass
class _Lines:
    slides: int
    clock: Callable[[], float]
    done: int = 0
    stage: StageStarted | None = None
    tiles: int = 0
    started: float = 0.0
    told: float = field(default=-EVERY_S)

    def listen(self, event: Event) -> None:
        """Take what the engine tells."""
        now = self.clock()
        if isinstance(event, StageStarted):
            self.stage, self.tiles, self.started = event, 0, now
            self._tell(event, now)
        elif isinstance(event, TilesDone) and self.stage is not None:
            self.tiles += event.tiles
            if now - self.told >= EVERY_S or self.tiles >= self.stage.tiles:
                self._tell(self.stage, now)

    def slide_done(self, _: object) -> None:
        """Count a slide."""
        self.done += 1
        say(f"progress: {self.done} of {self.slides} slides done")

    def _tell(self, stage: StageStarted, now: float) -> None:
        self.told = now
        total = stage.tiles
        left = ""
        if 0 < self.tiles < total:
            seconds = (now - self.started) / self.tiles * (total - self.tiles)
            left = f", about {seconds:.0f} s left"
        share = f"{self.tiles / total:.0%} of {total} tiles" if total else "no tiles"
        say(f"progress: {stage.slide}: {stage.stage}, {share}{left}")


def line_progress(
    slides: int, clock: Callable[[], float] = time.monotonic
) -> tuple[Listener, Callable[[object], None]]:
    """Return what `show_progress` yields; it prints a line a second at most on stderr."""
    lines = _Lines(slides, clock)
    return lines.listen, lines.slide_done

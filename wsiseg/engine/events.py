"""What the engine tells while it works; the command line draws it, notebooks may ignore it."""

from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["Event", "Listener", "StageFinished", "StageStarted", "TilesDone", "ignore"]


@dataclass(frozen=True, slots=True)
class StageStarted:
    """A stage begins."""

    slide: str
    stage: str
    tiles: int


@dataclass(frozen=True, slots=True)
class TilesDone:
    """Tiles of a stage were predicted."""

    slide: str
    stage: str
    tiles: int
    """How many since the last event."""


@dataclass(frozen=True, slots=True)
class StageFinished:
    """A stage is done and its output written."""

    slide: str
    stage: str
    seconds: float


Event = StageStarted | TilesDone | StageFinished
Listener = Callable[[Event], None]


def ignore(event: object) -> None:
    """Listen to nothing."""

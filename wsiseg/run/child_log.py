"""What a child process logs is told to its parent, which says it as its own."""

import logging
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import NamedTuple

__all__ = ["Said", "Teller", "levels", "say_again", "tell_parent"]

ROOT = "wsiseg"

Levels = Mapping[str, int]
"""By name of logger."""


class Said(NamedTuple):
    """A line that a child has logged."""

    logger: str
    level: int
    text: str


Teller = Callable[[Said], None]


def levels() -> Levels:
    """Return from which level on each of our loggers speaks, where that is set."""
    ours = {
        name: logger
        for name, logger in logging.root.manager.loggerDict.items()
        if isinstance(logger, logging.Logger) and name.partition(".")[0] == ROOT
    }
    return {name: logger.level for name, logger in ours.items() if logger.level}


def tell_parent(wanted: Levels, tell: Teller) -> None:
    """In a child: have `tell` called with all that is logged, as far as the parent wants it."""
    for name, level in wanted.items():
        logging.getLogger(name).setLevel(level)
    logging.getLogger(ROOT).addHandler(_ToParent(tell))


def say_again(said: Said) -> None:
    """In the parent: log what a child has logged."""
    logging.getLogger(said.logger).log(said.level, "%s", said.text)


class _ToParent(logging.Handler):
    def __init__(self, tell: Teller) -> None:
        super().__init__()
        self._tell = tell

    def emit(self, record: logging.LogRecord) -> None:
        with suppress(OSError):  # the parent is gone
            self._tell(Said(record.name, record.levelno, self.format(record)))

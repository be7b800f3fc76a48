"""Where the time of a stage goes."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

__all__ = ["Clock"]

T = TypeVar("T")


class Clock:
    """Seconds per step, summed over threads."""

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(("read", "predict", "write", "wait", "starve"), 0.0)
        self._lock = threading.Lock()

    @contextmanager
    def on(self, step: str, *, instead_of: str | None = None) -> Iterator[None]:
        """Count the time of the block for a step, and not for the one it is within."""
        started = time.perf_counter()
        try:
            yield
        finally:
            seconds = time.perf_counter() - started
            with self._lock:
                self.seconds[step] += seconds
                if instead_of is not None:
                    self.seconds[instead_of] -= seconds

    def counted(
        self, step: str, items: Iterator[T], *, instead_of: str | None = None
    ) -> Iterator[T]:
        """Yield the items; the time until each is there counts for a step."""
        while True:
            with self.on(step, instead_of=instead_of):
                item = next(items, None)
            if item is None:
                return
            yield item

"""Threads and bounded queues: work ahead of the consumer, in order, with errors that surface."""

import queue
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Generic, TypeVar

__all__ = ["Background", "prefetch"]

T = TypeVar("T")
R = TypeVar("R")

POLL_S = 0.5
"""How long a thread may sleep before it looks whether the other side has failed."""


def prefetch(
    function: Callable[[T], R], items: Iterable[T], *, workers: int, ahead: int
) -> Generator[R, None, None]:
    """Yield `function(item)` in the order of `items`, computed by threads ahead of the consumer.

    Parameters
    ----------
    function
        Called from `workers` threads at once.
    items
        Consumed lazily: at most `ahead` results are waiting or under way.

    Raises
    ------
    Exception
        The first failure of `function`, in the order of `items`; what is under way is waited for,
        what has not begun is dropped.
    """
    todo = iter(items)
    pending: deque[Future[R]] = deque()
    pool = ThreadPoolExecutor(workers, thread_name_prefix="wsiseg-read")
    try:
        for item in todo:
            pending.append(pool.submit(function, item))
            if len(pending) >= ahead:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


class Background(Generic[T]):
    """Calls `consume` for each item put, in order, in a thread of its own.

    Used as a context manager: leaving it waits until everything is consumed. A failure of
    `consume` is raised by the next `put`, or on leaving.

    Parameters
    ----------
    consume
        Called with one item at a time.
    depth
        Items that may wait; `put` blocks when there are more.
    """

    def __init__(self, consume: Callable[[T], None], *, depth: int = 4) -> None:
        self._consume = consume
        self._queue: queue.Queue[tuple[T] | None] = queue.Queue(depth)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name="wsiseg-write", daemon=True)

    def put(self, item: T) -> None:
        """Hand over one item; raise what the consumer failed with, if it has failed."""
        self._put((item,))

    def __enter__(self) -> "Background[T]":
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None:  # the producer failed: what waits is not worth writing
            self._error = self._error or error
        self._put_end()
        self._thread.join()
        if self._error is not None and error is None:
            raise self._error

    def _put(self, item: tuple[T]) -> None:
        while True:
            if self._error is not None:
                raise self._error
            try:
                self._queue.put(item, timeout=POLL_S)
            except queue.Full:
                continue
            return

    def _put_end(self) -> None:
        while self._thread.is_alive():
            try:
                self._queue.put(None, timeout=POLL_S)
            except queue.Full:
                continue
            return

    def _work(self) -> None:
        while (item := self._queue.get()) is not None:
            if self._error is not None:
                continue
            try:
                self._consume(item[0])
            except BaseException as error:
                self._error = error

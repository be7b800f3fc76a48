"""A bounded memory of decoded blocks, shared by the threads that read one slide."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable

from wsiseg.source.base import Pixels

__all__ = ["BlockCache"]


class _Entry:
    """One block, or the promise of one: its lock is held while the block is being decoded."""

    __slots__ = ("block", "lock")

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.block: Pixels | None = None


class BlockCache:
    """Least-recently-used cache of decoded blocks, bounded in bytes, safe from many threads.

    A block is decoded once even when several threads ask for it at the same moment: the first
    decodes, the others wait for it. A failed decode is not remembered, so a later read tries anew.

    Parameters
    ----------
    limit_bytes
        Decoded bytes kept. The block used last stays even where it is larger by itself.
    """

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = self._first_limit = limit_bytes
        self._bytes = 0
        self._entries: OrderedDict[Hashable, _Entry] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable, decode: Callable[[], Pixels]) -> Pixels:
        """Return the block of `key`, from memory or by calling `decode`. Treat it as read-only."""
        with self._lock:
            entry = self._entries.get(key)
            if entry is None:
                entry = self._entries[key] = _Entry()
            else:
                self._entries.move_to_end(key)
        with entry.lock:
            if entry.block is None:
                try:
                    block = decode()
                except BaseException:
                    self._give_up(key, entry)
                    raise
                self._admit(key, entry, block)
                return block
            return entry.block

    def limit(self, limit_bytes: int | None) -> None:
        """Keep at most so many bytes from now on; `None`: as many as at first."""
        with self._lock:
            self._limit_bytes = self._first_limit if limit_bytes is None else limit_bytes
            self._drop_oldest()

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._entries.clear()
            self._bytes = 0

    def _admit(self, key: Hashable, entry: _Entry, block: Pixels) -> None:
        """Keep and count a new block, and drop the blocks used longest ago until all fit."""
        with self._lock:
            entry.block = block
            if self._entries.get(key) is entry:  # not cleared while it was being decoded
                self._bytes += block.nbytes
                self._drop_oldest()

    def _give_up(self, key: Hashable, entry: _Entry) -> None:
        with self._lock:
            if self._entries.get(key) is entry:
                del self._entries[key]

    def _drop_oldest(self) -> None:
        """Drop blocks until the rest fits; those being decoded are not counted and stay."""
        while self._bytes > self._limit_bytes:
            oldest = next(key for key, entry in self._entries.items() if entry.block is not None)
            if oldest == next(reversed(self._entries)):
                return
            block = self._entries.pop(oldest).block
            self._bytes -= 0 if block is None else block.nbytes

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
                entry.block = decode()
                self._admit(key, entry, entry.block.nbytes)
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

    def _admit(self, key: Hashable, entry: _Entry, nbytes: int) -> None:
        """Count a new block, and drop the blocks used longest ago until all fit."""
        with self._lock:
            if self._entries.get(key) is not entry:
                return  # cleared, or dropped by others, while it was being decoded
            self._bytes += nbytes
            self._drop_oldest()

    def _drop_oldest(self) -> None:
        while self._bytes > self._limit_bytes and len(self._entries) > 1:
            _, oldest = self._entries.popitem(last=False)
            if oldest.block is not None:
                self._bytes -= oldest.block.nbytes

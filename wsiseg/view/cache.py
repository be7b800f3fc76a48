"""What was made before, up to a number of bytes."""

import threading
from collections import OrderedDict
from collections.abc import Hashable

__all__ = ["ByteCache"]


class ByteCache:
    """Encoded tiles by what they show; the ones not asked for longest go first. Thread-safe.

    Parameters
    ----------
    limit_bytes
        How much is kept at most.
    """

    def __init__(self, limit_bytes: int) -> None:
        self._limit = limit_bytes
        self._size = 0
        self._kept: OrderedDict[Hashable, bytes] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable) -> bytes | None:
        """Return what is kept under a key, or `None`."""
        with self._lock:
            found = self._kept.get(key)
            if found is not None:
                self._kept.move_to_end(key)
            return found

    def put(self, key: Hashable, content: bytes) -> bytes:
        """Keep and return a content; one larger than everything may be is not kept."""
        if len(content) > self._limit:
            return content
        with self._lock:
            self._size += len(content) - len(self._kept.pop(key, b""))
            self._kept[key] = content
            while self._size > self._limit:
                _, dropped = self._kept.popitem(last=False)
                self._size -= len(dropped)
        return content

    @property
    def bytes(self) -> int:
        """Bytes kept at present."""
        return self._size

"""How much was read and decoded, counted while threads read."""

import threading

from wsiseg.source.base import ReadCount

__all__ = ["ReadCounter"]


class ReadCounter:
    """Counts decoded tiles, safe from many threads; a byte of memory per tile of a level."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._decoded = self._distinct = self._bytes_read = 0
        self._seen: dict[tuple[int, int], bytearray] = {}

    def add(self, level: int, scale: int, index: int, tiles: int, nbytes: int) -> None:
        """Count tile `index` of the `tiles` of a level, decoded at 1 / `scale` from `nbytes`."""
        with self._lock:
            seen = self._seen.get((level, scale))
            if seen is None:
                seen = self._seen[level, scale] = bytearray(tiles)
            self._distinct += not seen[index]
            seen[index] = 1
            self._decoded += 1
            self._bytes_read += nbytes

    def snapshot(self) -> ReadCount:
        """Return the counts so far."""
        with self._lock:
            return ReadCount(self._decoded, self._distinct, self._bytes_read)

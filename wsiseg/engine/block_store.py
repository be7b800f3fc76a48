"""Blocks of pixels that wait in a file without a name."""

import math
import os
import shutil
import tempfile
import threading
from pathlib import Path
from typing import IO

import numpy as np

from wsiseg.source.base import Pixels

__all__ = ["BlockStore"]

ROOM_BYTES, ROOM_EVERY = 1 << 30, 64
"""Free bytes on the disk below which nothing more is kept, looked at once in so many blocks."""


class BlockStore:
    """Blocks of one shape in a temporary file, by index; safe from many threads.

    Memory stays free; the system's file cache helps.

    Parameters
    ----------
    folder
        Where the file is; it vanishes with the process.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._slots: dict[tuple[int, ...], int] = {}
        self._free: list[int] = []
        self._end = 0
        self._shape: tuple[int, ...] = ()
        self._file: IO[bytes] | None = None
        self._full = False

    def close(self) -> None:
        """Free the file."""
        if self._file is not None:
            self._file.close()

    def holds(self, index: tuple[int, ...]) -> bool:
        """Return whether there is such a block."""
        return index in self._slots

    def put(self, index: tuple[int, ...], pixels: Pixels) -> None:
        """Keep one block, the first of its index.

        Without room on the disk it is forgotten, and decoded again later; results, which have to
        be written, come first.
        """
        with self._lock:
            if self._full or index in self._slots:
                return
            try:
                if self._file is None:
                    self._file = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115
                    self._shape = pixels.shape
                if self._free:
                    slot = self._free.pop()
                else:
                    slot, self._end = self._end, self._end + 1
                    if slot % ROOM_EVERY == 0 and self._is_nearly_full():
                        self._full = True
                        return
                written = os.pwrite(self._file.fileno(), pixels.tobytes(), slot * pixels.nbytes)
            except OSError:
                self._full = True
                return
            if written == pixels.nbytes:
                self._slots[index] = slot
            else:
                self._full = True

    def drop(self, index: tuple[int, ...]) -> None:
        """Forget a block that nobody reads any more; its place in the file is used again."""
        with self._lock:
            slot = self._slots.pop(index, None)
            if slot is not None:
                self._free.append(slot)

    def get(self, index: tuple[int, ...]) -> Pixels | None:
        """Return a block, uint8; `None` where there is none."""
        slot = self._slots.get(index)
        if slot is None or self._file is None:
            return None
        nbytes = math.prod(self._shape)
        data = os.pread(self._file.fileno(), nbytes, slot * nbytes)
        if self._slots.get(index) != slot:  # dropped meanwhile, and perhaps another's by now
            return None
        return np.frombuffer(data, np.uint8).reshape(self._shape) if len(data) == nbytes else None

    def _is_nearly_full(self) -> bool:
        return shutil.disk_usage(self._folder).free < ROOM_BYTES

"""Tiles of a level, decoded once and kept until the last block that needs them is made."""

import math
import threading
from collections import OrderedDict
from concurrent.futures import Future
from pathlib import Path

import numpy as np

from wsiseg.engine.block_store import BlockStore
from wsiseg.engine.blocks import BlockUses, parts_of
from wsiseg.geometry import Box
from wsiseg.source import Level
from wsiseg.source.base import Pixels

__all__ = ["KEPT_BYTES", "DecodedTiles"]

KEPT_BYTES = 48 << 20
"""Decoded tiles in memory; those that were not looked at for longest wait in a file."""

Index = tuple[int, ...]


class DecodedTiles:
    """Reads boxes of a level, each tile of the file decoded once. Safe from many threads.

    Parameters
    ----------
    level
        The level.
    uses
        The boxes that will be read, each once; blocks are whole tiles of the file.
    folder
        Where tiles wait that do not fit in memory, in a file that vanishes with the process.
    """

    def __init__(self, level: Level, uses: BlockUses, folder: Path) -> None:
        self._level = level
        self._uses = uses
        self._left = uses.counts.copy()
        self._store = BlockStore(folder)
        self._most = max(1, KEPT_BYTES // (3 * math.prod(uses.block)))
        self._lock = threading.Lock()
        self._held: OrderedDict[Index, Future[Pixels]] = OrderedDict()

    def close(self) -> None:
        """Free memory and file."""
        self._held.clear()
        self._store.close()

    def read(self, box: Box) -> Pixels:
        """Return `(*box.shape, 3)` uint8 of a box inside the level."""
        out = np.empty((*box.shape, 3), np.uint8)
        for index, whole, part in parts_of(box, self._uses.block):
            pixels = self._take(index, whole)
            out[part.relative_to(box).slices()] = pixels[part.relative_to(whole).slices()]
        return out

    def _take(self, index: Index, whole: Box) -> Pixels:
        """Return a tile, and count this use of it."""
        with self._lock:
            is_last = self._is_last_use(index)
            future = self._held.get(index)
            mine = future is None
            if future is None:
                future = Future()
            if is_last:
                self._held.pop(index, None)  # whoever is waiting holds the future itself
            else:
                self._held[index] = future
                self._held.move_to_end(index)
        if mine:
            try:
                kept = self._store.get(index)
                future.set_result(self._level.read(whole) if kept is None else kept)
            except BaseException as error:
                future.set_exception(error)
            self._make_room()
        pixels = future.result()
        if is_last:
            self._store.drop(index)
        return pixels

    def _is_last_use(self, index: Index) -> bool:
        """Count a use; tell whether there are more to come."""
        place = tuple(i - first for i, first in zip(index, self._uses.first, strict=True))
        if not all(0 <= i < n for i, n in zip(place, self._left.shape, strict=True)):
            return True
        self._left[place] -= 1
        return bool(self._left[place] <= 0)  # below: what was forgotten is made once more

    def _make_room(self) -> None:
        """Put the tiles used longest ago into the file until the others fit."""
        with self._lock:
            while len(self._held) > self._most:
                ready = (i for i, future in self._held.items() if future.done())
                oldest = next(ready, None)
                if oldest is None:
                    return
                future = self._held.pop(oldest)
                if future.exception() is None and not self._store.holds(oldest):
                    self._store.put(oldest, future.result())

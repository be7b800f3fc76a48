"""The memory of decoded blocks."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from wsiseg.source._cache import BlockCache


def test_a_limit_drops_the_oldest_at_once_and_can_be_lifted():
    cache = BlockCache(1_000)
    decoded = []

    def get(key):
        def decode():
            decoded.append(key)
            return np.zeros(300, np.uint8)

        return cache.get(key, decode)

    for key in "abc":
        get(key)
    cache.limit(600)
    get("c")
    get("b")
    assert decoded == ["a", "b", "c"]
    get("a")
    assert decoded == ["a", "b", "c", "a"]
    cache.limit(None)
    get("c")
    get("d")
    assert decoded == ["a", "b", "c", "a", "c", "d"]
    get("a")
    assert decoded[-1] == "d"


class SlowToCount(np.ndarray):
    """Whose size takes a while to tell: others drop blocks meanwhile."""

    @property
    def nbytes(self) -> int:
        time.sleep(0.0005)
        return self.size


def test_many_threads_keep_no_more_than_the_limit():
    size, limit = 1000, 2500
    cache = BlockCache(limit)
    barrier = threading.Barrier(8)

    def work(thread: int) -> None:
        barrier.wait()
        for step in range(60):

            def decode() -> np.ndarray:
                return np.zeros(size, np.uint8).view(SlowToCount)

            assert cache.get((thread, step), decode).size == size

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    held = sum(e.block.nbytes for e in cache._entries.values() if e.block is not None)
    assert held == cache._bytes <= limit


def test_a_failed_decode_leaves_nothing_behind():
    cache = BlockCache(1000)

    def fail() -> np.ndarray:
        raise ValueError("damaged")

    for _ in range(2):
        with pytest.raises(ValueError, match="damaged"):
            cache.get("a", fail)
    assert not cache._entries
    assert cache.get("a", lambda: np.ones(3, np.uint8)).sum() == 3

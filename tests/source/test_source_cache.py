"""The memory of decoded blocks."""

import numpy as np

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

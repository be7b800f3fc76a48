"""Threads and queues: order kept, bounds kept, failures surface soon."""

import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsiseg.engine.stream import Background, prefetch


@given(st.lists(st.integers(), max_size=40), st.integers(1, 5), st.integers(1, 7))
def test_prefetch_keeps_the_order(items, workers, ahead):
    def slow_square(i):
        time.sleep(abs(hash(i)) % 3 / 1e4)
        return i * i

    assert list(prefetch(slow_square, items, workers=workers, ahead=ahead)) == [
        i * i for i in items
    ]


def test_prefetch_stays_within_its_bound():
    started = []
    results = prefetch(lambda i: started.append(i) or i, range(100), workers=4, ahead=5)
    next(results)
    time.sleep(0.1)
    assert len(started) <= 6
    results.close()


def test_prefetch_raises_within_seconds_and_stops():
    done = []

    def fail_at_three(i):
        if i == 3:
            raise ValueError("three")
        done.append(i)
        return i

    begun = time.perf_counter()
    with pytest.raises(ValueError, match="three"):
        list(prefetch(fail_at_three, range(10_000), workers=3, ahead=8))
    assert time.perf_counter() - begun < 5
    assert len(done) < 30


def test_background_consumes_everything_in_order():
    seen = []
    with Background(seen.append, depth=2) as writer:
        for i in range(50):
            writer.put(i)
    assert seen == list(range(50))


def test_background_failure_reaches_the_producer():
    def fail(i):
        raise OSError(28, "No space left on device")

    begun = time.perf_counter()
    with pytest.raises(OSError, match="No space"), Background(fail, depth=1) as writer:
        for i in range(1000):
            writer.put(i)
            time.sleep(0.01)
    assert time.perf_counter() - begun < 5


def test_background_failure_on_the_last_item_is_not_lost():
    def fail_on_last(i):
        if i == 4:
            raise RuntimeError("last")

    with pytest.raises(RuntimeError, match="last"), Background(fail_on_last, depth=8) as writer:
        for i in range(5):
            writer.put(i)


def test_background_ends_its_thread_when_the_producer_fails():
    before = threading.active_count()
    with pytest.raises(KeyError), Background(lambda _: time.sleep(0.05), depth=1) as writer:
        writer.put(1)
        raise KeyError("producer")
    assert threading.active_count() == before

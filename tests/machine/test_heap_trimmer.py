"""When memory is given back: holes are, what comes and goes with each call is not."""

import pytest

from wsiseg import machine
from wsiseg.machine import HeapTrimmer

MB = 1 << 20


@pytest.fixture
def process(monkeypatch):
    """A process whose memory and clock are numbers."""

    class Process:
        resident, free, now, trims = 100 * MB, 0, 0.0, 0

    def trim():
        Process.trims += 1
        Process.resident -= Process.free
        Process.free = 0

    monkeypatch.setattr(machine, "resident_memory", lambda: Process.resident)
    monkeypatch.setattr(machine, "trim_heap", trim)
    monkeypatch.setattr(machine.time, "monotonic", lambda: Process.now)
    return Process


def grow(process, nbytes):
    """Take what is free first, and free all of it again."""
    process.resident += max(0, nbytes - process.free)
    process.free = max(process.free, nbytes)
    process.now += HeapTrimmer.LOOK_S


def test_what_comes_and_goes_is_left_alone(process):
    trimmer = HeapTrimmer()
    for _ in range(100):
        grow(process, 40 * MB)
        trimmer()
    assert process.trims <= 2


def test_holes_are_given_back(process):
    """A MB more with each call, that nobody takes again."""
    trimmer, most = HeapTrimmer(), 0
    for _ in range(200):
        process.resident += MB
        process.free += MB
        process.now += HeapTrimmer.LOOK_S
        trimmer()
        most = max(most, process.resident)
    assert process.trims > 20
    assert most <= 108 * MB


def test_holes_beside_what_comes_and_goes(process):
    trimmer, most = HeapTrimmer(), 0
    for call in range(200):
        grow(process, 40 * MB + call % 20 * MB)
        process.resident += MB
        process.free += MB
        trimmer()
        most = max(most, process.resident)
    assert most <= 100 * MB + 2 * 60 * MB + 2 * HeapTrimmer.GROWTH


def test_looks_now_and_then(process):
    trimmer = HeapTrimmer()
    trimmer()
    grown = process.trims
    process.resident += 50 * MB
    process.free = 50 * MB
    trimmer()
    assert process.trims == grown

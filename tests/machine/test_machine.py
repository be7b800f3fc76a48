"""What the plan believes of the machine."""

import os
import subprocess
import sys

from wsiseg import machine


def test_cores_are_those_this_process_may_use(monkeypatch):
    assert 1 <= machine.usable_cores() <= (os.cpu_count() or 1)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3}, raising=False)
    assert machine.usable_cores() == 1


def test_a_containers_limit_counts(monkeypatch, tmp_path):
    limit = tmp_path / "memory.max"
    monkeypatch.setattr(machine, "CGROUP_LIMIT", limit)
    physical = machine.machine_memory()
    limit.write_text("max\n")
    assert machine.machine_memory() == physical
    limit.write_text("123456789\n")
    assert machine.machine_memory() == 123456789


def test_a_containers_share_of_cores_counts(monkeypatch, tmp_path):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)), raising=False)
    quota = tmp_path / "cpu.max"
    monkeypatch.setattr(machine, "CGROUP_QUOTA", quota)
    for text, cores in (("250000 100000", 3), ("50000 100000", 1), ("max 100000", 64)):
        quota.write_text(text)
        assert machine.usable_cores() == cores


RESIDENT = """
import numpy as np
from wsiseg import machine

before = machine.resident_memory()
held = np.ones(50_000_000, np.uint8)
with_it = machine.resident_memory()
del held
machine.release_memory()
print(with_it - before, machine.resident_memory() - before)
"""
"""For a process of its own: here, memory that was freed earlier would be taken again."""


def test_resident_memory_follows_what_is_held():
    done = subprocess.run(
        [sys.executable, "-c", RESIDENT], capture_output=True, text=True, check=True
    )
    held, left = map(int, done.stdout.split())
    assert held > 0.8 * 50_000_000
    assert left < 30_000_000

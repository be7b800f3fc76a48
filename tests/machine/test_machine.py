"""What the plan believes of the machine."""

import os
import subprocess
import sys

import pytest

from wsiseg import machine


def test_cores_are_those_this_process_may_use(monkeypatch):
    assert 1 <= machine.usable_cores() <= (os.cpu_count() or 1)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3}, raising=False)
    assert machine.usable_cores() == 1


@pytest.fixture
def groups(monkeypatch, tmp_path):
    """Return what puts this process into control groups whose files say this."""

    def put(own: str, files: dict[str, str]) -> None:
        listing = tmp_path / "cgroup"
        listing.write_text(own)
        for name, content in files.items():
            path = tmp_path / "tree" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{content}\n")
        monkeypatch.setattr(machine, "OWN_CGROUPS", listing)
        monkeypatch.setattr(machine, "CGROUPS", tmp_path / "tree")

    put("0::/\n", {})
    return put


def test_a_containers_limit_counts(groups):
    physical = machine.machine_memory()
    groups("0::/\n", {"memory.max": "max"})
    assert machine.machine_memory() == physical
    groups("0::/\n", {"memory.max": "123456789"})
    assert machine.machine_memory() == 123456789


def test_a_jobs_limit_counts_wherever_it_is_set(groups):
    groups("0::/slurm/job_7/step_0\n", {"slurm/job_7/memory.max": "2000000"})
    assert machine.machine_memory() == 2000000
    groups("0::/slurm/job_7/step_0\n", {"slurm/job_7/step_0/memory.max": "1000000"})
    assert machine.machine_memory() == 1000000
    groups("0::/../elsewhere\n", {"memory.max": "max"})
    assert machine.machine_memory() > 2000000


def test_limits_of_the_older_groups_count(groups):
    no_limit = {"memory/memory.limit_in_bytes": "9223372036854771712"}
    groups("5:devices:/\n4:cpuacct,memory:/job_7\n0::/\n", no_limit)
    assert machine.machine_memory() > 2000000
    groups("4:memory:/job_7\n", {"memory/job_7/memory.limit_in_bytes": "2000000"})
    assert machine.machine_memory() == 2000000


def test_a_share_of_cores_counts(groups, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)), raising=False)
    for text, cores in (("250000 100000", 3), ("50000 100000", 1), ("max 100000", 64)):
        groups("0::/job_7\n", {"job_7/cpu.max": text})
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

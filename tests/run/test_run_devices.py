"""One process per device: every job reported once, whatever happens to its process."""

import logging
import multiprocessing
import time
from functools import partial

import device_work
import pytest

from wsiseg.errors import ModelError, RunError, UsageError
from wsiseg.machine import usable_cores
from wsiseg.options import RunOptions
from wsiseg.run import devices as devices_module
from wsiseg.run.devices import devices_to_use, each_on_a_device, share_of


def lost(job, reason):
    return job, reason


def run(jobs, devices, make, **options):
    return list(each_on_a_device(jobs, devices, make, lost, **options))


@pytest.fixture(autouse=True)
def _no_process_stays():
    yield
    deadline = time.monotonic() + 10
    while multiprocessing.active_children() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not multiprocessing.active_children()


@pytest.mark.parametrize(
    ("spec", "count", "expected"),
    [
        ("cpu", 2, ("cpu",)),
        ("auto", 0, ("cpu",)),
        ("auto", 1, ("cuda:0",)),
        ("auto", 3, ("cuda:0", "cuda:1", "cuda:2")),
        ("cuda", 2, ("cuda:0", "cuda:1")),
        ("cuda:1", 2, ("cuda:1",)),
        ("cuda:2,0", 3, ("cuda:2", "cuda:0")),
    ],
)
def test_devices_are_found_by_name(monkeypatch, spec, count, expected):
    monkeypatch.setattr(devices_module, "count_gpus", lambda: count)
    assert devices_to_use(spec) == expected


@pytest.mark.parametrize(
    ("spec", "count", "message"),
    [
        ("tpu", 1, "unknown"),
        ("cuda:", 1, "unknown"),
        ("cuda:a", 1, "unknown"),
        ("cuda:0;1", 2, "unknown"),
        ("cuda", 0, "torch finds 0"),
        ("cuda:2", 2, "torch finds 2"),
        ("cuda:1,1", 2, "each once"),
    ],
)
def test_devices_that_are_not_there_are_refused(monkeypatch, spec, count, message):
    monkeypatch.setattr(devices_module, "count_gpus", lambda: count)
    with pytest.raises(UsageError, match=message):
        devices_to_use(spec)


def test_processes_share_cores_and_memory():
    options = share_of(RunOptions(memory_bytes=9_000, batch_size=3), "cuda:1", 2)
    assert options == RunOptions(
        device="cuda:1",
        batch_size=3,
        memory_bytes=4_500,
        threads=max(1, usable_cores() // 2),
    )
    assert share_of(RunOptions(threads=7), "cpu", 2).threads == 3


def test_each_job_is_done_once_and_its_events_are_heard():
    events = []
    reports = run(range(8), ["cpu", "cpu"], device_work.make_square, listen=events.append)
    assert sorted(report[:2] for report in reports) == [(i, i * i) for i in range(8)]
    assert len({report[3] for report in reports}) <= 2
    assert sorted(event.slide for event in events) == [f"slide {i}" for i in range(8)]


def test_what_a_process_logs_is_said_here(caplog):
    with caplog.at_level(logging.INFO, "wsiseg.engine.resume"):
        run(["a", "b"], ["cpu"], device_work.make_talkative)
    said = [("INFO", "{} goes on"), ("WARNING", "odd: {}")]
    expected = [(level, text.format(job)) for job in "ab" for level, text in said]
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == expected


def test_jobs_go_to_whoever_is_free(tmp_path):
    # The first job outlasts all others together: they must not wait behind it.
    reports = run([1.5, 0, 0, 0, 0], ["cpu", "cpu"], device_work.make_slow)
    assert [job for job, _ in reports][-1] == 1.5


def test_more_devices_than_jobs_start_no_idle_process():
    reports = run([3], ["cpu"] * 50, device_work.make_square)
    assert [report[:2] for report in reports] == [(3, 9)]


@pytest.mark.parametrize("end", ["exit", "kill"])
def test_a_dead_process_loses_its_job_only(end):
    reports = dict(run(["a", end, "b", "c", end + "?"], ["cpu", "cpu"], device_work.make_mortal))
    how = "exit code 3" if end == "exit" else r"killed by SIGKILL (out of memory?)"
    assert how in reports[end]
    assert {job: reports[job] for job in "abc"} == dict.fromkeys("abc", "cpu")


def test_one_device_alone_goes_on_after_a_death():
    reports = run(["exit", "a", "exit", "b"], ["cpu"], device_work.make_mortal)
    assert [job for job, _ in reports] == ["exit", "a", "exit", "b"]
    assert reports[1][1] == reports[3][1] == "cpu"


def test_a_model_that_cannot_be_loaded_is_an_error():
    with pytest.raises(ModelError, match="no such model on cpu"):
        run([1, 2], ["cpu", "cpu"], device_work.make_broken)


def test_a_device_that_cannot_begin_is_left_out(monkeypatch, caplog):
    reports = run(range(4), ["cpu:0", "cpu:1"], device_work.make_fragile)
    assert sorted(report[0] for report in reports) == [0, 1, 2, 3]
    assert {report[2] for report in reports} == {"cpu:0"}


def test_no_device_that_can_begin_is_an_error():
    with pytest.raises(RunError, match="no process could be started on cpu, cpu"):
        run([1, 2, 3], ["cpu", "cpu"], device_work.make_stillborn)


def test_what_a_job_raises_reaches_the_caller():
    with pytest.raises(ModelError, match="job 1: it failed"):
        run([1], ["cpu"], device_work.make_failing)


def test_leaving_early_ends_the_processes(tmp_path):
    started = time.monotonic()
    reports = each_on_a_device([0, 60, 60], ["cpu", "cpu"], device_work.make_slow, lost)
    next(reports)
    reports.close()
    assert time.monotonic() - started < 30


def test_a_partial_carries_options_along(tmp_path):
    make = partial(device_work.make_shared, tmp_path)
    assert sorted(run([1, 2], ["cpu"], make)) == [1, 2]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1-cpu", "2-cpu"]


def test_no_jobs_need_no_process():
    assert run([], ["cpu"], device_work.make_stillborn) == []

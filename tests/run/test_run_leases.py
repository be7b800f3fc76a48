"""Leases: one process has a slide, a dead one loses it, and exactly one other gets it."""

import errno
import itertools
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import replace
from functools import partial

import lease_work
import pytest

from wsiseg.engine.journal import FILE
from wsiseg.errors import LeaseError
from wsiseg.run.holders import UNKNOWN, Holder
from wsiseg.run.leases import BEAT, KEPT, LEASES_FOLDER, Lease, Leases, key_of

context = multiprocessing.get_context("spawn")

posix = pytest.mark.skipif(os.name != "posix", reason="processes are told by signal 0")


@pytest.fixture
def start():
    processes = []

    def start(function, *arguments):
        process = context.Process(target=function, args=arguments, daemon=True)
        process.start()
        processes.append(process)
        return process

    yield start
    for process in processes:
        process.kill()
        process.join()


def wait_for(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def leave(out, name, holder, *, age_s=0.0):
    """Leave the lease of another holder there."""
    folder = out / LEASES_FOLDER / key_of(name) / holder.name
    folder.mkdir(parents=True)
    beat = folder / BEAT
    beat.touch()
    os.utime(beat, (time.time() - age_s,) * 2)
    return beat


def stranger():
    """Return a holder on another machine."""
    return replace(Holder.me(), machine="0123456789ab", host="elsewhere")


def dead():
    """Return a holder here whose process is no more."""
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    return replace(Holder.me(), pid=gone.pid, started=1)


def test_a_slide_is_had_by_one_until_given_back(tmp_path):
    with Leases(tmp_path) as ours, Leases(tmp_path) as theirs:
        lease = ours.take("a/b")
        assert isinstance(lease, Lease)
        assert theirs.take("a/b") == lease.holder
        assert theirs.holder("a/b") == lease.holder
        assert isinstance(theirs.take("a b"), Lease)
        assert lease.folder.is_dir()
        ours.release(lease)
        assert not lease.folder.exists()
        assert isinstance(theirs.take("a/b"), Lease)
    assert list(tmp_path.iterdir()) == []


def test_names_that_differ_in_case_are_one_slide(tmp_path):
    with Leases(tmp_path) as ours, Leases(tmp_path) as theirs:
        assert isinstance(ours.take("Straße"), Lease)
        assert isinstance(theirs.take("STRASSE"), Holder)


@pytest.mark.parametrize("name", ["x" * 300, "ä/😐/ ", "..", "\udcff"])
def test_any_name_can_be_leased(tmp_path, name):
    with Leases(tmp_path) as leases:
        assert isinstance(leases.take(name), Lease)


def test_holders_survive_their_names():
    me = Holder.me()
    assert Holder.parse(me.name) == me
    assert len(me.name) < 200
    assert Holder.parse("something.else") is None
    assert not me.is_dead()
    assert Holder.me().token != me.token


@posix
def test_a_stopped_holder_is_dead_after_a_while_and_a_killed_one_at_once(tmp_path, start):
    process = start(lease_work.take_and_wait, tmp_path, "a", tmp_path / "working")
    wait_for((tmp_path / "working").exists)
    with Leases(tmp_path) as leases:
        assert isinstance(leases.take("a"), Holder)
        assert leases.abandoned("a") is None
        os.kill(process.pid, signal.SIGSTOP)
        leases.expiry_s = 0.2
        wait_for(lambda: leases.abandoned("a"))  # stopped, it gives no sign of life
        os.kill(process.pid, signal.SIGCONT)
        leases.expiry_s = 60
        process.kill()
        wait_for(lambda: isinstance(leases.holder("a"), Holder) and leases.holder("a").is_dead())
        lease = leases.take("a")
        assert isinstance(lease, Lease)
        (death,) = lease.deaths
        assert f"process {process.pid} on" in death
        assert {p.name for p in lease.folder.iterdir()} == {BEAT, "deaths", "journal"}


@posix
def test_a_zombie_is_dead(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", ""])
    holder = replace(Holder.me(), pid=process.pid, started=0)
    wait_for(holder.is_dead)  # nobody has waited for it yet
    process.wait()


@posix
def test_a_later_process_of_that_number_is_another_one():
    me = Holder.me()
    if not me.started:
        pytest.skip("the system does not tell when a process began")
    assert replace(me, started=me.started - 1).is_dead()
    assert not replace(me, started=0).is_dead()
    assert not replace(me, machine="0123456789ab", started=1).is_dead()
    assert not replace(dead(), machine=UNKNOWN).is_dead()


@posix
def test_every_death_is_counted(tmp_path):
    leave(tmp_path, "a", dead())
    with Leases(tmp_path) as leases:
        for deaths in range(1, 4):
            lease = leases.take("a")
            assert len(lease.deaths) == deaths
            lease.folder.rename(lease.folder.with_name(dead().name))


@posix
def test_deaths_count_anew_where_a_slide_got_further(tmp_path):
    folder = leave(tmp_path, "a", dead()).parent
    (folder / "deaths").write_text("0 one\n0 two\n5 three\n")
    (folder / KEPT).mkdir()
    (folder / KEPT / FILE).write_text("12345")
    with Leases(tmp_path) as leases:
        lease = leases.take("a")
        assert [who.split()[0] for who in lease.deaths] == ["three", "process"]
        (lease.folder / KEPT / FILE).write_text("1234567")
        lease.folder.rename(lease.folder.with_name(dead().name))
        assert len(leases.take("a").deaths) == 1


@posix
def test_without_room_a_dead_holder_keeps_what_it_has(tmp_path, monkeypatch):
    gone = dead()
    folder = leave(tmp_path, "a", gone).parent
    (folder / KEPT).mkdir()

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with Leases(tmp_path) as leases, Leases(tmp_path) as others:
        monkeypatch.setattr("wsiseg.run.leases._note_death", full)
        with pytest.raises(OSError, match="No space left"):
            leases.take("a")
        assert leases.holder("a") == gone
        monkeypatch.undo()
        lease = others.take("a")
        assert len(lease.deaths) == 1
        assert (lease.folder / KEPT).is_dir()


def test_a_stranger_is_dead_when_not_heard_of(tmp_path):
    holder = stranger()
    leave(tmp_path, "a", holder, age_s=3600)
    with Leases(tmp_path, expiry_s=0.4) as leases:
        assert leases.take("a") == holder
        began = time.monotonic()
        wait_for(lambda: leases.abandoned("a"), 5)
        assert time.monotonic() - began >= 0.2
        assert leases.take("a") == holder  # nobody is displaced but by name
        assert isinstance(leases.take("a", displacing=holder.name), Lease)


def test_a_stranger_who_lives_is_never_dead_whatever_the_clocks_say(tmp_path):
    """Beats that come by a clock an hour behind, or ahead, are beats all the same."""
    beats = {side: leave(tmp_path, side, stranger()) for side in ("behind", "ahead")}
    with Leases(tmp_path, expiry_s=0.6) as leases:
        for i in range(40):
            for side, beat in beats.items():
                if i % 4 == 0:
                    now = time.time() + (-3600 if side == "behind" else 3600)
                    os.utime(beat, (now, now))
                assert leases.abandoned(side) is None
            time.sleep(0.02)
        wait_for(lambda: leases.abandoned("behind") and leases.abandoned("ahead"), 5)


def test_our_own_clock_does_not_count(tmp_path, monkeypatch):
    beat = leave(tmp_path, "a", stranger())
    monkeypatch.setattr(time, "time", lambda: 9e9)
    with Leases(tmp_path, expiry_s=0.6) as leases:
        assert abs(leases.now_ns() - beat.stat().st_mtime_ns) < 60e9
        began = time.monotonic()
        while time.monotonic() - began < 0.5:
            assert leases.abandoned("a") is None
            time.sleep(0.02)


def test_a_held_lease_is_kept_alive_by_its_thread(tmp_path):
    with Leases(tmp_path, expiry_s=0.5) as ours, Leases(tmp_path, expiry_s=0.5) as theirs:
        lease = ours.take("a")
        began = time.monotonic()
        while time.monotonic() - began < 1.2:
            assert theirs.abandoned("a") is None
            time.sleep(0.02)
        assert not lease.lost


def test_a_holder_that_is_displaced_notices(tmp_path):
    with Leases(tmp_path, expiry_s=0.3) as ours, Leases(tmp_path) as theirs:
        lease = ours.take("a")
        assert lease.touch()
        other = theirs.take("a", displacing=lease.holder.name)
        assert isinstance(other, Lease)
        wait_for(lambda: lease.lost, 5)
        assert not lease.touch()
        assert not lease.folder.exists()
        ours.release(lease)  # takes nothing from the other one
        assert other.touch()
        assert theirs.holder("a") == other.holder


PROCESSES, ROUNDS, STEP_S = 2, 200, 0.005


def all_are_at(out, step):
    return len(list(out.glob(f"{step}-*"))) == PROCESSES


@pytest.fixture(scope="module")
def competed(tmp_path_factory):
    """Folder in which processes competed for slides, for a file and for tables."""
    out = tmp_path_factory.mktemp("competed")
    (out / "counter").write_text("0")
    (out / "tables").mkdir()
    gone, elsewhere = dead(), stranger()
    for r in range(ROUNDS):
        leave(out / "leases", f"dead {r}", gone)
        leave(out / "leases", f"stranger {r}", elsewhere)
    processes = [
        context.Process(
            target=lease_work.compete, args=(out, n, ROUNDS, STEP_S, elsewhere.name), daemon=True
        )
        for n in range(PROCESSES)
    ]
    for process in processes:
        process.start()
    for step in ("race", "count", "rows", "end"):
        wait_for(partial(all_are_at, out, step))
        (out / step).write_text(str(time.time() + 0.05))
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    return out


@posix
@pytest.mark.parametrize("what", ["free", "dead", "stranger"])
def test_of_several_takers_exactly_one_succeeds(competed, what):
    won = [(competed / f"won-{n}").read_text().splitlines() for n in range(PROCESSES)]
    own = [[name for name in names if name.startswith(what)] for names in won]
    assert Counter(itertools.chain(*own)) == Counter(f"{what} {r}" for r in range(ROUNDS))
    assert all(own)  # each has won some, so it was a race


@posix
def test_nobody_comes_between(competed):
    assert (competed / "counter").read_text() == str(40 * PROCESSES)


@posix
def test_rows_of_several_processes_are_all_there(competed):
    out = competed / "tables"
    done = {row["slide"] for row in lease_work.rows_of(out / "summary.csv")}
    failed = {row["path"] for row in lease_work.rows_of(out / "failures.csv")}
    assert done == {f"{n}-{i}" for n in range(PROCESSES) for i in range(25) if i % 5}
    assert failed == {f"{n}-{i}" for n in range(PROCESSES) for i in range(0, 25, 5)}
    assert {p.name for p in out.iterdir()} == {"summary.csv", "failures.csv", "report.html"}


def test_waiting_ends(tmp_path):
    leave(tmp_path, "a", stranger())
    with (
        Leases(tmp_path) as leases,
        pytest.raises(LeaseError, match=r"is held by .* elsewhere"),
        leases.hold("a", wait_s=0.1),
    ):
        pass


def test_something_else_in_its_place_is_said(tmp_path):
    foreign = tmp_path / LEASES_FOLDER / key_of("a") / "mine.txt"
    foreign.parent.mkdir(parents=True)
    foreign.touch()
    with Leases(tmp_path) as leases, pytest.raises(LeaseError, match=r"mine.txt; remove it"):
        leases.take("a")
    assert foreign.exists()


def test_an_output_folder_that_is_gone_is_not_made_anew(tmp_path):
    with Leases(tmp_path / "out") as leases, pytest.raises(OSError, match="No such file"):
        leases.take("a")
    assert not (tmp_path / "out").exists()


def test_what_others_need_stays(tmp_path):
    ours, theirs = Leases(tmp_path), Leases(tmp_path)
    since = ours.arrive()
    assert theirs.arrive() >= since
    note = tmp_path / LEASES_FOLDER / "note.json"
    note.touch()
    ours.close()
    assert note.exists()
    theirs.close()
    assert list(tmp_path.iterdir()) == []


@posix
def test_what_dead_processes_left_goes(tmp_path):
    gone = dead()
    (tmp_path / LEASES_FOLDER).mkdir()
    for kind in (".new-", ".old-"):
        (tmp_path / LEASES_FOLDER / f"{kind}{gone.name}" / "x").mkdir(parents=True)
    (tmp_path / LEASES_FOLDER / f".clock-{gone.name}").touch()
    leases = Leases(tmp_path)
    leases.arrive()
    leases.close()
    assert list(tmp_path.iterdir()) == []


def test_threads_of_one_process_exclude_each_other(tmp_path):
    got = []
    barrier = threading.Barrier(4)
    with Leases(tmp_path) as leases:

        def take():
            for r in range(50):
                barrier.wait()
                if isinstance(leases.take(f"s{r}"), Lease):
                    got.append(r)

        threads = [threading.Thread(target=take) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(got) == list(range(50))


def test_no_thread_can_be_started(tmp_path, monkeypatch):
    def refuse(_):
        raise RuntimeError("can't start new thread")

    with Leases(tmp_path) as leases:
        monkeypatch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(RuntimeError):
            leases.take("a")
        assert leases.holder("a") is None
        monkeypatch.undo()
        assert isinstance(leases.take("a"), Lease)

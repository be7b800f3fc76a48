"""Runs over many slides: finished ones are left alone, shared ones done once, none is lost."""

import errno
import json
import os
import pickle
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import fake_work
import pytest
from fake_work import FakeWork
from lease_work import rows_of

from wsiseg.engine.journal import FILE, SUFFIX
from wsiseg.engine.working import journal_folder
from wsiseg.errors import DiskFullError, LeaseError, RunError, UsageError
from wsiseg.options import FolderOptions, SegmentOptions
from wsiseg.run import SlideJob, list_slides, parse_seconds, segment_folder, segment_slide
from wsiseg.run import limits as limits_module
from wsiseg.run.folder import run_folder
from wsiseg.run.holders import Holder
from wsiseg.run.leases import KEPT, LEASES_FOLDER, Leases, key_of
from wsiseg.run.limits import raise_open_files, reason_of, require_room
from wsiseg.run.records import RECORD, read_record
from wsiseg.run.reports import SlideReport, failure_text
from wsiseg.run.turns import Ground, Task, clear_dead, take_turn
from wsiseg.testing.models import make_colour_model
from wsiseg.testing.slides import make_svs, tissue_disc

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def slides(tmp_path_factory):
    folder = tmp_path_factory.mktemp("slides")
    pixels, _ = tissue_disc((60, 80))
    first = make_svs(folder / "s0.svs", pixels, levels=(1,), mpp=0.5)
    for i in range(1, 4):
        shutil.copy(first, folder / f"s{i}.svs")
    return folder


@pytest.fixture
def jobs(slides):
    return list_slides([str(slides)])


@pytest.fixture
def own(slides, tmp_path):
    """A slide that a test may change."""
    return Path(shutil.copy(slides / "s0.svs", tmp_path / "own.svs"))


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


def run(jobs, out, work=None, **options):
    begun = []
    work = work or FakeWork()
    inner = work.hook

    def hook(turn):
        begun.append(turn.job.output)
        if inner is not None:
            inner(turn)

    report = run_folder(jobs, out, replace(work, hook=hook), options=FolderOptions(**options))
    return begun, report


def names(reports):
    return [Path(report.folder).name for report in reports]


def test_finished_slides_are_left_alone(jobs, out):
    begun, report = run(jobs, out)
    assert begun == names(report.done) == ["s0", "s1", "s2", "s3"]
    assert not report.reused
    before = {p: (p.stat().st_ino, p.stat().st_mtime_ns) for p in out.rglob("*")}
    begun, report = run(jobs, out)
    assert begun == []
    assert names(report.done) == names(report.reused) == ["s0", "s1", "s2", "s3"]
    assert report.done[0].summary["figure"] == 1.5
    assert {p: (p.stat().st_ino, p.stat().st_mtime_ns) for p in out.rglob("*")} == before
    assert {p.name for p in out.iterdir() if p.is_file()} == {"summary.csv", "report.html"}


def test_what_is_missing_is_done(jobs, out):
    run(jobs[:2], out)
    begun, report = run(jobs, out)
    assert begun == ["s2", "s3"]
    assert len(report.done) == 4
    assert [row["folder"] for row in rows_of(out / "summary.csv")] == ["s0", "s1", "s2", "s3"]


def test_again_does_all(jobs, out):
    run(jobs, out)
    assert run(jobs, out, again=True)[0] == ["s0", "s1", "s2", "s3"]


def test_a_changed_model_invalidates_and_is_named(jobs, out, caplog):
    run(jobs, out)
    begun, _ = run(jobs, out, FakeWork(model="x" * 64))
    assert len(begun) == 4
    (message,) = [record.getMessage() for record in caplog.records]
    assert "s0.svs: is done again" in message
    assert "model digest (m -> xxxxxxxxxxxx)" in message


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda job: replace(job, mpp=0.25), "mpp (none -> 0.25)"),
        (lambda job: replace(job, reader="tiff"), "reader (none -> tiff)"),
    ],
)
def test_a_changed_way_of_reading_invalidates(jobs, out, caplog, change, words):
    run(jobs[:1], out)
    assert run([change(jobs[0])], out)[0] == ["s0"]
    assert words in caplog.text


def test_a_changed_program_invalidates(jobs, out, caplog):
    run(jobs[:1], out)
    record = out / "s0" / RECORD
    record.write_text(record.read_text().replace('"made from": {', '"made from": {"wsiseg": "0",'))
    assert run(jobs[:1], out)[0] == ["s0"]
    assert "wsiseg (0 -> none)" in caplog.text  # the fake work does not say which it is


def test_a_slide_with_other_content_is_done_again_in_place(own, out, caplog):
    job = SlideJob(str(own), "own")
    run([job], out)
    pixels, _ = tissue_disc((60, 80), seed=3)
    make_svs(own, pixels, levels=(1,), mpp=0.5)
    begun, report = run([job], out)
    assert begun == ["own"]
    assert not report.failures
    assert "the slide's content (" in caplog.text


def test_a_slide_that_was_only_touched_or_moved_still_holds(own, out, caplog):
    run([SlideJob(str(own), "own")], out)
    os.utime(own, (1, 1))
    assert run([SlideJob(str(own), "own")], out)[0] == []
    moved = own.rename(own.with_name("moved.svs"))
    assert run([SlideJob(str(moved), "own")], out)[0] == []
    assert caplog.text == ""


def test_a_file_gone_from_a_result_is_made_again(jobs, out, caplog):
    run(jobs[:1], out)
    (out / "s0" / "annotations.geojson").unlink()
    assert run(jobs[:1], out)[0] == ["s0"]
    assert "annotations.geojson of it (there -> gone)" in caplog.text


def test_an_edited_result_is_left_alone(jobs, out):
    run(jobs[:1], out)
    (out / "s0" / "annotations.geojson").write_text("edited")
    assert run(jobs[:1], out)[0] == []


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"record": 1}', b'{"record": 99}'])
def test_a_record_that_says_nothing_does_not_count(jobs, out, content, caplog):
    run(jobs[:1], out)
    (out / "s0" / RECORD).write_bytes(content)
    assert read_record(out / "s0") is None
    assert run(jobs[:1], out)[0] == ["s0"]
    assert "what made it is not recorded" in caplog.text


def test_a_lost_row_comes_back(jobs, out):
    run(jobs, out)
    table = out / "summary.csv"
    lines = table.read_text().splitlines(keepends=True)
    table.write_text("".join(lines[:2]))
    run(jobs, out)
    assert {row["folder"] for row in rows_of(table)} == {"s0", "s1", "s2", "s3"}


def test_a_failure_is_tried_again_by_the_next_run(jobs, out):
    _, report = run(jobs, out, FakeWork(fail=frozenset({"s1"})))
    assert names(report.failures) == ["s1"]
    (row,) = rows_of(out / "failures.csv")
    assert (row["error_class"], row["remedy"]) == ("SourceError", "mend it")
    assert run(jobs, out)[0] == ["s1"]
    assert not (out / "failures.csv").exists()


def test_what_another_process_does_is_waited_for(jobs, out):
    """The other one finishes the first slide, fails at the second and dies at the third."""
    out.mkdir()
    others = Leases(out)
    ground = Ground(out, "segment", FakeWork().settings())
    held = {i: others.take(jobs[i].output) for i in range(3)}
    looks = []

    def meanwhile(turn):
        looks.append(turn.job.output)
        if len(looks) > 1:
            return
        for i in (0, 1):
            others.release(held[i])
            fail = frozenset({"s1"})
            take_turn(Task(jobs[i]), ground, FakeWork(fail=fail).work, others)
        dead = replace(held[2].holder, token="0" * 16, started=1)
        held[2].folder.rename(held[2].folder.with_name(dead.name))

    begun, report = run(jobs, out, FakeWork(hook=meanwhile))
    others.close()
    assert begun == ["s3", "s2"]
    assert sorted(names(report.done)) == ["s0", "s2", "s3"]
    assert names(report.reused) == ["s0"]
    assert [row.error for row in report.failures] == [f"{jobs[1].path}: broke; mend it"]
    assert not (out / LEASES_FOLDER).exists()


def test_nobody_is_waited_for_if_so_wished(jobs, out):
    out.mkdir()
    with Leases(out) as others:
        holder = others.take(jobs[0].output).holder
        begun, report = run(jobs, out, wait=False)
    assert begun == ["s1", "s2", "s3"]
    assert [row.held_by for row in report.held] == [str(holder)]
    assert report.held[0].to_dict()["state"] == "held"


@pytest.mark.parametrize("server_says_nothing", [False, True])
def test_who_comes_right_after_another_one_sees_that_it_is_done(
    jobs, out, monkeypatch, server_says_nothing
):
    """Between looking for a result and taking the slide, another process does it."""
    out.mkdir()
    if server_says_nothing:
        for name in ("slide_identity", "_quick_state"):
            monkeypatch.setattr(f"wsiseg.run.records.{name}", lambda _: None)
    take = Leases.take
    with Leases(out) as others:

        def late(leases, name, **options):
            if leases is not others and name == "s0":
                take_turn(Task(jobs[0]), ground, FakeWork().work, others)
            return take(leases, name, **options)

        ground = Ground(out, "segment", FakeWork().settings())
        monkeypatch.setattr(Leases, "take", late)
        begun, report = run(jobs[:1], out)
    assert begun == []
    assert names(report.reused) == ["s0"]
    if server_says_nothing:  # nobody knows by the next run
        assert run(jobs[:1], out)[0] == ["s0"]


def test_who_lost_the_slide_publishes_nothing(jobs, out, caplog):
    """The other one takes it while this one works, publishes, and is not disturbed."""
    out.mkdir()

    with Leases(out) as others:

        def lose(turn):
            task = Task(turn.job, displacing=turn.lease.holder.name)
            theirs = FakeWork(log=out / "log")
            assert take_turn(task, turn.ground, theirs.work, others).state == "done"

        begun, report = run(jobs[:1], out, FakeWork(hook=lose))
    assert begun == ["s0"]
    assert [line.split()[:2] for line in (out / "log").read_text().splitlines()] == [
        ["begun", "s0"],
        ["done", "s0"],
    ]
    assert names(report.reused) == ["s0"]
    assert "was taken over by" in caplog.text
    assert not report.failures


def test_losing_it_at_the_last_moment_publishes_nothing(jobs, out, monkeypatch):
    """Nothing is asked any more between the last look and the renaming: that itself fails."""
    out.mkdir()
    others = Leases(out)
    taken = []

    def lose(marker, folder):
        taken.append(others.take("s0", displacing=folder.parent.name))

    monkeypatch.setattr("wsiseg.engine.output.Marker.write", lose)
    with Leases(out) as leases:
        ground = Ground(out, "segment", FakeWork().settings())
        report = take_turn(Task(jobs[0]), ground, FakeWork().work, leases)
    assert report.held_by == str(taken[0].holder)
    assert not (out / "s0").exists()
    others.close()


def test_a_slide_that_kills_is_given_up(jobs, out):
    out.mkdir()
    with Leases(out) as leases:
        lease = leases.take("s0")
        (lease.folder / "deaths").write_text("0 process 1 on a\n0 process 2 on b\n")
        dead = replace(lease.holder, token="0" * 16, started=1)
        lease.folder.rename(lease.folder.with_name(dead.name))
        begun, report = run(jobs[:1], out)
        assert begun == []
        assert "3 processes died or stopped at the same place of it" in report.failures[0].error
        assert run(jobs[:1], out)[0] == ["s0"]  # asked for anew, it is tried anew


def leave(out, name):
    """Leave the lease of a killed process there, with a journal and what lay beside it."""
    with Leases(out) as leases:
        lease = leases.take(name)
        kept = lease.folder / KEPT
        (kept / "heatmap.zarr").mkdir(parents=True)
        for file in (FILE, f"patches-1{SUFFIX}", "owner"):
            (kept / file).write_text("x")
        holder = replace(lease.holder, token="0" * 16, started=1)
        lease.folder.rename(lease.folder.with_name(holder.name))


def test_of_a_dead_holder_only_the_journal_and_its_blocks_are_used(jobs, out):
    """A stopped process may still write into files that it has open."""
    out.mkdir()
    leave(out, "s0")
    found = []

    def look(turn):
        with turn.journal() as journal:
            found.append({path.name for path in journal.folder.iterdir()})

    run(jobs[:1], out, FakeWork(hook=look))
    assert found == [{FILE, f"patches-1{SUFFIX}", "owner"}]  # the owner is a file of its own
    assert not list(out.glob(".wsiseg-*"))


def test_what_a_lost_process_had_finished_is_laid_by(jobs, out):
    ground = Ground(out, "segment", FakeWork().settings())
    out.mkdir()
    leave(out, "s0")
    with Leases(out) as leases:
        clear_dead(jobs[0], ground, leases)
        assert leases.holder("s0") is None
    place = journal_folder(out, "s0", "segment")
    assert (place / FILE).exists()
    assert {path.name for path in out.iterdir()} == {place.name}
    shutil.rmtree(place)
    run(jobs[:1], out)
    leave(out, "s0")
    run(jobs[:1], out)  # its result stands: nothing is left to go on with
    assert {path.name for path in out.iterdir()} == {"s0", "summary.csv", "report.html"}


def test_a_slow_slide_is_a_failure_and_the_run_goes_on(jobs, out):
    def slow(turn):
        if turn.job.output == "s1":
            time.sleep(0.3)

    work = FakeWork(hook=slow, steps=1, step_s=0.0)
    _, report = run(jobs, out, work, timeout_s=0.2)
    assert names(report.done) == ["s0", "s2", "s3"]
    assert "took longer than 0.2 s; allow more (--timeout)" in report.failures[0].error
    assert not (out / "s1").exists()


def test_a_hang_is_ended_by_force(jobs, out):
    hanging = [replace(jobs[0], output="hang"), jobs[1]]
    report = run_folder(
        hanging,
        out,
        FakeWork(hook=fake_work.hang_native),
        options=FolderOptions(timeout_s=2.0, grace_s=0.2),
        devices=("cpu",),
    )
    assert names(report.done) == ["s1"]
    (failure,) = report.failures
    assert "did not end by itself, so its process was ended; allow more" in failure.error
    assert {p.name for p in out.iterdir()} == {"s1", "summary.csv", "failures.csv", "report.html"}


@pytest.mark.parametrize("change", ["grows", "replaced", "touched", "removed"])
def test_a_slide_that_changes_meanwhile_fails_with_the_reason(own, jobs, out, change):
    def disturb(turn):
        if turn.job.output != "own":
            return
        if change == "grows":
            with own.open("ab") as file:
                file.write(b"more")
        elif change == "replaced":
            times = own.stat().st_atime_ns, own.stat().st_mtime_ns
            other = Path(shutil.copy(own, own.with_name("other")))
            other.replace(own)
            os.utime(own, ns=times)
        elif change == "touched":
            os.utime(own, (1, 1))
        else:
            own.unlink()

    work = FakeWork(hook=disturb)
    _, report = run([SlideJob(str(own), "own"), *jobs], out, work)
    words = {
        "grows": r"had \d+ bytes and has",
        "replaced": "replaced by another file",
        "touched": "was written to",
        "removed": "is not there any more",
    }
    assert report.failures[0].error_class == "SourceError"
    assert "changed while it was read" in report.failures[0].error
    assert re.search(words[change], report.failures[0].error)
    assert len(report.done) == 4
    assert not (out / "own").exists()


def test_an_output_folder_that_is_a_file_is_named(jobs, tmp_path):
    (tmp_path / "mine").write_text("mine")
    with pytest.raises(RunError, match=r"mine: is a file: needed a folder.*choose another --out"):
        run(jobs, tmp_path / "mine")
    assert (tmp_path / "mine").read_text() == "mine"


def test_a_folder_that_cannot_be_written_any_more_fails_slides_not_the_run(jobs, out, monkeypatch):
    mkdir = Path.mkdir

    def refuse(self, *args, **kwargs):
        if LEASES_FOLDER in self.parts and (out / "s1").exists():
            raise OSError(errno.EROFS, "Read-only file system")
        return mkdir(self, *args, **kwargs)

    monkeypatch.setattr(Path, "mkdir", refuse)
    _, report = run(jobs, out)
    assert names(report.done) == ["s0", "s1"]
    for failure in report.failures:
        assert "cannot be written: Read-only file system; check" in failure.error
    assert "summary.csv: cannot be written: Read-only file system" in report.problem


def test_a_full_disk_fails_one_slide_and_the_others_finish(jobs, out):
    code = f"""
import resource, sys
sys.path.insert(0, {str(HERE)!r})
from pathlib import Path
from fake_work import FakeWork
from wsiseg.run import list_slides
from wsiseg.run.folder import run_folder

def fill(turn):
    if turn.job.output == "s1":
        (turn.folder / "big").write_bytes(bytes(1 << 20))

resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 19, 1 << 19))
report = run_folder(list_slides({[job.path for job in jobs]!r}), Path({str(out)!r}),
                    FakeWork(hook=fill))
print(*[Path(row.folder).name for row in report.done])
print(*[row.error for row in report.failures])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    first, second = done.stdout.splitlines()
    assert first.split() == ["s0", "s2", "s3"]
    assert "out/s1: no room left on the disk (File too large); free some" in second


def test_room_is_looked_for_before_and_meanwhile(jobs, out, monkeypatch):
    def usage(_):
        return shutil._ntuple_diskusage(10**9, 10**9 - free, free)

    free = 10**8
    monkeypatch.setattr(limits_module.shutil, "disk_usage", usage)
    require_room(out, 10**9)
    with pytest.raises(DiskFullError, match="needed at least 120 MB, free are 100 MB"):
        require_room(out, 5 * 10**9)

    def fill(_):
        nonlocal free
        free = 0

    monkeypatch.setattr(limits_module, "LOOK_S", 0.0)
    _, report = run(jobs[:2], out, FakeWork(hook=fill, steps=1, step_s=0.0))
    assert [row.error_class for row in report.failures] == ["DiskFullError"] * 2


def test_limits_of_the_system_are_named():
    too_many = OSError(errno.EMFILE, "Too many open files")
    assert "ulimit -n" in failure_text(too_many, "a.svs")
    wrapped = UsageError("a.svs: cannot be opened")
    wrapped.__cause__ = too_many
    assert "ulimit -n" in failure_text(wrapped, "a.svs")
    assert "--threads 1" in failure_text(RuntimeError("can't start new thread"), "a.svs")
    assert reason_of(LeaseError("x")) is None
    assert "--memory" in failure_text(MemoryError(), "a.svs")


def test_open_files_are_asked_for():
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    if before[1] != resource.RLIM_INFINITY and before[1] < 4096:
        pytest.skip("the system allows no more")
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, before[1]))
    try:
        raise_open_files()
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == 4096
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90), ("1.5m", 90), (" 2 h", 7200), ("1d", 86400)]
)
def test_times_are_understood(text, seconds):
    assert parse_seconds(text) == seconds


@pytest.mark.parametrize("text", ["", "0", "-1", "h", "1y", "nan", "1:30"])
def test_other_times_are_refused(text):
    with pytest.raises(UsageError, match="such as 90, 30m or 2h"):
        parse_seconds(text)


def test_no_slide_at_all_is_said_before_the_model_is_loaded(tmp_path, out, monkeypatch):
    monkeypatch.setattr("wsiseg.run.segment.load_for_run", None)
    jobs = list_slides([str(tmp_path / "a.svs"), str(tmp_path / "b.svs")])
    with pytest.raises(UsageError, match=r"a.svs: is not there \(nor are the 1 others\)"):
        segment_folder(jobs, "breast-tumour-demo", out)
    assert not out.exists()


def test_the_model_is_not_even_loaded_where_all_is_done(slides, tmp_path, out, monkeypatch):
    model = make_colour_model(tmp_path / "colour")
    pixels, _ = tissue_disc((300, 400))
    slide = make_svs(tmp_path / "disc.svs", pixels, levels=(1,), mpp=0.5)
    assert not segment_folder([slide], model, out).failures
    monkeypatch.setattr("wsiseg.run.segment.load_for_run", None)
    assert segment_folder([slide], model, out).reused
    options = SegmentOptions()
    assert segment_folder([slide], model, out, options=options).reused


def test_the_unit_of_work_can_be_sent_elsewhere(tmp_path, out):
    model = make_colour_model(tmp_path / "colour")
    pixels, _ = tissue_disc((300, 400))
    slide = make_svs(tmp_path / "disc.svs", pixels, levels=(1,), mpp=0.5)
    call = (SlideJob(str(slide), "sub/disc"), str(model), str(out), SegmentOptions())
    job, name, folder, options = pickle.loads(pickle.dumps(call))
    report = pickle.loads(pickle.dumps(segment_slide(job, name, folder, options)))
    assert report.state == "done"
    assert (out / "sub" / "disc" / "annotations.geojson").exists()
    assert segment_slide(job, name, folder, options).state == "there"
    bad = segment_slide(SlideJob(str(tmp_path / "gone.svs"), "gone"), name, folder, options)
    assert pickle.loads(pickle.dumps(bad)).state == "failed"
    assert {p.name for p in out.iterdir()} == {"sub"}


class Page(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags, self.links, self.words = Counter(), [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags[tag] += 1
        self.links += [value for key, value in attrs if key in ("href", "src")]

    def handle_data(self, data):
        self.words.append(data)


def test_the_page_shows_pictures_figures_and_failures_and_escapes_all(slides, tmp_path, out):
    evil = "<script>alert('1')</script>&\"#%"
    path = shutil.copy(slides / "s0.svs", tmp_path / "evil.svs")
    jobs = [SlideJob(str(path), evil), SlideJob(str(tmp_path / f"<b>{evil[-2:]}.svs"), "gone")]

    _, report = run(jobs, out, FakeWork(model="<i>m</i>"))
    (out / evil / "overview.png").touch()
    (out / "report.html").unlink()
    run(jobs, out, FakeWork(model="<i>m</i>"))
    text = (out / "report.html").read_text(encoding="utf-8")
    page = Page(text)
    assert not page.tags["script"]
    assert not page.tags["i"]
    assert not page.tags["b"]
    assert page.tags["img"] == 1
    for link in page.links:
        assert link.startswith("./%3Cscript%3E")
    assert (out / unquote(page.links[0])).exists()
    assert "1 slide done, 1 failed" in text
    assert "1.5" in page.words
    assert any("<i>m</i>" in word for word in page.words)
    assert len(report.failures) == 1


def test_remedies_are_told_apart():
    report = SlideReport("a", "b", {}, error="a: broke: needed 1; found 2; mend it")
    assert (report.message, report.remedy) == ("a: broke: needed 1; found 2", "mend it")
    plain = SlideReport("a", "b", {}, error="a: broke")
    assert (plain.message, plain.remedy) == ("a: broke", "")


def test_only_what_matches_and_only_so_many(slides, tmp_path):
    shutil.copytree(slides, tmp_path / "in" / "Deep")
    shutil.copy(slides / "s0.svs", tmp_path / "in" / "HE-1.SVS")
    arguments = [str(tmp_path / "in")]

    def found(**options):
        return [job.output for job in list_slides(arguments, recursive=True, **options)]

    assert found(match=["he-*.svs"]) == ["HE-1"]
    assert found(match=["deep/s[12]*", "HE*"]) == ["s1", "s2", "HE-1"]
    assert found(match=["deep/*"], limit=2) == ["s0", "s1"]
    assert found(limit=1) == ["s0"]
    with pytest.raises(UsageError, match=r"--match \*.ndpi: matches none of 5 slides, such as"):
        found(match=["*.ndpi"])
    shutil.copytree(slides, tmp_path / "in" / "other")
    assert found(match=["deep/s0*"]) == ["s0"]
    assert found(match=["deep/s0*"], nested=True) == ["Deep/s0"]  # the same name in every run


@pytest.mark.skipif(os.name != "posix", reason="needs SIGKILL")
def test_processes_share_the_slides_and_a_killed_one_loses_none(slides, out, tmp_path):
    paths = [str(slides / f"s{i}.svs") for i in range(4)]
    log = tmp_path / "log"
    command = [sys.executable, str(HERE / "fake_run.py"), str(out), str(log), "6", "60", *paths]
    processes = [subprocess.Popen(command) for _ in range(2)]
    while not log.exists():
        time.sleep(0.01)
    victim = int(log.read_text().split()[2])
    os.kill(victim, signal.SIGKILL)
    codes = sorted(process.wait(60) for process in processes)
    assert codes == [-signal.SIGKILL, 0]
    lines = [line.split() for line in log.read_text().splitlines()]
    assert Counter(name for what, name, *_ in lines if what == "done") == {
        f"s{i}": 1 for i in range(4)
    }
    assert {row["folder"] for row in rows_of(out / "summary.csv")} == {f"s{i}" for i in range(4)}
    assert not (out / LEASES_FOLDER).exists()


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="needs SIGKILL")
def test_chaos(slides, out, tmp_path):
    """Of three processes one is killed every 2 s: each slide is done once, and none is lost."""
    paths = []
    for i in range(40):
        paths.append(str(shutil.copy(slides / "s0.svs", tmp_path / f"c{i:02}.svs")))
    log = tmp_path / "log"
    command = [sys.executable, str(HERE / "fake_run.py"), str(out), str(log), "10", "20", *paths]
    draw = random.Random(0)
    processes = [subprocess.Popen(command) for _ in range(3)]
    kills, last_kill, ended = 0, time.monotonic(), 0
    while not ended:
        time.sleep(0.05)
        # Who has done one slide is killed during another: on a slow machine, too, all get done.
        text = log.read_text() if log.exists() else ""
        done = {int(line.split()[2]) for line in text.splitlines() if line.startswith("done")}
        victims = [i for i in range(3) if processes[i].pid in done]
        if victims and time.monotonic() - last_kill > 2:
            victim = draw.choice(victims)
            processes[victim].kill()
            processes[victim].wait()
            processes[victim] = subprocess.Popen(command)
            kills, last_kill = kills + 1, time.monotonic()
        for process in processes:
            if process.poll() is not None:
                assert process.returncode == 0
                ended += 1
    for process in processes:
        assert process.wait(120) == 0
    lines = [line.split() for line in log.read_text().splitlines()]
    done = Counter(name for what, name, *_ in lines if what == "done")
    assert kills >= 3
    assert set(done) <= {f"c{i:02}" for i in range(40)}
    # A process killed between publishing and saying so has published all the same.
    assert all(count == 1 for count in done.values())
    assert len(done) >= 40 - kills
    under_way = {}
    for what, name, pid, at in lines:  # nobody begins a slide while a living process has it
        if what == "begun":
            under_way[name] = pid
        else:
            assert under_way[name] == pid, (name, at)
    assert {row["folder"] for row in rows_of(out / "summary.csv")} == {
        f"c{i:02}" for i in range(40)
    }
    assert not (out / LEASES_FOLDER).exists()
    assert not list(out.glob(".wsiseg-*"))
    for i in range(40):
        assert json.loads((out / f"c{i:02}" / RECORD).read_text())["row"]["figure"] == 1.5


def test_a_holder_elsewhere_is_told(out):
    assert str(replace(Holder.me(), pid=7, host="far")) == "process 7 on far"
    assert key_of("a/b").startswith("a-b-")

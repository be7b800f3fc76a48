"""Damaged files of every format are read or refused in one line; and the harness sees where not."""

import hashlib
import os
import time
from dataclasses import replace

import numpy as np
import pytest

from wsiseg.errors import SourceError
from wsiseg.testing.fuzz import BAD, Case, Limits, change, fuzz, make_originals, table, try_one
from wsiseg.testing.fuzz import campaign as campaign_module
from wsiseg.testing.fuzz import entries as entries_module
from wsiseg.testing.fuzz.__main__ import main
from wsiseg.testing.fuzz.entries import Grounds

LIMITS = Limits()
ROUNDS = {"slide": 1, "model": 1, "result": 1}
"""Files of a format in the short run; of the others, which take no time, there are more."""


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    pytest.importorskip("wsidicom")
    pytest.importorskip("h5py")
    return make_originals(tmp_path_factory.mktemp("originals"))


@pytest.fixture(scope="module")
def grounds(tmp_path_factory):
    return Grounds(tmp_path_factory.mktemp("grounds"))


@pytest.fixture
def png(originals):
    return next(o for o in originals if o.name == "png")


def test_damaged_files_are_read_or_refused_in_one_line(originals, grounds, monkeypatch):
    monkeypatch.setattr(entries_module, "SEGMENT_SHARE", {True: 0.1, False: 0.0})
    cases = [
        Case(2026, 100 * number + index, original)
        for number, original in enumerate(originals)
        for index in range(ROUNDS.get(original.entry, 12))
    ]
    outcomes = [try_one(case, grounds, LIMITS) for case in cases]
    assert not [o for o in outcomes if o.kind in BAD], table(outcomes)
    assert {o.kind for o in outcomes} == {"ok", "refused"}
    assert len(outcomes) > 150


@pytest.mark.slow
def test_two_hundred_files_in_a_process_that_is_watched(tmp_path):
    outcomes = list(fuzz(range(200), tmp_path, seed=5, limits=Limits(seconds=300.0)))
    assert not [o for o in outcomes if o.kind in BAD], table(outcomes)
    assert len(outcomes) == 200


def test_originals_are_valid(originals, grounds, monkeypatch):
    monkeypatch.setattr(campaign_module, "mutate", lambda original, target, random: original)
    monkeypatch.setattr(entries_module, "_run_batch", lambda *args, **options: None)
    for original in originals:
        if original.entry != "result":
            outcome = try_one(Case(0, 0, original), grounds, LIMITS)
            assert outcome.kind == "ok", outcome


def bytes_of(path):
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    return [hashlib.sha256(file.read_bytes()).hexdigest() for file in files]


def test_a_change_follows_from_seed_and_number(originals, tmp_path):
    different = 0
    for original in originals:
        made = [change(Case(1, 7, original), tmp_path / name)[0] for name in "ab"]
        assert bytes_of(made[0]) == bytes_of(made[1])
        other, _ = change(Case(1, 8, original), tmp_path / "c")
        different += bytes_of(other) != bytes_of(made[0])
    assert different >= len(originals) - 3


# --- what the harness must see


def outcome_of(original, grounds, monkeypatch, does):
    def entry(*_):
        return does()

    monkeypatch.setattr(campaign_module, "run_entry", entry)
    return try_one(Case(0, 0, original), grounds, Limits(memory_bytes=50_000_000))


def fails(error):
    def does():
        raise error

    return does


@pytest.mark.parametrize(
    ("does", "kind"),
    [
        (lambda: "read", "ok"),
        (fails(SourceError("a.png: broken; copy it anew")), "refused"),
        (fails(KeyError("x")), "uncaught"),
        (fails(MemoryError()), "uncaught"),
        (fails(type("PanicException", (BaseException,), {})("panicked")), "uncaught"),
        (fails(SourceError("")), "untidy"),
    ],
)
def test_outcomes_are_told_apart(png, grounds, monkeypatch, does, kind):
    outcome = outcome_of(png, grounds, monkeypatch, does)
    assert outcome.kind == kind
    assert ("does" in outcome.where) == (kind == "uncaught")


@pytest.mark.skipif(not os.path.exists("/proc/self/clear_refs"), reason="Linux only")  # noqa: PTH110
def test_memory_beyond_the_limit_is_seen(png, grounds, monkeypatch):
    def does():
        return str(np.ones(10**8, np.uint8).sum())

    assert outcome_of(png, grounds, monkeypatch, does).kind == "memory"


def test_a_sibling_that_comes_out_otherwise_is_seen(png, grounds, monkeypatch):
    other = replace(grounds.sibling, results=dict.fromkeys(grounds.sibling.results, "other"))
    monkeypatch.setattr(entries_module, "SEGMENT_SHARE", {True: 0.0, False: 0.0})
    alone = Grounds(grounds.folder)
    alone.__dict__["sibling"] = other
    outcome = try_one(Case(0, 0, png), alone, LIMITS)
    assert outcome.kind == "lost sibling"
    assert "tissue.geojson of the healthy slide came out otherwise" in outcome.text


def crash_or_hang(device, *, folder, limits):
    """Stand in for what a worker does: a crash, a hang, and an ordinary end."""

    def work(case, listen):
        if case.index == 0:
            os.abort()
        if case.index == 1:
            time.sleep(100)
        return campaign_module.Outcome(case.index, case.original.name, "ok")

    return work


def test_crashes_and_hangs_are_seen_and_the_command_fails(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(campaign_module, "_worker", crash_or_hang)
    report = tmp_path / "report.json"
    arguments = ["--inputs", "3", "--format", "asap", "--seconds", "2", "--json", str(report)]
    assert main([*arguments, "--keep", str(tmp_path / "kept")]) == 1
    said = capsys.readouterr()
    assert "0 asap: crash: the process on cpu died: killed by SIGABRT" in said.err
    assert "1 asap: hang: took longer than allowed" in said.err
    assert said.out.splitlines()[-1].split()[:2] == ["all", "3"]
    assert {path.name for path in (tmp_path / "kept").iterdir()} == {"0-asap", "1-asap"}
    assert main(["--only-index", "2", "--format", "asap"]) == 0

"""Processes that are killed, and what the next one finds."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from kill_chaos import chaos, make_model, make_slides

import wsiseg
from wsiseg.engine.journal import FILE, Journal
from wsiseg.engine.working import discard_journal, journal_folder, slide_journal
from wsiseg.errors import LeaseError
from wsiseg.run import segment_folder
from wsiseg.run.holders import Holder
from wsiseg.run.leases import BEAT, KEPT, LEASES_FOLDER, key_of


@pytest.fixture(scope="module", autouse=True)
def home(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WSISEG_HOME", str(tmp_path_factory.mktemp("home")))
        yield


@pytest.fixture(scope="module")
def slides(tmp_path_factory):
    return make_slides(tmp_path_factory.mktemp("slides"), 400)


def leave_to_a_dead_process(out: Path, name: str, folder: Path) -> None:
    """Put a journal where a process that is killed leaves it: in its lease."""
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    holder = replace(Holder.me(), pid=gone.pid, started=1)
    lease = out / LEASES_FOLDER / key_of(name) / holder.name
    lease.mkdir(parents=True)
    (lease / BEAT).touch()
    folder.rename(lease / KEPT)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return make_model(tmp_path_factory.mktemp("models") / "m", "crop")


def test_killed_processes_lose_nothing(slides, model, tmp_path):
    slide, _ = slides["SVS, one level"]
    tally = chaos(slide, model, tmp_path, kills=3, seed=1)
    assert tally.kills == 3
    assert tally.in_stages
    assert tally.results
    assert tally.differing == []


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["SVS, JPEG, pyramid", "OME-TIFF", "SVS, one level"])
def test_killed_processes_lose_nothing_on_any_slide(slides, tmp_path, kind):
    slide, blend = slides[kind]
    tally = chaos(slide, make_model(tmp_path / "m", blend), tmp_path, kills=33, seed=2)
    assert tally.kills == 33
    assert tally.differing == []


def test_a_failure_keeps_what_is_finished_and_success_leaves_nothing(
    slides, model, tmp_path, monkeypatch
):
    slide, _ = slides["SVS, one level"]
    out = tmp_path / "out"
    network = wsiseg.load_model(model, backend="onnxruntime")

    def fail(*_args, **_options):
        raise OSError(5, "Input/output error")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("wsiseg.result.save_png", fail)
        report = segment_folder(slide, network, out)
    assert report.failures
    folder = journal_folder(out, "single", "segment")
    assert (folder / FILE).exists()
    leave_to_a_dead_process(out, "single", folder)
    called = []
    inner = type(network.predictors[0]).__call__
    monkeypatch.setattr(
        type(network.predictors[0]),
        "__call__",
        lambda self, *inputs: called.append(inputs[0].any()) or inner(self, *inputs),
    )
    report = segment_folder(slide, network, out)
    assert not report.failures
    assert not any(called)  # but for the zeros that the plan times
    assert {path.name for path in out.iterdir()} == {"single", "summary.csv", "report.html"}


def test_a_run_that_has_finished_nothing_leaves_nothing(tmp_path):
    with pytest.raises(KeyboardInterrupt), slide_journal(tmp_path, "case", "segment"):
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_commands_and_slides_have_folders_of_their_own(tmp_path):
    names = ["case", "case.1", "sub/case", "käse", "k se", "k_se", "x" * 200]
    folders = {journal_folder(tmp_path, name, kind) for name in names for kind in ("a", "b")}
    assert len(folders) == 2 * len(names)
    for folder in folders:
        Journal(folder).close()
    assert journal_folder(tmp_path, "sub/case", "a").parent == tmp_path / "sub"


def test_a_slide_that_another_process_works_on_is_not_begun(slides, model, tmp_path):
    slide, _ = slides["SVS, one level"]
    folder = journal_folder(tmp_path, "single", "segment")
    code = (
        "import sys; from wsiseg.engine.journal import Journal\n"
        f"journal = Journal({str(folder)!r}); print('there', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "there\n"
        report = segment_folder(slide, model, tmp_path)
        assert report.failures[0].error_class == LeaseError.__name__
        assert f"process {process.pid} on" in report.failures[0].error
        discard_journal(tmp_path, "single", "segment")
        assert folder.exists()
        process.kill()
    discard_journal(tmp_path, "single", "segment")
    assert not folder.exists()

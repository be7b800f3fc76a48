"""A slide that makes the process crash is a failure; the slides beside it are done."""

import csv
import os
import shutil
import subprocess
import sys
from pathlib import Path

import crashing
import pytest

from wsiseg.errors import UsageError
from wsiseg.model import load_for_run
from wsiseg.options import EmbedOptions, FolderOptions, RunOptions, SegmentOptions
from wsiseg.run import list_slides, plan_folder, segment_folder, tiles_folder, tissue_folder
from wsiseg.run.embed import embed_folder
from wsiseg.testing.models import make_colour_model, make_embedding_model
from wsiseg.testing.slides import make_svs, tissue_disc

ISOLATED = FolderOptions(isolate=True)
SEGV, ABORT = "killed by SIGSEGV", "killed by SIGABRT"

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs signals")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_colour_model(tmp_path_factory.mktemp("models") / "m", window=64)


@pytest.fixture
def slides(tmp_path, monkeypatch):
    """Healthy slides around two that crash, and an installed reader that does it."""
    installed = tmp_path / "installed"
    (installed / "crashing-1.dist-info").mkdir(parents=True)
    (installed / "crashing-1.dist-info" / "METADATA").write_text("Name: crashing\nVersion: 1\n")
    (installed / "crashing-1.dist-info" / "entry_points.txt").write_text(crashing.ENTRY_POINTS)
    shutil.copy(crashing.__file__, installed)
    monkeypatch.syspath_prepend(str(installed))
    path = os.pathsep.join([str(installed), os.environ.get("PYTHONPATH", "")])
    monkeypatch.setenv("PYTHONPATH", path)
    folder = tmp_path / "slides"
    folder.mkdir()
    made = [folder / name for name in ("a.svs", "b.dat", "c.svs", "d.dat", "e.svs")]
    for healthy in made[::2]:
        make_svs(healthy, tissue_disc((120, 160))[0], levels=(1,), mpp=0.5)
    made[1].write_bytes(b"crash at reading" * 20)
    made[3].write_bytes(b"abort at opening" * 20)
    return list_slides([str(path) for path in made], mpp=0.5)


def names(reports):
    return sorted(Path(report.folder).name for report in reports)


def test_a_crash_costs_its_slide_alone(slides, tmp_path):
    out = tmp_path / "out"
    report = tissue_folder(slides, out, folder=ISOLATED)
    assert names(report.done) == ["a", "c", "e"]
    for failure, how in zip(report.failures, (SEGV, ABORT), strict=True):
        assert how in failure.error
        assert failure.error_class == "RunError"
        assert len(failure.error.splitlines()) == 1
    with (out / "failures.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [Path(row["path"]).name for row in rows] == ["b.dat", "d.dat"]
    kept = {"a", "c", "e", "summary.csv", "failures.csv", "report.html"}
    assert {path.name for path in out.iterdir()} == kept


WITHOUT_SHARED_MEMORY = """
import _multiprocessing
def refuse(*_): raise OSError(28, "No space left on device")
_multiprocessing.SemLock = refuse
from wsiseg_cli.main import main
main()
"""
"""As in a container whose `/dev/shm` is full: nothing may need a semaphore."""


def test_the_command_line_says_it_in_one_line_and_goes_on(slides, model, tmp_path):
    command = [sys.executable, "-c", WITHOUT_SHARED_MEMORY, "segment"]
    command += [*(job.path for job in slides[:3]), "--isolate", "--quiet", "--mpp", "0.5"]
    command += ["--model", str(model), "--out", str(tmp_path / "out"), "--backend", "onnxruntime"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 1, done.stderr
    assert done.stdout.split() == [str(tmp_path / "out" / name) for name in "ac"]
    assert len(done.stderr.strip().splitlines()) == 2, done.stderr
    failed, summary = done.stderr.strip().splitlines()
    assert failed.startswith("failed: ")
    assert "b.dat: the process on cpu died: " + SEGV in failed
    assert summary.startswith("2 of 3 slides done")
    assert (tmp_path / "out" / "c" / "annotations.geojson").exists()


def test_embeddings_tiles_and_plans_are_isolated_too(slides, model, tmp_path):
    made = make_embedding_model(tmp_path / "embedder")
    options = EmbedOptions(run=RunOptions(backend="onnxruntime"), parquet=False)
    report = embed_folder(slides[:3], made, tmp_path / "e", options=options, folder=ISOLATED)
    assert names(report.done) == ["a", "c"]
    assert SEGV in report.failures[0].error
    report = tiles_folder(
        slides[1:4:2], tmp_path / "t", spacing_um=1.0, patch=32, folder=ISOLATED
    )  # fmt: skip
    assert names(report.failures) == ["b", "d"]
    options = SegmentOptions(run=RunOptions(backend="onnxruntime"))
    rows = list(plan_folder(slides[2:4], model, options=options, folder=ISOLATED))
    assert rows[0]["stages"]
    assert ABORT in rows[1]["error"]


def test_a_loaded_model_cannot_be_isolated(slides, model, tmp_path):
    loaded = load_for_run(model, RunOptions(backend="onnxruntime"))
    with pytest.raises(UsageError, match="isolate needs the model's name or folder"):
        segment_folder(slides, loaded, tmp_path / "out", folder=ISOLATED)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux only")
def test_memory_and_blame_are_bounded_in_such_a_process():
    code = """
from wsiseg.run import limits
used = int(open("/proc/self/status").read().split("VmData:")[1].split()[0]) * 1024
limits.machine_memory = lambda: used + (100 << 20)
limits.bear_the_blame()
bytearray(200 << 20)
limits.bound_memory()
try:
    bytearray(200 << 20)
except MemoryError:
    print(open("/proc/self/oom_score_adj").read())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "1000"

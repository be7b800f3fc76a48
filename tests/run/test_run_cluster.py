"""Slides done by the workers of a Dask cluster on this machine, whatever is lost on the way."""

import ast
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("distributed")

import dask
from fake_work import FakeModelWork, die, hang_native, stop
from kill_chaos import content, make_model, make_slides

from wsiseg.engine.journal import FILE
from wsiseg.errors import RunError, UsageError, WeightsError
from wsiseg.options import FolderOptions, RunOptions, SegmentOptions
from wsiseg.run import SlideJob, cluster, cluster_worker, segment_folder
from wsiseg.run.cluster_start import Listening, Share, local_cluster
from wsiseg.run.cluster_worker import Errand, install, introduce, packed
from wsiseg.run.folder import run_folder
from wsiseg.run.leases import KEPT, LEASES_FOLDER, Leases
from wsiseg.run.turns import Ground

pytestmark = pytest.mark.network

HERE = Path(__file__).parent
MODEL = "sent-to-workers"
PRELOADED = ["distributed", "wsiseg.run.cluster_worker", "wsiseg.pipeline", "fake_work"]
QUICK = SegmentOptions(run=RunOptions(backend="onnxruntime", device="cpu", batch_size=6))


def start(file: Path, workers: int = 2):
    shares = [Share(1, 4 << 30, str(i)) for i in range(workers)]
    return local_cluster(shares, Listening(file, "127.0.0.1"))


@pytest.fixture(scope="module")
def homes(tmp_path_factory):
    """Give workers a home of their own, without the model, and the client one that has it."""
    theirs, ours = tmp_path_factory.mktemp("theirs"), tmp_path_factory.mktemp("ours")
    make_model(ours / "models" / MODEL, "crop")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WSISEG_HOME", str(ours))
        yield ours, theirs


@pytest.fixture(scope="module")
def scheduler(homes, tmp_path_factory):
    """Start a cluster of two workers, which are forked from a process that has all imported."""
    file = tmp_path_factory.mktemp("cluster") / "scheduler.json"
    quick = {"distributed.worker.multiprocessing-method": "forkserver"}
    multiprocessing.get_context("forkserver").set_forkserver_preload(PRELOADED)
    with pytest.MonkeyPatch.context() as patch, dask.config.set(quick):
        patch.setattr("distributed.utils._forkserver_preload_set", True)
        patch.setenv("WSISEG_HOME", str(homes[1]))
        with start(file) as address:
            patch.setenv("WSISEG_HOME", str(homes[0]))
            yield address


@pytest.fixture(scope="module")
def slides(tmp_path_factory):
    return make_slides(tmp_path_factory.mktemp("slides"), 300)


@pytest.fixture(scope="module")
def alone(slides, homes, tmp_path_factory):
    """Return what a run in one process writes."""
    out = tmp_path_factory.mktemp("alone")
    segment_folder([path for path, _ in slides.values()], MODEL, out, options=one_core())
    return written(out)


def written(out):
    """Return what lasts of all files; slides end in any order."""
    files = content(out)
    return files | {"summary.csv": sorted(ast.literal_eval(files["summary.csv"].decode()))}


def one_core():
    return replace(QUICK, run=replace(QUICK.run, threads=1))


def by_name(report):
    return sorted(Path(one.folder).name for one in report)


def fake_jobs(slides, *names):
    path, _ = slides["SVS, one level"]
    return [SlideJob(str(path), name) for name in names]


def do(jobs, out, scheduler, work, **options):
    return run_folder(
        jobs, out, work, scheduler=scheduler, options=FolderOptions(expiry_s=20.0, **options)
    )


def ended(log):
    return sorted(line.split()[1] for line in log.read_text().splitlines() if line[:4] == "done")


def client_of(scheduler):
    import distributed

    return distributed.Client(scheduler, set_as_default=False)


def kill_holder(out, slide, after_lines=3):
    """Kill the worker that has the lease of a slide, once something is finished; return it."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        for journal in out.glob(f"{LEASES_FOLDER}/{slide}/*/{KEPT}/{FILE}"):
            with suppress(OSError):  # folders go while they are looked at
                if journal.read_bytes().count(b"\n") >= after_lines:
                    beat = journal.parent.parent / "beat"
                    pid = json.loads(beat.read_text())["pid"]
                    if pid != os.getpid():  # the client may have it for a moment
                        os.kill(pid, signal.SIGKILL)
                        return pid
        time.sleep(0.001)
    raise TimeoutError(slide)


def test_workers_write_what_one_process_writes(
    slides, homes, scheduler, alone, tmp_path, monkeypatch
):
    sent, events, reports = [], [], []
    monkeypatch.setattr(cluster, "packed", lambda model: sent.append(model) or packed(model))
    monkeypatch.setattr(cluster_worker, "TELL_S", 0.0)
    paths = [path for path, _ in slides.values()]
    for out in (tmp_path / "first", tmp_path / "second"):
        report = segment_folder(
            paths,
            MODEL,
            out,
            options=one_core(),
            scheduler=scheduler,
            listen=events.append,
            slide_done=reports.append,
        )
        assert not report.failures
        assert written(out) == alone
        assert {path.name for path in out.iterdir()} == {
            *by_name(report.done),
            "summary.csv",
            "report.html",
        }
    assert sent == [MODEL]  # once, for both workers and both runs
    assert len(list((homes[1] / "cache" / "models").iterdir())) == 1
    assert {type(event).__name__ for event in events} >= {"StageStarted", "StageFinished"}
    assert len(reports) == 2 * len(paths)
    again = segment_folder(paths, MODEL, out, options=one_core(), scheduler="tcp://127.0.0.1:9")
    assert len(again.reused) == len(paths)  # nobody is asked where nothing is to be done


def test_a_killed_worker_costs_nothing(slides, scheduler, alone, tmp_path):
    out = tmp_path / "out"
    with ThreadPoolExecutor(1) as pool:
        killed = pool.submit(kill_holder, out, "single-*")
        paths = [path for path, _ in slides.values()]
        report = segment_folder(paths, MODEL, out, options=one_core(), scheduler=scheduler)
        assert killed.result()
    assert not report.failures
    assert written(out) == alone
    record = json.loads((out / "single" / "run.json").read_text())
    assert any(stage["kept"] for stage in record["stages"])  # what was finished was not done again


@pytest.mark.parametrize("killed", [pytest.param(False, marks=pytest.mark.slow), True])
def test_workers_share_a_huge_slide(slides, scheduler, alone, tmp_path, monkeypatch, killed):
    monkeypatch.setattr(cluster, "LEAST_TILES", 4)
    made, out = [], tmp_path / "out"
    inner = cluster._Crew._made

    def note(self, order, result, address):
        made.append((order.part, result.note))
        inner(self, order, result, address)

    monkeypatch.setattr(cluster._Crew, "_made", note)
    with ThreadPoolExecutor(1) as pool:
        killer = pool.submit(kill_holder, out, "single-0-*") if killed else None
        report = segment_folder(
            [path for path, _ in slides.values()],
            MODEL,
            out,
            options=one_core(),
            folder=FolderOptions(split_over_gigapixels=1e-6),
            scheduler=scheduler,
        )
        assert killer is None or killer.result()
    assert not report.failures
    assert written(out) == alone
    assert not list(out.glob(".wsiseg-run-*"))
    parts = [part for part, _ in made if part != "begin"]
    assert {part.stage for part in parts} == {0, 1}
    if killed:  # what its worker had finished may be made again
        return
    assert len(parts) == sum({(part.stage, part.count): part.count for part in parts}.values()) * 3
    assert {note for _, note in made} == {""}
    for name in by_name(report.done):  # who put the result together had nothing left to do
        stages = json.loads((out / name / "run.json").read_text())["stages"]
        assert [stage["kept"] for stage in stages] == [stage["tiles"] for stage in stages]


def test_a_slide_that_kills_workers_is_a_failure_and_the_others_are_done(
    slides, scheduler, tmp_path
):
    jobs = fake_jobs(slides, "deadly", "b", "c", "d", "e", "f")
    work = FakeModelWork(model=MODEL, hook=die, steps=2, log=tmp_path / "log")
    report = do(jobs, tmp_path / "out", scheduler, work, attempts=2)
    assert by_name(report.failures) == ["deadly"]
    assert "2 workers died or left at the same place of it" in report.failures[0].error
    assert by_name(report.done) == ended(tmp_path / "log") == ["b", "c", "d", "e", "f"]
    assert "2 workers died" in (tmp_path / "out" / "failures.csv").read_text()


def test_a_worker_that_gives_no_sign_of_life_loses_its_slide(slides, scheduler, tmp_path):
    out, log = tmp_path / "out", tmp_path / "log"
    out.mkdir()
    jobs = fake_jobs(slides, "silent", "b", "c")
    work = FakeModelWork(model=MODEL, hook=stop, steps=2, log=log)
    options = FolderOptions(expiry_s=2.0)
    report = run_folder(jobs, out, work, scheduler=scheduler, options=options)
    stopped = int((out / "stopped").read_text())
    assert by_name(report.done) == ended(log) == ["b", "c", "silent"]
    assert (out / "silent" / "pid").read_text() != str(stopped)
    os.kill(stopped, signal.SIGCONT)
    with client_of(scheduler) as client:  # it comes to itself, and what it did is dropped
        assert len(client.run(os.getpid)) == 2
    assert ended(log) == ["b", "c", "silent"]


def test_a_slide_that_hangs_beyond_its_time_ends_with_its_worker(slides, scheduler, tmp_path):
    jobs = fake_jobs(slides, "hang", "b", "c")
    work = FakeModelWork(model=MODEL, hook=hang_native, log=tmp_path / "log")
    report = do(jobs, tmp_path / "out", scheduler, work, timeout_s=2.0, grace_s=2.0)
    assert by_name(report.failures) == ["hang"]
    assert "took longer than allowed" in report.failures[0].error
    assert by_name(report.done) == ["b", "c"]
    with client_of(scheduler) as client:
        client.wait_for_workers(2, timeout=60)  # its nanny has started another one


def test_a_run_that_is_stopped_stops_its_workers(slides, scheduler, tmp_path):
    out, log = tmp_path / "out", tmp_path / "log"
    quick = FakeModelWork(model=MODEL, steps=0, log=log)
    assert by_name(do(fake_jobs(slides, "b"), out, scheduler, quick).done) == ["b"]
    (job,) = jobs = fake_jobs(slides, "long")
    command = [HERE / "cluster_run.py", scheduler, out, log, MODEL, job.path]
    # Stopped in a process of its own: a signal to that of the tests may end these.
    with subprocess.Popen([sys.executable, *map(str, command)]) as process:
        deadline = time.monotonic() + 60
        while not any(line.split()[1] == "long" for line in log.read_text().splitlines()):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
    deadline = time.monotonic() + 15
    while list(out.glob(f"{LEASES_FOLDER}/long-*")) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not list(out.glob(f"{LEASES_FOLDER}/long-*"))
    assert ended(log) == ["b"]
    assert by_name(do(jobs, out, scheduler, quick).done) == ["long"]  # and is no failure


def test_workers_with_another_wsiseg_are_refused(slides, scheduler, tmp_path):
    work = FakeModelWork(model=MODEL, wsiseg="9.9")
    with pytest.raises(RunError, match=r"no worker is left: worker tcp://.* another wsiseg: ver"):
        do(fake_jobs(slides, "a"), tmp_path / "out", scheduler, work)


def test_workers_without_wsiseg_are_refused_and_live(slides, scheduler, tmp_path, monkeypatch):
    monkeypatch.setattr(cluster_worker, "ABOUT", cluster_worker.ABOUT.replace(".run", ".nowhere"))
    with pytest.raises(RunError, match=r"it has no wsiseg, or another one .*; install wsiseg 0"):
        do(fake_jobs(slides, "a"), tmp_path / "out", scheduler, FakeModelWork(model=MODEL))
    with client_of(scheduler) as client:
        assert len(client.nthreads()) == 2


def errand_for(out, model, digest, sign):
    settings = FakeModelWork(model=model).settings()
    settings["model"] = settings["model"] | {"digest": digest}
    return Errand(Ground(out, "segment", settings), FakeModelWork(model=model), sign, "")


def test_a_model_with_another_digest_is_refused(homes, tmp_path, monkeypatch):
    monkeypatch.setenv("WSISEG_HOME", str(tmp_path / "worker"))
    folder = homes[0] / "models" / MODEL
    right = FakeModelWork(model=folder).settings()["model"]["digest"]
    sign = tmp_path / "sign"
    sign.touch()
    assert introduce(errand_for(tmp_path, folder, right, sign)) == str(folder)
    assert introduce(errand_for(tmp_path, folder, "0" * 64, sign)) is None
    with pytest.raises(WeightsError, match="needed 000000000000, found"):
        install(errand_for(tmp_path, folder, "0" * 64, sign), packed(folder))
    kept = Path(install(errand_for(tmp_path, folder, right, sign), packed(folder)))
    weights = next(kept.glob("*.onnx"))
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    kept = Path(install(errand_for(tmp_path, folder, right, sign), packed(folder)))
    assert kept.parent == tmp_path / "worker" / "cache" / "models"
    assert {path.name for path in kept.parent.iterdir()} == {right}


def test_a_worker_that_does_not_see_the_output_folder_is_refused(homes, tmp_path, monkeypatch):
    monkeypatch.setattr(cluster_worker, "SEEN_WITHIN_S", 0.1)
    folder = homes[0] / "models" / MODEL
    with pytest.raises(RunError, match="does not see the output folder"):
        introduce(errand_for(tmp_path, folder, "0" * 64, tmp_path / "sign"))
    with Leases(tmp_path) as leases:
        leases.arrive()
        introduce(errand_for(tmp_path, folder, "0" * 64, leases.sign))


def command(*arguments):
    code = "from wsiseg_cli.main import main; main()"
    paths = [str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},  # they find `fake_work`
    )


def started(file):
    """Start a cluster by the command, and wait until it listens."""
    arguments = ["cluster", "local", "--workers", "1", "--threads", "1", "--port", "0"]
    process = command(*arguments, "--scheduler-file", str(file))
    said = process.stdout.readline()
    assert said.startswith("scheduler: tcp://127.0.0.1:")
    assert f"--scheduler {said.split()[1]} " in process.stdout.readline()
    return process


def test_a_scheduler_that_is_lost_and_comes_again(slides, homes, tmp_path, monkeypatch):
    monkeypatch.setattr(cluster, "RECONNECT_S", 60.0)
    file, out, log = tmp_path / "scheduler.json", tmp_path / "out", tmp_path / "log"
    processes = [started(file)]
    work = FakeModelWork(model=MODEL, steps=20, log=log)

    def replace_scheduler(_):
        if len(processes) == 1:  # the first slide is done, the second under way
            processes[0].kill()
            processes[0].wait()
            processes.append(started(file))

    jobs = fake_jobs(slides, "a", "b", "c")
    options = FolderOptions(expiry_s=20.0)
    report = run_folder(
        jobs, out, work, scheduler=str(file), options=options, slide_done=replace_scheduler
    )
    assert by_name(report.done) == ended(log) == ["a", "b", "c"]

    def kill(_):
        processes[1].kill()

    monkeypatch.setattr(cluster, "RECONNECT_S", 0.5)
    jobs = fake_jobs(slides, "d", "e")
    with pytest.raises(RunError, match=r"could not be reached within 0\.5 s; finished slides are"):
        run_folder(jobs, out, work, scheduler=str(file), options=options, slide_done=kill)
    assert "\na," not in (out / "summary.csv").read_text()
    assert ended(log) == ["a", "b", "c", "d"]
    for process in processes:
        process.communicate(timeout=20)
    local = run_folder(jobs, out, replace(work, steps=0), options=options)
    assert by_name(local.reused) == ["d"]
    assert ended(log) == ["a", "b", "c", "d", "e"]


def test_what_cannot_go_to_a_cluster_is_wrong_usage(slides, homes, tmp_path, monkeypatch):
    path, _ = slides["SVS, one level"]
    with pytest.raises(UsageError, match="an address such as tcp"):
        segment_folder([path], MODEL, tmp_path, scheduler="nowhere.json")
    on_one = SegmentOptions(run=RunOptions(device="cuda:1"))
    with pytest.raises(UsageError, match="a worker has one GPU"):
        segment_folder([path], MODEL, tmp_path, options=on_one, scheduler="tcp://a:1")
    monkeypatch.setattr(cluster, "CONNECT_S", 0.2)
    with pytest.raises(RunError, match="the scheduler could not be reached within"):
        segment_folder([path], MODEL, tmp_path, scheduler="tcp://127.0.0.1:9")
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(UsageError, match=r'pip install "wsiseg\[cluster\]"'):
        segment_folder([path], MODEL, tmp_path, scheduler="tcp://a:1")


def test_each_worker_has_its_gpu(scheduler):
    with client_of(scheduler) as client:
        found = client.run(lambda: os.environ["CUDA_VISIBLE_DEVICES"])
        cores = client.nthreads()
    assert sorted(found.values()) == ["0", "1"]
    assert set(cores.values()) == {1}


@pytest.mark.slow
def test_jobs_of_slurm_work_for_a_run(slides, homes, tmp_path, monkeypatch):
    tools = tmp_path / "bin"
    tools.mkdir()
    batch = f'#!/bin/sh\ncp "$1" {tmp_path}/script\n'  # the original is gone soon
    batch += f"sh {tmp_path}/script >{tmp_path}/said 2>&1 &\n"
    batch += f'echo $! >{tmp_path}/pid\necho "Submitted batch job 7"\n'
    (tools / "sbatch").write_text(batch)
    (tools / "scancel").write_text(f"#!/bin/sh\nkill $(cat {tmp_path}/pid)\n")
    for tool in tools.iterdir():
        tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    file, out = tmp_path / "scheduler.json", tmp_path / "out"
    size = ["--cores", "1", "--memory", "4GB", "--gpus-per-worker", "1", "--walltime", "01:00:00"]
    more = ["--interface", "lo", "--scheduler-file", str(file)]
    process = command("cluster", "slurm", *size, *more)
    assert process.stdout.readline().startswith("scheduler: tcp://127.0.0.1:")
    script = (tmp_path / "script").read_text()
    assert "#SBATCH --gres=gpu:1\n" in script
    assert "--nthreads 1" in script
    report = do(fake_jobs(slides, "a"), out, str(file), FakeModelWork(model=MODEL))
    assert by_name(report.done) == ["a"]
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    assert process.returncode == 0
    assert not file.exists()
    shutil.rmtree(out)

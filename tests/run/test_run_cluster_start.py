"""Shares of a machine, and job scripts; nothing is started."""

import sys

import pytest
from typer.testing import CliRunner
from wsiseg_cli.main import app

from wsiseg.errors import UsageError
from wsiseg.run import cluster_start
from wsiseg.run.cluster_start import Share, SlurmJob, share_machine, slurm_script


@pytest.fixture
def machine(monkeypatch):
    """Return what sets the number of GPUs of a machine of 16 cores and 64 GB."""
    monkeypatch.setattr(cluster_start, "usable_cores", lambda: 16)
    monkeypatch.setattr(cluster_start, "machine_memory", lambda: 64_000)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    def with_gpus(count, visible=None):
        monkeypatch.setattr(cluster_start, "count_gpus", lambda: count)
        if visible is not None:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)

    return with_gpus


def test_there_is_one_worker_per_gpu(machine):
    machine(2)
    assert share_machine(None, None, None) == (Share(8, 32_000, "0"), Share(8, 32_000, "1"))
    assert share_machine(1, None, None) == (Share(16, 64_000, "0"),)
    machine(2, visible="3,GPU-5")
    assert [share.gpu for share in share_machine(None, None, None)] == ["3", "GPU-5"]
    with pytest.raises(UsageError, match="at most one per GPU, found 2 GPUs"):
        share_machine(3, None, None)


def test_without_gpus_workers_share_cores_and_memory(machine):
    machine(0)
    assert share_machine(None, None, None) == (Share(4, 16_000),) * 4
    assert share_machine(3, None, None) == (Share(5, 21_333),) * 3
    assert share_machine(2, 3, 5_000) == (Share(3, 5_000),) * 2


def test_the_script_of_a_job_says_what_was_asked_for():
    pytest.importorskip("dask_jobqueue")
    job = SlurmJob(
        cores=6,
        memory_bytes=20 << 30,
        gpus=1,
        queue="gpu",
        account="lab",
        walltime="08:00:00",
        directives=("--constraint=a100",),
        prologue=("module load python",),
    )
    script = slurm_script(job)
    for line in (
        "-p gpu",
        "-A lab",
        "-t 08:00:00",
        "--cpus-per-task=6",
        "--mem=20G",
        "--gres=gpu:1",
        "--constraint=a100",
    ):
        assert f"#SBATCH {line}\n" in script
    assert "\nmodule load python\n" in script
    worker = script.splitlines()[-1]
    assert f"{sys.executable} -m distributed.cli.dask_worker tcp://<scheduler>" in worker
    assert "--nthreads 6" in worker
    assert "--nworkers" not in worker  # one of a job


def test_dry_run_prints_the_script_and_starts_nothing(tmp_path):
    pytest.importorskip("dask_jobqueue")
    file = tmp_path / "scheduler.json"
    file.write_text("of another cluster")
    arguments = ["cluster", "slurm", "--dry-run", "--cores", "2", "--memory", "8GB"]
    done = CliRunner().invoke(app, [*arguments, "--scheduler-file", str(file)])
    assert done.exit_code == 0
    assert "#SBATCH --cpus-per-task=2\n" in done.stdout
    assert "gres" not in done.stdout
    assert file.read_text() == "of another cluster"


def test_without_the_extra_the_remedy_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "dask_jobqueue", None)
    with pytest.raises(UsageError, match=r'pip install "wsiseg\[cluster\]"'):
        slurm_script(SlurmJob(cores=1, memory_bytes=1 << 30))

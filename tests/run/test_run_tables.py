"""`summary.csv` and `failures.csv` over several runs into one folder."""

import csv
import os
import shutil

import pytest
from fake_work import FakeWork

from wsiseg.engine import finished_folder
from wsiseg.errors import RunError
from wsiseg.options import FolderOptions
from wsiseg.run import SlideJob, tissue_folder
from wsiseg.run.folder import run_folder
from wsiseg.run.leases import Leases
from wsiseg.run.tables import SlideReport, Tables
from wsiseg.testing.slides import make_svs, tissue_disc


@pytest.fixture(scope="module")
def slide(tmp_path_factory):
    pixels, _ = tissue_disc((300, 400))
    return make_svs(tmp_path_factory.mktemp("slides") / "disc.svs", pixels, levels=(1,), mpp=0.5)


@pytest.fixture
def run(slide, tmp_path):
    """Run a command that writes a folder, or fails, into tmp_path / "out"."""
    out = tmp_path / "out"

    def run(*names, fail=False, into=out, **options):
        jobs = [SlideJob(str(slide), name) for name in names]
        work = FakeWork(fail=frozenset(names) if fail else frozenset())
        return run_folder(jobs, into, work, options=FolderOptions(again=True, **options))

    return run


def rows(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_a_failed_rerun_keeps_the_row_of_the_result_that_stands(run, tmp_path):
    out = tmp_path / "out"
    run("a", "b")
    run("a", "c", fail=True)
    assert [row["folder"] for row in rows(out / "summary.csv")] == ["a", "b"]
    failures = {row["folder"]: row for row in rows(out / "failures.csv")}
    assert failures["a"]["older_result"] == "still there"
    assert failures["c"]["older_result"] == ""
    assert failures["a"]["message"] == f"{failures['a']['path']}: broke"
    assert failures["a"]["remedy"] == "mend it"
    run("a", "c")
    assert [row["folder"] for row in rows(out / "summary.csv")] == ["b", "a", "c"]
    assert not (out / "failures.csv").exists()


def test_a_row_goes_with_its_result(run, tmp_path):
    run("a", "b")
    shutil.rmtree(tmp_path / "out" / "a")
    run("a", fail=True)
    assert [row["folder"] for row in rows(tmp_path / "out" / "summary.csv")] == ["b"]


def test_a_folder_written_differently_has_one_row(run, tmp_path, monkeypatch):
    out = tmp_path / "out"
    run("sub/a", "b")
    monkeypatch.chdir(tmp_path)
    run("sub/a", into=type(tmp_path)("out"))
    monkeypatch.chdir(out)
    run("b", into=type(tmp_path)("../out/."))
    assert [row["folder"] for row in rows(out / "summary.csv")] == ["sub/a", "b"]
    out.rename(tmp_path / "moved")
    run("sub/a", into=tmp_path / "moved")
    assert len(rows(tmp_path / "moved" / "summary.csv")) == 2


def test_folders_as_paths_from_here_are_understood(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "out" / "a").mkdir(parents=True)
    table = tmp_path / "out" / "summary.csv"
    table.write_text(f"slide,model,folder,path\na.svs,m,out/a,a.svs\nb.svs,m,{tmp_path}/out/b,b\n")
    with Leases(tmp_path / "out") as leases:
        tables = Tables(tmp_path / "out", leases)
        tables.add(SlideReport("x/a.svs", "out/a", {"slide": "a.svs"}))
    assert [row["folder"] for row in rows(table)] == ["b", "a"]


def test_tissue_into_a_segmentation_is_refused_before_any_table(run, slide, tmp_path, caplog):
    out = tmp_path / "out"
    run("disc")
    before = {p: p.read_bytes() for p in out.rglob("*") if p.is_file()}
    caplog.clear()
    report = tissue_folder([slide], out)
    (failure,) = report.failures
    assert failure.refused
    assert caplog.text == ""
    assert "was written by 'segment'" in failure.error
    assert {p: p.read_bytes() for p in out.rglob("*") if p.is_file()} == before


def test_segment_takes_the_place_of_tissue(run, slide, tmp_path):
    out = tmp_path / "out"
    assert not tissue_folder([str(slide)], out).failures
    assert not run("disc").failures
    (row,) = rows(out / "summary.csv")
    assert row["model"] == "m"
    assert not (out / "disc" / "tissue.geojson").exists()


def test_another_slides_folder_is_refused_before_the_work(slide, tmp_path):
    with finished_folder(tmp_path, "disc", slide="other"):
        pass
    done = []
    job = SlideJob(str(slide), "disc")
    report = run_folder([job], tmp_path, FakeWork(hook=done.append))
    assert "is the result of another slide" in report.failures[0].error
    assert not done


@pytest.mark.parametrize("name", ["summary.csv", "failures.csv"])
@pytest.mark.parametrize(
    "content",
    [
        b"patient,diagnosis\n1,2\n",
        b"slide;model;folder;path\n",
        "slide,model,folder,path\n\u00fc,m,a,b\n".encode("latin-1"),
        b"slide,model,folder,path\na,b,c\n",
        b"path,error_class,message,remedy\na,b\n",
        b"",
    ],
)
def test_a_foreign_table_is_neither_adopted_nor_overwritten(run, tmp_path, name, content):
    table = tmp_path / "out" / name
    table.parent.mkdir()
    table.write_bytes(content)
    with pytest.raises(RunError, match=rf"{name}: .*choose another --out"):
        run("a")
    assert table.read_bytes() == content
    assert [path.name for path in table.parent.iterdir()] == [name]


def test_leftovers_of_dead_processes_go_when_a_run_begins(slide, tmp_path):
    from wsiseg.engine.working import make_working_folder

    (tmp_path / "out" / "sub").mkdir(parents=True)
    for parent in (tmp_path / "out", tmp_path / "out" / "sub"):
        mine = make_working_folder(parent)
        mine.rename(parent / mine.name.replace(f"{os.getpid()}@", "99999999@"))
    seen = []
    jobs = [SlideJob(str(slide), "sub/a")]
    work = FakeWork(hook=lambda _: seen.extend(tmp_path.rglob(".wsiseg-*")))
    run_folder(jobs, tmp_path / "out", work)
    assert [path.name for path in seen] == [".wsiseg-leases"]
    assert not list(tmp_path.rglob(".wsiseg-*"))

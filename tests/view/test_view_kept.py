"""Indices of many objects: read once, kept whole, made anew when anything changed."""

import os
import shutil
import stat

import numpy as np
import pytest
from view_made import index_of, make_result

from wsiseg.errors import RunError
from wsiseg.exchange.finished import FinishedResult
from wsiseg.model.cache import cache_folder
from wsiseg.view import kept, objects, results
from wsiseg.view.kept import kept_index


@pytest.fixture(autouse=True)
def home(monkeypatch, tmp_path):
    monkeypatch.setenv("WSISEG_HOME", str(tmp_path / "home"))
    return cache_folder() / "objects"


@pytest.fixture
def built(monkeypatch):
    """Return the folders that were built; in this process, which is quicker."""
    folders = []

    def build_here(result, stem, folder):
        folders.append(folder)
        objects.build(result.objects(stem), folder)

    monkeypatch.setattr(kept, "build_beside", build_here)
    return folders


@pytest.fixture
def result(run):
    return FinishedResult(run / "a")


def same(one, other):
    return np.array_equal(one.bounds, other.bounds) and one.classes == other.classes


def test_the_viewer_reads_many_objects_once(shown, tmp_path, home, monkeypatch):
    small = index_of(shown[0])
    assert not home.exists()  # few objects are read as quickly
    monkeypatch.setattr(results, "BESIDE_BYTES", 0)
    first = index_of(results.find_shown([tmp_path / "out"], workspace=tmp_path)[0])
    monkeypatch.setattr(kept, "build_beside", None)
    again = index_of(results.find_shown([tmp_path / "out"], workspace=tmp_path)[0])
    assert same(first, small)
    assert same(again, small)
    (folder,) = home.iterdir()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700 or os.name == "nt"


def change_the_file(result):
    path = result.folder / "annotations.geojson"
    times = path.stat()
    path.write_bytes(path.read_bytes().replace(b"Tumor", b"Tumre"))
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))  # as `cp -p` of as many bytes


def do_it_again(result):
    shutil.rmtree(result.folder)
    make_result(result.folder, result.folder.parent / "a.svs", seed=5)


def touch_the_record(result):
    os.utime(result.folder / "run.json", ns=(1, 1))


@pytest.mark.parametrize("change", [change_the_file, do_it_again, touch_the_record])
def test_what_changed_is_read_again(result, built, tmp_path, change):
    kept_index(result, "annotations", tmp_path)
    change(result)
    found = kept_index(FinishedResult(result.folder), "annotations", tmp_path)
    assert len(built) == 2
    objects.build(FinishedResult(result.folder).objects(), tmp_path / "index")
    assert same(found, objects.ObjectIndex.open(tmp_path / "index"))


def test_stems_are_kept_apart(result, built, tmp_path):
    for stem in ("annotations", "tissue", "annotations", "tissue"):
        names = {name for name, _ in kept_index(result, stem, tmp_path).classes}
        assert ("Tissue" in names) == (stem == "tissue")
    assert len(built) == 2


def cut(path):
    path.write_bytes(path.read_bytes()[:-9])


def zero(path):
    content = path.read_bytes()
    path.write_bytes(content[:128] + bytes(len(content) - 128))


SPOILT = [("points.npy", cut), ("ids.npy", lambda path: path.write_bytes(b"")),
          ("rings.npy", zero), ("objects.npy", zero), ("about.json", cut),
          ("about.json", lambda path: path.write_text("[]")),
          ("bounds.npy", lambda path: path.unlink()),
          ("class_index.npy", lambda path: np.save(path, np.zeros(3, np.int16))),
          ("class_index.npy", lambda path: np.save(path, np.array([{}]), allow_pickle=True)),
          ]  # fmt: skip


@pytest.mark.parametrize(("name", "spoil"), SPOILT)
def test_a_spoilt_index_is_made_anew(result, built, tmp_path, home, name, spoil):
    whole = kept_index(result, "annotations", tmp_path)
    spoil(next(home.iterdir()) / name)
    assert same(kept_index(result, "annotations", tmp_path), whole)
    assert len(built) == 2
    kept_index(result, "annotations", tmp_path)
    assert len(built) == 2
    assert len(list(home.iterdir())) == 1


def nowhere(monkeypatch, home):
    home.parent.parent.mkdir()
    home.parent.write_text("a file where a folder should be")


def full(monkeypatch, home):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 10, 0))


@pytest.mark.parametrize("trouble", [nowhere, full])
def test_where_nothing_can_be_kept_it_is_read_all_the_same(
    result, built, tmp_path, home, monkeypatch, trouble
):
    trouble(monkeypatch, home)
    (tmp_path / "work").mkdir()
    assert len(kept_index(result, "annotations", tmp_path / "work")) > 3
    assert built[0].parent == tmp_path / "work"
    assert not home.is_dir() or not list(home.iterdir())


def test_nothing_is_left_of_what_cannot_be_read(result, tmp_path, home):
    (result.folder / "annotations.geojson").write_text("{")
    with pytest.raises(RunError, match="cannot be shown"):
        kept_index(result, "annotations", tmp_path)
    assert not list(home.iterdir())


def test_a_file_changed_while_it_is_read_is_not_kept(result, tmp_path, home, monkeypatch):
    def build_and_change(one, stem, folder):
        objects.build(one.objects(stem), folder)
        os.utime(one.folder / "annotations.geojson", ns=(1, 1))

    monkeypatch.setattr(kept, "build_beside", build_and_change)
    assert len(kept_index(result, "annotations", tmp_path)) > 3
    assert all(path.name.startswith(kept.UNFINISHED) for path in home.iterdir())


def test_two_viewers_that_read_at_once_keep_one(result, tmp_path, home, monkeypatch):
    def build_twice(one, stem, folder):
        monkeypatch.setattr(kept, "build_beside", build_once)
        kept_index(one, stem, tmp_path)
        build_once(one, stem, folder)

    def build_once(one, stem, folder):
        objects.build(one.objects(stem), folder)

    monkeypatch.setattr(kept, "build_beside", build_twice)
    assert len(kept_index(result, "annotations", tmp_path)) > 3
    assert len(list(home.iterdir())) == 1


def test_the_ones_used_last_stay(result, built, tmp_path, home, monkeypatch):
    kept_index(result, "annotations", tmp_path)
    (first,) = home.iterdir()
    size = sum(path.stat().st_size for path in first.iterdir())
    for name, age in (("old", 500), ("older", 900), (".new-killed", 99_999), (".new-now", 10)):
        shutil.copytree(first, home / name)
        os.utime(home / name, ns=(0, first.stat().st_mtime_ns - age * 10**9))
    monkeypatch.setattr(kept, "LIMIT_BYTES", 4 * size)
    kept_index(result, "tissue", tmp_path)
    assert {path.name for path in home.iterdir()} >= {first.name, "old", ".new-now"}
    assert not {"older", ".new-killed"} & {path.name for path in home.iterdir()}

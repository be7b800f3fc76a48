"""Result folders: whole or absent, and what users put there stays."""

import subprocess
import sys
import warnings

import pytest

from wsiseg.engine import finished_folder
from wsiseg.engine.output import may_replace
from wsiseg.engine.working import make_working_folder, sweep
from wsiseg.errors import RunError, WsisegWarning


def write(out, texts, *, kind="segment", slide="abc"):
    with finished_folder(out, "case", kind=kind, slide=slide) as folder:
        for name, text in texts.items():
            (folder / name).write_text(text)
        (folder / "mask.zarr").mkdir()
        (folder / "mask.zarr" / "0").write_text(str(texts))
    return out / "case"


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_what_users_put_into_a_result_outlives_it(tmp_path):
    folder = write(tmp_path, {"annotations.geojson": "1", "stale.png": "1"})
    (folder / "notes.txt").write_text("look at the margin")
    (folder / "crops").mkdir()
    (folder / "crops" / "a.png").write_text("pixels")
    (folder / "link").symlink_to("notes.txt")
    for _ in range(2):
        write(tmp_path, {"annotations.geojson": "2"})
    assert names(folder) == [
        ".wsiseg",
        "annotations.geojson",
        "crops",
        "link",
        "mask.zarr",
        "notes.txt",
    ]
    assert (folder / "notes.txt").read_text() == "look at the margin"
    assert (folder / "crops" / "a.png").read_text() == "pixels"
    assert str((folder / "link").readlink()) == "notes.txt"
    assert (folder / "annotations.geojson").read_text() == "2"
    assert names(tmp_path) == ["case"]


def test_edited_annotations_are_kept_under_another_name_and_said(tmp_path):
    folder = write(tmp_path, {"annotations.geojson": "1", "tissue.geojson.gz": "1"})
    for number, text in ((1, "by hand"), (2, "by hand again")):
        (folder / "annotations.geojson").write_text(text)
        with pytest.warns(WsisegWarning, match=rf"kept as annotations.edited-{number}.geojson"):
            write(tmp_path, {"annotations.geojson": "2", "tissue.geojson.gz": "2"})
        assert (folder / f"annotations.edited-{number}.geojson").read_text() == text
        assert (folder / "annotations.geojson").read_text() == "2"
    assert (folder / "annotations.edited-1.geojson").read_text() == "by hand"
    (folder / "tissue.geojson.gz").write_text("packed by hand")
    with pytest.warns(WsisegWarning, match="tissue.edited-1.geojson.gz"):
        write(tmp_path, {"annotations.geojson": "2"})


def test_a_users_file_gives_way_to_a_new_result_of_its_name(tmp_path):
    folder = write(tmp_path, {"annotations.geojson": "1"})
    (folder / "report.csv").write_text("mine")
    with pytest.warns(WsisegWarning, match="report.edited-1.csv"):
        write(tmp_path, {"annotations.geojson": "1", "report.csv": "wsiseg's"})
    assert (folder / "report.csv").read_text() == "wsiseg's"
    assert (folder / "report.edited-1.csv").read_text() == "mine"


def test_a_marker_without_a_list_is_understood(tmp_path):
    folder = write(tmp_path, {"annotations.geojson": "1"})
    (folder / ".wsiseg").write_text("segment abc\n")
    (folder / "notes.txt").write_text("mine")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        write(tmp_path, {"annotations.geojson": "2"})
    assert names(folder) == [".wsiseg", "annotations.geojson", "mask.zarr", "notes.txt"]


def test_a_failure_leaves_the_earlier_result_as_it_was(tmp_path, monkeypatch):
    folder = write(tmp_path, {"annotations.geojson": "1"})
    (folder / "notes.txt").write_text("mine")
    rename = type(folder).rename

    def fail_once(path, target):
        if target == folder and path.name.startswith(".wsiseg-"):
            raise OSError(13, "Permission denied")
        return rename(path, target)

    monkeypatch.setattr(type(folder), "rename", fail_once)
    with pytest.raises(RunError, match="Permission denied"):
        write(tmp_path, {"annotations.geojson": "2"})
    assert names(folder) == [".wsiseg", "annotations.geojson", "mask.zarr", "notes.txt"]
    assert (folder / "annotations.geojson").read_text() == "1"
    assert names(tmp_path) == ["case"]


def test_segment_replaces_what_tissue_wrote_but_not_the_other_way_round(tmp_path):
    folder = write(tmp_path, {"tissue.geojson": "1"}, kind="tissue")
    write(tmp_path, {"tissue.geojson": "1", "annotations.geojson": "1"})
    assert not may_replace(folder, "tissue")
    with pytest.raises(RunError, match="was written by 'segment'"):
        write(tmp_path, {"tissue.geojson": "1"}, kind="tissue")
    with pytest.raises(RunError, match="another slide"):
        write(tmp_path, {}, slide="def")


def killed(code, tmp_path):
    """Run code in a process that is killed at its end."""
    code = f"import os, signal\nfrom pathlib import Path\nout = Path({str(tmp_path)!r})\n{code}\n"
    code += "os.kill(os.getpid(), signal.SIGKILL)"
    done = subprocess.run([sys.executable, "-c", code], check=False)
    assert done.returncode == -9


def test_folders_of_killed_processes_are_swept_and_no_others(tmp_path):
    code = "from wsiseg.engine.working import make_working_folder\n"
    killed(code + "(make_working_folder(out) / 'part').write_text('half')", tmp_path)
    (dead,) = tmp_path.iterdir()
    alive = make_working_folder(tmp_path)
    host = dead.name.partition("@")[2]
    elsewhere = tmp_path / dead.name.replace(host, f"other-{host}")
    elsewhere.mkdir()
    (tmp_path / ".wsiseg-mine").mkdir()
    sweep([tmp_path, tmp_path / "gone"])
    assert names(tmp_path) == sorted([alive.name, elsewhere.name, ".wsiseg-mine"])


def test_a_result_put_aside_by_a_killed_process_comes_back(tmp_path):
    folder = write(tmp_path, {"annotations.geojson": "1"})
    code = "from wsiseg.engine.working import make_working_folder\n"
    code += "(out / 'case').rename(make_working_folder(out, aside=True) / 'case')"
    killed(code, tmp_path)
    assert not folder.exists()
    sweep([tmp_path])
    assert (folder / "annotations.geojson").read_text() == "1"
    assert names(tmp_path) == ["case"]

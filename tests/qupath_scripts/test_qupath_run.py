"""`run_wsiseg.groovy`: the open slide through the command line, and what comes back."""

import json
import re
import sys
import time
import uuid
from itertools import pairwise
from pathlib import Path

import pytest
from worlds import feature, image, result, square

from wsiseg.testing.models import make_colour_model
from wsiseg.testing.slides import make_svs, tissue_disc

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the stand-in is a shell script")

SIZE = {"width": 900, "height": 700}


def program(folder: Path, code: str, *, alone: bool = True) -> Path:
    """Return a program that runs Python code; `alone` it starts at once, but has no packages."""
    folder.mkdir(parents=True, exist_ok=True)
    script = folder / "stand_in.py"
    path = "" if alone else f"import sys\nsys.path[:] = {sys.path!r}\n"
    script.write_text(f"import sys\n{path}{code}", encoding="utf-8")
    starter = folder / "wsiseg"
    how = "-I -S" if alone else ""
    starter.write_text(f'#!/bin/sh\nexec "{sys.executable}" {how} "{script}" "$@"\n')
    starter.chmod(0o755)
    return starter


def stand_in(folder: Path, slide: Path, before: str = "") -> Path:
    """Return a program that behaves like `wsiseg segment` where all goes well."""
    made = result(folder / "made", slide.name, [square(10, 10)], size=(900, 700))
    return program(folder, f"made = {str(made)!r}\n{before}{STAND_IN}")


STAND_IN = """
import json, pathlib, shutil
arguments = sys.argv[1:]
slide, out = arguments[1], pathlib.Path(arguments[arguments.index("--out") + 1])
print("progress: slide: patches, 50% of 2 tiles, about 1 s left", file=sys.stderr, flush=True)
folder = out / pathlib.Path(slide).stem
shutil.copytree(made, folder, dirs_exist_ok=True)
(folder / "arguments.json").write_text(json.dumps(arguments))
print(json.dumps({"path": slide, "folder": str(folder), "warnings": ["watch out"]}))
"""


@pytest.fixture
def slide(tmp_path):
    folder = tmp_path / "Meine Schnitte (neu)"
    folder.mkdir()
    path = folder / "Fall 1.ü.svs"
    pixels, _ = tissue_disc((700, 900))
    make_svs(path, pixels, levels=(1,), mpp=0.5)
    return path


def segmented(qupath, slide, wsiseg, *args, folder=None, times=1, **told):
    run = {"script": "run_wsiseg", "args": [f"wsiseg={wsiseg}", *args]}
    images = [image(slide.name, str(slide.parent), **{**SIZE, **told})]
    return qupath.run({"images": images, "open": 0, "folder": folder, "steps": [run] * times})


def test_paths_with_spaces_progress_and_import(qupath, slide, tmp_path):
    wsiseg = stand_in(tmp_path / "a program's folder", slide)
    options = "options=--min-area 5 --tissue 'auto'"
    first, second = segmented(qupath, slide, wsiseg, options, "model=my model", times=2)
    assert first["error"] is None, first
    out = slide.parent / "wsiseg"
    arguments = json.loads((out / slide.stem / "arguments.json").read_text())
    assert arguments == [
        "segment", str(slide), "--out", str(out), "--model", "my model", "--json",
        "--min-area", "5", "--tissue", "auto",
    ]  # fmt: skip
    assert "  progress: slide: patches, 50% of 2 tiles, about 1 s left" in first["lines"]
    assert "wsiseg: note: watch out" in first["lines"]
    assert first["lines"][-1] == "wsiseg: Fall 1.ü.svs: annotations: 1 added"
    assert [each["x"] for each in second["images"][0]["objects"]] == [10]


def test_in_a_project_results_lie_there(qupath, slide, tmp_path):
    project = tmp_path / "Projekt é"
    wsiseg = stand_in(tmp_path / "bin", slide)
    (first,) = segmented(qupath, slide, wsiseg.parent, folder=str(project))
    assert first["error"] is None, first
    assert (project / "wsiseg" / slide.stem / "annotations.geojson").exists()


@pytest.mark.parametrize(
    ("told", "passed"),
    [
        ({"mpp": [0.5, 0.5]}, []),
        ({"mpp": [0.5, 0.25], "originalMpp": None}, ["--mpp", "0.5,0.25"]),
        ({"mpp": [0.4, 0.4], "originalMpp": [0.5, 0.5]}, ["--mpp", "0.4,0.4"]),
        ({"mpp": None}, []),
    ],
)
def test_a_pixel_size_set_in_qupath_counts(qupath, slide, tmp_path, told, passed):
    wsiseg = stand_in(tmp_path / "bin", slide)
    segmented(qupath, slide, wsiseg, **told)
    arguments = json.loads((slide.parent / "wsiseg" / slide.stem / "arguments.json").read_text())
    assert arguments[arguments.index("--json") + 1 :] == passed


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (
            'print(\'{"path": "a", "error": "a.svs: no pixel size; add --mpp"}\'); sys.exit(1)',
            "^a.svs: no pixel size; add --mpp$",
        ),
        (
            'print("warning: slow", file=sys.stderr)\n'
            'print("error: model x: not found; wsiseg models list", file=sys.stderr)\nsys.exit(1)',
            "exit code 1: error: model x: not found; wsiseg models list$",
        ),
        (
            "from wsiseg_cli.main import app\napp(['segment', '--nonsense'])",
            "exit code 2: .*No such option: --nonsense",
        ),
        ("sys.exit(3)", "exit code 3: no message"),
        ("import os; os.kill(os.getpid(), 9)", "exit code 137: no message"),
    ],
    ids=["slide", "model", "usage", "silent", "killed"],
)
def test_what_wsiseg_says_is_shown(qupath, slide, tmp_path, code, message):
    wsiseg = program(tmp_path / "bin", code, alone="wsiseg_cli" not in code)
    (first,) = segmented(qupath, slide, wsiseg)
    assert re.search(message, first["error"]), first


@pytest.mark.parametrize(
    ("told", "wsiseg", "message"),
    [
        ({}, "/nowhere/wsiseg", "no program wsiseg there; set wsiseg to what `which wsiseg`"),
        ({"uri": "omero://server/1"}, "", "is no file of this machine"),
        ({"uri": "file:///gone/slide.svs"}, "", "is not there"),
        ({"type": "OpenSlide (rotate 90)"}, "", "rotated, flipped or cropped"),
    ],
)
def test_what_cannot_start_is_told(qupath, slide, told, wsiseg, message):
    (first,) = segmented(qupath, slide, wsiseg, **told)
    assert message in first["error"]


def test_a_program_that_is_on_no_path_is_asked_for_or_found_at_home(bare_qupath, slide, tmp_path):
    if any((Path(usual) / "wsiseg").exists() for usual in ("/usr/local/bin", "/usr/bin")):
        pytest.skip("wsiseg is installed for everybody here")
    (lost,) = segmented(bare_qupath, slide, "")
    assert "the program wsiseg was not found; in a terminal where it works" in lost["error"]
    assert "`which wsiseg`" in lost["error"]
    stand_in(tmp_path / "home" / "miniforge3" / "bin", slide)
    (found,) = segmented(bare_qupath, slide, "")
    assert found["error"] is None, found
    assert found["lines"][-1].endswith("annotations: 1 added")


def test_a_flood_of_messages_does_not_block(qupath, slide, tmp_path):
    flood = "for n in range(20000): print('note', n, 'x' * 20, file=sys.stderr)\n"
    started = time.monotonic()
    (first,) = segmented(qupath, slide, stand_in(tmp_path / "bin", slide, flood))
    assert first["error"] is None
    assert len(first["lines"]) > 20000
    assert time.monotonic() - started < 60


def test_the_real_program(qupath, slide, tmp_path):
    model = make_colour_model(tmp_path / "colour model")
    wsiseg = program(tmp_path / "bin", "from wsiseg_cli.main import main\nmain()", alone=False)
    drawn = feature("annotation", square(1, 1, 5), "Mine", str(uuid.uuid4()))
    (first,) = segmented(
        qupath, slide, wsiseg, f"model={model}", "kinds=annotations,tissue", objects=[drawn]
    )
    assert first["error"] is None, first
    assert any(line.startswith("  progress: ") for line in first["lines"])
    ids = [each["id"] for each in first["images"][0]["objects"]]
    assert len(ids) == len(set(ids)) == 3  # one of the model, the tissue, and what was there
    inner = next(each for each in first["images"][0]["objects"] if each["parent"])
    assert inner["class"] not in {"Mine", "Tissue"}


def test_progress_is_shown_while_wsiseg_runs(qupath, slide, tmp_path):
    slowly = """
import time
for number in range(5):
    print("progress: part", number, file=sys.stderr, flush=True)
    time.sleep(0.4)
"""
    (done,) = segmented(qupath, slide, stand_in(tmp_path / "bin", slide, slowly))
    shown = zip(done["lines"], done["times"], strict=True)
    times = [when for line, when in shown if line.startswith("  progress: part")]
    gaps = [later - sooner for sooner, later in pairwise(times)]
    assert sum(gap > 150 for gap in gaps) >= 3, gaps  # shown at the end there is one at most


def test_killing_the_script_ends_wsiseg(qupath, slide, tmp_path):
    begun, ended = tmp_path / "begun", tmp_path / "ended"
    code = f"""
import pathlib, signal, time
def end(*_):
    pathlib.Path({str(ended)!r}).touch()
    sys.exit(143)
signal.signal(signal.SIGTERM, end)
pathlib.Path({str(begun)!r}).touch()
time.sleep(60)
"""
    wsiseg = program(tmp_path / "bin", code)
    run = {"script": "run_wsiseg", "args": [f"wsiseg={wsiseg}"], "interrupt": str(begun)}
    images = [image(slide.name, str(slide.parent), **SIZE)]
    qupath.run({"images": images, "open": 0, "folder": None, "steps": [run]})
    limit = time.monotonic() + 20
    while not ended.exists() and time.monotonic() < limit:
        time.sleep(0.05)
    assert ended.exists()

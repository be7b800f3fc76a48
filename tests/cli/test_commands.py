"""The command line: what it prints, where, and its exit codes."""

import json
import signal
import subprocess
import sys
import time

import pytest
from typer.testing import CliRunner
from wsiseg_cli.main import app, main

from wsiseg.errors import UsageError
from wsiseg.testing import hostile
from wsiseg.testing.models import make_colour_model
from wsiseg.testing.slides import make_svs, tissue_disc


@pytest.fixture(scope="module")
def slides(tmp_path_factory):
    folder = tmp_path_factory.mktemp("slides")
    pixels, _ = tissue_disc((700, 900))
    make_svs(folder / "disc 😐.svs", pixels, levels=(1, 4), mpp=0.5)
    make_svs(folder / "nompp.svs", pixels, levels=(1,), mpp=None)
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(make_colour_model(tmp_path_factory.mktemp("models") / "colour"))


@pytest.fixture(autouse=True)
def own_home(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("WSISEG_HOME", str(tmp_path_factory.getbasetemp() / "home"))


def run(*arguments):
    return CliRunner().invoke(app, [str(a) for a in arguments])


def test_segment_writes_and_prints_the_folder(slides, model, tmp_path):
    done = run("segment", slides / "disc 😐.svs", "-m", model, "-o", tmp_path)
    assert done.exit_code == 0, done.stderr
    assert done.stdout.strip() == str(tmp_path / "disc 😐")
    assert (tmp_path / "disc 😐" / "annotations.geojson").exists()
    assert "1 of 1 slides done" in done.stderr


def test_layers_of_uncertainty_by_commas(slides, model, tmp_path):
    slide = slides / "disc 😐.svs"
    asked = ("--uncertainty", "tta, entropy", "--tta-views", 4)
    done = run("segment", slide, "-m", model, "-o", tmp_path, *asked, "--json")
    assert done.exit_code == 0, done.stderr
    row = json.loads(done.stdout)
    assert 0 <= row["mean_tta"] < row["mean_entropy"] < 1
    names = {path.name for path in (tmp_path / "disc 😐").glob("uncertainty-*")}
    assert names == {"uncertainty-entropy.zarr", "uncertainty-tta.zarr"}
    planned = run("segment", slide, "-m", model, *asked, "--plan")
    assert "4 predictions of each batch" in planned.stdout


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (("--uncertainty", "entropie"), "layers: needed a tuple of entropy, overlap, tta, dropout"),
        (("--uncertainty", "tta", "--tta-views", 3), "tta_views: needed"),
        (("--uncertainty", "overlap"), "leave 'overlap' out"),
    ],
)
def test_uncertainty_that_cannot_be_is_wrong_usage(slides, model, tmp_path, asked, message):
    done = run("segment", slides / "disc 😐.svs", "-m", model, "-o", tmp_path / "out", *asked)
    assert isinstance(done.exception, UsageError)
    assert message in str(done.exception)
    assert not (tmp_path / "out").exists()


def test_segment_goes_on_and_exits_1_when_a_slide_fails(slides, model, tmp_path):
    done = run("segment", slides, "-m", model, "-o", tmp_path, "--json")
    assert done.exit_code == 1
    first, second = map(json.loads, done.stdout.splitlines())
    assert first["objects"] == 1
    assert second["error_class"] == "MissingSpacingError"
    assert "--mpp" in second["error"]
    assert (tmp_path / "failures.csv").exists()


def test_damage_is_reported_and_limited(slides, model, tmp_path):
    hurt = hostile.damage_tile(slides / "disc 😐.svs", tmp_path / "hurt.svs", tile=5)
    arguments = ("segment", hurt, "-m", model, "-o", tmp_path / "out", "--json")
    done = run(*arguments)
    assert done.exit_code == 1
    row = json.loads(done.stdout)
    assert (row["error_class"], row["corrupt_blocks"]) == ("TooDamagedError", 1)
    assert row["corrupt_share"] > 0.1
    done = run(*arguments, "--max-corrupt", "0.9")
    assert done.exit_code == 0, done.stderr
    row = json.loads(done.stdout)
    assert row["degraded_mm2"] > 0 == row["nodata_mm2"]
    assert "1 replaced by a coarser level" in row["warnings"][0]
    done = run(*arguments, "--max-corrupt", "0.9", "--no-degraded")
    row = json.loads(done.stdout)
    assert row["unpredicted_mm2"] > row["nodata_mm2"] > 0 == row["degraded_mm2"]
    assert run(*arguments, "--max-corrupt", "1.1").exit_code == 2


def test_finished_slides_are_said_to_be_and_a_change_is_named(slides, model, tmp_path, caplog):
    arguments = ("segment", slides, "-m", model, "-o", tmp_path, "--match", "disc*")
    assert "1 of 1 slides done;" in run(*arguments).stderr
    again = run(*arguments)
    assert again.exit_code == 0
    assert again.stdout.strip() == str(tmp_path / "disc 😐")
    assert "1 of 1 slides done (1 before, or by other processes)" in again.stderr
    assert run(*arguments, "--json").stdout.count('"state": "there"') == 1
    changed = run(*arguments, "--min-area", "10")
    assert "(1 before" not in changed.stderr
    assert "options.export.min_area_um2 (0.0 -> 10.0)" in caplog.text
    forced = run(*arguments, "--min-area", "10", "--overwrite")
    assert "(1 before" not in forced.stderr


def test_only_so_many(slides, model, tmp_path):
    done = run("segment", slides, "-m", model, "-o", tmp_path, "--limit", "1")
    assert done.exit_code == 0
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == ["disc 😐"]


def test_no_slide_there_is_wrong_usage(tmp_path):
    done = shell("segment", tmp_path / "a.svs", tmp_path / "b.svs", "-o", tmp_path / "out")
    assert done.returncode == 2
    (line,) = done.stderr.strip().splitlines()
    assert line.endswith("a.svs: is not there (nor are the 1 others); check the path")
    assert not (tmp_path / "out").exists()


def test_an_mpp_given_helps(slides, model, tmp_path):
    done = run("segment", slides / "nompp.svs", "-m", model, "-o", tmp_path, "--mpp", "0.5")
    assert done.exit_code == 0, done.stderr


def test_plan_writes_nothing(slides, model, tmp_path):
    done = run("segment", slides / "disc 😐.svs", "-m", model, "-o", tmp_path / "out", "--plan")
    assert done.exit_code == 0
    assert "tiles" in done.stdout
    assert "peak memory" in done.stdout
    assert not (tmp_path / "out").exists()


def test_plan_as_json(slides, model):
    done = run("segment", slides, "-m", model, "--plan", "--json")
    good, bad = map(json.loads, done.stdout.splitlines())
    assert good["stages"][0]["tiles"] > 0
    assert good["projected_bytes"] > 1e6
    assert "pixel size" in bad["error"]
    assert done.exit_code == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ("segment", "x.svs", "--frame", "moon"),
        ("segment", "x.svs", "--batch", "0"),
        ("tiles", "x.svs", "--patch", "-1"),
        ("nonsense",),
        ("models", "nonsense"),
    ],
)
def test_wrong_usage_exits_2(arguments):
    assert run(*arguments).exit_code == 2


def test_nothing_to_segment_exits_2(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["wsiseg", "segment"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert "needed slides or scans" in capsys.readouterr().err


def test_info_shows_levels_and_missing_mpp(slides):
    done = run("info", slides / "disc 😐.svs", slides / "nompp.svs")
    assert done.exit_code == 0
    assert "900 x 700" in done.stdout
    assert "0.5 x 0.5" in done.stdout
    assert "not in the file" in done.stdout
    assert "a patient" not in done.stdout
    record = json.loads(run("info", slides / "disc 😐.svs", "--json").stdout)
    assert record["levels"][1]["downsample"] == [4.0, 4.0]


def test_tissue_and_tiles(slides, tmp_path):
    done = run("tissue", slides / "disc 😐.svs", "-o", tmp_path / "tissue")
    assert done.exit_code == 0, done.stderr
    assert (tmp_path / "tissue" / "disc 😐" / "tissue.geojson").exists()
    done = run("tiles", slides / "disc 😐.svs", "-o", tmp_path / "tiles", "--patch", "64")
    assert done.exit_code == 0, done.stderr
    assert len(list((tmp_path / "tiles").rglob("*.png"))) > 5


def test_verify_geojson_exit_codes(tmp_path):
    good, bad = tmp_path / "good.geojson", tmp_path / "bad.geojson"
    ring = [[0, 0], [9, 0], [9, 9], [0, 0]]
    feature = {
        "type": "Feature",
        "id": "6f0d9d0e-6b0a-5b7e-9a55-1f0c5a1e0001",
        "geometry": {"type": "Polygon", "coordinates": [ring]},
        "properties": {"objectType": "annotation"},
    }
    good.write_text(json.dumps({"type": "FeatureCollection", "features": [feature]}))
    feature["geometry"]["coordinates"] = [ring[:3]]
    bad.write_text(json.dumps({"type": "FeatureCollection", "features": [feature]}))
    assert run("verify-geojson", good).exit_code == 0
    done = run("verify-geojson", good, bad)
    assert done.exit_code == 1
    assert "error" in done.stdout


def test_models_list_show_check(model):
    listed = run("models", "list")
    assert listed.exit_code == 0
    assert "breast-tumour-demo" in listed.stdout
    assert "colour-model" in run("models", "show", model).stdout
    assert run("models", "check", model).exit_code == 0


def shell(*arguments):
    command = [
        sys.executable,
        "-c",
        "from wsiseg_cli.main import main; main()",
        *map(str, arguments),
    ]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_errors_are_one_line_without_a_traceback(slides, tmp_path):
    done = shell("segment", slides / "nompp.svs", "-m", "no-such-model", "-o", tmp_path)
    assert done.returncode == 1
    assert done.stdout == ""
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("error: ")
    assert "no-such-model" in line


def test_debug_shows_the_traceback(slides, tmp_path):
    done = shell("--debug", "segment", slides / "nompp.svs", "-m", "no-such-model", "-o", tmp_path)
    assert done.returncode == 1
    assert "Traceback" in done.stderr


def test_version():
    import wsiseg

    done = run("--version")
    assert done.exit_code == 0
    assert done.stdout.strip() == f"wsiseg {wsiseg.__version__}"


@pytest.mark.parametrize(
    "arguments",
    [
        ("segment", "x.svs", "--mpp", "0"),
        ("info", "x.svs", "--mpp=-1"),
        ("tissue", "x.svs", "--mpp", "nan"),
        ("segment", "x.svs", "--timeout", "soon"),
        ("tissue", "x.svs", "--expiry", "0"),
        ("tissue", "x.svs", "--mpp", "0.5,small"),
        ("tiles", "x.svs", "--spacing", "0"),
        ("tiles", "x.svs", "--spacing", "nan"),
        ("tiles", "x.svs", "--patch", "64", "--stride", "65"),
    ],
)
def test_impossible_numbers_exit_2_before_the_first_slide(arguments, tmp_path):
    out = () if arguments[0] == "info" else ("-o", tmp_path / "out")
    done = shell(*arguments, *out)
    assert done.returncode == 2
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("error: ")
    assert not (tmp_path / "out").exists()


def test_patches_beyond_memory_are_refused_with_the_numbers(slides, tmp_path):
    arguments = ("tiles", slides / "disc 😐.svs", "-o", tmp_path / "out", "--patch", "1000000")
    done = shell(*arguments)
    assert done.returncode == 1
    assert "take smaller patches" in done.stderr
    assert not (tmp_path / "out").exists()
    assert run(*arguments, "--coordinates-only").exit_code == 0


@pytest.mark.parametrize("command", [("tissue",), ("tiles", "--coordinates-only")])
def test_tissue_and_tiles_report_as_segment_does(command, slides, tmp_path):
    done = run(*command, slides, "-o", tmp_path)
    assert done.exit_code == 1
    assert done.stdout.strip() == str(tmp_path / "disc 😐")
    assert "1 of 2 slides done" in done.stderr
    rows = map(
        json.loads, run(*command, slides, "-o", tmp_path, "--json", "-q").stdout.splitlines()
    )
    assert [row.get("error_class") for row in rows] == [None, "MissingSpacingError"]


@pytest.mark.parametrize("command", ["tissue", "tiles"])
def test_ctrl_c_says_where_finished_slides_are(command, slides, tmp_path, monkeypatch):
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(f"wsiseg.run.{command}.find_tissue", stop)
    done = run(command, slides / "disc 😐.svs", "-o", tmp_path)
    assert done.exit_code == 130
    assert f"finished slides are in {tmp_path}" in done.stderr.replace("\n", "")


@pytest.mark.skipif(sys.platform == "win32", reason="SIGTERM is of POSIX")
def test_sigterm_cleans_up_and_exits_143(slides, tmp_path):
    begun, out = tmp_path / "begun", tmp_path / "out"
    code = f"""
import pathlib, time
import wsiseg.run.segment as folder
def wait(*_, **__):
    pathlib.Path({str(begun)!r}).touch()
    time.sleep(60)
folder.load_for_run, folder.segment = (lambda *_: None), wait
folder.require_room_for = lambda *_: None
from wsiseg_cli.main import main
main()
"""
    arguments = ["segment", str(slides / "disc 😐.svs"), "-o", str(out), "--device", "cpu"]
    process = subprocess.Popen(
        [sys.executable, "-c", code, *arguments], stderr=subprocess.PIPE, text=True
    )
    with process:
        while not begun.exists():
            assert process.poll() is None
            time.sleep(0.05)
        assert list(out.glob(".wsiseg-*"))
        process.send_signal(signal.SIGTERM)
        _, stderr = process.communicate(timeout=60)
    assert process.returncode == 143
    assert "finished slides are in" in stderr
    assert list(out.iterdir()) == []


@pytest.mark.skipif(sys.platform == "win32", reason="SIGTERM is of POSIX")
def test_sigterm_waits_until_no_module_is_being_loaded():
    code = """
import os, signal, time
from wsiseg_cli.main import _interrupt_on_sigterm
heard = _interrupt_on_sigterm()
kill = compile("os.kill(os.getpid(), signal.SIGTERM); x = 1; print('loaded')", NAME, "exec")
try:
    exec(kill)
    time.sleep(30)
except KeyboardInterrupt:
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(0.1)
    print("stopped", *map(int, heard))
"""
    for name, lines in (
        ("<frozen importlib._bootstrap>", ["loaded", "stopped 15"]),
        ("a.py", ["stopped 15"]),
    ):
        done = subprocess.run(
            [sys.executable, "-c", code.replace("NAME", repr(name))],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.stdout.splitlines() == lines, done.stderr


def test_verify_geojson_goes_on_after_an_unreadable_file(tmp_path):
    feature = {
        "type": "Feature",
        "id": "6f0d9d0e-6b0a-5b7e-9a55-1f0c5a1e0001",
        "geometry": {"type": "Polygon", "coordinates": [[[0, 0], [9, 0], [9, 9], [0, 0]]]},
        "properties": {"objectType": "annotation"},
    }
    ids = (f"6f0d9d0e-6b0a-5b7e-9a55-1f0c5a1e{i:04d}" for i in (1, 2))
    both = [feature | {"id": name} for name in ids]
    inner = tmp_path / "out" / "case"
    inner.mkdir(parents=True)
    good = inner / "a.geojson"
    good.write_text(json.dumps({"type": "FeatureCollection", "features": both}))
    (inner / "notes.json").write_text("no annotations")
    (tmp_path / "out" / ".wsiseg-1").mkdir()
    (tmp_path / "out" / ".wsiseg-1" / "half.geojson").write_text("{")
    (tmp_path / "empty").mkdir()
    arguments = [tmp_path / "gone.geojson", "x" * 300, tmp_path / "empty", tmp_path / "out"]
    done = run("verify-geojson", *arguments)
    assert done.exit_code == 1
    assert done.stderr.count("failed: ") == 3
    assert done.stdout.startswith(f"{good}: clean")
    assert "2 annotations" in done.stdout
    rows = [
        json.loads(row) for row in run("verify-geojson", *arguments, "--json").stdout.splitlines()
    ]
    assert [row.get("verdict") for row in rows] == [None, None, None, "clean"]
    assert [row["path"] for row in rows] == [str(a) for a in arguments[:3]] + [str(good)]
    assert run("verify-geojson", tmp_path / "out").exit_code == 0


def test_plans_and_info_name_the_slide(slides, model, tmp_path):
    twins = [tmp_path / side / "disc.svs" for side in "ab"]
    for path in twins:
        path.parent.mkdir()
        path.write_bytes((slides / "disc 😐.svs").read_bytes())
    broken = tmp_path / "broken.svs"
    broken.write_bytes(b"")
    done = run("segment", tmp_path, "--recursive", "--nested", "-m", model, "--plan")
    assert [line.split(":")[0] for line in done.stdout.splitlines() if line[0] != " "] == [
        "a/disc",
        "b/disc",
    ]
    assert "broken.svs" in done.stderr
    done = run("segment", tmp_path, "--recursive", "--nested", "-m", model, "--plan", "--json")
    rows = [json.loads(row) for row in done.stdout.splitlines()]
    assert {(row["output"], row["path"]) for row in rows} == {
        ("a/disc", str(twins[0])),
        ("b/disc", str(twins[1])),
        ("broken", str(broken)),
    }
    done = run("info", slides / "disc 😐.svs", "--reader", "nonsense")
    assert "disc 😐.svs" in done.stderr


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("view out --port 99999999", "'--port'"),
        ("bogus", "'bogus'"),
        ("models bogus", "'bogus'"),
        ("segment a.svs --bogus", "--bogus"),
        ("segment a.svs --precision wrong", "float32"),
        ("info", "'slides'"),
    ],
)
def test_wrong_usage_is_told_in_one_line(monkeypatch, capsys, line, said):
    monkeypatch.setattr("sys.argv", ["wsiseg", *line.split()])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.count("\n") == 1
    assert shown.err.startswith("error: ")
    assert said in shown.err
    assert shown.err.endswith("--help\n")


@pytest.mark.parametrize("line", ["", "models"])
def test_nothing_at_all_is_answered_with_help(monkeypatch, capsys, line):
    monkeypatch.setattr("sys.argv", ["wsiseg", *line.split()])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert "Commands:" in "".join(capsys.readouterr())

"""The command line: what it prints, where, and its exit codes."""

import json
import subprocess
import sys

import pytest
from typer.testing import CliRunner
from wsiseg_cli.main import app

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


def test_segment_goes_on_and_exits_1_when_a_slide_fails(slides, model, tmp_path):
    done = run("segment", slides, "-m", model, "-o", tmp_path, "--json")
    assert done.exit_code == 1
    first, second = map(json.loads, done.stdout.splitlines())
    assert first["objects"] == 1
    assert second["error_class"] == "MissingSpacingError"
    assert "--mpp" in second["error"]
    assert (tmp_path / "failures.csv").exists()


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
        ("segment",),
        ("segment", "x.svs", "--frame", "moon"),
        ("segment", "x.svs", "--batch", "0"),
        ("tiles", "x.svs", "--patch", "-1"),
        ("nonsense",),
        ("models", "nonsense"),
    ],
)
def test_wrong_usage_exits_2(arguments):
    assert run(*arguments).exit_code == 2


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

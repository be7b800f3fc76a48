"""`wsiseg export` and `wsiseg import`: what they print, where, and their exit codes."""

import json

import pytest
from made_results import make_result
from test_export_qupath import features_of
from typer.testing import CliRunner
from wsiseg_cli.main import app

import wsiseg
from wsiseg.errors import UsageError
from wsiseg.exchange import FORMATS
from wsiseg.testing.slides import make_svs, tissue_disc


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("out")
    for name in ("a", "b"):
        make_result(folder / name)
    return folder


def run(*arguments):
    return CliRunner().invoke(app, [str(a) for a in arguments])


def test_export_writes_each_result_and_prints_the_files(results, tmp_path):
    done = run("export", results, "--to", "qupath", "--as", "cells", "--names", "-o", tmp_path)
    assert done.exit_code == 0, done.stderr
    assert done.stdout.split() == [str(tmp_path / f"{name}.geojson") for name in "ab"]
    (first, *_) = features_of(tmp_path / "a.geojson")
    assert first["properties"]["objectType"] == "cell"
    assert first["properties"]["name"].endswith(" 1")


def test_export_goes_on_and_exits_1_when_a_result_fails(results, tmp_path):
    (tmp_path / "a.geojson").write_text("mine")
    done = run("export", results, "--to", "qupath", "-o", tmp_path, "--json")
    assert done.exit_code == 1
    first, second = map(json.loads, done.stdout.splitlines())
    assert "is there already" in first["error"]
    assert second["objects"] > 100
    assert (tmp_path / "a.geojson").read_text() == "mine"


def test_what_is_left_out_is_told_on_stderr(results, tmp_path):
    done = run("export", results / "a", "--to", "qupath", "--min-area", "50", "-o", tmp_path)
    assert "smaller than asked for" in done.stderr
    assert "smaller" not in done.stdout


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--to", "shp"], "needed one of qupath"),
        (["--to", "qupath", "--as", "blobs"], "needed one of result, annotations"),
        (["--to", "qupath", "--slide", "x.svs"], "needed one result, found 2"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_written(results, tmp_path, more, said):
    done = run("export", results, "-o", tmp_path / "out", *more)
    assert isinstance(done.exception, UsageError)
    assert said in str(done.exception)
    assert not (tmp_path / "out").exists()


def test_two_results_of_one_name_are_refused(results, tmp_path):
    make_result(tmp_path / "a")
    done = run("export", results / "a", tmp_path / "a", "--to", "qupath", "-o", tmp_path / "out")
    assert "overwrite each other" in str(done.exception)


def test_import_writes_geojson_for_qupath(tmp_path):
    pixels, _ = tissue_disc((200, 300))
    make_svs(tmp_path / "s.svs", pixels, levels=(1,), mpp=0.5)
    table = tmp_path / "model-outputs-csv" / "s.csv"
    table.parent.mkdir()
    table.write_text("minx,miny,width,height,prob_Tumor,prob_background\n0,0,64,64,0.9,0.1\n")
    done = run("import", table, "--slide", tmp_path / "s.svs", "-o", tmp_path / "out")
    assert done.exit_code == 0, done.stderr
    assert done.stdout.strip() == str(tmp_path / "out" / "s.geojson")
    (tile,) = features_of(tmp_path / "out" / "s.geojson")
    assert tile["properties"]["classification"] == {"name": "Tumor", "color": [200, 0, 0]}
    assert wsiseg.verify_geojson(tmp_path / "out" / "s.geojson").verdict == "clean"


def test_import_goes_on_and_exits_1_when_a_file_fails(results, tmp_path):
    (tmp_path / "bad.geojson").write_text("{")
    good = results / "a" / "annotations.geojson"
    done = run("import", tmp_path / "bad.geojson", good, "-o", tmp_path / "out", "--json")
    assert done.exit_code == 1
    first, second = map(json.loads, done.stdout.splitlines())
    assert "not GeoJSON" in first["error"]
    assert second["objects"] > 100


def test_help_names_every_format(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    done = run("export", "--help")
    assert all(name in done.stdout for name in FORMATS)

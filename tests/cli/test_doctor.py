"""`wsiseg doctor`: what it prints, and its exit codes."""

import json
import re
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner
from wsiseg_cli.main import app, main

from wsiseg.run import doctor, gauges
from wsiseg.run.checkup import Checkup
from wsiseg.testing.models import make_colour_model
from wsiseg.testing.slides import make_svs, tissue_disc


@pytest.fixture(autouse=True)
def _own_home(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("WSISEG_HOME", str(tmp_path_factory.getbasetemp() / "home"))
    monkeypatch.setattr(doctor, "_int8", lambda *_: 0.001)
    monkeypatch.setattr(gauges, "SECONDS", 0.05)


@pytest.fixture
def slide(tmp_path):
    pixels, _ = tissue_disc((700, 900))
    make_svs(tmp_path / "disc.svs", pixels, levels=(1, 4), mpp=0.5)
    return tmp_path / "disc.svs"


@pytest.fixture
def model(tmp_path):
    return str(make_colour_model(tmp_path / "colour"))


def run(*arguments):
    return CliRunner().invoke(app, [str(a) for a in arguments])


def test_text_names_the_bottleneck_and_what_would_help(slide, model, tmp_path):
    done = run("doctor", slide, "-m", model, "-o", tmp_path / "out", "--threads", "1")
    assert done.exit_code == 0, done.stderr
    assert done.stdout.count("<- the bottleneck") == 1
    for word in ("disc.svs", "colour-model", "cores", "python", "total", "disk:", "would help"):
        assert word in done.stdout
    assert not (tmp_path / "out").exists()


def test_json_is_a_checkup(slide, model, tmp_path):
    done = run("doctor", slide, "-m", model, "-o", tmp_path, "--json", "--batch", "7")
    record = json.loads(done.stdout)
    checkup = Checkup.from_dict(record)
    assert checkup.work.stages[0].batch_size == 7
    assert record["bottleneck"] == checkup.bottleneck


def test_remedies_name_real_options_of_segment():
    text = Path(str(doctor.__file__)).read_text(encoding="utf-8")
    named = set(re.findall(r"--[a-z][a-z0-9-]*", text))
    command = typer.main.get_command(app).commands["segment"]
    real = {option for parameter in command.params for option in parameter.opts}
    assert named
    assert named <= real


@pytest.mark.parametrize("content", [None, b"no slide"])
def test_a_bad_slide_is_one_line_and_exit_1(content, tmp_path, monkeypatch, capsys):
    bad = tmp_path / "bad.svs"
    if content is not None:
        bad.write_bytes(content)
    monkeypatch.setattr("sys.argv", ["wsiseg", "doctor", str(bad)])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 1
    assert "error: " in (text := capsys.readouterr().err)
    assert "bad.svs" in text
    assert len(text.strip().splitlines()) == 1

"""The page: what it is made of, and what is said where it cannot be made."""

import json
import re

import pytest
from typer.testing import CliRunner
from wsiseg_cli.main import app

from wsiseg.errors import RunError
from wsiseg.view import build, serve


@pytest.fixture
def nothing_built(tmp_path, monkeypatch):
    monkeypatch.setattr(build, "STATIC", tmp_path / "static")
    return tmp_path / "static"


def test_the_lock_file_names_no_place_but_the_public_one():
    lock = json.loads((build.WEB / "package-lock.json").read_text())
    packages = {name: one for name, one in lock["packages"].items() if name}
    assert "node_modules/openseadragon" in packages
    assert "node_modules/@niivue/niivue" in packages
    for name, one in packages.items():
        assert one.get("resolved", "https://registry.npmjs.org/").startswith(
            "https://registry.npmjs.org/"
        ), name
        assert one["integrity"].startswith("sha512-"), name


def test_the_page_asks_nobody_else():
    for path in (build.WEB / "src").iterdir():
        text = path.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"https?://", text), path


def test_without_npm_the_command_is_named(nothing_built, monkeypatch):
    monkeypatch.setattr(build.shutil, "which", lambda _: None)
    with pytest.raises(RunError, match=r"npm --prefix .* ci && npm --prefix .* run build"):
        build.ready_page()


def test_an_install_without_page_says_so(nothing_built, monkeypatch, tmp_path):
    monkeypatch.setattr(build, "WEB", tmp_path / "no web")
    with pytest.raises(RunError, match="installed without the viewer's page"):
        build.ready_page()


def test_a_page_of_other_sources_is_made_again_where_npm_is(nothing_built, monkeypatch):
    made = []

    def make():
        made.append(1)
        nothing_built.mkdir(exist_ok=True)
        (nothing_built / "index.html").write_text("new")
        (nothing_built / build.STAMP).write_text(build._digest())

    monkeypatch.setattr(build, "build_page", make)
    monkeypatch.setattr(build.shutil, "which", lambda _: "npm")
    assert list(build.ready_page()) == ["index.html"]
    assert list(build.ready_page()) == ["index.html"]
    assert made == [1]
    (nothing_built / build.STAMP).write_text("older")
    build.ready_page()
    assert made == [1, 1]


def test_what_npm_says_is_told(nothing_built, monkeypatch, tmp_path):
    npm = tmp_path / "npm"
    npm.write_text("#!/bin/sh\necho no such host >&2\nexit 1\n")
    npm.chmod(0o755)
    monkeypatch.setattr(build.shutil, "which", lambda _: str(npm))
    with pytest.raises(RunError, match="no such host"):
        build.ready_page()


def test_a_port_that_is_taken_is_named():
    with serve._listening(0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(RunError, match=f"port {port}"):
            serve._listening(port)


def test_the_command_prints_the_link_and_serves(monkeypatch, run):
    asked = {}

    def served(outs, slides, **options):
        asked.update(outs=outs, slides=slides, **options)
        options["ready"]("http://127.0.0.1:1/token/")

    opened = []
    monkeypatch.setattr(serve, "serve", served)
    monkeypatch.setattr("webbrowser.open", opened.append)
    arguments = ["view", str(run), "--compare", str(run / "a"), "--port", "77", "--no-browser"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0
    assert done.stdout == "http://127.0.0.1:1/token/\n"
    assert asked["outs"] == [run, run / "a"]
    assert asked["port"] == 77
    assert opened == []
    CliRunner().invoke(app, ["view", str(run)])
    assert opened == ["http://127.0.0.1:1/token/"]

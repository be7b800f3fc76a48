"""A run of two slides with a result each, and a client of the viewer over it."""

import shutil

import pytest
from view_made import MPP, TOKEN, make_result, texture

from wsiseg.testing.slides import make_svs
from wsiseg.view.results import find_shown


@pytest.fixture(scope="session")
def made_run(tmp_path_factory):
    """Folder with `slides/` and `out/`: made once, not to be written to."""
    folder = tmp_path_factory.mktemp("run")
    (folder / "slides").mkdir()
    make_svs(folder / "slides" / "a.svs", texture(), mpp=MPP, levels=(1, 4))
    shutil.copy(folder / "slides" / "a.svs", folder / "slides" / "b.svs")
    for seed, name in enumerate("ab"):
        make_result(folder / "out" / name, folder / "slides" / f"{name}.svs", seed=seed)
    return folder


@pytest.fixture
def run(made_run, tmp_path):
    """Return a copy of the results that may be written to; the slides are shared."""
    shutil.copytree(made_run / "out", tmp_path / "out")
    return tmp_path / "out"


@pytest.fixture
def shown(run, tmp_path):
    return find_shown([run], workspace=tmp_path)


@pytest.fixture
def client(shown, tmp_path):
    testclient = pytest.importorskip("starlette.testclient", reason="needs the extra `view`")
    from wsiseg.view.server import Viewer, make_app

    page = tmp_path / "index.html"
    page.write_text("<p>the page</p>")
    app = make_app(Viewer(shown, {"index.html": page}), TOKEN)
    with testclient.TestClient(app, base_url=f"http://127.0.0.1:8000/{TOKEN}/") as opened:
        yield opened  # all requests in one event loop, as served

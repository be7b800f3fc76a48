"""Progress for programs: lines on stderr, not more than one a second."""

import pytest
from wsiseg_cli.line_progress import line_progress
from wsiseg_cli.progress import show_progress

from wsiseg.engine.events import StageFinished, StageStarted, TilesDone, ignore


def test_lines_tell_share_and_time_left(capsys):
    times = iter([0.0, 0.2, 2.0, 2.5, 4.0, 9.0])
    listen, slide_done = line_progress(2, clock=lambda: next(times))
    listen(StageStarted("ä.svs", "patches", 100))
    for tiles in (10, 40, 10, 40):
        listen(TilesDone("ä.svs", "patches", tiles))
    listen(StageFinished("ä.svs", "patches", 4.0))
    slide_done(None)
    assert capsys.readouterr().err.splitlines() == [
        "progress: ä.svs: patches, 0% of 100 tiles",
        "progress: ä.svs: patches, 50% of 100 tiles, about 2 s left",
        "progress: ä.svs: patches, 100% of 100 tiles",
        "progress: 1 of 2 slides done",
    ]


def test_a_stage_without_tiles_is_told(capsys):
    listen, _ = line_progress(1)
    listen(StageStarted("a.svs", "patches", 0))
    assert capsys.readouterr().err == "progress: a.svs: patches, no tiles\n"


@pytest.mark.parametrize(
    ("variable", "quiet", "lines"), [("lines", False, 1), ("lines", True, 0), ("", False, 0)]
)
def test_it_is_there_for_those_who_ask(monkeypatch, capsys, variable, quiet, lines):
    monkeypatch.setenv("WSISEG_PROGRESS", variable)
    with show_progress(1, quiet=quiet) as (_, slide_done):
        slide_done(None)
        assert (slide_done is ignore) == (lines == 0)
    assert len(capsys.readouterr().err.splitlines()) == lines

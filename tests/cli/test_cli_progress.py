"""Progress as it is drawn: a bar for the slides, and one for the stage of each under way."""

import io

import pytest
from rich.console import Console
from wsiseg_cli import drawn_progress

from wsiseg.engine import StageStarted, TilesDone
from wsiseg.run.reports import SlideReport


@pytest.fixture
def drawn(monkeypatch):
    text = io.StringIO()
    console = Console(file=text, force_terminal=True, width=120, color_system=None)
    monkeypatch.setattr(drawn_progress, "log", lambda: console)
    return text


def last_of(drawn):
    """Return what stands on the screen when the block has ended, before it is cleared."""
    return drawn.getvalue().rpartition("slides")[2]


def test_slides_and_tiles_are_counted(drawn):
    with drawn_progress.draw_progress(4) as (listen, slide_done):
        for slide, tiles in (("a.svs", 10), ("b.svs", 20)):
            listen(StageStarted(slide, "patches", tiles))
            listen(TilesDone(slide, "patches", 5))
        slide_done(SlideReport("a.svs", "a", {"slide": "a.svs"}, error="broke"))
        listen(TilesDone("a.svs", "patches", 1))  # late, from another process
        listen(TilesDone("b.svs", "patches", 5))
        slide_done(SlideReport("c.svs", "c", {"slide": "c.svs"}, reused=True))
        slide_done("anything")
    last = last_of(drawn)
    assert last.startswith(" (1 done before, 1 failed)")
    assert "3/4" in last
    assert "b.svs: patches" in last
    assert "10/20" in last
    assert "a.svs" not in last

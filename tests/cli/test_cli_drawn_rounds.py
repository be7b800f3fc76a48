import io

import pytest
from rich.console import Console
from wsiseg_cli import drawn_rounds

from wsiseg.train.loop import RoundReport


@pytest.fixture
def terminal(monkeypatch) -> io.StringIO:
    written = io.StringIO()
    console = Console(file=written, force_terminal=True, width=100)
    monkeypatch.setattr(drawn_rounds, "log", lambda: console)
    return written


def test_the_last_rounds_are_a_table(terminal: io.StringIO):
    with drawn_rounds.draw_rounds() as told:
        for number in range(drawn_rounds.SHOWN + 3):
            told("patches", RoundReport(number, 0.5, 1e-3, 7.4, {"dice": number / 100}))
    table = terminal.getvalue().rsplit("training", 1)[-1]
    assert "validation dice" in table
    assert f"{drawn_rounds.SHOWN + 3}  0.5000" in table
    assert "0.1400" in table
    assert "0.0200" not in table  # of the third round, which has left the table


def test_trainings_without_validation_have_no_scores(terminal: io.StringIO):
    with drawn_rounds.draw_rounds() as told:
        told("patches-fold-1", RoundReport(0, 0.25, 2e-3, 3.0))
    assert "validation" not in terminal.getvalue()
    assert "patches-fold-1" in terminal.getvalue()

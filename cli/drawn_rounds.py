"""The rounds of a training as a table that grows while it runs."""

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.live import Live
from rich.table import Table

from wsiseg.train.loop import RoundReport

from .console import log

__all__ = ["draw_rounds"]

SHOWN = 12
"""Rounds in the table: what fits on a small terminal."""


@contextmanager
def draw_rounds() -> Iterator[Callable[[str, RoundReport], None]]:
    """Draw the last rounds on stderr while the block runs; yields what is told of each."""
    rows: deque[tuple[str, RoundReport]] = deque(maxlen=SHOWN)
    with Live(console=log(), auto_refresh=False) as live:

        def told(name: str, report: RoundReport) -> None:
            rows.append((name, report))
            live.update(_table(rows), refresh=True)

        yield told


def _table(rows: deque[tuple[str, RoundReport]]) -> Table:
    scores = list(dict.fromkeys(score for _, report in rows for score in report.scores))
    table = Table("training", box=None, header_style="bold")
    for title in ("round", "loss", *(f"validation {s}" for s in scores), "rate", "seconds"):
        table.add_column(title, justify="right")
    for name, report in rows:
        found = (f"{report.scores[s]:.4f}" if s in report.scores else "" for s in scores)
        numbers = (f"{report.learning_rate:.2g}", f"{report.seconds:.0f}")
        table.add_row(name, str(report.round + 1), f"{report.loss:.4f}", *found, *numbers)
    return table

"""Where messages for people go: stderr. Results go to stdout with `typer.echo`."""

import gc
import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from wsiseg.run import FolderReport

__all__ = ["failed", "log", "print_report", "say", "stoppable"]


@cache
def log() -> "Console":
    """Return the console on stderr; rich is imported on first use."""
    from rich.console import Console

    return Console(stderr=True)


def say(text: str, *, style: str | None = None) -> None:
    """Print a line as it is: above what is drawn, if anything is."""
    if log.cache_info().currsize:
        log().print(text, style=style, markup=False, highlight=False, soft_wrap=True)
    else:  # rich takes 50 ms to load
        typer.secho(text, fg=style, err=True)


def failed(reason: object) -> None:
    """Say in one line what failed."""
    say(f"failed: {reason}", style="red")


@contextmanager
def stoppable(out: Path) -> Iterator[None]:
    """Say where the finished slides are when the user stops the run, and what next; exit 130."""
    gc.freeze()  # what is loaded by now stays: looking through it for garbage takes 70 ms each time
    try:
        yield
    except KeyboardInterrupt:
        say(f"stopped; finished slides are in {out}, the same command goes on")
        raise typer.Exit(130) from None


def print_report(report: "FolderReport", *, as_json: bool) -> None:
    """Print a line per slide; exit 1 where one failed."""
    if as_json:
        for row in (*report.done, *report.failures, *report.held):
            typer.echo(json.dumps(row.to_dict()))
    else:
        for row in report.done:
            typer.echo(row.folder)
        for row in report.failures:
            failed(row.error)
        _say_how_many(report)
    if report.problem is not None:
        failed(report.problem)
    if report.failures or report.problem is not None:
        raise typer.Exit(1)


def _say_how_many(report: "FolderReport") -> None:
    total = len(report.done) + len(report.failures) + len(report.held)
    there = f" ({len(report.reused)} before, or by other processes)" if report.reused else ""
    held = f", {len(report.held)} left to others" if report.held else ""
    table = report.summary if report.done else report.summary.with_name("failures.csv")
    where = f"; see {table}" if table.exists() else ""
    say(f"{len(report.done)} of {total} slides done{there}{held}{where}")

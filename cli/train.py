"""`wsiseg train`: annotations in, a model package out."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .arguments import AsJson, Quiet, Threads
from .console import log, say

if TYPE_CHECKING:
    from wsiseg.train.loop import RoundReport

__all__ = ["train"]


def train(
    config: Annotated[Path, typer.Argument(help="config.toml", show_default=False)],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the package.")] = Path(
        "models"
    ),
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:<n>.")] = "auto",
    threads: Threads = None,
    plan: Annotated[
        bool, typer.Option("--plan", help="Print samples, steps, seconds and memory, and stop.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a package of that name.")
    ] = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Train a model from annotated slides; a run that was stopped goes on when started again."""
    if plan:
        from wsiseg.train.estimate import plan_training

        planned = plan_training(config, device=device, threads=threads)
        typer.echo(json.dumps(asdict(planned)) if as_json else str(planned))
        return
    from wsiseg.train.train import train as run

    try:
        with _told(as_json=as_json, quiet=quiet) as told:
            report = run(
                config, out, device=device, threads=threads, overwrite=overwrite, told=told
            )
    except KeyboardInterrupt:
        say("stopped; the same command goes on after the last finished round")
        raise typer.Exit(130) from None
    if as_json:
        typer.echo(json.dumps({"package": str(report.package), "folder": str(report.folder)}))
    else:
        typer.echo(f"{report.package}\nworst patches: {report.folder / 'worst'}")


@contextmanager
def _told(*, as_json: bool, quiet: bool) -> Iterator["Callable[[str, RoundReport], None]"]:
    """Give what is told of each round: a table on a terminal, else a line per round."""
    if quiet:
        yield lambda *_: None
    elif as_json:
        yield lambda name, report: typer.echo(json.dumps({"training": name, **asdict(report)}))
    elif log().is_terminal:
        from .drawn_rounds import draw_rounds

        with draw_rounds() as told:
            yield told
    else:
        yield _say_round


def _say_round(name: str, report: "RoundReport") -> None:
    scores = "".join(f"  validation {score} {x:.4f}" for score, x in report.scores.items())
    say(
        f"{name}: round {report.round + 1:3}  loss {report.loss:.4f}{scores}  "
        f"rate {report.learning_rate:.2g}  {report.seconds:.0f} s"
    )

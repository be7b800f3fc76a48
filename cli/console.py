"""Where messages for people go: stderr. Results go to stdout with `typer.echo`."""

from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["failed", "log"]


@cache
def log() -> "Console":
    """Return the console on stderr; rich is imported on first use."""
    from rich.console import Console

    return Console(stderr=True)


def failed(reason: object) -> None:
    """Say in one line what failed."""
    log().print(f"failed: {reason}", style="red", markup=False, highlight=False, soft_wrap=True)

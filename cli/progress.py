"""Two-level progress on stderr: slides, and tiles of the stage under way, with rate and ETA."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from wsiseg.engine.events import Event, Listener, StageStarted, TilesDone, ignore

from .console import log

__all__ = ["show_progress"]


class _RateColumn(ProgressColumn):
    """Tiles per second."""

    def render(self, task: Task) -> Text:
        """Return the rate once it is known."""
        unit = task.fields.get("unit", "")
        return Text(f"{task.speed:.1f} {unit}/s" if task.speed and unit else "")


@contextmanager
def show_progress(
    slides: int, *, quiet: bool = False
) -> Iterator[tuple[Listener, Callable[[object], None]]]:
    """Draw progress while the block runs.

    Yields
    ------
    listen, slide_done
        What to give the engine as its listener, and what to call with anything after each slide.
    """
    if quiet or not log().is_terminal:
        yield ignore, ignore
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        _RateColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=log(), transient=True) as progress:
        outer = progress.add_task("slides", total=slides)
        inner: dict[str, TaskID] = {}

        def listen(event: Event) -> None:
            if isinstance(event, StageStarted):
                for task in inner.values():
                    progress.remove_task(task)
                inner.clear()
                label = f"{event.slide}: {event.stage}"
                inner["stage"] = progress.add_task(label, total=event.tiles, unit="tiles")
            elif isinstance(event, TilesDone):
                progress.advance(inner["stage"], event.tiles)

        def slide_done(_: object) -> None:
            progress.advance(outer)

        yield listen, slide_done

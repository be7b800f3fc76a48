"""Progress as it is drawn; see `progress`."""

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

from wsiseg.engine.events import Event, Listener, StageStarted, TilesDone

from .console import log

__all__ = ["draw_progress"]


class _RateColumn(ProgressColumn):
    """Tiles per second."""

    def render(self, task: Task) -> Text:
        """Return the rate once it is known."""
        unit = task.fields.get("unit", "")
        return Text(f"{task.speed:.1f} {unit}/s" if task.speed and unit else "")


@contextmanager
def draw_progress(slides: int) -> Iterator[tuple[Listener, Callable[[object], None]]]:
    """Draw progress on stderr while the block runs; yields what `show_progress` does."""
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

"""Progress as it is drawn; see `progress`."""

from collections import Counter
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
from wsiseg.run.reports import SlideReport

from .console import log

__all__ = ["draw_progress"]


SAID = {"there": "done before", "failed": "failed"}
"""States of slides that the bar counts apart."""


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
        counts: Counter[str] = Counter()

        def end(slide: str) -> None:
            task = inner.pop(slide, None)
            if task is not None:
                progress.remove_task(task)

        def listen(event: Event) -> None:
            if isinstance(event, StageStarted):
                end(event.slide)
                label = f"{event.slide}: {event.stage}"
                inner[event.slide] = progress.add_task(label, total=event.tiles, unit="tiles")
            elif isinstance(event, TilesDone) and event.slide in inner:
                progress.advance(inner[event.slide], event.tiles)

        def slide_done(report: object) -> None:
            if isinstance(report, SlideReport):
                end(str(report.summary.get("slide")))
                counts[report.state] += 1
            said = [f"{counts[state]} {words}" for state, words in SAID.items() if counts[state]]
            label = f"slides ({', '.join(said)})" if said else "slides"
            progress.update(outer, advance=1, description=label)

        yield listen, slide_done

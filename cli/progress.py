"""Two-level progress on stderr: slides, and tiles of the stage under way, with rate and ETA."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from wsiseg.engine.events import Listener, ignore

__all__ = ["show_progress"]


@contextmanager
def show_progress(
    slides: int, *, quiet: bool = False
) -> Iterator[tuple[Listener, Callable[[object], None]]]:
    """Draw progress while the block runs, where somebody sees it.

    Programs that run wsiseg and show its progress set `WSISEG_PROGRESS` to `lines`.

    Yields
    ------
    listen, slide_done
        What to give the engine as its listener, and what to call with anything after each slide.
    """
    if not quiet and os.environ.get("WSISEG_PROGRESS") == "lines":
        from .line_progress import line_progress

        yield line_progress(slides)
        return
    if quiet or not sys.stderr.isatty():
        yield ignore, ignore
        return
    from .drawn_progress import draw_progress

    with draw_progress(slides) as progress:
        yield progress

"""Vectors of the tiles of many slides."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from wsiseg.embedding import embed, require_parquet
from wsiseg.engine import Listener, ignore
from wsiseg.engine.working import slide_journal
from wsiseg.model import Model, load_for_run, require_task
from wsiseg.options import EmbedOptions
from wsiseg.run.devices import on_first_device
from wsiseg.run.folder import FolderReport, Slides, run_each
from wsiseg.run.inputs import SlideJob
from wsiseg.source import Pyramid

__all__ = ["embed_folder"]


def embed_folder(
    jobs: Slides,
    model: Model | str | Path,
    out: str | Path,
    *,
    options: EmbedOptions | None = None,
    listen: Listener = ignore,
    slide_done: Callable[[object], None] = ignore,
) -> FolderReport:
    """Write the vectors of each slide into `out/<slide>/`, and `out/summary.csv`.

    Parameters
    ----------
    jobs
        As for `segment_folder`.
    model
        Of task `embedding`; loaded once.
    slide_done
        Called after each slide.

    Raises
    ------
    UsageError
        If the model is for another command, or the extra that Parquet needs is not installed.
    ModelError
        If the model cannot be used.
    RunError
        If the output folder cannot be written. What is wrong with a slide is in the report.
    """
    chosen, out = options or EmbedOptions(), Path(out)
    require_task(model, "embedding")
    if chosen.parquet:
        require_parquet()
    loaded = load_for_run(model, on_first_device(chosen.run))

    def work(slide: Pyramid, job: SlideJob) -> dict[str, Any]:
        with slide_journal(out, job.output, "embed") as journal:
            found = embed(slide, loaded, options=chosen, journal=journal, listen=listen)
            found.write(out, name=job.output)
            return found.summary()

    return run_each(jobs, out, work, kind="embed", slide_done=slide_done)

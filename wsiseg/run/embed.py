"""Vectors of the tiles of many slides."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from wsiseg.embedding import embed, require_parquet
from wsiseg.engine import Listener, ignore
from wsiseg.errors import UsageError
from wsiseg.model import Model, load_for_run, require_task
from wsiseg.options import EmbedOptions, FolderOptions
from wsiseg.run.cluster import require_cluster
from wsiseg.run.devices import on_first_device, share_of
from wsiseg.run.folder import FolderReport, Slides, run_folder
from wsiseg.run.inputs import as_jobs, require_any
from wsiseg.run.records import run_settings, settings_of
from wsiseg.run.turns import Row, Turn, Work
from wsiseg.source import Pyramid

__all__ = ["embed_folder"]


def embed_folder(
    jobs: Slides,
    model: Model | str | Path,
    out: str | Path,
    *,
    options: EmbedOptions | None = None,
    folder: FolderOptions | None = None,
    scheduler: str | None = None,
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
    folder, scheduler
        How the run goes, and where, as for `segment_folder`.
    slide_done
        Called with the report of each slide.

    Raises
    ------
    UsageError
        If the model is for another command, or the extra that Parquet needs is not installed.
    ModelError
        If the model cannot be used.
    RunError
        If the output folder cannot be written. What is wrong with a slide is in the report.
    """
    chosen, folder = options or EmbedOptions(), folder or FolderOptions()
    jobs = as_jobs(jobs)
    require_task(model, "embedding")
    if chosen.parquet:
        require_parquet()
    require_any(jobs)
    run = chosen.run
    if scheduler is not None:
        require_cluster(scheduler, model, run.device)
    else:
        run = on_first_device(run)
    if isinstance(model, Model) and folder.isolate:
        raise UsageError(
            "isolate needs the model's name or folder, since other processes load it; found a "
            "loaded model"
        )
    alone = isinstance(model, Model) or not folder.apart
    return run_folder(
        jobs,
        Path(out),
        EmbedWork(model, replace(chosen, run=run)),
        options=folder,
        devices=() if alone else (run.device,),
        scheduler=scheduler,
        listen=listen,
        slide_done=slide_done,
    )


@dataclass(frozen=True)
class EmbedWork:
    """Computing the vectors of slides with one model."""

    model: Model | str | Path
    options: EmbedOptions
    command = "embed"

    def settings(self) -> dict[str, Any]:
        """Return what results are made from."""
        chosen = {
            "tissue": asdict(self.options.tissue),
            "run": run_settings(self.options.run),
            "parquet": self.options.parquet,
        }
        return settings_of(self.command, chosen, self.model)

    def load(self, device: str = "", processes: int = 1) -> Work:
        """Load the model."""
        run = share_of(self.options.run, device, processes) if device else self.options.run
        options = replace(self.options, run=run)
        return partial(_embed_slide, model=load_for_run(self.model, run), options=options)


def _embed_slide(slide: Pyramid, turn: Turn, *, model: Model, options: EmbedOptions) -> Row:
    with turn.journal() as journal:
        found = embed(slide, model, options=options, journal=journal, listen=turn.listen)
        row = found.summary()
        found.write(turn.ground.out, name=turn.job.output, publishing=turn.publishing(row))
        return row

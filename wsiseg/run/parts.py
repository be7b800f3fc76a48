"""One huge slide, done by several processes: each makes parts of it, the last one the result.

What parts depend on is written down once. Each part is made under a lease of its own, in a journal
that goes to a hidden folder beside the slide's result. Whoever does the slide in the end, in
whatever way, takes over what lies there and makes what is missing: parts only save it time.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path

from wsiseg.engine import Journal, Listener, Part
from wsiseg.engine.journal import FILE
from wsiseg.engine.working import journal_folder
from wsiseg.model import Model
from wsiseg.options import SegmentOptions
from wsiseg.pipeline import segment_part
from wsiseg.run.holders import Holder
from wsiseg.run.inputs import SlideJob
from wsiseg.run.leases import KEPT, Leases
from wsiseg.run.limits import Watch, require_room
from wsiseg.run.records import file_state
from wsiseg.run.turns import Ground
from wsiseg.source import open as open_slide

__all__ = ["Made", "adopt_parts", "drop_parts", "lease_of", "make_part"]

BEGUN = "begun"


@dataclass(frozen=True, slots=True)
class Made:
    """What became of a part of a slide."""

    tiles: tuple[int, ...] = ()
    """That run in each stage, where the parts were begun."""

    note: str = ""
    """Why the part is of no use; empty: it is."""


def make_part(
    job: SlideJob,
    ground: Ground,
    part: Part | None,
    model: Model,
    options: SegmentOptions,
    leases: Leases,
    listen: Listener,
) -> Made:
    """Make a part of a slide and keep it, or begin so that parts can be made.

    Parameters
    ----------
    part
        `None`: write down what parts are to depend on.

    Raises
    ------
    WsisegError, OSError
        What is wrong with the slide; doing the slide will tell.
    """
    parts = _folder(job, ground)
    place = parts / _name(part)
    if part is not None and place.is_dir():
        return Made()  # by an earlier run
    require_room(ground.out, 0)
    lease = leases.take(lease_of(job, part))
    if isinstance(lease, Holder):
        return Made(note=f"{lease} is at it")
    try:
        state, limit = file_state(job.path), ground.options.timeout_s
        watch = Watch(job.path, lease, ground.out, state, timeout_s=limit, listen=listen)
        with (
            open_slide(job.path, mpp=job.mpp, reader=job.reader) as slide,
            Journal(lease.folder / KEPT, guarded=True) as journal,
        ):
            if part is None:  # as an earlier run, if one was ended
                journal.adopt(journal_folder(ground.out, job.output, ground.command))
            adopt_parts(journal, job, ground, stages=part.stage if part else 0)
            begun = _ids(journal, model)
            tiles = segment_part(slide, model, journal, part, options=options, listen=watch)
            changed = begun != _ids(journal, model)
            watch.seal()
        if part is None and changed:
            shutil.rmtree(parts, ignore_errors=True)  # parts of another model, or other options
        if part is not None and changed:
            return Made(note="another processor or library than where the slide was begun")
        _keep(lease.folder / KEPT, place)
        return Made(tiles)
    finally:
        leases.release(lease)


def lease_of(job: SlideJob, part: Part | None) -> str:
    """Return the name of the lease under which a part is made."""
    return f"{job.output}/{_name(part)}"


def adopt_parts(
    journal: Journal, job: SlideJob, ground: Ground, *, stages: int | None = None
) -> None:
    """Take over what has been made of a slide, all of it or the first `stages` stages."""
    parts = _folder(job, ground)
    if not parts.is_dir():
        return
    newer = _changed_ns(parts / BEGUN) > _changed_ns(journal.folder)
    journal.adopt(parts / BEGUN, instead=newer)
    for folder in sorted(parts.iterdir()):
        stage = folder.name.partition("-")[0]
        if stage.isdecimal() and (stages is None or int(stage) < stages):
            journal.adopt(folder)


def drop_parts(job: SlideJob, ground: Ground) -> None:
    """Remove the parts of a slide whose result stands."""
    shutil.rmtree(_folder(job, ground), ignore_errors=True)


def _name(part: Part | None) -> str:
    return BEGUN if part is None else f"{part.stage}-{part.index}-{part.count}"


def _folder(job: SlideJob, ground: Ground) -> Path:
    return journal_folder(ground.out, job.output, f"{ground.command}-parts")


def _changed_ns(folder: Path) -> int:
    try:
        return (folder / FILE).stat().st_mtime_ns
    except OSError:
        return 0


def _ids(journal: Journal, model: Model) -> tuple[str | None, ...]:
    """Return what names the work on each stage that is known."""
    entries = [journal.find(stage.name) for stage in model.card.stages]
    return tuple(entry.id if entry is not None else None for entry in entries)


def _keep(folder: Path, place: Path) -> None:
    for path in folder.iterdir():
        if path.is_dir():  # heatmaps of earlier stages
            shutil.rmtree(path)
    shutil.rmtree(place, ignore_errors=True)
    place.parent.mkdir(parents=True, exist_ok=True)
    folder.rename(place)

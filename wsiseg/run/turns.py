"""One slide's turn: taken by lease, worked on, published; whatever goes wrong stays with it.

`take_turn` is the unit of work: with the `Ground` of the run, which is plain values, any process on
any machine that sees the output folder can do it.
"""

import errno
import logging
import shutil
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import orjson

from wsiseg.engine import Journal, Listener, Publishing, ignore
from wsiseg.engine.claim import Claim
from wsiseg.engine.journal import FILE, SUFFIX
from wsiseg.engine.marker import Marker
from wsiseg.engine.output import check_name, may_replace, refuse_foreign
from wsiseg.engine.working import journal_folder
from wsiseg.errors import (
    NO_ROOM,
    RunError,
    TooDamagedError,
    UsageError,
    WsisegError,
    WsisegWarning,
    unwritable,
)
from wsiseg.options import FolderOptions
from wsiseg.run.holders import Holder
from wsiseg.run.inputs import SlideJob
from wsiseg.run.leases import KEPT, LEASES_FOLDER, Lease, Leases, key_of
from wsiseg.run.limits import Watch, require_room
from wsiseg.run.records import (
    RECORD,
    UNKNOWN,
    State,
    changes,
    file_state,
    missing_files,
    place_of,
    read_record,
    slide_identity,
    write_record,
)
from wsiseg.run.reports import SlideReport, failure_text
from wsiseg.source import Pyramid, Volume, open_volume
from wsiseg.source import open as open_slide

__all__ = [
    "AGAIN",
    "Ground",
    "Row",
    "Task",
    "Turn",
    "Work",
    "clear_dead",
    "failed_elsewhere",
    "lost",
    "open_scans",
    "standing",
    "take_turn",
]

log = logging.getLogger(__name__)

SAME_SPACING = 0.02
"""Pixel sizes this close (relative) say the same."""

AGAIN = ("asked for",)
"""Why a slide is done again that need not be."""

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Ground:
    """What the turns of all slides of a run have in common; plain values."""

    out: Path
    command: str
    """A slide whose folder holds another command's result is refused before it is opened."""

    settings: Mapping[str, Any]
    """What results are made from, see `records`."""

    options: FolderOptions = field(default_factory=FolderOptions)
    since_ns: int = 0
    """When the run began, by the clock of the file system."""

    volumes: bool = False
    """Whether these are scans, not slides."""


@dataclass(frozen=True, slots=True)
class Task:
    """A slide to be done."""

    job: SlideJob
    displacing: str | None = None
    """Name of the holder of its lease that has been found dead."""


@dataclass(frozen=True, slots=True)
class Turn:
    """What the work on a slide may use."""

    job: SlideJob
    ground: Ground
    lease: Lease
    watch: Watch
    slide: str | None
    """What tells the content of the slide."""

    replaces: str | None
    """The same of the earlier state of this file whose result is there."""

    @property
    def folder(self) -> Path:
        """Where to work; what is left there goes."""
        return self.lease.folder

    @property
    def listen(self) -> Listener:
        """What to give the engine as its listener: it ends the work if it has to end."""
        return self.watch

    def publishing(self, row: Row) -> Publishing:
        """Return how the result is to get its name, given its row of the summary.

        The row may be filled until all files are written.
        """

        def seal(folder: Path) -> None:
            self.watch.seal()
            write_record(folder, self.job, self.ground.settings, self.slide, row)

        return Publishing(self.folder, seal, self.replaces)

    @contextmanager
    def journal(self) -> Iterator[Journal]:
        """Yield the journal of what is finished of the slide, in the folder of the lease.

        If the work does not end well, it is laid beside the result's place for the next run; a
        killed process leaves it to whoever takes the lease.
        """
        place = journal_folder(self.ground.out, self.job.output, self.ground.command)
        _fetch_journal(place, self.folder / KEPT)
        keep = False
        try:
            with Journal(self.folder / KEPT, guarded=True) as journal:
                try:
                    yield journal
                except BaseException:
                    keep = not journal.is_empty
                    raise
        finally:
            if keep:
                _lay_by_journal(self.folder, place)


Work = Callable[[Any, Turn], Row]
"""What is done with one slide, a `Pyramid`, or scan, a `Volume`; returns its row of
`summary.csv`."""


def _fetch_journal(place: Path, own: Path) -> None:
    """Bring the journal of an earlier run into the lease, unless it is there."""
    if not own.is_dir() and place.is_dir():
        try:
            with Claim(place, activity=FILE, guarded=True):  # nobody works there without a lease
                place.rename(own)
        except OSError:  # on another disk; then all is done anew
            log.debug("%s: left where it is", place, exc_info=True)
    if own.is_dir():  # files that a stopped process may still write to are not shared with it
        for path in own.iterdir():
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            elif path.name != FILE and path.suffix != SUFFIX:
                path.unlink(missing_ok=True)


def _lay_by_journal(folder: Path, place: Path) -> None:
    with suppress(OSError):  # the lease is lost, or somebody works there: all is done anew
        if (folder / KEPT).is_dir():
            place.parent.mkdir(parents=True, exist_ok=True)
            (folder / KEPT).rename(place)


def clear_dead(job: SlideJob, ground: Ground, leases: Leases) -> None:
    """Remove the lease of a dead process of this machine; what it had finished is laid by."""

    def rescue(folder: Path) -> None:
        if not isinstance(standing(job, ground), SlideReport):
            place = journal_folder(ground.out, job.output, ground.command)
            _lay_by_journal(folder, place)

    leases.clear(job.output, rescue)


def standing(job: SlideJob, ground: Ground) -> SlideReport | tuple[str, ...]:
    """Return the report of the finished result that holds, or in words why there is none.

    The words are empty where there is no result at all.
    """
    folder = ground.out / job.output
    record = read_record(folder)
    if not may_replace(folder, ground.command):
        return ()  # it is not to be touched, which is said in its turn
    if record is None:
        marker = Marker.read(folder)
        unknown = marker is not None and marker.kind == ground.command
        return ("what made it is not recorded",) if unknown else ()
    try:
        earlier = (folder / RECORD).stat().st_mtime_ns < ground.since_ns
        if ground.options.again and earlier:
            return AGAIN
        gone = missing_files(folder)
        told = changes(record, job, ground.settings)
        if told == UNKNOWN and not earlier:  # made by another process meanwhile
            told = ()
    except OSError as error:  # opening the slide will tell
        return (str(error),)
    if gone:
        return (f"{', '.join(gone)} of it (there -> gone)", *told)
    return told or SlideReport(job.path, str(folder), record["row"], reused=True)


def take_turn(
    task: Task, ground: Ground, work: Work, leases: Leases, listen: Listener = ignore
) -> SlideReport:
    """Do a slide unless it is done or somebody else is at it; whatever goes wrong is reported."""
    job = task.job
    folder = ground.out / job.output
    started = time.perf_counter()
    summary: Row = {"slide": Path(job.path).name}
    refused = not may_replace(folder, ground.command)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", WsisegWarning)
        try:
            check_name(job.output)
            if refused:
                refuse_foreign(folder, ground.command)
            report = _take_and_do(task, ground, work, leases, listen)
        except Exception as error:  # the one broad boundary: no slide may end the batch
            log.debug("%s failed", job.path, exc_info=True)
            if isinstance(error, TooDamagedError):
                summary |= error.found
            summary["seconds"] = round(time.perf_counter() - started, 2)
            report = replace(_failure(job, ground, summary, error), refused=refused)
    heard = tuple(str(w.message) for w in caught if issubclass(w.category, WsisegWarning))
    for message in heard:
        log.warning("%s", message)
    return replace(report, warnings=heard)


def _take_and_do(
    task: Task, ground: Ground, work: Work, leases: Leases, listen: Listener
) -> SlideReport:
    """Take a slide, do it if that is to be done, and give it back."""
    job = task.job
    folder = str(ground.out / job.output)
    lease = _take(task, ground, leases)
    if isinstance(lease, Holder):
        return SlideReport(job.path, folder, {"slide": Path(job.path).name}, held_by=str(lease))
    try:
        found = standing(job, ground)
        told = found if isinstance(found, SlideReport) else failed_elsewhere(job, ground)
        if told is not None:
            return told
        _refuse_deadly(job, lease, ground)
        row = _do(job, ground, work, lease, listen)
        _failure_file(ground, job).unlink(missing_ok=True)
        return SlideReport(job.path, folder, row)
    except Exception as error:
        if _was_lost(lease):
            other = leases.holder(job.output) or "another process"
            log.warning("%s: was taken over by %s; what was done here is dropped", job.path, other)
            summary = {"slide": Path(job.path).name}
            return SlideReport(job.path, folder, summary, held_by=str(other))
        _note_failure(_failure(job, ground, {}, error), ground, job)
        raise
    finally:
        leases.release(lease)


def lost(job: SlideJob, ground: Ground, what: str, leases: Leases) -> SlideReport:
    """Report a slide whose process died, let the others know, and lay by what it had finished."""
    report = _failure(job, ground, {"slide": Path(job.path).name}, RunError(f"{job.path}: {what}"))
    _note_failure(report, ground, job)
    clear_dead(job, ground, leases)
    return report


def failed_elsewhere(job: SlideJob, ground: Ground) -> SlideReport | None:
    """Return how the slide failed in another process since this run began, if it did."""
    path = _failure_file(ground, job)
    try:
        if path.stat().st_mtime_ns < ground.since_ns:
            return None
        told = orjson.loads(path.read_bytes())
        text, name = str(told["error"]), str(told["error_class"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    folder = str(ground.out / job.output)
    summary = {"slide": Path(job.path).name}
    return SlideReport(job.path, folder, summary, error=text, error_class=name)


def _take(task: Task, ground: Ground, leases: Leases) -> Lease | Holder:
    try:
        return leases.take(task.job.output, displacing=task.displacing)
    except OSError as error:
        if isinstance(error, WsisegError):
            raise
        raise unwritable(error, ground.out / task.job.output) from error


def _do(job: SlideJob, ground: Ground, work: Work, lease: Lease, listen: Listener) -> Row:
    """Work on the slide and publish the result; return its row."""
    folder = ground.out / job.output
    require_room(ground.out, 0)
    state = _state(job.path)
    with _opened(job, ground) as slide:
        own, earlier = slide_identity(job.path), _earlier_state(folder, job)
        refuse_foreign(folder, ground.command, own, earlier)  # now rather than when all is done
        if isinstance(slide, Pyramid):
            _warn_of_override(slide)
        timeout_s = ground.options.timeout_s
        watch = Watch(job.path, lease, ground.out, state, timeout_s=timeout_s, listen=listen)
        return work(slide, Turn(job, ground, lease, watch, own, earlier))


@contextmanager
def open_scans(job: SlideJob, first: Volume) -> Iterator[list[Volume]]:
    """Yield all channels of a scan but its priors; the first one is open."""
    with ExitStack() as stack:
        choice = replace(job.choice, series=None)  # that is of one folder
        more = [
            stack.enter_context(open_volume(path, reader=job.reader, **asdict(choice)))
            for path in job.more
        ]
        yield [first, *more]


def _opened(job: SlideJob, ground: Ground) -> Pyramid | Volume:
    if not ground.volumes:
        return open_slide(job.path, mpp=job.mpp, reader=job.reader)
    if job.mpp is not None:
        raise UsageError(f"{job.path}: --mpp is for slides: a scan says where its voxels are")
    return open_volume(job.path, reader=job.reader, **asdict(job.choice))


def _state(path: str) -> State:
    try:
        return file_state(path)
    except OSError:  # opening it will tell
        return ()


def _earlier_state(folder: Path, job: SlideJob) -> str | None:
    """Return the fingerprint of what this very file was when the result that is there was made."""
    record, marker = read_record(folder), Marker.read(folder)
    if record is None or marker is None or record.get("path") != place_of(job.path):
        return None
    return marker.slide


def _refuse_deadly(job: SlideJob, lease: Lease, ground: Ground) -> None:
    """Refuse a slide during which several processes died: the next one would die, too."""
    if len(lease.deaths) >= ground.options.attempts:
        raise RunError(
            f"{job.path}: {len(lease.deaths)} processes died or stopped at the same place of it, "
            f"last {lease.deaths[-1]} (out of memory?); run it again alone, with less memory "
            "(--memory) or fewer cores (--threads)"
        )


def _was_lost(lease: Lease) -> bool:
    """Return whether another process has the slide now."""
    return not lease.touch()


def _failure(job: SlideJob, ground: Ground, summary: Row, error: Exception) -> SlideReport:
    full = isinstance(error, OSError) and error.errno in (*NO_ROOM, errno.EROFS)
    if full and not isinstance(error, WsisegError):  # from deep inside, where it was not expected
        error = unwritable(error, ground.out / job.output)  # type: ignore[arg-type]
    text, name = failure_text(error, job.path), type(error).__name__
    folder = str(ground.out / job.output)
    return SlideReport(job.path, folder, summary, error=text, error_class=name)


def _failure_file(ground: Ground, job: SlideJob) -> Path:
    return ground.out / LEASES_FOLDER / f"{key_of(job.output)}.json"


def _note_failure(report: SlideReport, ground: Ground, job: SlideJob) -> None:
    """Let the other processes of the run know, so that they do not try the same."""
    told = {"error": report.error, "error_class": report.error_class}
    try:
        _failure_file(ground, job).write_bytes(orjson.dumps(told))
    except (OSError, TypeError):  # then they try
        log.debug("%s: failure not noted", job.path, exc_info=True)


def _warn_of_override(slide: Pyramid) -> None:
    """Say so where a pixel size given by hand replaces another one in the file."""
    own = slide.source.metadata.spacing
    if own is None or own == slide.spacing:
        return
    if any(abs(ratio - 1) > SAME_SPACING for ratio in slide.spacing.ratio_to(own)):
        used, found = (" x ".join(f"{um:.4g}" for um in s.um[::-1]) for s in (slide.spacing, own))
        warnings.warn(
            f"{slide.name}: taken as {used} µm per pixel, as told; the file says {found}",
            WsisegWarning,
            stacklevel=2,
        )

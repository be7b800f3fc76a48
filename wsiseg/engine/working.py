"""Hidden folders of a run in progress, and what becomes of those of runs that were killed."""

import hashlib
import logging
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from wsiseg.engine.claim import host, is_alive
from wsiseg.engine.journal import Journal
from wsiseg.errors import LeaseError

__all__ = [
    "discard_journal",
    "journal_folder",
    "make_working_folder",
    "slide_journal",
    "sweep",
    "working_folder",
]

log = logging.getLogger(__name__)

PREFIX = ".wsiseg-"
ASIDE = "old-"
"""Holds an earlier result while the new one takes its name."""

KEPT = "run-"
"""Holds what is finished of a slide, until its result stands."""

NAME = re.compile(rf"{re.escape(PREFIX)}({ASIDE})?(\d+)@(.+)-[a-z0-9_]+")


@contextmanager
def working_folder(parent: Path, *, aside: bool = False) -> Iterator[Path]:
    """Yield a hidden folder in `parent`, on the same file system, gone afterwards."""
    folder = make_working_folder(parent, aside=aside)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def make_working_folder(parent: Path, *, aside: bool = False) -> Path:
    """Make a hidden folder in `parent` whose name says which process on which host it is of.

    Parameters
    ----------
    aside
        It is to hold an earlier result, which `sweep` puts back.
    """
    kind = ASIDE if aside else ""
    folder = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{kind}{os.getpid()}@{host()}-", dir=parent))
    folder.chmod(0o755)  # mkdtemp's folders are for their owner alone
    return folder


def journal_folder(out: Path, name: str, kind: str) -> Path:
    """Return the hidden folder of a slide's run, beside its result: the same one each time.

    Parameters
    ----------
    out, name
        The result will be `out/name`.
    kind
        The command, `segment` or `embed`: both may be under way.
    """
    final = out / name
    key = hashlib.sha256(f"{kind} {final.name}".encode(errors="surrogateescape")).hexdigest()[:8]
    stem = re.sub(r"[^\w.-]", "_", final.name)[:40]
    return final.parent / f"{PREFIX}{KEPT}{kind}-{stem}-{key}"


@contextmanager
def slide_journal(out: Path, name: str, kind: str, *, guarded: bool = False) -> Iterator[Journal]:
    """Yield the journal of a slide's run; its folder goes when the block ends without an error.

    It stays after an error, or when the process is killed, so that the next run goes on there; but
    not while nothing is finished in it.

    Parameters
    ----------
    out, name, kind
        See `journal_folder`.
    guarded
        See `Claim`.

    Raises
    ------
    LeaseError
        If another process works on this slide.
    RunError, DiskFullError
        If the folder cannot be written.
    """
    with Journal(journal_folder(out, name, kind), guarded=guarded) as journal:
        try:
            yield journal
        except BaseException:
            if journal.is_empty:
                shutil.rmtree(journal.folder, ignore_errors=True)
            raise
        shutil.rmtree(journal.folder, ignore_errors=True)


def discard_journal(out: Path, name: str, kind: str) -> None:
    """Remove what a killed run left of a slide whose result stands, unless somebody works there."""
    folder = journal_folder(out, name, kind)
    if folder.is_dir():
        with suppress(LeaseError), Journal(folder):
            shutil.rmtree(folder, ignore_errors=True)


def sweep(parents: Iterable[Path]) -> None:
    """Remove the working folders in `parents` of processes of this host that are dead.

    An earlier result that a killed process had put aside, and not yet replaced, gets its name back.
    """
    for parent in parents:
        for folder in parent.glob(f"{PREFIX}*"):
            match = NAME.fullmatch(folder.name)
            if match is None or match[3] != host() or is_alive(int(match[2])):
                continue
            log.info("%s: removed; its process was killed", folder)
            if match[1]:
                _put_back(folder)
            shutil.rmtree(folder, ignore_errors=True)


def _put_back(aside: Path) -> None:
    for earlier in aside.iterdir():
        if not (aside.parent / earlier.name).exists():
            earlier.rename(aside.parent / earlier.name)

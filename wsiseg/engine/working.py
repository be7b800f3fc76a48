"""Hidden folders of a run in progress, and what becomes of those of runs that were killed."""

import logging
import os
import platform
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

__all__ = ["make_working_folder", "sweep", "working_folder"]

log = logging.getLogger(__name__)

PREFIX = ".wsiseg-"
ASIDE = "old-"
"""Holds an earlier result while the new one takes its name."""

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
    folder = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{kind}{os.getpid()}@{_host()}-", dir=parent))
    folder.chmod(0o755)  # mkdtemp's folders are for their owner alone
    return folder


def sweep(parents: Iterable[Path]) -> None:
    """Remove the working folders in `parents` of processes of this host that are dead.

    An earlier result that a killed process had put aside, and not yet replaced, gets its name back.
    """
    for parent in parents:
        for folder in parent.glob(f"{PREFIX}*"):
            match = NAME.fullmatch(folder.name)
            if match is None or match[3] != _host() or _is_alive(int(match[2])):
                continue
            log.info("%s: removed; its process was killed", folder)
            if match[1]:
                _put_back(folder)
            shutil.rmtree(folder, ignore_errors=True)


def _put_back(aside: Path) -> None:
    for earlier in aside.iterdir():
        if not (aside.parent / earlier.name).exists():
            earlier.rename(aside.parent / earlier.name)


@cache
def _host() -> str:
    """Return what tells machines, and containers, apart: each counts its own processes."""
    try:
        namespace = Path("/proc/self/ns/pid").stat().st_ino
    except OSError:
        namespace = 0
    return re.sub(r"[^A-Za-z0-9.]", "-", platform.node())[:60] + f"-{namespace}"


def _is_alive(pid: int) -> bool:
    if os.name != "posix":  # where signal 0 is no question but an interrupt
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True

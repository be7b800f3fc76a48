"""Indices of many objects, kept in the user's cache: a million objects are read once, not each day.

An index is arrays and a line of JSON, never a pickle, and appears under its name only when it is
whole. Where none can be kept, it goes to the viewer's own folder and ends with it.
"""

import os
import shutil
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from wsiseg import __version__
from wsiseg.exchange.finished import FinishedResult
from wsiseg.model.cache import cache_folder, cache_key
from wsiseg.view.objects import ObjectIndex, build_beside

__all__ = ["kept_index"]

LAYOUT = 1
"""Grows when files of an index change their meaning."""

LIMIT_BYTES = 4_000_000_000
"""Of all that are kept: about 12 million objects. The ones not used longest go first."""

UNFINISHED = ".new-"
TOO_OLD_S = 86_400
"""After a day, what is unfinished belongs to a process that was killed."""

NO_INDEX = (OSError, EOFError, ValueError, KeyError, TypeError, IndexError)
"""What opening files raises that are not there, or not what `build` wrote."""


def kept_index(result: FinishedResult, stem: str, workspace: Path) -> ObjectIndex:
    """Return the objects of a result: as kept, or read now and kept.

    Parameters
    ----------
    result, stem
        Whose objects.
    workspace
        A folder of this process, for what cannot be kept.

    Raises
    ------
    RunError
        If they cannot be read.
    """
    home = cache_folder() / "objects"
    key = _key(result, stem)
    kept = _opened(home / key)
    if kept is not None:
        return kept
    folder = _new_folder(home, result, stem) or Path(tempfile.mkdtemp(dir=workspace))
    try:
        build_beside(result, stem, folder)
        if folder.parent == home and _key(result, stem) == key:  # else it is of both
            folder = _named(folder, home / key)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    index = ObjectIndex.open(folder)
    _tidy(home, spared=folder)
    return index


def _key(result: FinishedResult, stem: str) -> str:
    """Return a name that is another one when anything was changed that an index is made of."""
    paths = [*result.files(stem), result.folder / "run.json", result.slide_path]
    stats = [(str(path.resolve()), path.stat()) for path in paths if path and path.exists()]
    told = [(path, s.st_size, s.st_mtime_ns, s.st_ctime_ns) for path, s in stats]
    return cache_key(LAYOUT, __version__, stem, told)


def _opened(folder: Path) -> ObjectIndex | None:
    try:
        index = ObjectIndex.open(folder)
    except NO_INDEX:
        return None
    with suppress(OSError):
        os.utime(folder)  # used just now
    return index


def _new_folder(home: Path, result: FinishedResult, stem: str) -> Path | None:
    """Return a folder to build in; `None` where nothing can be kept."""
    size = sum(path.stat().st_size for path in result.files(stem))
    try:
        home.mkdir(parents=True, exist_ok=True)
        if shutil.disk_usage(home).free < 2 * size:  # more than an index takes
            return None
        return Path(tempfile.mkdtemp(prefix=UNFINISHED, dir=home))  # for this user alone
    except OSError:
        return None


def _named(folder: Path, name: Path) -> Path:
    """Give an index its name; return where it is then."""
    try:
        return folder.rename(name)
    except OSError:  # another viewer was first, or what is there is spoilt
        spoilt = _opened(name) is None
        shutil.rmtree(name if spoilt else folder, ignore_errors=True)
        return folder.rename(name) if spoilt else name


def _tidy(home: Path, *, spared: Path) -> None:
    """Remove what was used least recently, and what others left unfinished."""
    with suppress(OSError):
        left, now = LIMIT_BYTES, time.time()
        folders = [(path.stat().st_mtime, path) for path in home.iterdir() if path.is_dir()]
        for used, path in sorted(folders, reverse=True):
            left -= sum(file.stat().st_size for file in path.iterdir())
            is_new = path.name.startswith(UNFINISHED)
            is_over = now - used > TOO_OLD_S if is_new else left < 0
            if is_over and path != spared:
                shutil.rmtree(path, ignore_errors=True)

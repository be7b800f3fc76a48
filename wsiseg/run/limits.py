"""What a slide may take: time, room on the disk, open files; and what to do where it runs out."""

import errno
import math
import re
import shutil
import time
from pathlib import Path

from wsiseg.engine import Event, Listener
from wsiseg.errors import DiskFullError, LeaseError, RunError, SourceError, UsageError
from wsiseg.machine import machine_memory
from wsiseg.run.leases import Lease
from wsiseg.run.records import State, slide_changes

__all__ = [
    "Watch",
    "bear_the_blame",
    "bound_memory",
    "parse_bytes",
    "parse_seconds",
    "raise_open_files",
    "reason_of",
    "require_room",
]

FILES_WANTED = 4096
"""Open files asked for where the system lets a process ask; macOS begins with 256."""

RESERVE_BYTES = 20_000_000
"""Left free, so that tables and the results of other slides find room."""

EXPECTED = 0.02
"""Of the bytes of heatmaps and mask before compression, at the least, that they take on disk:
empty glass takes next to nothing, and the engine looks at the disk while it writes."""

LOOK_S = 2.0
"""Between two looks at the disk."""

POWERS = "kmgt"

UNITS = {"": 1, "s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400}


class Watch:
    """Listens to the engine, and ends the work on a slide between two batches if it has to end.

    Parameters
    ----------
    path
        The slide.
    lease
        What allows the work.
    out
        The output folder.
    state
        Of the slide's files when they were opened.
    timeout_s
        Seconds from now; `None`: no limit.
    listen
        Gets the events.
    """

    def __init__(
        self,
        path: str,
        lease: Lease,
        out: Path,
        state: State,
        *,
        timeout_s: float | None,
        listen: Listener,
    ) -> None:
        self._path = path
        self._lease = lease
        self._out = out
        self._state = state
        self._timeout_s = timeout_s
        self._listen = listen
        self._started = self._looked = time.monotonic()

    def __call__(self, event: Event) -> None:
        """Pass an event on; raises as `check`."""
        self.check()
        self._listen(event)

    def check(self) -> None:
        """Look whether the work may go on.

        Raises
        ------
        LeaseError
            If somebody else has got the slide.
        DiskFullError
            If the disk is about to be full.
        RunError
            If the time is up.
        """
        now = time.monotonic()
        if self._lease.lost:
            raise LeaseError(f"{self._path}: was taken over by another process")
        if self._timeout_s is not None and now - self._started > self._timeout_s:
            raise overdue(self._path, self._timeout_s)
        if now - self._looked > LOOK_S:
            self._looked = now
            require_room(self._out, 0)

    def seal(self) -> None:
        """Look for the last time, before the result gets its name.

        Raises
        ------
        SourceError
            If the slide is not the file any more that was opened; else as `check`.
        """
        self.check()
        if not self._lease.touch():
            raise LeaseError(f"{self._path}: was taken over by another process")
        changed = slide_changes(self._state, self._path)
        if changed is not None:
            raise SourceError(
                f"{self._path}: the slide changed while it was read: {changed}; run it again when "
                "nobody writes to it any more",
                path=self._path,
            )


def overdue(path: str, timeout_s: float, how: str = "") -> RunError:
    """Return the error for a slide that takes longer than allowed."""
    return RunError(
        f"{path}: took longer than {timeout_s:g} s{how}; allow more (--timeout), or leave it out"
    )


def require_room(out: Path, pixel_bytes: int) -> None:
    """Look whether there is room for a slide's results.

    Parameters
    ----------
    out
        Where they go.
    pixel_bytes
        Of heatmaps and mask before compression; 0: look for the reserve alone.

    Raises
    ------
    DiskFullError
        If there surely is not enough.
    """
    try:
        free = shutil.disk_usage(out).free
    except OSError:  # writing will tell what is wrong with it
        return
    needed = RESERVE_BYTES + int(EXPECTED * pixel_bytes)
    if free < needed:
        raise DiskFullError(
            f"{out}: no room left on the disk: needed at least {math.ceil(needed / 1e6)} MB, free "
            f"are {free / 1e6:.0f} MB; free some, or write elsewhere"
        )


def raise_open_files() -> None:
    """Let this process open more files at once, as far as the system allows it."""
    try:
        import resource
    except ImportError:
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = FILES_WANTED if hard == resource.RLIM_INFINITY else min(FILES_WANTED, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        except (OSError, ValueError):  # then it has to do with what it has
            return


def bear_the_blame() -> None:
    """Have the system end this process rather than its parent where memory runs out; no core file.

    Linux only; elsewhere the system chooses.
    """
    try:
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
        Path("/proc/self/oom_score_adj").write_text("1000")
    except (ImportError, OSError, ValueError):
        return


def bound_memory() -> None:
    """Refuse this process more memory than the machine has, be it used or only asked for.

    A file that claims a gigantic size then makes an error instead of swapping or an ended process.
    Not for processes that use a GPU, whose driver asks for far more than it uses.
    """
    try:
        import resource

        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        allowed = machine_memory()
        if hard == resource.RLIM_INFINITY or allowed < hard:
            resource.setrlimit(resource.RLIMIT_DATA, (allowed, hard))
    except (ImportError, OSError, ValueError):
        return


def reason_of(error: BaseException) -> str | None:
    """Return what is wrong, and what to do, where a limit of the system was met; else `None`."""
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        text = str(cause)
        if getattr(cause, "errno", None) in (errno.EMFILE, errno.ENFILE) or (
            "too many open files" in text.lower()
        ):
            return f"too many open files ({_open_files()}); raise the limit: ulimit -n 1024"
        if "can't start new thread" in text:
            return (
                "the system allows no more threads; use fewer (--threads 1), or raise the limit of "
                "processes (ulimit -u) or of the container"
            )
        cause = cause.__cause__ or cause.__context__
    if isinstance(error, MemoryError):
        return "no memory left; allow less (--memory 4GB) or fewer cores (--threads 1)"
    return None


def parse_bytes(text: str) -> int:
    """Return the bytes meant by `4GB`, `500 MB` or `1e9`.

    Raises
    ------
    UsageError
        If it is not a size.
    """
    number, prefix, binary = r"([0-9]+\.?[0-9]*(?:e[0-9]+)?)", r"([kmgt]?)", r"(i?)"
    match = re.fullmatch(rf"\s*{number}\s*{prefix}{binary}b?\s*", text.lower())
    if match is None:
        raise UsageError(f"memory {text!r}: needed a size such as 4GB or 500MB")
    size = int(float(match[1]) * (1024 if match[3] else 1000) ** (POWERS.find(match[2] or "?") + 1))
    if size <= 0:
        raise UsageError(f"memory {text!r}: needed more than nothing, such as 4GB")
    return size


def parse_seconds(text: str) -> float:
    """Return the seconds meant by `90`, `30m` or `2h`.

    Raises
    ------
    UsageError
        If it is no such time.
    """
    match = re.fullmatch(r"\s*([0-9]+\.?[0-9]*)\s*([a-z]*)\s*", text.lower())
    seconds = float(match[1]) * UNITS[match[2]] if match and match[2] in UNITS else 0.0
    if not 0 < seconds < math.inf:
        raise UsageError(f"time {text!r}: needed more than nothing, such as 90, 30m or 2h")
    return seconds


def _open_files() -> str:
    try:
        import resource
    except ImportError:
        return "at the limit of the system"
    return f"the limit is {resource.getrlimit(resource.RLIMIT_NOFILE)[0]}"

"""A folder that one process works in at a time, until it ends or is killed.

The system's file locks say whether the owner lives: they end with the process, however it ends, and
no process number can be mistaken for another's. Where a file system has no locks, the record in the
file decides: host, process and the time that process was started.
"""

import os
import platform
import re
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

import orjson

from wsiseg.errors import LeaseError

try:
    import fcntl
except ImportError:  # Windows: the record decides
    fcntl = None  # type: ignore[assignment]

__all__ = ["OWNER", "Claim", "host", "is_alive"]

OWNER = "owner"
"""File in a claimed folder; holds an `Owner` as JSON."""

STALE_S = 900.0
"""On another machine nobody can ask for a process: one that wrote nothing for so long is dead."""

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True, slots=True)
class Owner:
    """A process that may be told from all others."""

    host: str
    boot: str
    """Changes when the machine starts; empty where the system does not say."""

    space: int
    """Where process numbers are counted: each container has its own."""

    pid: int
    started: str
    """When the process was started, in the system's own words; empty where it does not say."""

    @classmethod
    def this_process(cls) -> "Owner":
        """Return this process."""
        pid = os.getpid()
        return cls(platform.node(), _boot(), _space(), pid, _started(pid))

    @classmethod
    def parse(cls, content: bytes) -> "Owner | None":
        """Return who is named there; `None` where nobody is, as in a file begun by a dead one."""
        try:
            return cls(**orjson.loads(content))
        except (ValueError, TypeError):
            return None

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


class Claim:
    """A folder taken for this process; a context manager that gives it back.

    Parameters
    ----------
    folder
        Made if need be.
    activity
        File in it that changes while its owner works.
    guarded
        The caller has made sure by other means (a lease on the slide) that no other machine works
        here: an owner there is dead.

    Raises
    ------
    LeaseError
        If another process works there, or may do so.
    """

    def __init__(self, folder: Path, *, activity: str, guarded: bool = False) -> None:
        self.folder = folder
        self._activity = folder / activity
        self._guarded = guarded
        self._file = self._take()

    def __enter__(self) -> "Claim":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the folder back."""
        if self._file >= 0:
            with suppress(OSError):  # the folder may be gone
                os.ftruncate(self._file, 0)
            os.close(self._file)
            self._file = -1

    def _take(self) -> int:
        while True:
            self.folder.mkdir(parents=True, exist_ok=True)
            file = os.open(self.folder / OWNER, os.O_RDWR | os.O_CREAT, 0o644)
            try:
                locks = self._lock(file)
                if self._is_gone(file):  # its last owner removed the folder meanwhile
                    os.close(file)
                    continue
                self._refuse_living(Owner.parse(os.pread(file, 4096, 0)), locks=locks)
                os.ftruncate(file, 0)
                os.pwrite(file, orjson.dumps(asdict(Owner.this_process())), 0)
            except BaseException:
                os.close(file)
                raise
            return file

    def _lock(self, file: int) -> bool:
        """Lock the file; tell whether the file system has locks at all."""
        if fcntl is None:
            return False
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            owner = Owner.parse(os.pread(file, 4096, 0))
            raise self._refusal(owner) from error
        except OSError:
            return False
        return True

    def _is_gone(self, file: int) -> bool:
        try:
            return not os.path.samestat(os.fstat(file), (self.folder / OWNER).stat())
        except OSError:
            return True

    def _refuse_living(self, owner: Owner | None, *, locks: bool) -> None:
        if owner is not None and self._may_live(owner, locks=locks):
            raise self._refusal(owner)

    def _may_live(self, owner: Owner, *, locks: bool) -> bool:
        here = Owner.this_process()
        if owner.boot and owner.boot == here.boot:
            if locks:
                return False  # this system would not have given the lock
            if owner.space == here.space:
                return _started(owner.pid) == owner.started and is_alive(owner.pid)
        if owner.host == here.host and owner.boot != here.boot:
            return False  # the machine was started again since
        return not self._guarded and self._changed_lately()

    def _changed_lately(self) -> bool:
        """Compare times of the file system alone: clocks of machines differ."""
        probe = self.folder / f".{OWNER}.{os.getpid()}"
        try:
            last = self._activity.stat().st_mtime
            probe.touch()
            return probe.stat().st_mtime < last + STALE_S
        except OSError:
            return False
        finally:
            probe.unlink(missing_ok=True)

    def _refusal(self, owner: Owner | None) -> LeaseError:
        return LeaseError(
            f"{self.folder}: {owner or 'another process'} works there; wait until it is done, or "
            "choose another output folder"
        )


@cache
def host() -> str:
    """Return what tells machines, and containers, apart: each counts its own processes."""
    return re.sub(r"[^A-Za-z0-9.]", "-", platform.node())[:60] + f"-{_space()}"


def is_alive(pid: int) -> bool:
    """Return whether there is such a process on this machine."""
    if os.name != "posix":  # where signal 0 is no question but an interrupt
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


@cache
def _boot() -> str:
    try:
        return BOOT_ID.read_text().strip()
    except OSError:
        return ""


@cache
def _space() -> int:
    try:
        return Path("/proc/self/ns/pid").stat().st_ino
    except OSError:
        return 0


def _started(pid: int) -> str:
    """Return when a process was started, in ticks since the machine was."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return ""
    return stat.rpartition(")")[2].split()[19]  # names may hold blanks and brackets

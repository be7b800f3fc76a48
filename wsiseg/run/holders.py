"""Who holds a lease: a process, told from every other one by a name that fits into a file name."""

import hashlib
import os
import platform
import re
import secrets
from dataclasses import dataclass
from functools import cache
from pathlib import Path

__all__ = ["Holder"]

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
PID_NAMESPACE = Path("/proc/self/ns/pid")

UNKNOWN = "unknown"
"""Machine of those that cannot tell it from others: their process numbers prove nothing."""

NAME = re.compile(r"([0-9a-f]{16})\.(\d+)\.(\d+)\.(\w+)\.(.*)")

STARTED = 19
"""Place of the start time in `/proc/<pid>/stat`, counted from the state behind the command."""


@dataclass(frozen=True, slots=True)
class Holder:
    """A process that may hold leases."""

    token: str
    """Random; no two holders share it, and none is ever used twice."""

    pid: int
    started: int
    """Clock ticks from the start of the system to that of the process; 0: unknown. Tells the
    process from a later one of the same number."""

    machine: str
    """Hash of what tells one running system, and one container of it, from all others."""

    host: str
    """For people to read."""

    @classmethod
    def me(cls) -> "Holder":
        """Return a new holder that stands for this process."""
        pid = os.getpid()
        state = _state(pid)
        host = re.sub(r"[^A-Za-z0-9-]", "-", platform.node())[:60] or "host"
        return cls(secrets.token_hex(8), pid, state[1] if state else 0, _machine(), host)

    @classmethod
    def parse(cls, name: str) -> "Holder | None":
        """Return the holder of that name; `None` where it is no holder's."""
        match = NAME.fullmatch(name)
        if match is None:
            return None
        return cls(match[1], int(match[2]), int(match[3]), match[4], match[5])

    @property
    def name(self) -> str:
        """All of it, as a file may be called."""
        return f"{self.token}.{self.pid}.{self.started}.{self.machine}.{self.host}"

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"

    def is_dead(self) -> bool:
        """Return whether the process surely is no more; of other machines that is not known."""
        if self.machine == UNKNOWN or self.machine != _machine():
            return False
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except (PermissionError, OverflowError):
            return False
        state = _state(self.pid)
        if state is None:
            return False
        letter, started = state
        return letter in "ZX" or (self.started != 0 and started != self.started)


def _state(pid: int) -> tuple[str, int] | None:
    """Return state and start time of a process; `None` where the system does not say."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
        fields = text.rpartition(")")[2].split()
        return fields[0], int(fields[STARTED])
    except (OSError, IndexError, ValueError):
        return None


@cache
def _machine() -> str:
    if os.name != "posix":  # where signal 0 is no question but an interrupt
        return UNKNOWN
    try:
        told = f"{BOOT_ID.read_text().strip()} {PID_NAMESPACE.stat().st_ino}"
    except OSError:
        return UNKNOWN
    return hashlib.sha256(told.encode()).hexdigest()[:12]

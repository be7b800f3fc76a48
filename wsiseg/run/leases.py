"""Leases: of several processes on one output folder, on any number of machines, one has a slide.

A lease is a folder, `.wsiseg-leases/<slide>/<holder>/`, and whoever works on the slide works in
there. Everything rests on the renaming of folders, which file systems of POSIX and NFS do whole or
not at all:

* taken: a folder that holds `<holder>/` is renamed to `<slide>`, which fails where another one is;
* kept: `beat` in it is touched by a thread, several times within the time it takes to expire;
* taken over: `<slide>/<dead>` is renamed to `<slide>/<taker>`. Names are never used twice, so of
  several takers one succeeds, and none can take from the one that has just taken;
* lost: for its former holder the folder is gone, with what was made there: a result that is renamed
  from in there to its final name (`Publishing.workspace`) appears only while the lease is held.

A holder on this machine is dead when its process is. Of other machines that is told from `beat`:
its age by the clock of the file system (that of a file touched for comparison), and in addition
from its standing still while it was watched, so that no clock has to be right.
"""

import errno
import hashlib
import json
import logging
import os
import random
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType

from wsiseg.engine.journal import FILE
from wsiseg.engine.working import PREFIX
from wsiseg.errors import LeaseError
from wsiseg.run.holders import Holder

__all__ = ["KEPT", "LEASES_FOLDER", "Lease", "Leases", "key_of"]

log = logging.getLogger(__name__)

LEASES_FOLDER = ".wsiseg-leases"
"""In the output folder, while a run goes on: leases, and what processes tell each other."""

BEAT, DEATHS = "beat", "deaths"
KEPT = "journal"
"""In a lease: the folder of the slide's journal, which goes from one holder to the next."""

NEW, OLD, CLOCK = ".new-", ".old-", ".clock-"

BEATS = 6
"""How often a lease is touched within the time it takes to expire."""

WATCHED = 0.5
"""Share of that time an old lease is watched before it is taken from another machine: more than
the 60 s for which a client of NFS may remember what no longer is."""

LONG_GONE = 10
"""Times as long without a sign of life as a lease takes to expire: that run is no more."""

TRIES = 20
"""How often an attempt is begun anew because the state of things changed under it."""

TAKEN = frozenset({errno.ENOTEMPTY, errno.EEXIST})
"""What renaming a folder to the name of one that is not empty fails with."""


def key_of(name: str) -> str:
    """Return the name of the folder that stands for a slide's output folder."""
    name = name.casefold()  # where a file system does not tell cases apart, one folder is one slide
    text = re.sub(r"[^a-z0-9]+", "-", name).strip("-")[:60]
    digest = hashlib.sha256(name.encode(errors="surrogateescape")).hexdigest()
    return f"{text}-{digest[:16]}"


class Lease:
    """A slide that this process, and no other one, may work on."""

    def __init__(self, root: Path, key: Path, holder: Holder, deaths: tuple[str, ...]) -> None:
        self._root = root
        self._key = key
        self._lost = threading.Event()
        self.holder = holder
        self.folder = key / holder.name
        """Gone when the lease is. What is in it goes with the lease, but for what a taker finds:
        `.wsiseg-*` is cleared away, anything else passes from one holder to the next."""

        self.deaths = deaths
        """Earlier holders that died, or were not heard of any more, while they had the slide, since
        the last of them got any further."""

    @property
    def lost(self) -> bool:
        """Whether somebody else is known to have taken it."""
        return self._lost.is_set()

    def touch(self) -> bool:
        """Show that the holder lives; return whether the lease is still held."""
        try:
            os.utime(self.folder / BEAT)
        except FileNotFoundError:
            self._lost.set()
        except OSError:  # a server that does not answer may come back in time
            log.debug("%s: cannot be touched", self.folder, exc_info=True)
        return not self.lost

    def release(self) -> None:
        """Give it back; what is in its folder goes."""
        gone = self._root / f"{OLD}{self.holder.name}"
        try:
            self.folder.rename(gone)  # free from here on, whatever comes
        except OSError:  # taken by another one; or not to be changed, and will expire
            log.debug("%s: cannot be released", self.folder, exc_info=True)
            return
        with suppress(OSError):
            self._key.rmdir()
        shutil.rmtree(gone, ignore_errors=True)


@dataclass(frozen=True, slots=True)
class _Seen:
    """A lease as it was when last looked at."""

    holder: str
    beat_ns: int
    since: float


class Leases:
    """The leases of one process in an output folder; used as a context manager.

    Parameters
    ----------
    out
        The output folder.
    expiry_s
        Seconds after which a holder that is not heard of is taken for dead.

    Raises
    ------
    OSError
        By most methods, if the folder cannot be written or looked at.
    """

    def __init__(self, out: Path, *, expiry_s: float = 120.0) -> None:
        self.expiry_s = expiry_s
        self._root = out / LEASES_FOLDER
        self._me = Holder.me()
        self._held: dict[str, Lease] = {}
        self._seen: dict[str, _Seen] = {}
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> "Leases":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def root(self) -> Path:
        """Folder of the leases; there while somebody needs it."""
        return self._root

    @property
    def sign(self) -> Path:
        """A file that is there from `arrive` to `close`, to be seen by other machines."""
        return self._root / f"{CLOCK}{self._me.name}"

    def far(self, name: str) -> int:
        """Return how far whoever has a slide is with it: the bytes of its journal, 0 for none."""
        try:
            holder = self.holder(name)
        except OSError:
            return 0
        return _far(self._root / key_of(name) / holder.name) if holder else 0

    def take(self, name: str, *, displacing: str | None = None) -> Lease | Holder:
        """Take the lease of a slide, or return who has it.

        Parameters
        ----------
        name
            Of its output folder, as seen from `out`.
        displacing
            Name of a holder that `abandoned` has found; no other one is displaced, but for those of
            this machine whose process is dead.

        Raises
        ------
        LeaseError
            If something else is in the lease's place.
        """
        key = self._root / key_of(name)
        for _ in range(TRIES):
            holder = _holder_of(key)
            if holder is None:
                lease = self._begin(key)
            elif holder.name == displacing or holder.is_dead():
                lease = self._displace(key, holder)
            else:
                return holder
            if lease is not None:
                self._held[lease.holder.token] = lease
                try:
                    self._start_beating()
                except RuntimeError:  # no more threads
                    self.release(lease)
                    raise
                return lease
        found = ", ".join(sorted(path.name for path in key.iterdir()))[:200] or "nothing"
        raise LeaseError(
            f"{key}: cannot be taken: needed leases of wsiseg in it, found {found}; remove it if "
            "no run is under way"
        )

    def release(self, lease: Lease) -> None:
        """Give a lease back."""
        self._held.pop(lease.holder.token, None)
        lease.release()

    @contextmanager
    def hold(self, name: str, *, wait_s: float) -> Iterator[Lease]:
        """Hold a lease for a moment, waiting for it where need be.

        Raises
        ------
        LeaseError
            If it cannot be had within `wait_s`.
        """
        deadline = time.monotonic() + wait_s
        displacing = None
        pause = 0.005
        while isinstance(lease := self.take(name, displacing=displacing), Holder):
            if time.monotonic() > deadline:
                raise LeaseError(
                    f"{self._root / key_of(name)}: is held by {lease}; try again later"
                )
            abandoned = self.abandoned(name)
            displacing = abandoned.name if abandoned else None
            time.sleep(pause * random.uniform(0.5, 1.5))  # so that waiting ones do not go in step
            pause = min(2 * pause, 0.25)
        try:
            yield lease
        finally:
            self.release(lease)

    def holder(self, name: str) -> Holder | None:
        """Return who has the lease of a slide; `None` where it is free."""
        return _holder_of(self._root / key_of(name))

    def abandoned(self, name: str) -> Holder | None:
        """Return the holder of a slide if it has to be taken for dead; to be asked repeatedly."""
        holder = self.holder(name)
        if holder is None or holder.is_dead():
            self._seen.pop(name, None)
            return holder
        try:
            beat_ns = _modified_ns(self._root / key_of(name) / holder.name / BEAT)
        except FileNotFoundError:
            return None  # just released, or taken
        seen = self._seen.get(name)
        if seen is None or (seen.holder, seen.beat_ns) != (holder.name, beat_ns):
            self._seen[name] = _Seen(holder.name, beat_ns, time.monotonic())
            return None
        still = time.monotonic() - seen.since
        if still < WATCHED * self.expiry_s:
            return None
        age = (self.now_ns() - beat_ns) / 1e9
        return holder if still >= self.expiry_s or age > self.expiry_s else None

    def now_ns(self) -> int:
        """Return the time by the clock of the file system, in ns since 1970."""
        clock = self.sign
        for _ in range(TRIES):
            with suppress(FileNotFoundError):  # the folder goes when the last run ends
                self._root.mkdir(exist_ok=True)
                clock.touch()
                return _modified_ns(clock)
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(clock))

    def arrive(self) -> int:
        """Be known as a run that is under way, until `close`; return the time, see `now_ns`."""
        self._start_beating()
        return self.now_ns()

    def close(self) -> None:
        """Give everything back; the last one of all processes leaves nothing."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        for lease in list(self._held.values()):
            self.release(lease)
        if self._root.is_dir():
            with suppress(OSError):
                self._tidy()

    def clear(self, name: str, rescue: Callable[[Path], None]) -> None:
        """Remove the lease of a slide if its holder is a dead process of this machine.

        Parameters
        ----------
        name
            Of the slide's output folder.
        rescue
            Called with the lease's folder before it goes.
        """
        with suppress(OSError):
            key = self._root / key_of(name)
            holder = _holder_of(key)
            if holder is not None and holder.is_dead():
                lease = self._displace(key, holder)
                if lease is not None:
                    rescue(lease.folder)
                    lease.release()

    def _begin(self, key: Path) -> Lease | None:
        """Take a lease that nobody has; `None` where somebody was faster."""
        holder = replace(self._me, token=Holder.me().token)
        fresh = self._root / f"{NEW}{holder.name}"
        lease = Lease(self._root, key, holder, ())
        try:
            try:
                self._root.mkdir(exist_ok=True)  # but never `out`, which may not be mounted now
                fresh.mkdir()
                (fresh / holder.name).mkdir()
                (fresh / holder.name / BEAT).write_text(_note(holder))
                fresh.rename(key)
            except OSError as error:
                if lease.folder.is_dir():  # done; the answer was lost on its way
                    return lease
                if error.errno not in (*TAKEN, errno.ENOENT) and not key.is_dir():
                    raise
                if os.name != "posix":  # where an empty folder is in the way, too
                    with suppress(OSError):
                        key.rmdir()
                return None
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
        return lease

    def _displace(self, key: Path, old: Holder) -> Lease | None:
        """Take the lease of a dead holder; `None` where that holder has it no more."""
        holder = replace(self._me, token=Holder.me().token)
        folder = key / holder.name
        try:
            (key / old.name).rename(folder)
        except FileNotFoundError:
            if not folder.is_dir():
                return None
        log.info("%s: taken from %s", key.name, old)
        try:
            (folder / BEAT).write_text(_note(holder))
            deaths = _note_death(folder, old)
        except OSError:  # no room; nobody would keep it, and this process lives
            with suppress(OSError):
                folder.rename(key / old.name)
            raise
        for left in folder.glob(f"{PREFIX}*"):
            shutil.rmtree(left, ignore_errors=True)
        return Lease(self._root, key, holder, deaths)

    def _start_beating(self) -> None:
        if self._thread is None:
            self._stop.clear()
            thread = threading.Thread(target=self._beat, name="wsiseg-lease", daemon=True)
            thread.start()
            self._thread = thread

    def _beat(self) -> None:
        while not self._stop.wait(self.expiry_s / BEATS):
            for lease in list(self._held.values()):
                lease.touch()
            with suppress(OSError):
                os.utime(self.sign)

    def _tidy(self) -> None:
        """Remove what dead processes left, and everything where no run is under way."""
        now_ns, alone = self.now_ns(), True
        self.sign.unlink()
        for path in list(self._root.iterdir()):
            kind, holder = _left_by(path.name)
            if holder is None:
                continue
            if holder.is_dead():
                _remove(path)
            elif kind == CLOCK and (now_ns - _modified_ns(path)) / 1e9 < LONG_GONE * self.expiry_s:
                alone = False
        if alone:
            for path in self._root.glob("*.json"):
                path.unlink(missing_ok=True)
            self._root.rmdir()


def _left_by(name: str) -> tuple[str, Holder | None]:
    for kind in (NEW, OLD, CLOCK):
        if name.startswith(kind):
            return kind, Holder.parse(name.removeprefix(kind))
    return "", None


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _holder_of(key: Path) -> Holder | None:
    try:
        names = os.listdir(key)  # noqa: PTH208 - names are what is wanted
    except FileNotFoundError:
        return None
    return next(filter(None, map(Holder.parse, names)), None)


def _note_death(folder: Path, dead: Holder) -> tuple[str, ...]:
    """Write down who died, and how far the slide was; return who has died since it got there."""
    far = _far(folder)
    with (folder / DEATHS).open("a", encoding="utf-8") as file:
        file.write(f"{far} {dead}\n")
    deaths: list[str] = []
    for line in (folder / DEATHS).read_text(encoding="utf-8").splitlines():
        then, _, who = line.partition(" ")
        deaths = [*deaths, who] if then == str(far) else []
    return tuple(deaths)


def _far(folder: Path) -> int:
    try:
        return (folder / KEPT / FILE).stat().st_size
    except OSError:
        return 0


def _modified_ns(path: Path) -> int:
    """Return when a file was changed last; opened, since a client of NFS asks the server then."""
    with path.open("rb") as file:
        return os.fstat(file.fileno()).st_mtime_ns


def _note(holder: Holder) -> str:
    """Return what people may want to know who look into a lease."""
    return json.dumps({"host": holder.host, "pid": holder.pid, "machine": holder.machine}) + "\n"

"""Many changed files, each in a process that may be ended: what came of them."""

import gc
import logging
import os
import shutil
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from random import Random
from typing import Any, Literal

from wsiseg.engine import Listener
from wsiseg.errors import WsisegError
from wsiseg.machine import peak_memory, resident_memory
from wsiseg.run.devices import each_on_a_device
from wsiseg.testing.fuzz.entries import Grounds, LostSiblingError, run_entry
from wsiseg.testing.fuzz.mutate import mutate
from wsiseg.testing.fuzz.originals import Original, make_originals

__all__ = ["BAD", "Case", "Limits", "Outcome", "change", "fuzz", "table", "try_one"]

Kind = Literal["ok", "refused", "untidy", "uncaught", "lost sibling", "hang", "crash", "memory"]
BAD: tuple[Kind, ...] = ("untidy", "uncaught", "lost sibling", "hang", "crash", "memory")
"""What must not happen. `untidy` is a refusal that is not one line, or beside which a library
writes to the terminal."""

KINDS: tuple[Kind, ...] = ("ok", "refused", *BAD)

LONGEST_LINE = 2000
FILE_BYTES = 2 << 30
"""The most a process may write into a file."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one file may take."""

    seconds: float = 60.0
    memory_bytes: int = 1_500_000_000
    """Beyond what the process had before; as much again ends in an error of memory."""


@dataclass(frozen=True, slots=True)
class Case:
    """A changed file: seed and index say which."""

    seed: int
    index: int
    original: Original

    @property
    def random(self) -> Random:
        """What decides the change; the same each time."""
        return Random(f"{self.seed}/{self.index}/{self.original.name}")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a changed file."""

    index: int
    name: str
    kind: Kind
    text: str = ""
    seconds: float = 0.0
    memory_bytes: int = 0
    where: str = ""
    """Last lines of the traceback of what was not caught."""


def fuzz(
    indices: Sequence[int],
    folder: Path,
    *,
    seed: int = 0,
    only: Sequence[str] = (),
    processes: int = 1,
    limits: Limits | None = None,
    keep: Path | None = None,
) -> Iterator[Outcome]:
    """Yield what comes of changed files, as they end.

    Parameters
    ----------
    indices
        Which files of the endless row that a seed stands for; formats take turns.
    folder
        For the originals and for work; made if absent.
    only
        Parts of the names of formats; none: all formats.
    processes
        How many files are tried at once.
    keep
        Where files with a bad outcome go.

    Raises
    ------
    ValueError
        If there is no such format.
    """
    limits = limits or Limits()
    chosen = make_originals(folder / "originals", only)
    cases = [Case(seed, index, chosen[index % len(chosen)]) for index in indices]
    work = partial(_worker, folder=folder, limits=limits)
    found = each_on_a_device(
        cases, ("cpu",) * processes, work, _lost, limit_s=limits.seconds
    )  # fmt: skip
    for outcome in found:
        if outcome.kind in BAD and keep is not None:
            case = Case(seed, outcome.index, chosen[outcome.index % len(chosen)])
            change(case, keep / f"{outcome.index}-{outcome.name}")
        yield outcome


def change(case: Case, folder: Path) -> tuple[Path, Random]:
    """Write the changed file of a case into a folder of its own; return it, and what decides on."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    random = case.random
    return mutate(case.original.path, folder / case.original.path.name, random), random


def try_one(case: Case, grounds: Grounds, limits: Limits) -> Outcome:
    """Change a file and use it, in this process; whatever goes wrong becomes the outcome."""
    folder = grounds.folder / "case"
    path, random = change(case, folder)
    before, started = resident_memory(), time.perf_counter()
    _forget_peak()
    kind, text, where = _what_comes_of(case, path, random, grounds)
    taken = max(0, peak_memory() - before)
    if kind in ("ok", "refused") and taken > limits.memory_bytes:
        kind, text = "memory", f"took {taken / 1e6:.0f} MB: {text}"
    seconds = round(time.perf_counter() - started, 3)
    return Outcome(case.index, case.original.name, kind, text, seconds, taken, where)


def table(outcomes: Sequence[Outcome], names: Sequence[str] | None = None) -> str:
    """Return a line per format: how many files, and what came of them."""
    rows: list[tuple[str, ...]] = [("format", "inputs", *KINDS, "longest s", "most MB")]
    for name in [*(names or sorted({o.name for o in outcomes})), "all"]:
        own = [o for o in outcomes if name in (o.name, "all")]
        counts = Counter(o.kind for o in own)
        seconds = max((o.seconds for o in own), default=0.0)
        memory = max((o.memory_bytes for o in own), default=0)
        row = (len(own), *(counts[kind] for kind in KINDS), f"{seconds:.1f}", f"{memory / 1e6:.0f}")
        rows.append((name, *map(str, row)))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    )


def to_json(outcomes: Sequence[Outcome], seed: int) -> dict[str, Any]:
    """Return plain values: the counts, and all that was not well."""
    counts = Counter(o.kind for o in outcomes)
    return {
        "seed": seed,
        "inputs": len(outcomes),
        "counts": {kind: counts[kind] for kind in KINDS},
        "bad": [asdict(o) for o in outcomes if o.kind in BAD],
        "longest_seconds": max((o.seconds for o in outcomes), default=0.0),
        "most_memory_bytes": max((o.memory_bytes for o in outcomes), default=0),
    }


def _worker(device: str, *, folder: Path, limits: Limits) -> Callable[[Case, Listener], Outcome]:
    """Return what tries one case after the other in a process of its own."""
    own = Path(tempfile.mkdtemp(prefix="work-", dir=folder))
    os.environ["WSISEG_HOME"] = str(folder / "home")
    logging.getLogger("wsiseg").addHandler(logging.NullHandler())
    grounds = Grounds(own)
    _ = grounds.sibling  # before memory is bounded and time counted
    gc.collect()
    gc.freeze()  # what is loaded by now stays: looking through it takes as long as a small slide
    terminal = _Terminal(own / "stderr")
    _bound(2 * limits.memory_bytes)

    def try_case(case: Case, _: Listener) -> Outcome:
        outcome = try_one(case, grounds, limits)
        said = terminal.taken()
        if said and outcome.kind in ("ok", "refused"):
            text = f"on the terminal: {said[:LONGEST_LINE]}"
            return Outcome(case.index, outcome.name, "untidy", text, outcome.seconds)
        return outcome

    return try_case


def _lost(case: Case, what: str) -> Outcome:
    kind: Kind = "hang" if "took longer" in what else "crash"
    return Outcome(case.index, case.original.name, kind, what)


def _what_comes_of(
    case: Case, path: Path, random: Random, grounds: Grounds
) -> tuple[Kind, str, str]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return "ok", run_entry(case.original, path, random, grounds), ""
        except WsisegError as error:
            text = str(error)
            tidy = text.strip() and len(text.splitlines()) == 1 and len(text) < LONGEST_LINE
            return "refused" if tidy else "untidy", text[:LONGEST_LINE], ""
        except LostSiblingError as error:
            return "lost sibling", str(error), _where(error)
        except BaseException as error:  # panics of native libraries are no Exception
            text = " ".join(f"{type(error).__name__}: {error}".split())
            return "uncaught", text[:LONGEST_LINE], _where(error)


def _where(error: BaseException) -> str:
    return "".join(traceback.format_exception(error)[-6:])


class _Terminal:
    """What this process writes to stderr, native libraries included, goes into a file."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("w+b")
        os.dup2(self._file.fileno(), 2)

    def taken(self) -> str:
        """Return what was written since the last time."""
        self._file.seek(0)
        text = self._file.read().decode("utf-8", "replace")
        self._file.seek(0)
        self._file.truncate()
        return text


def _bound(more_bytes: int) -> None:
    """Let memory beyond what is in use end in an error, and files not grow without bound."""
    try:
        import resource
    except ImportError:
        return
    used = _data_bytes()
    if used:
        _lower(resource.RLIMIT_DATA, used + more_bytes)
    _lower(resource.RLIMIT_FSIZE, FILE_BYTES)
    _lower(resource.RLIMIT_CORE, 0)


def _lower(which: int, wanted: int) -> None:
    import resource

    _, hard = resource.getrlimit(which)
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    resource.setrlimit(which, (allowed, hard))


def _data_bytes() -> int:
    try:
        status = Path("/proc/self/status").read_text()
        return int(status.split("VmData:")[1].split()[0]) * 1024
    except (OSError, ValueError, IndexError):
        return 0


def _forget_peak() -> None:
    """Begin to count the peak of memory anew, where the system can."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return

"""What a result was made from, written beside it, so that a later run knows whether it still holds.

`.wsiseg.json` in a slide's folder holds the slide, the command, the model, the options that change
a result, and wsiseg itself; how the machine is used is left out, so that machines of different
kinds can share a folder.
"""

import hashlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import orjson

from wsiseg import __version__
from wsiseg.engine import fingerprint
from wsiseg.engine.marker import Marker
from wsiseg.errors import SourceError
from wsiseg.model import Model
from wsiseg.model.package import Package
from wsiseg.model.registry import find_model
from wsiseg.options import RunOptions
from wsiseg.run.inputs import SeriesChoice, SlideJob
from wsiseg.source.remote import is_url, open_filesystem, redacted, remote_errors

__all__ = [
    "RECORD",
    "UNKNOWN",
    "State",
    "changes",
    "file_state",
    "missing_files",
    "own_wsiseg",
    "place_of",
    "read_record",
    "run_settings",
    "settings_of",
    "slide_changes",
    "slide_identity",
    "write_record",
    "wsiseg_differences",
]

RECORD = ".wsiseg.json"
VERSION = 1

MAKING = (
    "source",
    "grid",
    "resample",
    "tissue",
    "model",
    "engine",
    "stitch",
    "annotations",
    "volume",
    "draw",
)
"""Parts of the package, beside the modules at its root, whose code makes results."""

WITH_FOLDER = frozenset({".mrxs", ".vms", ".vmu", ".dcm"})
"""Files whose pixels lie in others: one's own size and times do not tell that nothing changed."""

ENTRIES = 4096
"""Files of a slide's folder whose state is looked at."""

UNKNOWN = ("whether the slide is the same cannot be told",)
"""Why a result is made anew where a server says nothing of its files but their sizes."""

State = tuple[tuple[str, int, int, int], ...]
"""Name, size in bytes, modification time in ns and inode of a slide's files."""


def settings_of(
    command: str, options: Mapping[str, Any], model: Model | str | Path | None = None
) -> dict[str, Any]:
    """Return what all results of a run are made from, as plain values.

    Raises
    ------
    ModelError
        If there is no such model, or its weights are not those of its card.
    """
    settings: dict[str, Any] = {
        "command": command,
        **own_wsiseg(),
        "options": dict(options),
    }
    if model is not None:
        own = model if isinstance(model, Model) else Package.open(find_model(model))
        settings["model"] = {
            "name": own.card.name,
            "version": own.card.version,
            "digest": own.digest,
        }
    return settings


def run_settings(options: RunOptions) -> dict[str, Any]:
    """Return the options that change a result; threads, memory and device change none.

    Devices compute the same up to the last bits of probabilities.
    """
    chosen = asdict(options)
    return {
        name: chosen[name]
        for name in ("backend", "precision", "batch_size", "decoding", "skip_below")
    }


def slide_identity(path: str) -> str | None:
    """Return what tells the content of a slide; `None` where that cannot be known.

    Of a URL that is what its server says of the file, else `fingerprint`.
    """
    if not is_url(path):
        return fingerprint(path)
    try:
        with remote_errors(path):
            system, place = open_filesystem(path)
            told = system.info(place)
    except (SourceError, OSError, RuntimeError, ValueError):  # opening the slide will tell
        return None
    marks = {
        key: str(told[key]) for key in ("ETag", "LastModified", "Last-Modified") if key in told
    }
    if not marks or not told.get("size"):
        return None
    text = orjson.dumps([told["size"], marks], option=orjson.OPT_SORT_KEYS)
    return hashlib.sha256(text).hexdigest()


def place_of(path: str) -> str:
    """Return where a slide is, however its path is spelled."""
    return redacted(path) if is_url(path) else os.path.abspath(path)  # noqa: PTH100 - any text


def file_state(path: str) -> State:
    """Return what changes when somebody writes to a slide or puts another one in its place.

    Raises
    ------
    OSError
        If it is not there.
    """
    if is_url(path):
        return ()
    own = Path(path)
    files = [own]
    if own.suffix.lower() == ".mrxs" and own.with_suffix("").is_dir():
        files += _entries(own.with_suffix(""))
    elif own.is_dir():
        files += _entries(own)
    return tuple(_state_of(file) for file in files)


def slide_changes(before: State, path: str) -> str | None:
    """Return in words what became of a slide since `before`; `None` if nothing did."""
    try:
        now = file_state(path)
    except OSError:
        return "it is not there any more"
    if now == before:
        return None
    for (name, *old), (_, *new) in zip(before, now, strict=False):
        if old[0] != new[0]:
            return f"{name} had {old[0]} bytes and has {new[0]}"
        if old[2] != new[2]:
            return f"{name} was replaced by another file"
        if old[1] != new[1]:
            return f"{name} was written to"
    return f"it had {len(before)} files and has {len(now)}"


def write_record(
    folder: Path, job: SlideJob, settings: Mapping[str, Any], slide: str | None, row: dict[str, Any]
) -> None:
    """Write into a result's folder what it was made from, and its row of `summary.csv`."""
    record = {
        "record": VERSION,
        "made from": {"slide": slide, **_of_job(job), **settings},
        "path": place_of(job.path),
        "state": _quick_state(job.path),
        "row": row,
    }
    content = orjson.dumps(record, option=orjson.OPT_INDENT_2, default=str)
    (folder / RECORD).write_bytes(content)


def read_record(folder: Path) -> dict[str, Any] | None:
    """Return the record of a result; `None` where there is none that can be understood."""
    try:
        record = orjson.loads((folder / RECORD).read_bytes())
    except (OSError, ValueError):
        return None
    known = isinstance(record, dict) and record.get("record") == VERSION
    whole = known and all(isinstance(record.get(key), dict) for key in ("made from", "row"))
    return record if whole else None


def changes(
    record: Mapping[str, Any], job: SlideJob, settings: Mapping[str, Any]
) -> tuple[str, ...]:
    """Return in words what a result was made from that is not so any more; empty if it holds.

    The slide is read for that only where its size, times and inode have changed.
    """
    made_from = dict(record["made from"])
    recorded = made_from.pop("slide", None)
    told = tuple(_differences(made_from, {**_of_job(job), **settings}))
    if told:
        return told
    state = _quick_state(job.path)
    if (
        state is not None
        and state == record.get("state")
        and record.get("path") == place_of(job.path)
    ):
        return ()
    now = slide_identity(job.path)
    if now is None:
        return UNKNOWN
    return (
        () if now == recorded else (f"the slide's content ({_short(recorded)} -> {_short(now)})",)
    )


def own_wsiseg() -> dict[str, str]:
    """Return what tells this wsiseg from others: its version, and a hash of its code."""
    return {"wsiseg": __version__, "code": _code_digest()}


def wsiseg_differences(settings: Mapping[str, Any], here: Mapping[str, str]) -> tuple[str, ...]:
    """Return in words how a wsiseg differs from that of `settings`; empty if it does not."""
    return tuple(
        f"{name} {_short(here[key])} (needed {_short(settings[key])})"
        for name, key in (("version", "wsiseg"), ("code", "code"))
        if here[key] != settings[key]
    )


def missing_files(folder: Path) -> tuple[str, ...]:
    """Return which of the files that wsiseg wrote into a result's folder are gone."""
    marker = Marker.read(folder)
    if marker is None:
        return (".wsiseg",)
    there = set(os.listdir(folder))  # noqa: PTH208 - names are what is wanted
    return tuple(sorted(set(marker.written) - there))


def _of_job(job: SlideJob) -> dict[str, Any]:
    mpp = list(job.mpp) if isinstance(job.mpp, tuple) else job.mpp
    told: dict[str, Any] = {"mpp": mpp, "reader": job.reader}
    if job.choice != SeriesChoice():
        told["series"] = asdict(job.choice)
    if job.more:
        told["channels"] = [slide_identity(path) for path in job.more]
    if job.priors:
        told["priors"] = {name: slide_identity(path) for name, path in job.priors}
    return told


def _differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[str]:
    before, after = dict(_flat(old)), dict(_flat(new))
    if before.get("command") != after["command"]:
        yield f"the command ({before.get('command')} -> {after['command']})"
        return  # all else belongs to the command
    names = {"code": "wsiseg's code", "wsiseg": "wsiseg"}
    for key in sorted(before.keys() | after.keys()):
        if before.get(key) != after.get(key):
            name = names.get(key, key.replace(".", " ", 1) if key.startswith("model") else key)
            yield f"{name} ({_short(before.get(key))} -> {_short(after.get(key))})"


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", list(value) if isinstance(value, tuple) else value


def _short(value: object) -> str:
    text = "none" if value is None else str(value)
    return text[:12] if len(text) == 64 else text


def _quick_state(path: str) -> list[int] | None:
    """Return what changes with the content of a single file: size, times and inode.

    The time of the last change of the inode is among them, which nobody can set.
    """
    if is_url(path) or Path(path).suffix.lower() in WITH_FOLDER:
        return None
    try:
        told = os.stat(path)  # noqa: PTH116 - text, as it was given
    except OSError:
        return None
    if not Path(path).is_file():
        return None
    return [told.st_size, told.st_mtime_ns, told.st_ctime_ns, told.st_ino]


def _entries(folder: Path) -> list[Path]:
    with os.scandir(folder) as entries:
        names = sorted(entry.name for entry, _ in zip(entries, range(ENTRIES), strict=False))
    return [folder / name for name in names]


def _state_of(file: Path) -> tuple[str, int, int, int]:
    told = file.stat()
    return file.name, told.st_size, told.st_mtime_ns, told.st_ino


@cache
def _code_digest() -> str:
    """Return a hash of the code that makes results."""
    root = Path(__file__).parent.parent
    files = sorted(
        [*root.glob("*.py"), *(f for part in MAKING for f in (root / part).rglob("*.py"))]
    )
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.relative_to(root).as_posix().encode())
        digest.update(file.read_bytes())
    return digest.hexdigest()

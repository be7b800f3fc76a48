"""The file `.wsiseg` in a result folder: which command wrote what there, and of which slide.

The first line is the command and the fingerprint of the slide, each further line the SHA-256 and
the name of a file or folder written; `-` stands for what is not known. Files without a marker
beside them are never touched, and files that the marker does not list are the user's.
"""

import hashlib
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

__all__ = ["MARKER", "Marker", "carry_over", "is_result"]

MARKER = ".wsiseg"
UNKNOWN = "-"

REPORT = "report.html"
"""What `wsiseg report` adds; it tells of the result beside it, so it goes with it."""

HASHED = (".geojson", ".geojson.gz", ".csv")
"""Endings of the files that people edit; all others are listed by name alone."""


@dataclass(frozen=True, slots=True)
class Marker:
    """What a result folder says of itself."""

    kind: str
    """The command that wrote it: `segment`, `tissue`, ..."""

    slide: str
    """Fingerprint of the slide."""

    written: Mapping[str, str]
    """Name -> SHA-256 of the files and folders written; empty where that was not recorded."""

    @classmethod
    def of_folder(cls, folder: Path, kind: str, slide: str | None) -> "Marker":
        """Return the marker of a folder just filled."""
        paths = sorted(path for path in folder.iterdir() if path.name != MARKER)
        return cls(kind, slide or UNKNOWN, {path.name: digest(path) for path in paths})

    @classmethod
    def read(cls, folder: Path) -> "Marker | None":
        """Return the marker in a folder; `None` where there is none that can be understood."""
        try:
            text = (folder / MARKER).read_text(encoding="utf-8", errors="surrogateescape")
        except (OSError, ValueError):
            return None
        first, *rest = text.strip("\n").split("\n")
        kind, _, slide = first.strip().partition(" ")
        digests = (line.partition(" ") for line in rest)
        return cls(kind, slide, {name: digest for digest, _, name in digests}) if kind else None

    def write(self, folder: Path) -> None:
        """Write the marker into a folder."""
        lines = [f"{self.kind} {self.slide}"]
        lines += [f"{digest} {name}" for name, digest in self.written.items()]
        text = "\n".join(lines) + "\n"
        (folder / MARKER).write_text(text, encoding="utf-8", errors="surrogateescape")

    def is_of(self, slide: str | None) -> bool:
        """Return whether this is the result of that slide, as far as is known."""
        return slide is None or self.slide in (slide, UNKNOWN)


def is_result(folder: Path) -> bool:
    """Return whether wsiseg wrote this folder."""
    return Marker.read(folder) is not None


def carry_over(earlier: Path, new: Path) -> dict[str, str]:
    """Bring what a user put into an earlier result, or changed there, into the new one.

    The earlier folder stays as it is: files are linked or copied.

    Returns
    -------
    dict of str to str
        Name of each file that could not keep its own -> the name it has got, such as
        `annotations.edited-1.geojson`.
    """
    marker = Marker.read(earlier)
    if marker is None:
        return {}
    theirs = {path.name for path in new.iterdir()}
    written = marker.written or dict.fromkeys(theirs, UNKNOWN)
    renamed: dict[str, str] = {}
    for path in sorted(path for path in earlier.iterdir() if path.name not in (MARKER, REPORT)):
        recorded = written.get(path.name)
        if recorded is not None and (recorded == UNKNOWN or digest(path) == recorded):
            continue  # wsiseg's own, unchanged
        name = path.name
        if recorded is not None or (new / name).exists():
            name = renamed[name] = _edited(path, earlier, new)
        _bring(path, new / name)
    return renamed


def digest(path: Path) -> str:
    if path.is_symlink() or not path.is_file() or not path.name.lower().endswith(HASHED):
        return UNKNOWN
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _edited(path: Path, *folders: Path) -> str:
    """Return a name for an edited file that none of the folders has."""
    stem, dot, suffix = path.name.partition(".")
    number = 1
    while any((folder / f"{stem}.edited-{number}{dot}{suffix}").exists() for folder in folders):
        number += 1
    return f"{stem}.edited-{number}{dot}{suffix}"


def _bring(source: Path, target: Path) -> None:
    if source.is_dir() and not source.is_symlink():
        shutil.copytree(source, target, symlinks=True, copy_function=_link_or_copy)
    else:
        _link_or_copy(str(source), str(target))


def _link_or_copy(source: str, target: str) -> str:
    try:
        os.link(source, target, follow_symlinks=False)
    except (OSError, NotImplementedError):
        shutil.copy2(source, target, follow_symlinks=False)
    return target

"""Which slides a command line names: files, folders, globs, URLs, and tables `slide,mpp`."""

import csv
import glob
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from wsiseg.errors import UsageError

__all__ = ["SlideJob", "list_slides"]

SUFFIXES = frozenset(
    {".svs", ".tif", ".tiff", ".ndpi", ".mrxs", ".scn", ".bif", ".vms", ".vmu", ".svslide", ".czi"}
    | {".dcm", ".png", ".jpg", ".jpeg"}
)
"""What a folder is searched for; anything else can still be named itself."""

MAX_DEPTH = 64
"""Folders looked at to tell slides of one name apart."""

Mpp = float | tuple[float, float] | None


@dataclass(frozen=True, slots=True)
class SlideJob:
    """One slide to work on."""

    path: str
    """File, folder or URL."""

    output: str
    """Name of its folder below the output folder; unique within a run."""

    mpp: Mpp = None
    """µm per pixel that overrides the file's: one value, or (x, y)."""

    reader: str | None = None


def list_slides(
    arguments: Sequence[str],
    *,
    mpp: Mpp = None,
    reader: str | None = None,
    recursive: bool = False,
    nested: bool = False,
) -> tuple[SlideJob, ...]:
    """Return the slides that `arguments` name, each once, in the order named.

    Parameters
    ----------
    arguments
        Files, folders, globs, URLs, or CSV files with the columns `slide` and, optionally, `mpp`
        (relative paths count from the CSV's folder).
    mpp
        µm per pixel for every slide that a table does not give one.
    recursive
        Look into the subfolders of folders.
    nested
        Put slides of one stem into folders named after their own folder, too.

    Raises
    ------
    UsageError
        If an argument names nothing, a table is malformed, or two slides would write to the same
        folder.
    """
    found: dict[str, SlideJob] = {}
    for argument in arguments:
        for job in _expand(argument, recursive=recursive):
            own = mpp if job.mpp is None else job.mpp
            found.setdefault(job.path, replace(job, mpp=own, reader=reader))
    if not found:
        raise UsageError(
            f"no slides in {', '.join(arguments)}: needed files such as .svs, .tif, .ndpi, .mrxs "
            "or .zarr; name a file, or add --recursive"
        )
    return _named(list(found.values()), nested=nested)


def _expand(argument: str, *, recursive: bool) -> Iterator[SlideJob]:
    if "://" in argument:
        yield _job(argument)
        return
    path = Path(argument)
    if not _is_possible(path):
        yield _job(argument)  # the reader says what is wrong with it
    elif path.suffix.lower() == ".csv":
        yield from _table(path)
    elif path.is_dir() and not _is_slide_folder(path):
        yield from (_job(str(file)) for file in _search(path, recursive=recursive))
    elif path.exists() or not glob.has_magic(argument):
        yield _job(argument)
    else:
        matches = sorted(glob.glob(argument, recursive=True))  # noqa: PTH207 - may be absolute
        if not matches:
            raise UsageError(f"{argument}: the pattern matches no file; check the path")
        for match in matches:
            yield from _expand(
                glob.escape(match) if glob.has_magic(match) else match, recursive=recursive
            )


def _is_possible(path: Path) -> bool:
    """Return whether the system can take this path at all, be it there or not."""
    try:
        path.stat()
    except FileNotFoundError:
        return True
    except (OSError, ValueError):
        return False
    return True


def _job(path: str) -> SlideJob:
    return SlideJob(path=path, output=_stem(path))


def _stem(path: str) -> str:
    name = path.rstrip("/").replace("\\", "/").rsplit("/", 1)[-1].split("?")[0]
    for suffix in (".ome.tiff", ".ome.tif", ".ome.zarr"):
        if name.lower().endswith(suffix):
            return name[: -len(suffix)]
    return Path(name).stem or "slide"


def _is_slide_folder(path: Path) -> bool:
    if path.suffix.lower() == ".zarr":
        return True
    return any((path / marker).exists() for marker in ("zarr.json", ".zgroup", ".zarray"))


def _search(folder: Path, *, recursive: bool) -> Iterator[Path]:
    series: set[str] = set()
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            continue
        if path.is_dir():
            if _is_slide_folder(path):
                yield path
            elif recursive and not path.with_suffix(".mrxs").exists():
                yield from _search(path, recursive=True)
        elif path.suffix.lower() == ".dcm":
            uid = _series_uid(path)
            if uid not in series:
                yield path
            series |= {uid} - {""}
        elif path.suffix.lower() in SUFFIXES:
            yield path


def _series_uid(path: Path) -> str:
    """Return the series a DICOM file belongs to: its files are one slide. Empty where unknown."""
    try:
        import pydicom
    except ImportError:
        return ""
    try:
        header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=["SeriesInstanceUID"])
    except (pydicom.errors.InvalidDicomError, OSError, EOFError, ValueError):
        return ""
    return str(header.get("SeriesInstanceUID", ""))


def _table(path: Path) -> Iterator[SlideJob]:
    rows = _rows(path)
    if not rows:
        raise UsageError(f"{path}: the table names no slide; needed columns slide,mpp and a row")
    for number, row in enumerate(rows, start=2):
        slide = (row.get("slide") or row.get("wsi") or "").strip()
        if not slide:
            raise UsageError(
                f"{path}: line {number}: no slide named; needed columns slide,mpp, found "
                f"{','.join(str(key) for key in row)}"
            )
        local = slide if "://" in slide or Path(slide).is_absolute() else str(path.parent / slide)
        yield replace(_job(local), mpp=_mpp(row.get("mpp"), path, number))


def _rows(path: Path) -> list[dict[str, str]]:
    """Return the rows of a table, whose columns may be separated by commas or semicolons."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}; check the path") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: is not UTF-8 text; save the table as CSV UTF-8") from error
    header = text.partition("\n")[0]
    separator = ";" if ";" in header and "," not in header else ","
    try:
        lines = list(csv.reader(text.splitlines(), delimiter=separator))
    except csv.Error as error:
        raise UsageError(f"{path}: is no table: {error}; save it as CSV") from error
    if not lines:
        return []
    names = [name.strip().lower() for name in lines[0]]
    return [dict(zip(names, line, strict=False)) for line in lines[1:] if line]


def _mpp(text: str | None, path: Path, number: int) -> float | None:
    if text is None or not text.strip():
        return None
    try:
        return float(text.strip().replace(",", "."))
    except ValueError as error:
        raise UsageError(
            f"{path}: line {number}: mpp {text!r} is not a number; write µm per pixel, as in 0.25"
        ) from error


def _named(jobs: Sequence[SlideJob], *, nested: bool) -> tuple[SlideJob, ...]:
    if nested:
        jobs = _with_folders(jobs)
    taken: dict[str, str] = {}
    for job in jobs:
        key = job.output.casefold()
        if key in taken:
            raise UsageError(
                f"two slides would write to {job.output!r}: {taken[key]} and {job.path}; add "
                "--nested to tell them apart by their folders, or rename one"
            )
        taken[key] = job.path
    return tuple(jobs)


def _with_folders(jobs: Sequence[SlideJob]) -> Sequence[SlideJob]:
    """Put the names of parent folders before outputs that collide, as many as it takes.

    Slides that differ by their suffix alone get it added.
    """
    for depth in range(1, MAX_DEPTH):
        counts = _count(job.output.casefold() for job in jobs)
        if max(counts.values()) == 1:
            return jobs
        jobs = [
            replace(job, output="/".join([*_parents(job.path, depth), _stem(job.path)]))
            if counts[job.output.casefold()] > 1
            else job
            for job in jobs
        ]
    counts = _count(job.output.casefold() for job in jobs)
    return [
        replace(job, output=_stem(job.path) + Path(job.path).suffix.replace(".", "-"))
        if counts[job.output.casefold()] > 1
        else job
        for job in jobs
    ]


def _parents(path: str, depth: int) -> list[str]:
    folders = Path(path.rsplit("://", maxsplit=1)[-1]).absolute().parent.parts[1:]
    return list(folders[-depth:])


def _count(names: Iterable[str]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for name in names:
        counts[name] = counts.get(name, 0) + 1
    return counts

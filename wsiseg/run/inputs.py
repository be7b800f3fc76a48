"""Which slides a command line names: files, folders, globs, URLs, and tables `slide,mpp`."""

import glob
import os
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from wsiseg.engine.marker import is_result
from wsiseg.errors import UsageError, WsisegWarning
from wsiseg.run.dicom_files import first_of_series
from wsiseg.run.slide_table import Mpp, read_slide_table
from wsiseg.source.naming import stem_of

__all__ = ["SlideJob", "as_jobs", "list_slides"]

SUFFIXES = frozenset(
    {".svs", ".tif", ".tiff", ".ndpi", ".mrxs", ".scn", ".bif", ".vms", ".vmu", ".svslide", ".czi"}
    | {".dcm", ".png", ".jpg", ".jpeg"}
)
"""What a folder is searched for; anything else can still be named itself."""

MAX_DEPTH = 64
"""Folders looked at to tell slides of one name apart."""


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
        Files, folders, globs, URLs, or CSV files with the columns `slide` and, optionally, `mpp`,
        or `mpp_x` and `mpp_y` (relative paths count from the CSV's folder). Folders that wsiseg
        wrote are not searched.
    mpp
        µm per pixel for every slide that a table does not give one.
    recursive
        Look into the subfolders of folders.
    nested
        Put slides of one stem into folders named after their own folder, too.

    Raises
    ------
    UsageError
        If an argument names nothing, a table is malformed, a slide is listed with two pixel sizes,
        or two slides would write to the same folder.

    Warns
    -----
    WsisegWarning
        If DICOM files of folders are left out.
    """
    finder = _Finder(recursive=recursive)
    found: dict[str, SlideJob] = {}
    for argument in arguments:
        for job in finder.expand(argument):
            _add(found, job)
    finder.warn_of_left_out()
    if not found:
        raise UsageError(
            f"no slides in {', '.join(arguments)}: needed files such as .svs, .tif, .ndpi, .mrxs "
            "or .zarr; name a file, or add --recursive"
        )
    jobs = [
        replace(job, mpp=mpp if job.mpp is None else job.mpp, reader=reader)
        for job in found.values()
    ]
    return _named(jobs, nested=nested)


def as_jobs(slides: Sequence[str | Path | SlideJob] | str | Path) -> tuple[SlideJob, ...]:
    """Return `SlideJob`s as they are, and after them what `list_slides` finds for all else.

    Raises
    ------
    UsageError
        As `list_slides`.
    """
    given = [slides] if isinstance(slides, str | Path) else slides
    own = [one for one in given if isinstance(one, SlideJob)]
    arguments = [str(one) for one in given if not isinstance(one, SlideJob)]
    return _named([*own, *(list_slides(arguments) if arguments else ())], nested=False)


def _add(found: dict[str, SlideJob], job: SlideJob) -> None:
    """Add a slide unless it is there; the pixel size that a table gives it counts."""
    place = job.path if "://" in job.path else os.path.abspath(job.path)  # noqa: PTH100 - any text
    earlier = found.setdefault(place, job)
    if earlier.mpp is None:
        found[place] = replace(earlier, mpp=job.mpp)
    elif job.mpp not in (None, earlier.mpp):
        raise UsageError(
            f"{job.path}: listed twice, with {earlier.mpp} and with {job.mpp} µm per pixel; "
            "list it once"
        )


class _Finder:
    """Finds the slides that arguments name.

    Parameters
    ----------
    recursive
        Look into subfolders.
    """

    def __init__(self, *, recursive: bool) -> None:
        self._recursive = recursive
        self._left_out: list[Path] = []

    def expand(self, argument: str) -> Iterator[SlideJob]:
        """Yield the slides of one argument."""
        if "://" in argument:
            yield _job(argument)
            return
        path = Path(argument)
        if not _is_possible(path):
            yield _job(argument)  # the reader says what is wrong with it
        elif path.suffix.lower() == ".csv":
            for slide, mpp in read_slide_table(path):
                yield replace(_job(slide), mpp=mpp)
        elif path.is_dir() and not _is_slide_folder(path):
            yield from (_job(str(file)) for file in self._search(path))
        elif path.exists() or not glob.has_magic(argument):
            yield _job(argument)
        else:
            matches = sorted(glob.glob(argument, recursive=True))  # noqa: PTH207 - may be absolute
            if not matches:
                raise UsageError(f"{argument}: the pattern matches no file; check the path")
            for match in matches:
                yield from self.expand(glob.escape(match) if glob.has_magic(match) else match)

    def warn_of_left_out(self) -> None:
        """Say how many DICOM files were no slides."""
        if self._left_out:
            warnings.warn(
                f"{len(self._left_out)} DICOM files are left out, as they are no whole-slide "
                f"images (segmentations, annotations ...): {self._left_out[0]}"
                + (" and others" if len(self._left_out) > 1 else ""),
                WsisegWarning,
                stacklevel=3,
            )

    def _search(self, folder: Path) -> Iterator[Path]:
        if is_result(folder):  # what is in it are heatmaps and pictures, not slides
            return
        paths = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
        dicom = [path for path in paths if path.suffix.lower() == ".dcm" and path.is_file()]
        stand_for_slides = set(first_of_series(dicom, self._left_out))
        for path in paths:
            if path.is_dir():
                if _is_slide_folder(path):
                    yield path
                elif self._recursive and not path.with_suffix(".mrxs").exists():
                    yield from self._search(path)
            elif path in stand_for_slides or (
                path.suffix.lower() in SUFFIXES and path not in dicom
            ):
                yield path


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
    return SlideJob(path=path, output=stem_of(path))


def _is_slide_folder(path: Path) -> bool:
    if path.suffix.lower() == ".zarr":
        return True
    return any((path / marker).exists() for marker in ("zarr.json", ".zgroup", ".zarray"))


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
            replace(job, output="/".join([*_parents(job.path, depth), stem_of(job.path)]))
            if counts[job.output.casefold()] > 1
            else job
            for job in jobs
        ]
    counts = _count(job.output.casefold() for job in jobs)
    return [
        replace(job, output=stem_of(job.path) + Path(job.path).suffix.replace(".", "-"))
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

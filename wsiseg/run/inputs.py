"""Which slides a command line names: files, folders, globs, URLs, and tables `slide,mpp`."""

import fnmatch
import glob
import os
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from wsiseg.engine.marker import is_result
from wsiseg.errors import UsageError, WsisegError, WsisegWarning
from wsiseg.run.channels import with_channels
from wsiseg.run.dicom_files import first_of_series
from wsiseg.run.jobs import SeriesChoice, SlideJob
from wsiseg.run.slide_table import Mpp, read_slide_table
from wsiseg.source import is_volume
from wsiseg.source.naming import stem_of

__all__ = [
    "SeriesChoice",
    "SlideJob",
    "as_jobs",
    "hold_scans",
    "list_slides",
    "require_any",
]

SUFFIXES = frozenset(
    {".svs", ".tif", ".tiff", ".ndpi", ".mrxs", ".scn", ".bif", ".vms", ".vmu", ".svslide", ".czi"}
    | {".dcm", ".png", ".jpg", ".jpeg"}
)
"""What a folder is searched for; anything else can still be named itself."""

SCAN_SUFFIXES = (".nii", ".nii.gz", ".nrrd", ".nhdr", ".mha", ".mhd")
"""The same where the model is one for volumes; folders that hold a series count as well."""

MAX_DEPTH = 64
"""Folders looked at to tell slides of one name apart."""


def list_slides(  # noqa: PLR0913 - what the commands take
    arguments: Sequence[str],
    *,
    mpp: Mpp = None,
    reader: str | None = None,
    recursive: bool = False,
    nested: bool = False,
    match: Sequence[str] = (),
    limit: int | None = None,
    volumes: bool = False,
    channels: int = 1,
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
    match
        Globs; of the slides only those whose name, or whose path as seen from the folder searched,
        is like one of them, in upper or lower case. `*` stands for folders, too.
    limit
        Only the first so many.
    volumes
        Look for scans instead of slides.
    channels
        Files of a scan: of several, `case_0000.nii.gz`, `case_0001.nii.gz`, ... are one scan
        `case`, as nnU-Net names them, and a table has them in one cell with `;` between.

    Raises
    ------
    UsageError
        If an argument names nothing, a channel of a scan is not there, nothing matches, a table is
        malformed, a slide is listed with two pixel sizes, or two slides would write to one folder.

    Warns
    -----
    WsisegWarning
        If DICOM files of folders are left out.
    """
    finder = _Finder(recursive=recursive, volumes=volumes)
    found: dict[str, SlideJob] = {}
    wanted: set[str] = set()
    is_wanted = _matcher(match)
    for argument in arguments:
        for job, seen in finder.expand(argument):
            place = _add(found, job)
            if is_wanted(seen):
                wanted.add(place)
    finder.warn_of_left_out()
    if volumes:
        found, wanted = _as_channels(found, wanted, channels)
    if not found and volumes:
        raise UsageError(
            f"no scans in {', '.join(arguments)}: needed files such as {', '.join(SCAN_SUFFIXES)}, "
            "or folders of DICOM; name a file, or add --recursive"
        )
    if not found:
        raise UsageError(
            f"no slides in {', '.join(arguments)}: needed files such as .svs, .tif, .ndpi, .mrxs "
            "or .zarr; name a file, or add --recursive"
        )
    if not wanted:
        raise UsageError(
            f"--match {' '.join(match)}: matches none of {len(found)} slides, such as "
            f"{next(iter(found.values())).path}; write a pattern such as '*HE*.svs'"
        )
    jobs: Sequence[SlideJob] = [
        replace(job, mpp=mpp if job.mpp is None else job.mpp, reader=reader)
        for job in found.values()
    ]
    if nested:  # by all slides, so that a name does not depend on which of them are wanted
        jobs = _with_folders(jobs)
    chosen = [job for place, job in zip(found, jobs, strict=True) if place in wanted]
    return _named(chosen)[:limit]


def hold_scans(arguments: Sequence[str], *, recursive: bool = False) -> bool:
    """Return whether there are scans and no slides in what a user named.

    Parameters
    ----------
    arguments, recursive
        As for `list_slides`.
    """

    def finds(*, volumes: bool) -> bool:
        with warnings.catch_warnings(), suppress(WsisegError):
            warnings.simplefilter("ignore", WsisegWarning)  # they come when the run begins
            return bool(list_slides(arguments, recursive=recursive, volumes=volumes))
        return False

    return not finds(volumes=False) and finds(volumes=True)


def _as_channels(
    found: Mapping[str, SlideJob], wanted: set[str], channels: int
) -> tuple[dict[str, SlideJob], set[str]]:
    """Return scans with all their channels instead of files, and which of them are wanted."""
    whole: dict[str, SlideJob] = {}
    named: set[str] = set()
    for place, job in found.items():
        one = with_channels(job, channels)
        first = place if one.path == job.path else os.path.abspath(one.path)  # noqa: PTH100
        whole.setdefault(first, one)
        if place in wanted:
            named.add(first)
    return whole, named


def as_jobs(
    slides: Sequence[str | Path | SlideJob] | str | Path,
    *,
    volumes: bool = False,
    channels: int = 1,
) -> tuple[SlideJob, ...]:
    """Return `SlideJob`s as they are, and after them what `list_slides` finds for all else.

    Raises
    ------
    UsageError
        As `list_slides`.
    """
    given = [slides] if isinstance(slides, str | Path) else slides
    own = [one for one in given if isinstance(one, SlideJob)]
    arguments = [str(one) for one in given if not isinstance(one, SlideJob)]
    found = list_slides(arguments, volumes=volumes, channels=channels) if arguments else ()
    return _named([*own, *found])


def require_any(jobs: Sequence[SlideJob]) -> None:
    """Raise `UsageError` where not a single slide is there, before anything else is done."""
    if not any("://" in job.path or _is_there(job.path) for job in jobs):
        if not jobs:
            raise UsageError("no slides: needed the path of at least one; name a file or a folder")
        others = f" (nor are the {len(jobs) - 1} others)" if len(jobs) > 1 else ""
        raise UsageError(f"{jobs[0].path}: is not there{others}; check the path")


def _is_there(path: str) -> bool:
    """Return whether there is such a file; where the system cannot tell, opening it will."""
    try:
        os.stat(path)  # noqa: PTH116 - of a hundred thousand
    except FileNotFoundError:
        return False
    except (OSError, ValueError):
        return True
    return True


def _matcher(patterns: Sequence[str]) -> Callable[[str], bool]:
    """Return what tells whether a path, or its name, is like one of the patterns."""
    if not patterns:
        return lambda _: True
    any_of = re.compile("|".join(map(fnmatch.translate, patterns)), re.IGNORECASE)

    def is_like(path: str) -> bool:
        text = path.replace(os.sep, "/")
        return bool(any_of.match(text) or any_of.match(text.rpartition("/")[2]))

    return is_like


def _add(found: dict[str, SlideJob], job: SlideJob) -> str:
    """Add a slide unless it is there, and return its place.

    The pixel size that a table gives it counts.
    """
    place = job.path if "://" in job.path else os.path.abspath(job.path)  # noqa: PTH100 - any text
    earlier = found.setdefault(place, job)
    if job.mpp is None:
        return place
    if earlier.mpp is None:
        found[place] = replace(earlier, mpp=job.mpp)
    elif job.mpp != earlier.mpp:
        raise UsageError(
            f"{job.path}: listed twice, with {earlier.mpp} and with {job.mpp} µm per pixel; "
            "list it once"
        )
    return place


class _Finder:
    """Finds the slides that arguments name.

    Parameters
    ----------
    recursive
        Look into subfolders.
    volumes
        Find scans instead.
    """

    def __init__(self, *, recursive: bool, volumes: bool = False) -> None:
        self._recursive = recursive
        self._volumes = volumes
        self._left_out: list[Path] = []

    def expand(self, argument: str) -> Iterator[tuple[SlideJob, str]]:
        """Yield the slides of one argument, each with its path as seen from the folder searched."""
        if "://" in argument:
            yield _job(argument), argument
            return
        path = Path(argument)
        if not _is_possible(path):
            yield _job(argument), argument  # the reader says what is wrong with it
        elif path.suffix.lower() == ".csv":
            for slide, mpp in read_slide_table(path):
                yield replace(_job(slide), mpp=mpp), slide
        elif self._volumes and path.is_dir() and not is_volume(path):
            for seen in self._search_scans(str(path), ""):
                yield _job(os.path.join(path, seen)), seen  # noqa: PTH118 - of a hundred thousand
        elif path.is_dir() and not self._volumes and not _is_slide_folder(path):
            for seen in self._search(str(path), ""):
                yield _job(os.path.join(path, seen)), seen  # noqa: PTH118 - of a hundred thousand
        elif path.exists() or not glob.has_magic(argument):
            yield _job(argument), argument
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

    def _search(self, root: str, seen: str) -> Iterator[str]:
        """Yield the slides of a folder, named as seen from `root`; nothing is opened but DICOM."""
        folder = os.path.join(root, seen)  # noqa: PTH118
        if is_result(Path(folder)):  # what is in it are heatmaps and pictures, not slides
            return
        with os.scandir(folder) as listing:
            there = [entry for entry in listing if not entry.name.startswith(".")]
        there.sort(key=lambda entry: entry.name)
        entries = [(entry.name, _is_folder(entry), _suffix(entry.name)) for entry in there]
        names = {name for name, *_ in entries}
        dicom = [
            Path(entry.path)
            for entry, (_, _, suffix) in zip(there, entries, strict=True)
            if suffix == ".dcm" and Path(entry.path).is_file()
        ]
        stand_for_slides = {path.name for path in first_of_series(dicom, self._left_out)}
        parts = {path.name for path in dicom}
        for name, is_folder, suffix in entries:
            inner = f"{seen}{os.sep}{name}" if seen else name
            if is_folder:
                if _is_slide_folder(Path(folder, name)):
                    yield inner
                elif self._recursive and f"{_stem(name)}.mrxs" not in names:
                    yield from self._search(root, inner)
            elif name in stand_for_slides or (suffix in SUFFIXES and name not in parts):
                yield inner

    def _search_scans(self, root: str, seen: str) -> Iterator[str]:
        """Yield the scans of a folder, named as seen from `root`: files, and folders of series."""
        folder = os.path.join(root, seen)  # noqa: PTH118
        if is_result(Path(folder)):
            return
        with os.scandir(folder) as listing:
            there = [entry for entry in listing if not entry.name.startswith(".")]
        for entry in sorted(there, key=lambda one: one.name):
            inner = f"{seen}{os.sep}{entry.name}" if seen else entry.name
            if not _is_folder(entry):
                if entry.name.lower().endswith(SCAN_SUFFIXES):
                    yield inner
            elif is_volume(entry.path):
                yield inner
            elif self._recursive:
                yield from self._search_scans(root, inner)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """Return whether an entry is a folder; of links in a circle, opening will tell."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def _stem(name: str) -> str:
    return os.path.splitext(name)[0]  # noqa: PTH122 - of a hundred thousand


def _suffix(name: str) -> str:
    return os.path.splitext(name)[1].lower()  # noqa: PTH122


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


def _named(jobs: Sequence[SlideJob]) -> tuple[SlideJob, ...]:
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
    place = os.path.abspath(path.rsplit("://", maxsplit=1)[-1])  # noqa: PTH100 - without ".."
    return list(Path(place).parent.parts[1:][-depth:])


def _count(names: Iterable[str]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for name in names:
        counts[name] = counts.get(name, 0) + 1
    return counts

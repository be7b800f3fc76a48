"""A run repeated from its `run.json`: the same bytes, or what differs and why that may be."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from wsiseg.embedding import Embeddings, embed
from wsiseg.engine import Journal, Listener, Pinned, ignore
from wsiseg.engine.decoding import DecodingChoice
from wsiseg.engine.marker import UNKNOWN, Marker, digest
from wsiseg.engine.working import slide_journal
from wsiseg.errors import HeatmapError, RunError, UsageError
from wsiseg.options import (
    DamageOptions,
    EmbedOptions,
    ExportOptions,
    SegmentOptions,
    TissueOptions,
    UncertaintyOptions,
)
from wsiseg.pipeline import segment
from wsiseg.result import Result
from wsiseg.run.recorded import RecordedRun, Repeated, paces_of, require_same
from wsiseg.run.replay_scans import ScanRun
from wsiseg.source import READERS, Pyramid
from wsiseg.source import open as open_slide
from wsiseg.stitch import ChunkRows, HeatmapStore, LabelStore

__all__ = ["Difference", "ReplayReport", "replay"]

RECORD = "run.json"

Codes = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Difference:
    """A file or folder of the result whose bytes are not those of the run repeated."""

    name: str
    what: str
    """How much of it is different, where that can be said."""


@dataclass(frozen=True, slots=True)
class ReplayReport:
    """What a repeated run gave."""

    folder: Path
    """Where its files are."""

    circumstances: tuple[str, ...]
    """What was not as in the run repeated, and may change bits: versions, processor, backend."""

    same: tuple[str, ...]
    """Names of files and folders whose bytes are the same."""

    differences: tuple[Difference, ...]

    @property
    def is_identical(self) -> bool:
        """Whether every file has the same bytes; `run.json`, which holds times, is not compared."""
        return not self.differences


def replay(
    record: Path | str,
    out: Path | str,
    *,
    slide: Path | str | None = None,
    model: Path | str | None = None,
    listen: Listener = ignore,
) -> ReplayReport:
    """Repeat the run behind a `run.json`, and compare its files with those beside the record.

    Backend, precision, decoding, batch sizes and columns are those of the run; cores and memory are
    this machine's.

    Parameters
    ----------
    record
        The `run.json` of a slide or scan, or its folder.
    out
        The files are written to `out/<name of the record's folder>/`.
    slide, model
        Where they are now, if not where they were.
    listen
        Called with progress events.

    Raises
    ------
    RunError
        If the record cannot be read, or the slide or scan is not the one of the record.
    ModelError
        If the model is not there, or not the one of the record.
    UsageError
        If the result would replace the run itself.
    """
    path, out = Path(record), Path(out)
    path = path / RECORD if path.is_dir() else path
    said = _read(path)
    folder, name = path.parent, path.absolute().parent.name
    if (out / name).resolve() == folder.resolve():
        raise UsageError(f"{out}: is where the run itself is; choose another --out")
    try:
        run = _of_record(said, slide, model)
    except (KeyError, TypeError, ValueError) as error:
        raise _unusable(path, error) from error
    run.load()
    with slide_journal(out, name, run.command) as journal:
        written, paces = run.repeat(out, name, journal, listen)
    other = [stage for stage, pace in paces.items() if not run.was_driven_so(stage, pace)]
    reasons = [*run.circumstances(), *(f"stage {s}: other batches or columns" for s in other)]
    same, differences = _compare(folder, written)
    return ReplayReport(written, tuple(reasons), tuple(same), tuple(differences))


def _of_record(
    said: Mapping[str, Any], slide: Path | str | None, model: Path | str | None
) -> "_SlideRun | ScanRun":
    return ScanRun(said, slide, model) if "scan" in said else _SlideRun(said, slide, model)


class _SlideRun(RecordedRun):
    """The run on a slide."""

    def __init__(
        self, said: Mapping[str, Any], slide: Path | str | None, model: Path | str | None
    ) -> None:
        super().__init__(said, slide, model)
        plan, options = said["plan"], said["options"]
        patches = {stage["stage"]: tuple(stage["patch"]) for stage in plan["stages"]}
        decoding = DecodingChoice(**plan["decoding"])
        self.pinned = Pinned(None, decoding, self.paces, patches)
        tissue = TissueOptions(**options["tissue"])
        self.options: SegmentOptions | EmbedOptions
        if self.command == "embed":
            self.options = EmbedOptions(tissue=tissue, run=self.run, parquet=options["parquet"])
            return
        self.options = SegmentOptions(
            tissue=tissue,
            export=ExportOptions(**options["export"]),
            run=self.run,
            uncertainty=UncertaintyOptions(**options["uncertainty"]),
            damage=DamageOptions(**options["damage"]),
        )

    def _open(self) -> Pyramid:
        """Open the slide, and refuse another one."""
        said = self.said["slide"]
        path = require_same(self.place, said, "slide")
        reader = said["reader"] if said["reader"] in READERS else None
        mpp = tuple(said["mpp"]) if said["mpp_from"] == "user" else None
        return open_slide(path, mpp=mpp, reader=reader)

    def repeat(self, out: Path, name: str, journal: Journal, listen: Listener) -> Repeated:
        """Do it again; return where the files are, and how each stage was driven."""
        with self._open() as slide:
            result = self._again(slide, journal, listen)
            return result.write(out, name=name), paces_of(result.plan.stages)

    def _again(self, slide: Pyramid, journal: Journal, listen: Listener) -> Result | Embeddings:
        chosen: dict[str, Any] = {"journal": journal, "pinned": self.pinned, "listen": listen}
        if isinstance(self.options, EmbedOptions):
            return embed(slide, self.model, options=self.options, **chosen)
        return segment(slide, self.model, options=self.options, **chosen)


def _read(path: Path) -> Mapping[str, Any]:
    try:
        said: Mapping[str, Any] = orjson.loads(path.read_bytes())
    except OSError as error:
        raise RunError(
            f"{path}: cannot be read: {error.strerror or error}; needed the run.json of a slide"
        ) from error
    except ValueError as error:
        raise _unusable(path, error) from error
    return said


def _unusable(path: Path, error: Exception) -> RunError:
    return RunError(
        f"{path}: is no record that can be repeated ({type(error).__name__}: {error}); needed a "
        "run.json written by `wsiseg segment` or `wsiseg embed` of this version"
    )


def _compare(before: Path, now: Path) -> tuple[list[str], list[Difference]]:
    """Return the names of what is the same, and what differs."""
    same: list[str] = []
    differences: list[Difference] = []
    marker = Marker.read(before)
    names = {path.name for path in now.iterdir()} | (marker.written.keys() if marker else set())
    for name in sorted(names):
        if name.startswith(".") or name == RECORD:
            continue
        what = _difference(before / name, now / name, marker)
        if what is None:
            same.append(name)
        else:
            differences.append(Difference(name, what))
    return same, differences


def _difference(before: Path, now: Path, marker: Marker | None) -> str | None:
    """Say in what two files or folders differ; `None`: in nothing."""
    if not before.exists():
        return "is not beside the record"
    if not now.exists():
        return "was not made again"
    if now.is_dir():
        if _tree(before) == _tree(now):
            return None
        return _store_difference(before, now) or "other bytes, the same values"
    if _hash(before) == _hash(now):
        return None
    written = marker.written.get(before.name) if marker else None
    if written is not None and written != UNKNOWN and written == digest(now):
        return None  # it was edited since; what was written is the same
    return "other bytes"


def _tree(folder: Path) -> dict[str, str]:
    """Return a hash of each file in a folder, by its path there."""
    return {
        path.relative_to(folder).as_posix(): _hash(path)
        for path in folder.rglob("*")
        if path.is_file()
    }


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _store_difference(before: Path, now: Path) -> str | None:
    """Say how far two masks or heatmaps are apart; `None` where they hold the same values."""
    try:
        if now.name.startswith("mask"):
            arrays = LabelStore.open(before).labels, LabelStore.open(now).labels
        else:
            arrays = HeatmapStore.open(before).codes, HeatmapStore.open(now).codes
    except HeatmapError:
        return "other bytes"
    mine, other = arrays
    if mine.shape != other.shape:
        return f"shape {mine.shape} then, {other.shape} now"
    differing, largest = 0, 0
    then_rows, now_rows = ChunkRows(mine), ChunkRows(other)
    for top in range(0, mine.shape[-2], mine.chunks[-2]):
        rows = slice(top, min(top + mine.chunks[-2], mine.shape[-2]))
        steps = np.abs(then_rows[rows].astype(np.int16) - now_rows[rows])
        differing += int(np.count_nonzero(steps))
        largest = max(largest, int(steps.max(initial=0)))
    if not differing:
        return None
    share = differing / mine.size
    if now.name.startswith("mask"):
        return f"{share:.2g} of the pixels have another class"
    return f"{share:.2g} of the values differ, by {largest / 254:.2g} at most"

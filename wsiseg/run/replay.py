"""A run repeated from its `run.json`: the same bytes, or what differs and why that may be."""

import hashlib
import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from wsiseg.embedding import Embeddings, embed
from wsiseg.engine import Journal, Listener, Pinned, fingerprint, ignore, versions
from wsiseg.engine.decoding import DecodingChoice
from wsiseg.engine.execute import Pace
from wsiseg.engine.marker import UNKNOWN, Marker, digest
from wsiseg.engine.provenance import code_fingerprint, hardware
from wsiseg.engine.working import slide_journal
from wsiseg.errors import HeatmapError, ModelError, RunError, UsageError
from wsiseg.model import load_model
from wsiseg.model.gpus import count_gpus
from wsiseg.options import (
    Backend,
    DamageOptions,
    EmbedOptions,
    ExportOptions,
    Precision,
    RunOptions,
    SegmentOptions,
    TissueOptions,
    UncertaintyOptions,
)
from wsiseg.pipeline import segment
from wsiseg.result import Result
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
        The `run.json` of a slide, or its folder.
    out
        The files are written to `out/<name of the record's folder>/`.
    slide, model
        Where they are now, if not where they were.
    listen
        Called with progress events.

    Raises
    ------
    RunError
        If the record cannot be read or is of a scan, or the slide is not the one of the record.
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
        if "scan" in said:
            raise RunError(
                f"{path}: is of a scan: needed the run.json of a slide; run `wsiseg segment` on "
                "the scan with another --out, and compare"
            )
        run = _Run(said, slide, model)
    except (KeyError, TypeError, ValueError) as error:
        raise _unusable(path, error) from error
    run.load()
    with run.open() as opened, slide_journal(out, name, run.command) as journal:
        result = run.again(opened, journal, listen)
        written = result.write(out, name=name)
    stages = result.plan.stages
    other = [stage.stage for stage in stages if not run.was_driven_so(stage.stage, stage.pace)]
    reasons = [*run.circumstances(), *(f"stage {s}: other batches or columns" for s in other)]
    same, differences = _compare(folder, written)
    return ReplayReport(written, tuple(reasons), tuple(same), tuple(differences))


class _Run:
    """What a record says, and what of it there is here."""

    def __init__(
        self, said: Mapping[str, Any], slide: Path | str | None, model: Path | str | None
    ) -> None:
        self._said = said
        self._slide = slide or said["slide"]["path"]
        self._model = model
        self.command: str = said["command"]
        plan, options = said["plan"], said["options"]
        stages = {stage["stage"]: Pace(**stage["pace"]) for stage in plan["stages"]}
        patches = {stage["stage"]: tuple(stage["patch"]) for stage in plan["stages"]}
        self.pinned = Pinned(None, DecodingChoice(**plan["decoding"]), stages, patches)
        here = RunOptions(**options["run"])
        here = replace(here, threads=None, memory_bytes=None, batch_size=None)
        wanted = said["model"]["device"].partition(":")[0]
        self._device = "cuda" if wanted == "cuda" and count_gpus() else "cpu"
        tissue = TissueOptions(**options["tissue"])
        self.options: SegmentOptions | EmbedOptions
        if self.command == "embed":
            self.options = EmbedOptions(tissue=tissue, run=here, parquet=options["parquet"])
        else:
            export = ExportOptions(**options["export"])
            layers = UncertaintyOptions(**options["uncertainty"])
            damage = DamageOptions(**options["damage"])
            self.options = SegmentOptions(
                tissue=tissue, export=export, run=here, uncertainty=layers, damage=damage
            )

    def load(self) -> None:
        """Load the model, by its backend if that is here, and refuse another model."""
        said = self._said["model"]
        moved = self._device != said["device"].partition(":")[0]
        precision: Precision = "float32" if moved else said["precision"]
        backends: list[Backend] = ["auto"] if moved else [said["backend"], "auto"]
        places = [self._model] if self._model else [said["path"], said["name"]]
        problem: ModelError | None = None
        for place, backend in itertools.product(places, backends):
            try:
                self.model = load_model(
                    place, backend=backend, device=self._device, precision=precision
                )
                break
            except ModelError as error:
                problem = problem or error
        else:
            raise ModelError(f"{said['name']}: {problem}; give --model") from problem
        if self.model.digest != said["digest"]:
            raise ModelError(
                f"{self.model.path}: is not the model of the run: needed digest "
                f"{said['digest'][:16]}, found {self.model.digest[:16]}; give --model"
            )

    def open(self) -> Pyramid:
        """Open the slide, and refuse another one."""
        said = self._said["slide"]
        if self._slide is None:
            raise RunError(f"{said['name']}: the run was not on a file; give --slide")
        found = fingerprint(self._slide)
        if found is None:
            raise RunError(
                f"{self._slide}: is not there; needed the slide of the run: give --slide"
            )
        if found != said["sha256_sampled"]:
            raise RunError(
                f"{self._slide}: is not the slide of the run: needed fingerprint "
                f"{str(said['sha256_sampled'])[:16]}, found {found[:16]}; give --slide"
            )
        reader = said["reader"] if said["reader"] in READERS else None
        mpp = tuple(said["mpp"]) if said["mpp_from"] == "user" else None
        return open_slide(self._slide, mpp=mpp, reader=reader)

    def again(self, slide: Pyramid, journal: Journal, listen: Listener) -> Result | Embeddings:
        """Do it again."""
        if isinstance(self.options, EmbedOptions):
            return embed(
                slide,
                self.model,
                options=self.options,
                journal=journal,
                pinned=self.pinned,
                listen=listen,
            )
        return segment(
            slide,
            self.model,
            options=self.options,
            journal=journal,
            pinned=self.pinned,
            listen=listen,
        )

    def was_driven_so(self, stage: str, pace: Pace) -> bool:
        """Tell whether a stage was driven as it is now, as far as that may change bits."""
        before = self.pinned.paces.get(stage)
        return before is not None and replace(before, workers=pace.workers) == pace

    def circumstances(self) -> Iterator[str]:
        """Yield what differs between then and now."""
        said, model = self._said["model"], self.model
        named, name = (Path(path).name for path in (self._said["slide"]["path"], self._slide))
        if named != name:
            yield f"name of the slide: {named} then, {name} now"
        now = {"wsiseg's code": code_fingerprint()} | versions()
        then = {"wsiseg's code": self._said["code"]} | self._said["versions"]
        for name in then | now:
            if then.get(name) != now.get(name):
                yield f"{name}: {then.get(name, 'none')} then, {now.get(name, 'none')} now"
        found = {
            "backend": model.backend,
            "device": model.device.partition(":")[0],
            "processor": hardware(model.device),
            "precision": model.precision,
        }
        for name, value in found.items():
            before = said[name].partition(":")[0] if name == "device" else said[name]
            if before != value:
                yield f"{name}: {before} then, {value} now"


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

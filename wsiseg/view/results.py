"""What is shown: finished results with slide, layers and objects, opened when asked for."""

import os
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import orjson

from wsiseg.annotations import ImageRef
from wsiseg.errors import RunError, WsisegError
from wsiseg.exchange.finished import FinishedResult
from wsiseg.view.kept import kept_index
from wsiseg.view.layers import RasterLayer
from wsiseg.view.objects import ObjectIndex, build
from wsiseg.view.tiles import SlideTiles

__all__ = ["ANNOTATIONS", "TISSUE", "Shown", "find_shown"]

ANNOTATIONS, TISSUE = "annotations", "tissue"
LABELS = "labels.nii.gz"
"""What the result of a scan holds."""

DEPTH = 4
"""Folders below the one that was named in which results are looked for."""

BESIDE_BYTES = 8_000_000
"""GeoJSON above this is read in a process of its own, and its index kept."""

OPEN_SLIDES = 8
"""Slides whose files and decoded blocks are held at a time."""

SLIDE_MARKS = ("annotations.geojson", "annotations.geojson.gz", "annotations.index.json")


@dataclass
class Shown:
    """One result, and what is opened of it. Thread-safe."""

    result: FinishedResult
    group: str
    """Where it lies, from the folder that was named: what tells results of one name apart."""

    workspace: Path
    """Where indices of objects go."""

    open_slides: "OpenSlides"
    """Shared by all that are shown."""

    _building: dict[str, "_Reading"] = field(default_factory=dict, init=False)
    _lock: threading.RLock = field(default_factory=threading.RLock, init=False)

    @property
    def name(self) -> str:
        """Name of the result's folder."""
        return self.result.name

    @property
    def is_volume(self) -> bool:
        """Whether it is the result of a scan."""
        return (self.result.folder / LABELS).is_file()

    @property
    def stamp(self) -> str:
        """A text that is another one after the slide was done again."""
        marks = ("run.json", "annotations.geojson", "mask.zarr", LABELS)
        told = [self.result.folder / mark for mark in marks]
        return format(max((p.stat().st_mtime_ns for p in told if p.exists()), default=0), "x")

    @property
    def summary(self) -> Mapping[str, Any]:
        """The row of `summary.csv`, as the run's record has it."""
        found = self.result.record.get("summary")
        return found if isinstance(found, dict) else {}

    @cached_property
    def image(self) -> ImageRef:
        """The slide's size and pixel size, also where its file is gone.

        Raises
        ------
        WsisegError
            If neither the annotations nor the slide tell.
        """
        return self.result.image

    @property
    def tiles(self) -> SlideTiles:
        """The slide.

        Raises
        ------
        WsisegError
            If it is not there, or cannot be read.
        """
        with self._lock:
            return self.open_slides.get(self.result.folder, lambda: _open(self.result))

    @cached_property
    def layers(self) -> Sequence[RasterLayer]:
        """Masks first, then heatmaps from the last stage to the first, then uncertainty."""
        folder = self.result.folder
        found: list[RasterLayer] = []
        if (folder / "mask.zarr").is_dir():
            classes = [(known.name, known.color) for known in self.result.mask_classes()]
            found.append(RasterLayer.of_mask(folder / "mask.zarr", classes))
        for path in sorted(folder.glob("*heatmap.zarr"), key=lambda p: (len(p.name), p.name)):
            found += RasterLayer.of_heatmap(path, "heatmap")
        for path in sorted(folder.glob("uncertainty-*.zarr")):
            found += RasterLayer.of_heatmap(path, "uncertainty")
        return found

    @property
    def colors(self) -> Mapping[str, tuple[int, int, int]]:
        """Name and colour of the classes, the background first."""
        mask = next((layer for layer in self.layers if layer.kind == "mask"), None)
        if mask is not None:
            return dict(mask.classes)
        index = self.objects(ANNOTATIONS) if self.has_objects(ANNOTATIONS) else None
        return {"background": (0, 0, 0), **dict(index.classes if index is not None else ())}

    def has_objects(self, stem: str) -> bool:
        """Return whether there are GeoJSON files of that name."""
        return bool(self.result.files(stem))

    def objects(self, stem: str) -> ObjectIndex | None:
        """Return the objects; `None` while they are being read.

        Raises
        ------
        WsisegError
            If they cannot be read.
        """
        with self._lock:
            reading = self._building.get(stem)
            if reading is None:
                reading = self._building[stem] = _Reading(self, stem)
        return reading.made()


class _Reading:
    """Objects being read by a thread."""

    def __init__(self, shown: Shown, stem: str) -> None:
        self._shown, self._stem = shown, stem
        self._index: ObjectIndex | None = None
        self._error: WsisegError | None = None
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def made(self) -> ObjectIndex | None:
        """Return the index once it is there."""
        self._thread.join(0.0)
        if self._error is not None:
            raise self._error
        return self._index

    def _read(self) -> None:
        result = self._shown.result
        try:
            size = sum(path.stat().st_size for path in result.files(self._stem))
            if size > BESIDE_BYTES:
                self._index = kept_index(result, self._stem, self._shown.workspace)
            else:
                folder = Path(tempfile.mkdtemp(dir=self._shown.workspace))
                build(result.objects(self._stem), folder)
                self._index = ObjectIndex.open(folder)
        except WsisegError as error:
            self._error = error
        except OSError as error:
            self._error = RunError(f"{result.folder}: {self._stem} cannot be shown: {error}")


class OpenSlides:
    """The slides used last; what falls out is closed when its last read has ended."""

    def __init__(self, limit: int = OPEN_SLIDES) -> None:
        self._limit = limit
        self._kept: OrderedDict[Path, SlideTiles] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Path, make: Callable[[], SlideTiles]) -> SlideTiles:
        """Return the tiles of a slide, opened if need be."""
        with self._lock:
            found = self._kept.get(key)
            if found is not None:
                self._kept.move_to_end(key)
                return found
        found = make()
        with self._lock:
            self._kept[key] = found
            while len(self._kept) > self._limit:
                self._kept.popitem(last=False)
        return found


def _open(result: FinishedResult) -> SlideTiles:
    try:
        return SlideTiles(result.slide().with_damage("replace"))
    except RunError as error:
        said = result.record.get("slide", {}).get("path", "its place")
        raise RunError(
            f"{result.name}: its slide is not at {said}; name the folder of the slides: "
            "wsiseg view OUT SLIDES"
        ) from error


def find_shown(
    outs: Sequence[Path], slides: Sequence[Path] = (), *, workspace: Path
) -> list[Shown]:
    """Return the results in some folders, in the order of their names.

    Parameters
    ----------
    outs
        Folders of results, or of runs.
    slides
        Files, or folders in which slides are looked for that are not where they were.
    workspace
        A folder of this process.

    Raises
    ------
    RunError
        If a folder holds no result.
    """
    moved = {path.name: path for path in _slide_files(slides)}
    found, open_slides = [], OpenSlides()
    for out, label in zip(outs, _labels(outs), strict=True):
        folders = list(_results_in(out, DEPTH)) if out.is_dir() else []
        if not folders:
            raise RunError(
                f"{out}: no result in it: needed the --out of `wsiseg segment`, or the folder of a "
                "slide in it; run that first, or name another folder"
            )
        for folder in folders:
            path = moved.get(_slide_name(folder)) if moved else None
            result = FinishedResult(folder, path)
            group = "/".join([label, *folder.relative_to(out).parts[:-1]])
            found.append(Shown(result, group, workspace, open_slides))
    return found


def _labels(outs: Sequence[Path]) -> list[str]:
    """Return the end of each path that tells it from the others."""
    parts = [out.resolve().parts for out in outs]
    labels = ["/".join(path[-1:]) for path in parts]
    for depth in range(2, max(map(len, parts), default=0) + 1):
        if len(set(labels)) == len(set(parts)):
            break
        labels = ["/".join(path[-depth:]) for path in parts]
    return labels


def _results_in(folder: Path, depth: int) -> Iterator[Path]:
    if folder.name.startswith(".") and folder.name not in {".", ".."}:
        return
    marks = (*SLIDE_MARKS, "mask.zarr", "heatmap.zarr", LABELS)
    if any((folder / mark).exists() for mark in marks):
        yield folder
    elif depth:
        for child in sorted(folder.iterdir()):
            if child.is_dir() and child.suffix != ".zarr":
                yield from _results_in(child, depth - 1)


def _slide_name(folder: Path) -> str:
    try:
        record = orjson.loads((folder / "run.json").read_bytes())
        return str(record["slide"]["name"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def _slide_files(places: Sequence[Path]) -> Iterator[Path]:
    for place in places:
        if not place.exists():
            raise RunError(f"{place}: no such file or folder; name where the slides are")
        yield place
        for here, folders, files in os.walk(place):
            yield from (Path(here) / name for name in (*folders, *files))
            folders[:] = [name for name in folders if not name.endswith(".zarr")]

"""A result folder that a run left, opened piece by piece."""

import gzip
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import zarr

from wsiseg.annotations import AnnotationClass, Annotations, ImageRef, read_objects
from wsiseg.annotations.readback import read_image
from wsiseg.errors import AnnotationError, RunError
from wsiseg.exchange.finished_scan import LABELS
from wsiseg.source import Pyramid
from wsiseg.source import open as open_slide
from wsiseg.stitch import HeatmapStore, LabelStore
from wsiseg.stitch.store import readable

__all__ = ["FinishedResult", "find_results"]

ENDINGS = (".index.json", ".geojson", ".geojson.gz")
LONGEST_HEAD = 1 << 20
"""Bytes in which the first line of a GeoJSON file must end to be one of wsiseg."""

HEAD_END = b'"features":['
HEATMAPS = "*heatmap.zarr"


def find_results(path: Path | str) -> list[Path]:
    """Return the result folders that a path stands for: itself, or those in it.

    Raises
    ------
    RunError
        If there is none.
    """
    path = Path(path)
    if not path.is_dir():
        raise RunError(f"{path}: no such folder; name a result folder, or the --out of a run")
    if _is_result(path):
        return [path]
    found = sorted(child for child in path.iterdir() if child.is_dir() and _is_result(child))
    if not found:
        raise RunError(
            f"{path}: no result in it: needed annotations, heatmap.zarr or {LABELS}, as `wsiseg "
            "segment` writes them; name the folder of a slide or scan, or the --out of a run"
        )
    return found


def _is_result(path: Path) -> bool:
    if path.name.startswith("."):
        return False
    names = (*(f"annotations{ending}" for ending in ENDINGS), "mask.zarr", "heatmap.zarr", LABELS)
    return any((path / name).exists() for name in names)


@dataclass(frozen=True)
class FinishedResult:
    """What `wsiseg segment` wrote for one slide.

    Parameters
    ----------
    folder
        The slide's own folder.
    slide_path
        Where the slide is, if not where it was; only DICOM needs it, and files whose GeoJSON was
        not written by wsiseg.
    """

    folder: Path
    slide_path: Path | None = None

    @property
    def name(self) -> str:
        """The name of the folder, and of what is made of it."""
        return self.folder.resolve().name

    @cached_property
    def record(self) -> Mapping[str, Any]:
        """`run.json`; empty where there is none."""
        path = self.folder / "run.json"
        if not path.exists():
            return {}
        try:
            record = orjson.loads(path.read_bytes())
        except (OSError, orjson.JSONDecodeError) as error:
            raise RunError(f"{path}: cannot be read: {error}; run the slide again") from error
        return record if isinstance(record, dict) else {}

    @cached_property
    def image(self) -> ImageRef:
        """The slide, as the annotations need to know it.

        Raises
        ------
        RunError
            If no file says it, and no slide is named.
        """
        for stem in ("annotations", "tissue"):
            for path in self.files(stem):
                about = _about(path)
                if about is not None:
                    return read_image(path, about)
        return ImageRef.of(self.slide())

    def slide(self) -> Pyramid:
        """Return the slide, opened.

        Raises
        ------
        RunError
            If it is not where it was, and no other place is named.
        """
        said = self.record.get("slide", {})
        path = self.slide_path or said.get("path")
        if path is None or not Path(path).exists():
            raise RunError(
                f"{self.folder}: needs its slide, found none at {path}; name it with --slide"
            )
        mpp = said.get("mpp") if said.get("mpp_from") == "user" else None
        return open_slide(path, mpp=mpp)

    @property
    def mask(self) -> LabelStore:
        """The mask, value k is class k."""
        return LabelStore.open(self.folder / "mask.zarr")

    def heatmap(self, name: str = "heatmap") -> HeatmapStore:
        """Return a heatmap by the name of its file, without `.zarr`.

        Raises
        ------
        RunError
            If there is no such heatmap; it says which there are.
        """
        path = self.folder / f"{name.removesuffix('.zarr')}.zarr"
        if not path.is_dir():
            known = ", ".join(sorted(p.stem for p in self.folder.glob(HEATMAPS))) or "none"
            raise RunError(f"{self.folder}: no heatmap {name!r}, found {known}; name one of them")
        return HeatmapStore.open(path)

    def mask_classes(self) -> tuple[AnnotationClass, ...]:
        """Return name and colour of the values 0, 1, ... of the mask."""
        mask = self.mask
        with readable(mask.path):
            entry: Any = zarr.open_group(mask.path, mode="r").attrs.asdict().get("image-label", {})
            colors = {item["label-value"]: item["rgba"] for item in entry.get("colors", ())}
            grey = (128, 128, 128)
            return tuple(
                AnnotationClass(name, tuple(colors.get(value, grey)[:3]))
                for value, name in enumerate(mask.names)
            )

    def objects(self, stem: str = "annotations") -> Iterator[Annotations]:
        """Yield the objects of the GeoJSON files, one file after the other.

        A file that holds no object, as it says itself, gives one empty `Annotations`.

        Raises
        ------
        RunError
            If there is no such file.
        AnnotationError
            If one cannot be read.
        """
        files = self.files(stem)
        if not files:
            raise RunError(f"{self.folder}: no {stem}.geojson in it; run `wsiseg segment` first")
        some = False
        for path in files:
            found = read_objects(path, image=None if _about(path) else self.image)
            for group in found.groups:
                some = True
                yield group
        if not some:
            about = _about(files[0]) or {}
            yield _nothing(self.image, about)

    def files(self, stem: str) -> list[Path]:
        """Return the GeoJSON files of a name, such as `tissue`; empty where there are none."""
        index = self.folder / f"{stem}.index.json"
        if index.exists():
            try:
                listed = orjson.loads(index.read_bytes())["files"]
                return [self.folder / Path(entry["file"]).name for entry in listed]
            except (orjson.JSONDecodeError, KeyError, TypeError) as error:
                raise AnnotationError(f"{index}: cannot be read: {error!r}") from error
        single = (self.folder / f"{stem}{ending}" for ending in ENDINGS[1:])
        return [path for path in single if path.exists()]


def _nothing(image: ImageRef, about: Mapping[str, Any]) -> Annotations:
    classes = tuple(
        AnnotationClass(item["name"], tuple(item["color"])) for item in about.get("classes", ())
    )
    return Annotations(np.empty(0, object), np.empty(0, np.int64), classes, image)


def _about(path: Path) -> Mapping[str, Any] | None:
    """Return what a file of wsiseg says of itself in its first line; `None` for other files."""
    try:
        with path.open("rb") as file:
            packed = path.name.endswith(".gz")
            stream = gzip.GzipFile(fileobj=file) if packed else file
            line = stream.readline(LONGEST_HEAD).rstrip()
        if not line.endswith(HEAD_END):
            return None
        about = orjson.loads(line + b"]}").get("wsiseg")
    except (OSError, EOFError, orjson.JSONDecodeError):
        return None  # the reader says what is wrong with it
    return about if isinstance(about, dict) else None

"""What is done with a file that may be damaged: the same as users do with it."""

import hashlib
import shutil
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

import numpy as np

from wsiseg.errors import UnstatedGeometryWarning, WsisegError
from wsiseg.options import RunOptions, SegmentOptions
from wsiseg.run import (
    FolderReport,
    describe_slide,
    list_slides,
    segment_folder,
    tissue_folder,
)
from wsiseg.source import Pyramid
from wsiseg.source import open as open_slide
from wsiseg.testing.fuzz.originals import CLASSES, MPP, SHAPE, TILE, Entry, Original
from wsiseg.testing.fuzz.scans import SCANS
from wsiseg.testing.models import make_colour_model
from wsiseg.testing.scan_models import make_scan_model
from wsiseg.testing.slides import make_svs, tissue_disc

if TYPE_CHECKING:
    from wsiseg.model import Model

__all__ = ["Grounds", "LostSiblingError", "UnexpectedFailureError", "run_entry"]

WITHOUT_MPP = ("scn", "philips", "png", "jpeg", "jp2")
DRAWN = ("asap", "imagescope")
"""Of the annotations of other programs those that may be labels, too."""

VENDOR_TIFF = (".svs", ".tif", ".tiff", ".scn", ".ndpi")
OPENSLIDE_SHARE = 0.3
SEGMENT_SHARE = {True: 0.5, False: 0.1}
"""Of the slides that can be read, and of the others; of the rest the tissue is found, which takes a
tenth of the time."""

ACCEPTED = 0.5
"""Share of the scans that are opened with gaps and tilts accepted."""

OPENED = ("annotations.geojson", "tissue.geojson")
"""Files of a result that are compared."""

SCAN_FILES = ("labels.nii.gz",)
"""The same of a scan."""

ON_DAMAGE = ("raise", "replace", "nodata")


class LostSiblingError(Exception):
    """A healthy slide beside a damaged one was not done, or came out otherwise."""


class UnexpectedFailureError(Exception):
    """A slide failed by an error that is not one of wsiseg's own."""


@dataclass(frozen=True, slots=True)
class Sibling:
    """A healthy slide, and what it gives where nothing is damaged."""

    path: Path
    results: Mapping[str, str]
    """Hash by file."""


@dataclass
class Grounds:
    """What the entries of one process have in common."""

    folder: Path

    @cached_property
    def sibling(self) -> Sibling:
        """A healthy slide."""
        path = self.folder / "z-healthy.svs"
        make_svs(path, tissue_disc(SHAPE, seed=1)[0], levels=(1, 4), tile=TILE, mpp=MPP)
        return self._with_results(path, self.model)

    @cached_property
    def dicom_sibling(self) -> Sibling:
        """The same in DICOM, of another series than the originals."""
        from wsiseg.testing.fuzz.dicom import write_level

        path = self.folder / "z-healthy.dcm"
        write_level(path, tissue_disc(SHAPE, seed=1)[0], mpp=MPP, tile=TILE, series=7)
        return self._with_results(path, self.model)

    @cached_property
    def scan_sibling(self) -> Sibling:
        """A healthy scan."""
        path = self.folder / "z-healthy.nii"
        (self.folder / "scan").mkdir()
        SCANS["nifti"](self.folder / "scan").rename(path)
        return self._with_results(path, self.scan_model, SCAN_FILES)

    def _with_results(self, path: Path, model: "Model", names: Sequence[str] = OPENED) -> Sibling:
        out = self.folder / f"reference{path.suffix}"
        segment_folder([path], model, out, options=self.options)
        return Sibling(path, {name: _hash(out / path.stem / name) for name in names})

    @cached_property
    def model_folder(self) -> Path:
        """A model whose answer is a formula."""
        return make_colour_model(self.folder / "model", window=64)

    @cached_property
    def model(self) -> "Model":
        """The same, loaded."""
        from wsiseg.model import load_for_run

        return load_for_run(self.model_folder, self.options.run)

    @cached_property
    def scan_model(self) -> "Model":
        """The same for scans, loaded."""
        from wsiseg.model import load_for_run

        folder = make_scan_model(
            self.folder / "scan-model", patch=(4, 8, 8), spacing_mm=None, full=576.0
        )
        return load_for_run(folder, self.options.run)

    @cached_property
    def slide(self) -> Pyramid:
        """The slide that annotations and masks belong to."""
        return open_slide(np.full((*SHAPE, 3), 240, np.uint8), mpp=MPP)

    @cached_property
    def options(self) -> SegmentOptions:
        """One thread, bounded memory."""
        return SegmentOptions(
            run=RunOptions(backend="onnxruntime", threads=1, memory_bytes=3_000_000_000)
        )


def run_entry(original: Original, path: Path, random: Random, grounds: Grounds) -> str:
    """Use a changed file as users would; return what came of it.

    Raises
    ------
    WsisegError
        If it is refused, as it may be.
    LostSiblingError, UnexpectedFailureError
        If that harmed more than the file itself.
    """
    return _ENTRIES[original.entry](original, path, random, grounds)


def _slide(original: Original, path: Path, random: Random, grounds: Grounds) -> str:
    """Read all of a slide, then run over it in a batch with a healthy one."""
    mpp = MPP if original.name in WITHOUT_MPP else None
    reader = None
    if path.suffix in VENDOR_TIFF and random.random() < OPENSLIDE_SHARE:
        reader = "openslide"
    refusal = None
    try:
        with open_slide(path, mpp=mpp, reader=reader, on_damage=random.choice(ON_DAMAGE)) as slide:  # type: ignore[arg-type]
            _read_all(slide)
    except WsisegError as error:
        refusal = error
    share = SEGMENT_SHARE[refusal is None]
    _run_batch(path, mpp, reader, grounds, segments=random.random() < share)
    if refusal is not None:
        raise refusal
    return "read"


def _scan(original: Original, path: Path, random: Random, grounds: Grounds) -> str:
    """Read all of a scan, then run over it in a batch with a healthy one."""
    options: dict[str, bool | str] = {}
    if random.random() < ACCEPTED:
        options = {"allow_gap": True, "tilt": "shear"}
    refusal = None
    try:
        _read_scan(path, options)
    except WsisegError as error:
        refusal = error
    if random.random() < SEGMENT_SHARE[refusal is None]:
        _run_scans(path, grounds)
    if refusal is not None:
        raise refusal
    return "read"


def _read_scan(path: Path, options: dict[str, bool | str]) -> None:
    """List what a scan is, and read all of it: as stored, and turned."""
    from wsiseg.geometry import Box
    from wsiseg.run import describe_scan
    from wsiseg.source import open_volume

    _each(
        lambda: describe_scan(str(path), **options),  # type: ignore[arg-type]
        lambda: open_slide(path).close(),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UnstatedGeometryWarning)
        volume = open_volume(path, **options)  # type: ignore[arg-type]
    with volume:
        for view in (volume, volume.oriented("RAS")):
            whole = Box.of_shape(view.shape)
            view.read(whole.intersect(Box((0, 0, 0), (64, 64, 64))))


def _run_scans(path: Path, grounds: Grounds) -> None:
    """Segment a scan in a batch with a healthy one."""
    sibling, out = grounds.scan_sibling, path.parent / "out"
    healthy = shutil.copyfile(sibling.path, path.parent / sibling.path.name)
    jobs = list_slides([str(path), str(healthy)], volumes=True)
    report = segment_folder(jobs, grounds.scan_model, out, options=grounds.options)
    _judge(report, out / healthy.stem, sibling)


def _read_all(slide: Pyramid) -> None:
    """Read what users see: the table of levels, thumbnail, pixels, pictures beside the slide."""
    from wsiseg.geometry import Box

    describe_slide(slide)
    for level in slide.levels:
        y, x = level.shape
        for start in ((0, 0), (y // 2, x // 2), (max(0, y - 300), max(0, x - 300))):
            level.read(Box(start, (start[0] + 300, start[1] + 300)))
    slide.thumbnail(256)
    for name in slide.associated_names:
        slide.associated_image(name)


def _run_batch(
    path: Path, mpp: float | None, reader: str | None, grounds: Grounds, *, segments: bool
) -> None:
    """Segment a slide, or find its tissue, in a batch with a healthy one."""
    is_series = path.is_dir() and path.suffix != ".zarr"
    sibling = grounds.dicom_sibling if is_series else grounds.sibling
    inputs, out = path if is_series else path.parent, path.parent / "out"
    shutil.copyfile(sibling.path, inputs / sibling.path.name)
    found = list_slides([str(inputs)], mpp=mpp, nested=True)
    healthy = [job for job in found if Path(job.path).name == sibling.path.name]
    damaged = [job for job in found if job not in healthy and reader is None]
    if not damaged:
        damaged = [*list_slides([str(path)], mpp=mpp, reader=reader)]
    jobs = [*damaged, *healthy]
    if segments:
        report = segment_folder(jobs, grounds.model, out, options=grounds.options)
    else:
        report = tissue_folder(jobs, out)
    _judge(report, out / healthy[0].output, sibling)


def _judge(report: FolderReport, folder: Path, sibling: Sibling) -> None:
    if not any(Path(row.folder) == folder for row in report.done):
        failed = "; ".join(row.error or "" for row in report.failures)
        raise LostSiblingError(f"the healthy slide was not done: {failed}")
    for name, expected in sibling.results.items():
        if (folder / name).exists() and _hash(folder / name) != expected:
            raise LostSiblingError(f"{name} of the healthy slide came out otherwise")
    for row in report.failures:
        _require_known(row.error_class or "", row.error or "")


def _require_known(name: str, text: str) -> None:
    from wsiseg import errors

    kind = getattr(errors, name, None)
    if not (isinstance(kind, type) and issubclass(kind, WsisegError)):
        raise UnexpectedFailureError(text)
    if len(text.splitlines()) != 1:
        raise UnexpectedFailureError(f"several lines: {text}")


def _hash(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _geojson(original: Original, path: Path, random: Random, grounds: Grounds) -> str:
    """Verify GeoJSON, and read it in every way."""
    from wsiseg.annotations import ImageRef, read_geojson, verify_geojson
    from wsiseg.exchange import import_annotations

    report = verify_geojson(path)
    str(report), report.to_dict()
    _each(
        lambda: read_geojson(path, image=ImageRef.of(grounds.slide)),
        lambda: import_annotations(path, grounds.slide),
        lambda: _paint(path, grounds),
    )
    return report.verdict


def _drawing(original: Original, path: Path, random: Random, grounds: Grounds) -> str:
    """Read annotations of other programs, as objects and as labels; write them as GeoJSON."""
    from wsiseg.exchange import import_annotations, write_imported

    def convert() -> None:
        found = import_annotations(path, grounds.slide)
        write_imported(found, path.parent / "imported", "a")

    if original.name in DRAWN:
        _each(convert, lambda: _paint(path, grounds))
    else:
        convert()
    return "imported"


def _mask(original: Original, path: Path, random: Random, grounds: Grounds) -> str:
    """Read a mask as labels."""
    _paint(path, grounds)
    return "painted"


def _paint(path: Path, grounds: Grounds) -> None:
    from wsiseg.annotations import open_labels
    from wsiseg.geometry import Box

    labels = open_labels(path, grounds.slide, CLASSES, mapping={"A": "Tumor", "B": "Tumor"})
    labels.areas()
    labels.at(grounds.slide.levels[0]).read(Box((0, 0), SHAPE))


def _each(*works: Callable[[], object]) -> None:
    """Do everything; raise the first refusal where nothing went well."""
    refusals = []
    for work in works:
        try:
            work()
        except WsisegError as error:
            refusals.append(error)
    if len(refusals) == len(works):
        raise refusals[0]


def _model(original: Original, path: Path, random: Random, grounds: Grounds) -> str:
    """Show and check a model package, and start a run with it."""
    from wsiseg.model import check_model, describe

    backend = "onnxruntime" if original.name == "model-onnx" else "torch"
    describe(path)
    str(check_model(path, backend=backend, device="cpu"))  # type: ignore[arg-type]
    return "checked"


def _table(original: Original, path: Path, random: Random, grounds: Grounds) -> str:
    """List the slides that a table names."""
    for job in list_slides([str(path)]):
        with suppress(WsisegError), open_slide(job.path, mpp=job.mpp) as slide:
            describe_slide(slide)
    return "listed"


def _result(original: Original, path: Path, random: Random, grounds: Grounds) -> str:
    """Export a damaged result, and let a run find out whether it is to be made anew."""
    from wsiseg.exchange import FinishedResult, export_result

    result = path / "slide"
    slide = original.path.parent / "slide.svs"

    def export(to: str) -> Callable[[], object]:
        return lambda: export_result(FinishedResult(result), to, path.parent / f"for-{to}")

    def again() -> None:
        report = segment_folder([slide], grounds.model, path, options=grounds.options)
        for row in report.failures:
            _require_known(row.error_class or "", row.error or "")
        if report.failures:
            raise WsisegError(report.failures[0].error)

    _each(export("qupath"), export("wsinfer"), export("ome-tiff"), again)
    return "exported and made anew"


_ENTRIES: Mapping[Entry, Callable[[Original, Path, Random, Grounds], str]] = {
    "slide": _slide,
    "scan": _scan,
    "geojson": _geojson,
    "drawing": _drawing,
    "mask": _mask,
    "model": _model,
    "table": _table,
    "result": _result,
}

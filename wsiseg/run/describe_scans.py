"""What scans say, as plain values, and which arguments of a command line are scans."""

import glob
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from wsiseg.errors import SourceError
from wsiseg.run.inputs import SUFFIXES
from wsiseg.source import Volume, is_volume, open_volume
from wsiseg.source.volumes.open import volume_reader

if TYPE_CHECKING:
    from wsiseg.source.volumes.dicom import SeriesReport

__all__ = ["describe_scan", "scans_and_others"]

Record = dict[str, Any]

BESIDE = frozenset({".dcm", ".png", ".jpg", ".jpeg"})
"""What lies beside scans without being a slide."""


def scans_and_others(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the scans that arguments name, and the arguments that name something else, too.

    Parameters
    ----------
    arguments
        Files, folders, globs. A folder that is no scan itself is searched for scans, and is an
        argument of the other kind where it may hold slides.
    """
    scans: list[str] = []
    others: list[str] = []
    for argument in arguments:
        matches = [argument]
        if not Path(argument).exists() and glob.has_magic(argument):
            matches = sorted(glob.glob(argument)) or matches  # noqa: PTH207 - as it was written
        for match in matches:
            inner = list(_scans_of(Path(match)))
            scans += inner
            if not inner or (inner != [match] and _may_hold_slides(Path(match))):
                others.append(match)
    return scans, others


def _scans_of(path: Path) -> Iterator[str]:
    if is_volume(path):
        yield str(path)
    elif path.is_dir():
        yield from (str(entry) for entry in sorted(path.iterdir()) if is_volume(entry))


def _may_hold_slides(path: Path) -> bool:
    """Return whether a folder of scans has slides as well; pictures are those of the scans."""
    return any(entry.suffix.lower() in SUFFIXES - BESIDE for entry in path.iterdir())


def describe_scan(
    path: str,
    *,
    series: str | None = None,
    allow_gap: bool = False,
    tilt: Literal["shear"] | None = None,
    reader: str | None = None,
) -> list[Record]:
    """Return a record of each volume at `path`; DICOM folders have one per series.

    Sizes are (x, y, z), as viewers show them; `problems` says what keeps a series from being a
    volume. Reads no voxels.

    Parameters
    ----------
    path, series, allow_gap, tilt, reader
        As for `wsiseg.open_volume`.

    Raises
    ------
    SourceError
        If the scan cannot be opened.
    """
    if (reader or volume_reader(Path(path))) == "dicom":
        from wsiseg.source.volumes.dicom import report_series

        reports = report_series(Path(path), series=series, allow_gap=allow_gap, tilt=tilt)
        if not reports:
            raise SourceError(f"{path}: needed DICOM images of a scan, found none")
        return [_series(Path(path).name, report) for report in reports]
    with open_volume(path, series=series, reader=reader) as volume:
        return [_volume(volume)]


def _volume(volume: Volume) -> Record:
    metadata = volume.metadata
    return {
        "name": volume.name,
        "reader": metadata.reader,
        "modality": metadata.modality,
        "shape": list(volume.shape[::-1]),
        "channels": volume.channels,
        "spacing_mm": list(volume.affine.spacing_mm[::-1]),
        "orientation": volume.affine.orientation,
        "dtype": str(volume.dtype),
        "affine": volume.affine.to_nifti().tolist(),
        "properties": dict(metadata.properties),
        "problems": [],
    }


def _series(name: str, report: "SeriesReport") -> Record:
    from wsiseg.source.volumes._dicom_pixels import value_dtype

    series, grid = report.series, report.grid
    record: Record = {
        "name": name,
        "reader": "dicom",
        "modality": series.modality or None,
        "series": series.uid,
        "series_number": series.number,
        "kind": series.sop_class,
        "images": len(series.frames),
        "files": series.files,
        "problems": [
            {"error": defect.kind.__name__, "text": defect.line(), "slices": list(defect.slices)}
            for defect in report.defects
        ],
    }
    if report.problem:
        record["problems"].append({"error": "SourceError", "text": report.problem, "slices": []})
    if grid is not None:
        first = grid.frames[0].kind
        count = len(grid.frames) if grid.places is None else len(grid.places)
        record |= {
            "shape": [first.columns, first.rows, count],
            "channels": first.samples,
            "spacing_mm": list(grid.affine.spacing_mm[::-1]),
            "orientation": grid.affine.orientation,
            "dtype": "float32" if grid.places else str(value_dtype(grid.frames)),
            "affine": grid.affine.to_nifti().tolist(),
        }
    return record

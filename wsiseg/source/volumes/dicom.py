"""DICOM series as volumes: CT, MR and PET, one file per slice or several frames per file."""

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Literal

import numpy as np

from wsiseg.errors import (
    DicomSeriesError,
    NoImagesError,
    SeveralSeriesError,
    SourceError,
    UnstatedGeometryWarning,
)
from wsiseg.geometry import Affine, Box
from wsiseg.source._cache import BlockCache
from wsiseg.source.volumes._dicom_geometry import Defect, Grid, defects_of, grid_of
from wsiseg.source.volumes._dicom_headers import Series, read_folder, read_frames
from wsiseg.source.volumes._dicom_pixels import check_pixels, decode, value_dtype
from wsiseg.source.volumes.base import Modality, VolumeMetadata, Voxels

__all__ = ["DicomVolume", "SeriesReport", "Tilt", "choose_series", "open_dicom", "report_series"]

Tilt = Literal["shear"]

CACHE_BYTES = 64 << 20
"""Decoded slices kept: neighbours in a resampled stack, and boxes smaller than a slice."""

SLAB_BYTES = 16 << 20

NOTHING_SAID: Mapping[str, str | bool] = MappingProxyType({})


def open_dicom(
    path: Path,
    *,
    series: str | None = None,
    allow_gap: bool = False,
    tilt: Tilt | None = None,
    affine: Affine | None = None,
) -> "DicomVolume":
    """Open a series; headers of all its images are read, no pixels.

    Parameters
    ----------
    path
        A folder, or one file, which brings the files of its series that lie in its folder.
    series
        Series instance UID, or its end, where a folder holds several.
    allow_gap
        Accept slices that are missing or at uneven distances; see `grid_of`.
    tilt
        `shear`: accept a leaning stack, as a sheared grid.
    affine
        In place of what the images say.

    Raises
    ------
    DicomSeriesError
        If the images make no volume; its subclass says why, its message which slices.
    UnsupportedFormatError
        If the values are told by a table.
    DamagedFileError
        If a file cannot be read.
    """
    chosen = choose_series(path, series)
    defects = defects_of(chosen.frames)
    accepted = {"allow_gap": allow_gap, "tilt": tilt == "shear", "": False}
    refused = [defect for defect in defects if not accepted[defect.opt_in]]
    if refused:
        raise _error(path, refused[0], defects)
    grid = grid_of(chosen.frames, path.name, allow_gap=allow_gap)
    check_pixels(grid.frames)
    if not grid.depth_is_stated and affine is None:
        warnings.warn(
            f"{path.name}: one slice that does not say how thick it is; 1 mm is taken, so that "
            "volumes are per mm of thickness",
            UnstatedGeometryWarning,
            stacklevel=3,
        )
    told: dict[str, str | bool] = {"series": series} if series is not None else {}
    told |= {"allow_gap": True} if allow_gap else {}
    told |= {"tilt": tilt} if tilt is not None else {}
    return DicomVolume(path, chosen, grid, affine=affine, defects=defects, opened=told)


def choose_series(path: Path, wanted: str | None = None) -> Series:
    """Return the series that a path means; see `open_dicom`.

    Series that are no candidates at all (localisers, screenshots, objects without images) do not
    make a choice necessary.

    Raises
    ------
    NoImagesError, SeveralSeriesError
        If there is none, or there are several.
    """
    found = read_folder(path if path.is_dir() else path.parent)
    if not path.is_dir():
        own = read_frames(path)
        uid = own[0].uid if own else None
        found = [one for one in found if one.uid == uid]
    if wanted is not None:
        found = [one for one in found if one.uid == wanted] or [
            one for one in found if one.uid.endswith(wanted)
        ]
    found = [one for one in found if one.frames]
    if not found:
        what = "image of CT, MR or PET" if wanted is None else f"image of series {wanted}"
        raise NoImagesError(
            f"{path.name}: needed a DICOM {what}, found none; name the folder that holds the "
            "files of a series (whole-slide images: wsiseg.open)",
            path=path,
        )
    candidates = [one for one in found if one.is_candidate] or found
    if len(candidates) > 1:
        listed = "; ".join(
            f"{one.uid} ({one.modality}, {len(one.frames)} images)" for one in candidates[:4]
        )
        more = f" and {len(candidates) - 4} more" if len(candidates) > 4 else ""
        raise SeveralSeriesError(
            f"{path.name}: needed one series, found {len(candidates)}: {listed}{more}; choose one "
            "with series= (--series)",
            path=path,
            slices=[one.uid for one in candidates],
        )
    return candidates[0]


@dataclass(frozen=True, slots=True)
class SeriesReport:
    """What a series of a folder is, and whether it makes a volume."""

    series: Series
    defects: tuple[Defect, ...]
    """What forbids a volume, without what was accepted."""

    grid: Grid | None
    """`None` where there is no volume."""

    problem: str = ""
    """What else forbids one: values or sizes that cannot be read."""


def report_series(
    path: Path, *, series: str | None = None, allow_gap: bool = False, tilt: Tilt | None = None
) -> list[SeriesReport]:
    """Return all series with images that lie in a folder, or that of a file; reads headers only.

    Parameters
    ----------
    path, series, allow_gap, tilt
        As for `open_dicom`.

    Raises
    ------
    DamagedFileError
        If a header cannot be read.
    """
    found = read_folder(path) if path.is_dir() else [choose_series(path, series)]
    found = [one for one in found if one.frames and one.uid.endswith(series or "")]
    return [_report(one, path.name, allow_gap=allow_gap, tilt=tilt) for one in found]


def _report(series: Series, name: str, *, allow_gap: bool, tilt: Tilt | None) -> SeriesReport:
    accepted = {"allow_gap": allow_gap, "tilt": tilt == "shear", "": False}
    defects = tuple(one for one in defects_of(series.frames) if not accepted[one.opt_in])
    if defects:
        return SeriesReport(series, defects, None)
    try:
        grid = grid_of(series.frames, name, allow_gap=allow_gap)
        check_pixels(grid.frames)
    except SourceError as error:
        return SeriesReport(series, (), None, str(error))
    return SeriesReport(series, (), grid)


def _error(path: Path, defect: Defect, defects: Sequence[Defect]) -> DicomSeriesError:
    others = [one.text for one in defects if one is not defect]
    also = f" (also: {'; '.join(others)})" if others else ""
    return defect.kind(
        f"{path.name}: {defect.line()}{also}",
        path=path,
        slices=defect.slices,
        defects=[one.line() for one in defects],
    )


class DicomVolume:
    """A series on its grid; see `VolumeSource` for the contract. Made by `open_dicom`.

    Slices lie in the order of the normal of their images. Values are rescaled slice by slice;
    MONOCHROME1 of anything but CT is inverted, so that more signal is a higher value.
    """

    def __init__(
        self,
        path: Path,
        series: Series,
        grid: Grid,
        *,
        affine: Affine | None = None,
        defects: Sequence[Defect] = (),
        opened: Mapping[str, str | bool] = NOTHING_SAID,
    ) -> None:
        self._path = path
        self._grid = grid
        self._invert = grid.frames[0].kind.photometric == "MONOCHROME1" and series.modality != "CT"
        self._cache = BlockCache(CACHE_BYTES)
        self._closed = False
        kind = grid.frames[0].kind
        self._own_dtype = value_dtype(grid.frames)
        count = len(grid.frames) if grid.places is None else len(grid.places)
        self.shape = (count, kind.rows, kind.columns)
        self.channels = kind.samples
        self.dtype = self._own_dtype if grid.places is None else np.dtype(np.float32)
        plane = kind.rows * kind.columns * self.channels * self.dtype.itemsize
        self.chunk = (min(count, max(1, SLAB_BYTES // plane)), *self.shape[1:])
        self.affine = affine or grid.affine
        self.metadata = VolumeMetadata(
            name=path.name,
            reader="dicom",
            modality=_modality(series.modality),
            properties=self._properties(series, defects),
            opened=opened,
        )

    def read(self, box: Box) -> Voxels:
        """Return the voxels of a box inside the volume, `(*box.shape, channels)`.

        Raises
        ------
        DamagedFileError
            If a slice cannot be decoded.
        SourceError
            If the source is closed, or a decoder is not installed.
        """
        if self._closed:
            raise SourceError(f"{self._path.name}: the volume is closed; open it again")
        voxels = np.empty((*box.shape, self.channels), self.dtype)
        cut = box.slices()[1:]
        for index, z in enumerate(range(box.start[0], box.stop[0])):
            if self._grid.places is None:
                voxels[index] = self._slice(z)[cut]
            else:
                voxels[index] = self._between(self._grid.places[z], cut)
        return voxels

    def close(self) -> None:
        """Forget the slices; reading afterwards raises `SourceError`."""
        self._closed = True
        self._cache.clear()

    def _slice(self, index: int) -> Voxels:
        """Return one slice as it is, `(y, x, channel)`."""
        frame = self._grid.frames[index]
        return self._cache.get(index, lambda: decode(frame, self._own_dtype, invert=self._invert))

    def _between(self, place: float, cut: tuple[slice, ...]) -> Voxels:
        """Return a part of what lies at a place such as 2.25 between the slices, linearly."""
        low = math.floor(place)
        share = np.float32(place - low)
        below = self._slice(low)[cut].astype(np.float32)
        if share == 0:
            return below
        above = self._slice(low + 1)[cut].astype(np.float32)
        return below + share * (above - below)

    def _properties(self, series: Series, defects: Sequence[Defect]) -> dict[str, str]:
        frames = self._grid.frames
        syntaxes = sorted({frame.transfer_syntax for frame in frames})
        slopes = {(frame.slope, frame.intercept) for frame in frames}
        found = {
            "dicom.images": str(len(frames)),
            "dicom.files": str(series.files),
            "dicom.transfer_syntax": ", ".join(_syntax_name(syntax) for syntax in syntaxes),
            "dicom.photometric": frames[0].kind.photometric + (", inverted" * self._invert),
            "dicom.rescale": "per slice"
            if len(slopes) > 1
            else "slope {} intercept {}".format(*next(iter(slopes))),
        }
        if self._grid.places is not None:
            found["dicom.gaps"] = (
                f"interpolated linearly from {len(frames)} to {self.shape[0]} slices"
            )
        if any(defect.opt_in == "tilt" for defect in defects):
            found["dicom.tilt"] = "kept as a sheared grid"
        if not self._grid.depth_is_stated:
            found["dicom.thickness"] = "not stated, 1 mm taken"
        return found


def _modality(text: str) -> Modality | None:
    known: dict[str, Modality] = {"CT": "CT", "MR": "MR", "PT": "PT"}
    return known.get(text)


def _syntax_name(uid: str) -> str:
    from pydicom.config import IGNORE
    from pydicom.uid import UID

    return UID(uid, validation_mode=IGNORE).name

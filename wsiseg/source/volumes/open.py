"""Open a scan: which reader serves a file is told from its content."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from wsiseg.errors import DamagedFileError, SourceError, UnsupportedFormatError
from wsiseg.geometry import Affine
from wsiseg.source._paths import check_path
from wsiseg.source.array import ArrayLike
from wsiseg.source.volumes.array import ArrayVolume
from wsiseg.source.volumes.base import VolumeSource
from wsiseg.source.volumes.metaimage import is_metaimage, open_metaimage
from wsiseg.source.volumes.nifti import is_nifti, open_nifti
from wsiseg.source.volumes.nrrd import is_nrrd, open_nrrd
from wsiseg.source.volumes.volume import Volume

if TYPE_CHECKING:
    from wsiseg.source.volumes.dicom import Tilt

__all__ = ["VOLUME_READERS", "is_volume", "open_recorded", "open_volume", "volume_reader"]

VOLUME_READERS = ("nifti", "dicom", "nrrd", "metaimage", "omezarr", "array")
"""Names of the readers of volumes."""

HEAD_BYTES = 512
_DICOM_AT = slice(128, 132)
_ZARR_FILES = ("zarr.json", ".zgroup", ".zattrs")

LOOKED_AT = 64
"""Files of a folder that are looked into for DICOM images of a scan."""


def open_volume(
    path: str | Path | ArrayLike,
    *,
    affine: Affine | None = None,
    series: str | None = None,
    allow_gap: bool = False,
    tilt: "Tilt | None" = None,
    reader: str | None = None,
) -> Volume:
    """Open a scan.

    Parameters
    ----------
    path
        NIfTI, NRRD or MetaImage file; folder of an OME-Zarr image; folder of a DICOM series, or
        one of its files; or an array `(z, y, x)`, or `(z, y, x, 3)` of colour.
    affine
        Where the voxels are; needed for an array, in place of what a file says otherwise.
    series
        DICOM: series instance UID, or its end, where a folder holds several series.
    allow_gap
        DICOM: accept slices that are missing or at uneven distances, and interpolate linearly
        between those there are.
    tilt
        DICOM: `shear` accepts a stack that leans against its slices (gantry tilt); the affine is
        sheared, voxels stay as they are.
    reader
        One of `VOLUME_READERS`, instead of the one told from the content.

    Returns
    -------
    Volume
        No voxel is read yet.

    Raises
    ------
    DicomSeriesError
        If DICOM images make no volume; its subclass says why.
    UnsupportedFormatError
        If no reader knows the format, or it is no volume of three dimensions.
    MissingSpacingError
        If the file does not say where its voxels are.
    DamagedFileError
        If the file is empty or its header makes no sense.
    SourceError
        If there is no such file, or it cannot be read.
    """
    if not isinstance(path, str | Path):
        return Volume(_open_array(path, affine, reader))
    if tilt not in {None, "shear"}:
        raise SourceError(f'tilt needs "shear" or nothing, found {tilt!r}')
    file = Path(path)
    check_path(file)
    name = reader or volume_reader(file)
    if name == "dicom":
        return Volume(_dicom(file, series, allow_gap, tilt, affine), path=path)
    if series is not None:
        raise SourceError(f"{file.name}: series= is for DICOM, found {name or 'another format'}")
    if name is None:
        raise UnsupportedFormatError(f"{file.name}: {_unknown(file)}", path=file)
    openers: dict[str, Callable[[], VolumeSource]] = {
        "nifti": lambda: open_nifti(file, affine=affine),
        "nrrd": lambda: open_nrrd(file, affine=affine),
        "metaimage": lambda: open_metaimage(file, affine=affine),
        "omezarr": lambda: _omezarr(file, affine),
    }
    if name not in openers:
        known = ", ".join(VOLUME_READERS)
        raise SourceError(f"no reader {name!r} for a file: needed one of {known}")
    return Volume(openers[name](), path=path)


def open_recorded(path: str | Path, record: object) -> Volume:
    """Open the scan of a finished result as it was opened then.

    Parameters
    ----------
    path
        Where it is now.
    record
        `scan` of `run.json`; without `opened` in it, nothing was chosen.

    Raises
    ------
    SourceError
        As `open_volume`.
    """
    said = record.get("opened") if isinstance(record, Mapping) else None
    chosen = said if isinstance(said, Mapping) else {}
    series, tilt = chosen.get("series"), chosen.get("tilt")
    return open_volume(
        path,
        series=series if isinstance(series, str) else None,
        allow_gap=chosen.get("allow_gap") is True,
        tilt="shear" if tilt == "shear" else None,
    )


def is_volume(path: str | Path) -> bool:
    """Return whether a file or folder is a scan, told from its content; `False` if it is not there.

    Whether it can be opened is another question.
    """
    try:
        return volume_reader(Path(path)) is not None
    except (OSError, ValueError):  # not there; ValueError: a null character in the name
        return False


def volume_reader(path: Path) -> str | None:
    """Return the name of the reader for a file or folder, or `None` where there is none.

    Raises
    ------
    OSError
        If it cannot be read.
    """
    if path.is_dir():
        return _folder_reader(path)
    if path.exists() and not path.is_file():  # a pipe or a device: reading may never end
        return None
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
    if head[_DICOM_AT] == b"DICM":
        return "dicom" if _is_scan(path) else None
    if is_nrrd(head):
        return "nrrd"
    if is_metaimage(head):
        return "metaimage"
    return "nifti" if is_nifti(path) else None


def _folder_reader(folder: Path) -> str | None:
    if folder.suffix.lower() == ".zarr" or any((folder / one).is_file() for one in _ZARR_FILES):
        from wsiseg.source.volumes.omezarr import is_zarr_volume

        return "omezarr" if is_zarr_volume(folder) else None
    files = (entry for entry in sorted(folder.iterdir()) if entry.is_file())
    for _, entry in zip(range(LOOKED_AT), files, strict=False):
        with entry.open("rb") as file:
            is_dicom = file.read(_DICOM_AT.stop)[_DICOM_AT] == b"DICM"
        if is_dicom and _is_scan(entry):
            return "dicom"
    return None


def _is_scan(path: Path) -> bool:
    """Return whether a DICOM file is an image of a scan; whole-slide images are none."""
    try:
        from wsiseg.source.volumes._dicom_headers import read_frames
    except ImportError:  # without pydicom, opening says what is missing
        return False
    try:
        return any(series.is_scan for series in read_frames(path))
    except DamagedFileError:
        return True  # opening says what is damaged
    except SourceError:
        return False


def _dicom(
    path: Path, series: str | None, allow_gap: bool, tilt: "Tilt | None", affine: Affine | None
) -> VolumeSource:
    try:
        from wsiseg.source.volumes.dicom import open_dicom
    except ImportError as error:
        raise SourceError(
            f"{path.name}: DICOM needs a package that is missing ({error.name}); "
            "pip install 'wsiseg[dicom]'",
            path=path,
        ) from error
    return open_dicom(path, series=series, allow_gap=allow_gap, tilt=tilt, affine=affine)


def _omezarr(path: Path, affine: Affine | None) -> VolumeSource:
    from wsiseg.source.volumes.omezarr import OmeZarrVolume

    return OmeZarrVolume(path, affine=affine)


def _unknown(path: Path) -> str:
    formats = "NIfTI, NRRD, MetaImage, OME-Zarr with a z axis, or DICOM images of a scan"
    if path.is_dir():
        return f"needed a folder with the files of a scan, found none in it; needed {formats}"
    return f"no reader of volumes knows this; needed {formats} (slides: wsiseg.open)"


def _open_array(array: ArrayLike, affine: Affine | None, reader: str | None) -> VolumeSource:
    if not isinstance(array, ArrayLike):
        raise SourceError(
            "cannot be opened: needed the path of a scan or an array (z, y, x), found "
            f"{type(array).__name__}; pass one of these"
        )
    if affine is None:
        raise SourceError("array: needed affine=, which says where its voxels are; pass it")
    if reader not in {None, "array"}:
        raise SourceError(f"reader {reader!r} needs a path, found {type(array).__name__}")
    return ArrayVolume(array, affine)

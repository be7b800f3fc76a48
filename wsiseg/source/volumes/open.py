"""Open a scan: which reader serves a file is told from its content."""

from pathlib import Path

from wsiseg.errors import DamagedFileError, SourceError, UnsupportedFormatError
from wsiseg.geometry import Affine
from wsiseg.source.array import ArrayLike
from wsiseg.source.volumes.array import ArrayVolume
from wsiseg.source.volumes.base import VolumeSource
from wsiseg.source.volumes.nifti import is_nifti, open_nifti
from wsiseg.source.volumes.volume import Volume

__all__ = ["VOLUME_READERS", "is_volume", "open_volume", "volume_reader"]

VOLUME_READERS = ("nifti", "array")
"""Names of the readers of volumes."""


def open_volume(
    path: str | Path | ArrayLike,
    *,
    affine: Affine | None = None,
    reader: str | None = None,
) -> Volume:
    """Open a scan.

    Parameters
    ----------
    path
        NIfTI file; or an array `(z, y, x)`, or `(z, y, x, 3)` of colour.
    affine
        Where the voxels are; needed for an array, in place of what a file says otherwise.
    reader
        One of `VOLUME_READERS`, instead of the one told from the content.

    Returns
    -------
    Volume
        No voxel is read yet.

    Raises
    ------
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
    file = Path(path)
    _check_path(file)
    name = reader or volume_reader(file)
    if name == "nifti":
        return Volume(open_nifti(file, affine=affine), path=path)
    if name is None:
        raise UnsupportedFormatError(
            f"{file.name}: no reader of volumes knows this format; needed NIfTI", path=file
        )
    raise SourceError(f"no reader {name!r} for a file: needed one of {', '.join(VOLUME_READERS)}")


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
        return None
    return "nifti" if is_nifti(path) else None


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


def _check_path(path: Path) -> None:
    """Say what is wrong with a path before any reader stumbles over it."""
    try:
        size = path.stat().st_size
        if path.is_file():
            path.open("rb").close()
    except (OSError, ValueError) as error:  # ValueError: a null character in the name
        shown = path.name if len(path.name) < 100 else f"{path.name[:100]}..."
        reason = getattr(error, "strerror", None) or error
        raise SourceError(f"{shown}: cannot be opened ({reason}); check the path") from error
    if path.is_file() and not size:
        raise DamagedFileError(f"{path.name}: the file is empty; copy it anew", path=path)

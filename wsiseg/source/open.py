"""Open anything with pixels: which reader serves a file is told from its content."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wsiseg.errors import SourceError, UnsupportedFormatError
from wsiseg.source._paths import check_path
from wsiseg.source._spacing import parse_mpp
from wsiseg.source.array import ArrayLike, ArraySource
from wsiseg.source.base import PyramidSource
from wsiseg.source.pyramid import OnDamage, Pyramid
from wsiseg.source.volumes.open import is_volume

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

__all__ = ["READERS", "as_pyramid", "open"]

READERS = ("tiff", "openslide", "omezarr", "dicom", "image", "array")
"""Names of the built-in readers. Installed packages add more by an entry point in the group
`wsiseg.sources`: a callable that takes a `Path` and returns a `PyramidSource`, or raises
`UnsupportedFormatError` where the file is not of its format."""

ENTRY_POINTS = "wsiseg.sources"

_HEAD_BYTES = 132
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_DICOM_AT = slice(128, 132)
_IMAGES = (
    b"\x89PNG", b"\xff\xd8\xff", b"BM", b"GIF8", b"RIFF",
    b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51", b"P5", b"P6",
)  # fmt: skip
_ZARR_FILES = ("zarr.json", ".zgroup", ".zattrs")
_DIRECT_VENDORS = frozenset({None, "aperio", "generic-tiff"})
"""What OpenSlide calls TIFFs whose blocks are read directly."""


def open(
    path: str | Path | ArrayLike | Sequence[ArrayLike],
    *,
    mpp: float | Sequence[float] | None = None,
    reader: str | None = None,
    storage_options: Mapping[str, Any] | None = None,
    on_damage: OnDamage = "raise",
) -> Pyramid:
    """Open a slide.

    Parameters
    ----------
    path
        File, folder (OME-Zarr, DICOM) or URL; or an array `(y, x, 3)` uint8 of NumPy, Dask or
        Zarr; or a list of arrays, the levels of a pyramid from finest to coarsest.
    mpp
        µm per level-0 pixel, one value or (x, y), in place of what the file says.
    reader
        One of `READERS` or an installed one, instead of the one told from the content.
    storage_options
        For URLs: passed to fsspec.
    on_damage
        What is read where a block cannot be decoded. `raise`: nothing, it is an error. `replace`:
        a finer level reduced, else a coarser level enlarged, else grey (`nodata`). `nodata`: as
        `replace` without coarser levels. What was replaced stands in the slide's `ledger`.

    Returns
    -------
    Pyramid
        No pixel is read yet (plain images excepted).

    Raises
    ------
    MissingSpacingError
        If `mpp` is not a possible pixel size.
    UnsupportedFormatError
        If no reader knows the format, or the file holds no RGB brightfield image.
    DamagedFileError
        If the file is empty or cannot be decoded.
    SourceError
        If there is no such file, or it cannot be read.
    """
    spacing = None if mpp is None else parse_mpp(mpp, _name(path))
    if isinstance(path, str | Path):
        source = _open_path(path, reader, storage_options)
        return Pyramid(source, spacing=spacing, path=path, on_damage=on_damage)
    return Pyramid(_open_array(path, reader), spacing=spacing, on_damage=on_damage)


def as_pyramid(slide: Pyramid | str | Path | ArrayLike) -> Pyramid:
    """Return an open slide as it is, and open anything else; see `open`."""
    return slide if isinstance(slide, Pyramid) else open(slide)


def _name(path: object) -> str:
    """Return what messages call the thing to open."""
    if isinstance(path, str | Path):
        from wsiseg.source.remote import redacted

        return Path(redacted(str(path))).name
    return "array"


def _open_array(arrays: ArrayLike | Sequence[ArrayLike], reader: str | None) -> PyramidSource:
    if not isinstance(arrays, ArrayLike | list | tuple):
        raise SourceError(
            "cannot be opened: needed the path or URL of a slide, an array (y, x, 3) of uint8 or "
            f"a list of arrays, found {type(arrays).__name__}; pass one of these"
        )
    if reader not in {None, "array"}:
        raise SourceError(f"reader {reader!r} needs a path, found {type(arrays).__name__}")
    return ArraySource(arrays)


def _open_path(
    path: str | Path, reader: str | None, storage_options: Mapping[str, Any] | None
) -> PyramidSource:
    from wsiseg.source.remote import is_url

    if isinstance(path, str) and is_url(path):
        return _open_url(path, reader, storage_options)
    file = Path(path)
    check_path(file)
    if reader is None:
        return _detect(file)(file)
    return _reader(reader)(file)


def _open_url(
    url: str, reader: str | None, storage_options: Mapping[str, Any] | None
) -> PyramidSource:
    """Open a slide behind a URL: an OME-Zarr folder or a TIFF."""
    from wsiseg.source.remote import open_remote
    from wsiseg.source.tiff import TiffSource

    if reader == "omezarr" or (reader is None and ".zarr" in url):
        from wsiseg.source.omezarr import OmeZarrSource

        return OmeZarrSource(url, storage_options=storage_options)
    if reader not in {None, "tiff"}:
        raise SourceError(f"reader {reader!r} needs a local file; download the slide")
    file = open_remote(url, storage_options)
    return TiffSource(file, name=file.name)


def _detect(path: Path) -> Callable[[Path], PyramidSource]:
    """Return the reader for a file or folder by looking into it."""
    if path.is_dir():
        return _detect_folder(path)
    head = _head(path)
    if head[_DICOM_AT] == b"DICM":
        return _dicom
    if is_volume(path):
        return _volume
    from wsiseg.source.openslide import detect_vendor

    vendor = detect_vendor(path)
    if vendor not in _DIRECT_VENDORS:
        return _openslide
    if head.startswith(_TIFF):
        return _tiff_or_openslide
    if path.suffix.lower() == ".mrxs":
        return _incomplete_mirax
    if head.startswith(_IMAGES):
        return _image
    return _try_installed


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(_HEAD_BYTES)


def _detect_folder(path: Path) -> Callable[[Path], PyramidSource]:
    named = path.suffix.lower() == ".zarr"
    if named or any((path / name).is_file() for name in _ZARR_FILES):
        return _omezarr
    if any(entry.is_file() and _head(entry)[_DICOM_AT] == b"DICM" for entry in path.iterdir()):
        return _dicom
    index = path.with_suffix(".mrxs")
    if index.is_file():
        raise UnsupportedFormatError(
            f"{path.name}: this folder belongs to {index.name}; open that file", path=path
        )
    raise UnsupportedFormatError(
        f"{path.name}: needed a slide, found a folder; name a file in it (the command line takes "
        "folders of slides)",
        path=path,
    )


def _reader(name: str) -> Callable[[Path], PyramidSource]:
    """Return a reader by its name, built in or installed."""
    builtin: dict[str, Callable[[Path], PyramidSource]] = {
        "tiff": _tiff,
        "openslide": _openslide,
        "omezarr": _omezarr,
        "dicom": _dicom,
        "image": _image,
    }
    if name in builtin:
        return builtin[name]
    installed = {point.name: point for point in _installed()}
    if name not in installed:
        known = ", ".join(sorted({*READERS, *installed}))
        raise SourceError(f"no reader {name!r} for a file: needed one of {known}")
    opener: Callable[[Path], PyramidSource] = installed[name].load()
    return opener


def _tiff_or_openslide(path: Path) -> PyramidSource:
    """Read a TIFF directly, or through OpenSlide where that knows more."""
    from wsiseg.source._tiff_layout import NeedsOpenSlideError

    try:
        return _tiff(path)
    except NeedsOpenSlideError as refusal:
        try:
            return _openslide(path)
        except SourceError as error:
            raise UnsupportedFormatError(str(refusal), path=path) from error


def _installed() -> list["EntryPoint"]:
    """Return the entry points of installed readers, by name."""
    from importlib.metadata import entry_points  # takes longer to import than all of this package

    return sorted(entry_points(group=ENTRY_POINTS), key=lambda point: point.name)


def _try_installed(path: Path) -> PyramidSource:
    """Ask the installed readers for a file that no built-in reader knows."""
    for point in _installed():
        try:
            source: PyramidSource = point.load()(path)
        except UnsupportedFormatError:
            continue
        return source
    raise UnsupportedFormatError(
        f"{path.name}: no reader knows this format; needed a slide (SVS, TIFF, NDPI, MRXS, SCN, "
        "BIF, DICOM, OME-Zarr, ...) or an image (PNG, JPEG)",
        path=path,
    )


def _incomplete_mirax(path: Path) -> PyramidSource:
    folder = path.with_suffix("")
    raise UnsupportedFormatError(
        f"{path.name}: a MIRAX slide needs its folder {folder.name} beside it, with Slidedat.ini "
        f"in it, found {'an incomplete one' if folder.is_dir() else 'none'}; copy it along",
        path=path,
    )


def _volume(path: Path) -> PyramidSource:
    raise UnsupportedFormatError(
        f"{path.name}: needed a slide, found a volume (CT, MR); open it with wsiseg.open_volume, "
        "and use a model for volumes",
        path=path,
    )


def _tiff(path: Path) -> PyramidSource:
    from wsiseg.source.tiff import TiffSource

    return TiffSource(path)


def _openslide(path: Path) -> PyramidSource:
    from wsiseg.source.openslide import OpenSlideSource

    return OpenSlideSource(path)


def _omezarr(path: Path) -> PyramidSource:
    from wsiseg.source.omezarr import OmeZarrSource

    return OmeZarrSource(path)


def _dicom(path: Path) -> PyramidSource:
    from wsiseg.source.dicom import DicomSource

    return DicomSource(path)


def _image(path: Path) -> PyramidSource:
    from wsiseg.source.image import ImageSource

    return ImageSource(path)

"""NIfTI-1 and NIfTI-2, one file or a pair, also packed by gzip.

References
----------
NIfTI-1 data format: https://nifti.nimh.nih.gov/pub/dist/src/niftilib/nifti1.h; NIfTI-2:
https://nifti.nimh.nih.gov/pub/dist/doc/nifti2.h
"""

import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from wsiseg.errors import (
    DamagedFileError,
    GridError,
    MissingSpacingError,
    SourceError,
    UnsupportedFormatError,
)
from wsiseg.geometry import Affine
from wsiseg.source._bytes import ByteReader, OffsetBytes, open_bytes
from wsiseg.source.volumes._stored import Layout, StoredVolume
from wsiseg.source.volumes._unpacked import UnpackedBytes, gzip_head
from wsiseg.source.volumes.base import VolumeMetadata

if TYPE_CHECKING:
    from nibabel.nifti1 import Nifti1Header
    from numpy.typing import NDArray

__all__ = ["NiftiHeader", "is_nifti", "open_nifti"]

GZIP = b"\x1f\x8b"

HEADER_BYTES = {348: 1, 540: 2}
"""Length of the header, its first field, and the version it tells."""

TYPES = {
    2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 256: "i1", 512: "u2", 768: "u4", 1024: "i8",
    1280: "u8",
}  # fmt: skip
"""NumPy's names of the datatype codes for plain numbers."""

COLOURS = {128: 3, 2304: 4}
"""Channels of the datatype codes RGB24 and RGBA32."""

MM_PER_UNIT = {0: 1.0, 1: 1000.0, 2: 1.0, 3: 0.001}
"""mm in a spatial unit; where none is stated, everybody takes mm."""

DIFFERS_MM = 1e-2
"""sform and qform that place a corner of the volume farther apart than this disagree."""


@dataclass(frozen=True, slots=True)
class NiftiHeader:
    """What a header says about layout and place; no names, no descriptions."""

    layout: Layout
    affine: Affine
    offset: int
    """Of the first voxel, in the unpacked file that holds them."""

    is_pair: bool
    """Whether the voxels are in another file than the header."""

    properties: dict[str, str]


def is_nifti(path: Path) -> bool:
    """Return whether a file is NIfTI (or its predecessor, ANALYZE), told from its content."""
    try:
        header_path, _ = _files(path)
    except SourceError:  # a lone part of a pair, or no part at all
        header_path = path
    return _version(_head(header_path)) is not None


def open_nifti(path: Path, *, affine: Affine | None = None) -> StoredVolume:
    """Open a NIfTI file; no voxel is read yet.

    The affine is the sform where its code is set, else the qform, as the standard has it. A file
    with neither does not say where left and right are, and is refused.

    Parameters
    ----------
    path
        `.nii`, `.nii.gz`, or either file of a pair `.hdr` and `.img`.
    affine
        In place of what the file says.

    Raises
    ------
    UnsupportedFormatError
        If it has more than three dimensions, or voxels that are no real numbers or colours.
    MissingSpacingError
        If the file does not say where its voxels are.
    DamagedFileError
        If the header makes no sense, or the file is shorter than it says.
    """
    header_path, voxel_path = _files(path)
    head = _head(header_path)
    if _version(head) is None:
        raise DamagedFileError(
            f"{path.name}: needed a NIfTI header, found another or none; copy the file anew",
            path=path,
        )
    header = _parse(head, path.name, affine)
    if header.is_pair == (voxel_path == header_path):
        raise DamagedFileError(
            f"{path.name}: the header says that the voxels are in "
            f"{'another file (.img)' if header.is_pair else 'the same file'}; put both files of "
            "the pair into one folder, or rename the file to .nii",
            path=path,
        )
    content = _content(voxel_path, header)
    metadata = VolumeMetadata(name=path.name, reader="nifti", properties=header.properties)
    return StoredVolume(content, header.layout, header.affine, metadata, path)


def _files(path: Path) -> tuple[Path, Path]:
    """Return the file of the header and that of the voxels."""
    name = path.name.lower()
    packed = name.endswith(".gz")
    stem = path.name.removesuffix(path.suffix) if packed else path.name
    suffix = Path(stem).suffix.lower()
    if suffix not in {".hdr", ".img"}:
        return path, path
    base = stem[: -len(suffix)]
    found = {}
    for part in (".hdr", ".img"):
        names = [base + kind + end for kind in (part, part.upper()) for end in ("", ".gz", ".GZ")]
        there = [path.with_name(one) for one in names if path.with_name(one).is_file()]
        if suffix == part:
            there.insert(0, path)
        if not there:
            raise SourceError(
                f"{path.name}: needed the pair {base}.hdr and {base}.img, found no {part} file; "
                "put it into the same folder",
                path=path,
            )
        found[part] = there[0]
    return found[".hdr"], found[".img"]


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        head = file.read(max(HEADER_BYTES))
    return gzip_head(path, max(HEADER_BYTES)) if head.startswith(GZIP) else head


def _version(head: bytes) -> tuple[int, str] | None:
    """Return version and byte order of a header, or `None` where it is none."""
    for order in "<>":
        size = struct.unpack_from(f"{order}i", head)[0] if len(head) >= 348 else 0
        if size in HEADER_BYTES and len(head) >= size:
            return HEADER_BYTES[size], order
    return None


def _parse(head: bytes, name: str, affine: Affine | None) -> NiftiHeader:
    from nibabel.nifti1 import Nifti1Header
    from nibabel.nifti2 import Nifti2Header

    version, order = _version(head) or (1, "<")
    if version == 1:
        header = Nifti1Header(head[:348], order, check=False)
        magic = head[344:348]
    else:
        header = Nifti2Header(head[:540], order, check=False)
        magic = head[4:8]
    if magic[:2] not in (b"n+", b"ni") or magic[2:3] not in b"123":
        raise UnsupportedFormatError(
            f"{name}: needed NIfTI, found ANALYZE 7.5, which does not say where left and right "
            "are; convert it to NIfTI"
        )
    layout = _layout(header, order, name)
    properties = {
        "nifti.version": str(version),
        "nifti.datatype": str(int(header["datatype"])),
        "nifti.byte_order": "little" if order == "<" else "big",
        "nifti.slope": repr(layout.slope),
        "nifti.intercept": repr(layout.intercept),
        "nifti.sform_code": str(int(header["sform_code"])),
        "nifti.qform_code": str(int(header["qform_code"])),
        "nifti.intent_code": str(int(header["intent_code"])),
    }
    if affine is None:
        affine, told = _affine(header, layout.shape, name)
        properties |= told
    is_pair = magic[:2] == b"ni"
    offset = float(header["vox_offset"])
    if not (math.isfinite(offset) and 0 <= offset < 2**60):
        raise DamagedFileError(f"{name}: the voxels begin at byte {offset}; copy the file anew")
    offset = int(offset) if is_pair else max(int(offset), 348 if version == 1 else 540)
    return NiftiHeader(layout, affine, offset, is_pair, properties)


def _layout(header: "Nifti1Header", order: str, name: str) -> Layout:
    count, *sizes = (int(size) for size in header["dim"])
    if not 1 <= count <= 7 or any(size < 1 for size in sizes[:count]):
        raise DamagedFileError(f"{name}: impossible dimensions {[count, *sizes]}; copy it anew")
    sizes = [*sizes[:count], 1, 1, 1][: max(count, 3)]
    if any(size > 1 for size in sizes[3:]):
        raise UnsupportedFormatError(
            f"{name}: needed one volume of 3 dimensions, found {' x '.join(map(str, sizes))}: "
            f"{len(sizes)}-D (time points, directions or vectors); extract one volume first"
        )
    code = int(header["datatype"])
    if code not in TYPES and code not in COLOURS:
        raise UnsupportedFormatError(
            f"{name}: needed integers, floats of 32 or 64 bits or RGB, found NIfTI datatype "
            f"{code}; convert it"
        )
    dtype = np.dtype(np.uint8 if code in COLOURS else order + TYPES[code])
    slope, intercept = float(header["scl_slope"]), float(header["scl_inter"])
    if code in COLOURS or slope == 0 or not math.isfinite(slope):  # the standard: not scaled
        slope, intercept = 1.0, 0.0
    if not math.isfinite(intercept):
        raise DamagedFileError(f"{name}: the intercept of the values is {intercept}; correct it")
    x, y, z = sizes[:3]
    return Layout((z, y, x), dtype, COLOURS.get(code, 1), slope, intercept)


def _affine(
    header: "Nifti1Header", shape: tuple[int, ...], name: str
) -> tuple[Affine, dict[str, str]]:
    """Return the affine by the rule of the standard, and which form it comes from."""
    from nibabel.spatialimages import HeaderDataError

    sform = header.get_sform(coded=True)[0]
    try:
        qform = header.get_qform(coded=True)[0]
    except (HeaderDataError, ValueError, np.linalg.LinAlgError):
        qform = None
        if sform is None:
            raise MissingSpacingError(
                f"{name}: the rotation (qform) in the header is none; correct the header"
            ) from None
    chosen = qform if sform is None else sform
    if chosen is None:
        raise MissingSpacingError(
            f"{name}: needed sform_code or qform_code above 0, found 0 in both: the file does not "
            "say where its voxels are, nor which side is left; set them with the program that "
            "wrote it, or pass an affine"
        )
    code = int(header["xyzt_units"]) & 7
    told = {
        "nifti.affine": "qform" if sform is None else "sform",
        "nifti.unit": {1: "m", 2: "mm", 3: "um"}.get(code, "not stated, taken as mm"),
    }
    if sform is not None and qform is not None and _differ(sform, qform, shape):
        told["nifti.forms"] = "sform and qform disagree"
    scale = np.diag([MM_PER_UNIT.get(code, 1.0)] * 3 + [1.0])
    try:
        return Affine.from_nifti(scale @ np.asarray(chosen, np.float64)), told
    except (GridError, MissingSpacingError) as error:
        raise MissingSpacingError(
            f"{name}: the {told['nifti.affine']} is not usable: {error}; correct the header"
        ) from error


def _differ(one: "NDArray[Any]", other: "NDArray[Any]", shape: tuple[int, ...]) -> bool:
    z, y, x = (size - 1 for size in shape)
    corners = np.array([[i, j, k, 1] for i in (0, x) for j in (0, y) for k in (0, z)], float)
    with np.errstate(all="ignore"):
        return not bool(np.abs(corners @ (one - other).T).max() <= DIFFERS_MM)


def _content(path: Path, header: NiftiHeader) -> ByteReader:
    """Return the bytes of the voxels, checked to be there as far as that is known."""
    nbytes = header.layout.nbytes
    with path.open("rb") as file:
        is_packed = file.read(2) == GZIP
    if is_packed:
        return UnpackedBytes(path, "gzip", header.offset, nbytes)
    size = path.stat().st_size
    if size < header.offset + nbytes:
        raise DamagedFileError(
            f"{path.name}: the file ends early: needed {header.offset + nbytes} bytes, found "
            f"{size}; copy it anew",
            path=path,
        )
    return OffsetBytes(open_bytes(path), header.offset)

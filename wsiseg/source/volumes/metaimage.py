"""MetaImage: `.mha`, or the header `.mhd` beside the file of its voxels; raw or packed by zlib.

References
----------
MetaIO: https://itk.org/Wiki/ITK/MetaIO/Documentation
"""

from pathlib import Path

import numpy as np

from wsiseg.errors import (
    DamagedFileError,
    GridError,
    MissingSpacingError,
    UnsupportedFormatError,
)
from wsiseg.geometry import Affine
from wsiseg.source._bytes import ByteReader
from wsiseg.source.volumes._stored import Layout, StoredVolume
from wsiseg.source.volumes._text_header import (
    beside,
    floats,
    offset,
    plain,
    read_lines,
    whole_numbers,
)
from wsiseg.source.volumes._unpacked import UnpackedBytes
from wsiseg.source.volumes.base import VolumeMetadata

__all__ = ["is_metaimage", "open_metaimage"]

TYPES = {
    "MET_CHAR": "i1", "MET_UCHAR": "u1", "MET_SHORT": "i2", "MET_USHORT": "u2", "MET_INT": "i4",
    "MET_UINT": "u4", "MET_LONG": "i4", "MET_ULONG": "u4", "MET_LONG_LONG": "i8",
    "MET_ULONG_LONG": "u8", "MET_FLOAT": "f4", "MET_DOUBLE": "f8",
}  # fmt: skip

LAST = "ElementDataFile"


def is_metaimage(head: bytes) -> bool:
    """Return whether a file that begins with `head` is MetaImage: keys of its header come first."""
    first = head.lstrip()[:64].split(b"=")[0].strip()
    if first not in {b"ObjectType", b"NDims", b"Comment", b"ObjectSubType"}:
        return False
    return b"NDims" in head and b"=" in head


def open_metaimage(path: Path, *, affine: Affine | None = None) -> StoredVolume:
    """Open a MetaImage; no voxel is read yet. Its space is LPS, as ITK has it.

    Parameters
    ----------
    path
        `.mha` or `.mhd`.
    affine
        In place of what the file says.

    Raises
    ------
    UnsupportedFormatError
        If it is no volume of three dimensions, or its voxels lie in several files.
    MissingSpacingError
        If it states no spacing.
    DamagedFileError
        If the header makes no sense, or the file is shorter than it says.
    """
    name = path.name
    with path.open("rb") as file:
        lines = read_lines(file, name, LAST)
        end = file.tell()
    pairs = (line.split("=", 1) for line in lines if "=" in line)
    fields = {key.strip(): value.strip() for key, value in pairs}
    layout = _layout(fields, name)
    if affine is None:
        affine = _affine(fields, name)
    content = _content(path, fields, end, layout)
    properties = {
        "metaimage.type": fields["ElementType"],
        "metaimage.packed": str(_is_true(fields, "CompressedData")).lower(),
        "metaimage.directions": "stated" if _matrix(fields) else "not stated: along the axes",
    }
    metadata = VolumeMetadata(name=name, reader="metaimage", properties=properties)
    return StoredVolume(content, layout, affine, metadata, path)


def _is_true(fields: dict[str, str], *keys: str) -> bool:
    return any(fields.get(key, "").lower() in {"true", "1", "yes"} for key in keys)


def _matrix(fields: dict[str, str]) -> str | None:
    for key in ("TransformMatrix", "Rotation", "Orientation"):
        if key in fields:
            return fields[key]
    return None


def _layout(fields: dict[str, str], name: str) -> Layout:
    if fields.get("ObjectType", "Image") != "Image":
        raise UnsupportedFormatError(
            f"{name}: needed a MetaImage, found the object {fields['ObjectType'][:40]!r}"
        )
    sizes = whole_numbers(fields.get("DimSize", ""), "DimSize", name)
    if fields.get("NDims") != "3" or len(sizes) != 3:
        raise UnsupportedFormatError(
            f"{name}: needed one volume of 3 dimensions, found {' x '.join(map(str, sizes))} "
            f"({fields.get('NDims', 'no')[:20]}-D); extract one volume first"
        )
    channels = whole_numbers(fields.get("ElementNumberOfChannels", "1"), "channels", name)[0]
    kind = fields.get("ElementType", "").removesuffix("_ARRAY")
    if channels not in {1, 3, 4} or kind not in TYPES:
        raise UnsupportedFormatError(
            f"{name}: needed integers or floats of 1, 3 or 4 channels, found "
            f"{channels} of {fields.get('ElementType', 'no type')[:40]}; convert it"
        )
    is_big = _is_true(fields, "BinaryDataByteOrderMSB", "ElementByteOrderMSB")
    x, y, z = sizes
    return Layout((z, y, x), np.dtype((">" if is_big else "<") + TYPES[kind]), channels)


def _affine(fields: dict[str, str], name: str) -> Affine:
    stated = fields.get("ElementSpacing") or fields.get("ElementSize")
    if stated is None:
        raise MissingSpacingError(
            f"{name}: needed ElementSpacing, found none: the file does not say how large a voxel "
            "is; correct the header, or pass an affine"
        )
    spacing = np.array(floats(stated, 3, "ElementSpacing", name))
    origin = next((fields[k] for k in ("Offset", "Position", "Origin") if k in fields), "0 0 0")
    directions = floats(_matrix(fields) or "1 0 0 0 1 0 0 0 1", 9, "TransformMatrix", name)
    matrix = np.eye(4)
    matrix[:3, :3] = np.reshape(directions, (3, 3)).T * spacing  # a row is the way of an axis
    matrix[:3, 3] = floats(origin, 3, "Offset", name)
    try:
        return Affine.from_lps(matrix)
    except (GridError, MissingSpacingError) as error:
        raise MissingSpacingError(
            f"{name}: spacing and directions are not usable: {error}; correct the header"
        ) from error


def _content(path: Path, fields: dict[str, str], end: int, layout: Layout) -> ByteReader:
    """Return the bytes of the voxels."""
    other = fields[LAST]
    if not _is_true(fields, "BinaryData") and "BinaryData" in fields:
        raise UnsupportedFormatError(f"{path.name}: needed binary voxels, found text; convert it")
    voxel_path, start = path, end
    if other.upper() != "LOCAL":
        if other.upper().startswith("LIST") or "%" in other:
            raise UnsupportedFormatError(
                f"{path.name}: needed the voxels in one file, found several; join them"
            )
        voxel_path, start = beside(path, other), 0
    skip = offset(fields.get("HeaderSize", "0"), "HeaderSize", path.name)
    if _is_true(fields, "CompressedData"):
        return UnpackedBytes(voxel_path, "zlib", 0, layout.nbytes, start=start + max(skip, 0))
    if skip == -1:
        start, skip = voxel_path.stat().st_size - layout.nbytes, 0
    if start < 0 or skip < 0:
        raise DamagedFileError(
            f"{path.name}: the file is shorter than its voxels; copy it anew", path=path
        )
    return plain(voxel_path, start + skip, layout.nbytes)

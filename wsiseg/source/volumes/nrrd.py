"""NRRD: attached or detached header; raw, gzip or text voxels.

References
----------
Definition of NRRD File Format: https://teem.sourceforge.net/nrrd/format.html
"""

import io
import math
import re
from pathlib import Path
from typing import Any

import numpy as np

from wsiseg.errors import (
    DamagedFileError,
    GridError,
    MissingSpacingError,
    UnsupportedFormatError,
)
from wsiseg.geometry import Affine
from wsiseg.source._bytes import ByteReader, SharedBytes
from wsiseg.source.volumes._stored import Layout, StoredVolume
from wsiseg.source.volumes._text_header import (
    beside,
    offset,
    plain,
    read_lines,
    text_bytes,
    whole_numbers,
)
from wsiseg.source.volumes._unpacked import UnpackedBytes
from wsiseg.source.volumes.base import VolumeMetadata

__all__ = ["is_nrrd", "open_nrrd"]

MAGIC = b"NRRD000"

TYPES = {
    "i1": ("signed char", "int8", "int8_t"),
    "u1": ("uchar", "unsigned char", "uint8", "uint8_t"),
    "i2": ("short", "short int", "signed short", "signed short int", "int16", "int16_t"),
    "u2": ("ushort", "unsigned short", "unsigned short int", "uint16", "uint16_t"),
    "i4": ("int", "signed int", "int32", "int32_t"),
    "u4": ("uint", "unsigned int", "uint32", "uint32_t"),
    "i8": ("longlong", "long long", "long long int", "signed long long", "signed long long int",
           "int64", "int64_t"),
    "u8": ("ulonglong", "unsigned long long", "unsigned long long int", "uint64", "uint64_t"),
    "f4": ("float",),
    "f8": ("double",),
}  # fmt: skip
DTYPES = {word: code for code, words in TYPES.items() for word in words}

SPACES = {
    "right-anterior-superior": (1, 1, 1), "ras": (1, 1, 1),
    "left-anterior-superior": (-1, 1, 1), "las": (-1, 1, 1),
    "left-posterior-superior": (-1, -1, 1), "lps": (-1, -1, 1),
}  # fmt: skip
"""Signs that bring a patient space to RAS. `scanner-xyz` and the handed spaces do not say how the
patient lies in them."""

GZIP = frozenset({"gzip", "gz"})
TEXT = frozenset({"text", "txt", "ascii"})

MM_PER_UNIT = {"mm": 1.0, "millimeter": 1.0, "cm": 10.0, "m": 1000.0, "um": 1e-3, "micron": 1e-3}


def is_nrrd(head: bytes) -> bool:
    """Return whether a file that begins with `head` is NRRD."""
    return head.startswith(MAGIC)


def open_nrrd(path: Path, *, affine: Affine | None = None) -> StoredVolume:
    """Open an NRRD file; no voxel is read yet.

    Parameters
    ----------
    path
        `.nrrd`, or the header `.nhdr` of voxels that lie in a file beside it.
    affine
        In place of what the file says.

    Raises
    ------
    UnsupportedFormatError
        If it is no volume of three dimensions, or of an encoding other than raw, gzip and text.
    MissingSpacingError
        If it does not say where the voxels are in the patient.
    DamagedFileError
        If the header makes no sense, or the file is shorter than it says.
    """
    with path.open("rb") as file:
        lines = read_lines(file, path.name, "")
        end = file.tell()
    fields = dict(_fields(lines[1:]))
    sizes = whole_numbers(_field(fields, "sizes", path.name), "sizes", path.name)
    dimension = fields.get("dimension", "").strip()
    if dimension != str(len(sizes)):
        raise DamagedFileError(
            f"{path.name}: dimension {dimension[:20]!r} and {len(sizes)} sizes; correct the header"
        )
    spatial = _spatial(fields, sizes, path.name)
    layout = Layout(
        tuple(sizes[axis] for axis in reversed(spatial)),
        _dtype(fields, path.name),
        math.prod(size for axis, size in enumerate(sizes) if axis not in spatial),
    )
    space = fields.get("space", "").strip().lower()
    if affine is None:
        affine = _affine(fields, space, spatial, path.name)
    encoding = _field(fields, "encoding", path.name).strip().lower()
    content = _content(path, fields, encoding, end, layout)
    properties = {
        "nrrd.type": layout.dtype.name,
        "nrrd.space": space if space in SPACES else "given",
        "nrrd.encoding": encoding,
    }
    metadata = VolumeMetadata(name=path.name, reader="nrrd", properties=properties)
    return StoredVolume(content, layout, affine, metadata, path)


def _fields(lines: list[str]) -> list[tuple[str, str]]:
    """Return the fields; comments and key/value pairs (`:=`), which are free text, are left out."""
    pairs = [line.split(":", 1) for line in lines if ":" in line and not line.startswith("#")]
    return [(key.strip().lower(), rest.strip()) for key, rest in pairs if not rest.startswith("=")]


def _field(fields: dict[str, str], key: str, name: str) -> str:
    if key not in fields:
        raise DamagedFileError(f"{name}: the header has no {key!r}; copy the file anew")
    return fields[key]


def _spatial(fields: dict[str, str], sizes: tuple[int, ...], name: str) -> tuple[int, ...]:
    """Return which axes are of space; what is left must be colour, or have one element."""
    directions = _vectors(fields.get("space directions", ""))
    if directions and len(directions) != len(sizes):
        raise DamagedFileError(
            f"{name}: {len(directions)} space directions for {len(sizes)} axes; correct the header"
        )
    spatial = tuple(axis for axis, one in enumerate(directions) if one is not None)
    if not directions:
        spatial = tuple(range(len(sizes)))[-3:] if len(sizes) <= 4 else ()
    others = [axis for axis in range(len(sizes)) if axis not in spatial]
    is_colour = others == [0] and sizes[0] in {3, 4}
    if len(spatial) != 3 or not (is_colour or all(sizes[axis] == 1 for axis in others)):
        raise UnsupportedFormatError(
            f"{name}: needed one volume of 3 dimensions, found {' x '.join(map(str, sizes))} with "
            f"{len(spatial)} axes of space (time points, directions or vectors); extract one "
            "volume first"
        )
    return spatial


def _vectors(text: str) -> list[tuple[float, ...] | None]:
    """Return the vectors `(x,y,z)` of a field; `none` is `None`."""
    found: list[tuple[float, ...] | None] = []
    for part in re.findall(r"\([^()]*\)|none", text.lower()):
        if part == "none":
            found.append(None)
            continue
        try:
            found.append(tuple(float(number) for number in part[1:-1].split(",")))
        except ValueError:
            found.append(())
    return found


def _dtype(fields: dict[str, str], name: str) -> np.dtype[Any]:
    word = " ".join(_field(fields, "type", name).lower().split())
    if word not in DTYPES:
        raise UnsupportedFormatError(
            f"{name}: needed integers or floats, found the type {word[:40]!r}; convert it"
        )
    order = fields.get("endian", "little").strip().lower()
    if order not in {"little", "big"}:
        raise DamagedFileError(f"{name}: byte order {order[:20]!r}; correct the header (endian)")
    return np.dtype((">" if order == "big" else "<") + DTYPES[word])


def _affine(fields: dict[str, str], space: str, spatial: tuple[int, ...], name: str) -> Affine:
    signs = SPACES.get(space)
    directions = _vectors(fields.get("space directions", ""))
    if signs is None or not directions:
        found = f"space {space[:40]!r}" if space else "no space"
        found += "" if directions else " and no space directions"
        raise MissingSpacingError(
            f"{name}: needed a space of the patient, such as left-posterior-superior, and space "
            f"directions, found {found}: the file does not say which side is left; correct the "
            "header, or pass an affine"
        )
    origin = _vectors(fields.get("space origin", ""))
    columns = [directions[axis] for axis in reversed(spatial)]
    start = origin[0] if len(origin) == 1 else None
    if start is None or any(column is None or len(column) != 3 for column in (*columns, start)):
        raise MissingSpacingError(
            f"{name}: needed space directions and a space origin of 3 numbers, found others; "
            "correct the header"
        )
    units = set(re.findall(r'"([^"]*)"', fields.get("space units", ""))) or {"mm"}
    scale = MM_PER_UNIT.get(units.pop().strip().lower(), 0.0) if len(units) == 1 else 0.0
    if not scale:
        raise MissingSpacingError(f"{name}: needed space units of length; correct the header")
    turned = [
        tuple(sign * scale * value for sign, value in zip(signs, column or (), strict=True))
        for column in (*columns, start)
    ]
    try:
        return Affine.from_columns(turned[:3], turned[3])
    except (GridError, MissingSpacingError) as error:
        raise MissingSpacingError(
            f"{name}: the space directions are not usable: {error}; correct the header"
        ) from error


def _content(
    path: Path, fields: dict[str, str], encoding: str, end: int, layout: Layout
) -> ByteReader:
    """Return the bytes of the voxels."""
    other = fields.get("data file") or fields.get("datafile")
    voxel_path, start = path, end
    if other:
        if other.upper().startswith("LIST") or "%" in other:
            raise UnsupportedFormatError(
                f"{path.name}: needed the voxels in one file, found several; join them"
            )
        voxel_path, start = beside(path, other), 0
    skip = offset(fields.get("byte skip", fields.get("byteskip", "0")), "byte skip", path.name)
    lines = offset(fields.get("line skip", fields.get("lineskip", "0")), "line skip", path.name)
    if lines:
        raise UnsupportedFormatError(f"{path.name}: needed no line skip, found {lines}; convert it")
    if encoding == "raw":
        if skip == -1:
            start = voxel_path.stat().st_size - layout.nbytes
            skip = 0
        if start < 0 or skip < 0:
            raise DamagedFileError(
                f"{path.name}: the file is shorter than its voxels; copy it anew", path=path
            )
        return plain(voxel_path, start + skip, layout.nbytes)
    if encoding in GZIP:
        if skip < 0:
            raise UnsupportedFormatError(f"{path.name}: byte skip -1 needs raw voxels; convert it")
        return UnpackedBytes(voxel_path, "gzip", skip, layout.nbytes, start=start)
    if encoding in TEXT:
        return _from_text(voxel_path, start, layout)
    raise UnsupportedFormatError(
        f"{path.name}: needed the encoding raw, gzip or text, found {encoding[:40]!r}; convert it"
    )


def _from_text(path: Path, start: int, layout: Layout) -> ByteReader:
    words = text_bytes(path, start).split()
    count = layout.nbytes // layout.dtype.itemsize
    if len(words) != count:
        raise DamagedFileError(
            f"{path.name}: needed {count} numbers, found {len(words)}; copy it anew", path=path
        )
    try:
        values = np.array(words).astype(np.float64 if layout.dtype.kind == "f" else np.int64)
        stored = values.astype(layout.dtype)
    except (ValueError, OverflowError) as error:
        raise DamagedFileError(f"{path.name}: a voxel is no number ({error})", path=path) from error
    return SharedBytes(io.BytesIO(stored.tobytes()))

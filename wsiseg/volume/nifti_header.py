"""The header of a NIfTI-1 file: made for an affine, or kept from the scan that was segmented.

https://nifti.nimh.nih.gov/nifti-1; NIfTI-2 headers of scans are understood, too.
"""

import gzip
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsiseg.errors import UsageError
from wsiseg.geometry import Affine

__all__ = ["LONGEST_AXIS", "NiftiGeometry", "pack_header"]

LONGEST_AXIS = 32767
"""Voxels along an axis, in NIfTI-1."""

HEADER_BYTES = 348
DATA_AT = 352
ONE = struct.Struct("<i10s18sihcB8h3fhhhh8ffffhBBffffii80s24shh3f3f12f16s4s")
TWO = "i8shh8q3d8dqdddddd2q80s24sii3d3d12diii16sB15s"
DATATYPES = {"u1": 2, "i2": 4, "i4": 8, "f4": 16, "u2": 512, "u4": 768}
SCANNER = 1
"""Code of a frame that is the scanner's own."""

MILLIMETRES, SECONDS = 2, 8
UNITS = {1: 1000.0, 2: 1.0, 3: 0.001}
"""mm per unit of length, by its code."""

FAR_MM = 1e-3
"""Affines of 4-byte numbers that lie nearer than this are the same."""


@dataclass(frozen=True, slots=True)
class NiftiGeometry:
    """What of a header says where voxels are and what they mean."""

    pixdim: tuple[float, ...]
    """qfac and the three spacings."""

    qform_code: int = 0
    sform_code: int = 0
    quaternion: tuple[float, ...] = (0.0, 0.0, 0.0)
    offset: tuple[float, ...] = (0.0, 0.0, 0.0)
    sform: tuple[float, ...] = (0.0,) * 12
    units: int = MILLIMETRES
    dim_info: int = 0
    intent: tuple[Any, ...] = field(default=(0, 0.0, 0.0, 0.0, b""))
    """Code, three parameters, name."""

    shape: tuple[int, ...] = ()
    """(x, y, z) of the file it was read from."""

    @classmethod
    def of_affine(cls, affine: Affine) -> "NiftiGeometry":
        """Return the geometry of an affine; without a qform where axes are sheared."""
        matrix = affine.to_nifti()
        steps = matrix[:3, :3]
        sizes = np.linalg.norm(steps, axis=0)
        upright = steps / sizes
        if np.abs(upright.T @ upright - np.eye(3)).max() > 1e-5:
            return cls(
                (1.0, *map(float, sizes)),
                sform_code=SCANNER,
                sform=tuple(matrix[:3].ravel().tolist()),
            )
        qfac = 1.0 if np.linalg.det(upright) > 0 else -1.0
        return cls(
            (qfac, *map(float, sizes)),
            qform_code=SCANNER,
            sform_code=SCANNER,
            quaternion=_quaternion(upright * [1, 1, qfac]),
            offset=tuple(matrix[:3, 3].tolist()),
            sform=tuple(matrix[:3].ravel().tolist()),
        )

    @classmethod
    def of_file(cls, path: Path) -> "NiftiGeometry | None":
        """Return that of a NIfTI file; `None` if it is none."""
        try:
            with path.open("rb") as raw:
                packed = path.name.lower().endswith(".gz")
                file = gzip.GzipFile(fileobj=raw) if packed else raw
                return _parse(file.read(540))
        except (OSError, EOFError, zlib.error):
            return None

    def for_grid(self, affine: Affine, shape: Sequence[int]) -> "NiftiGeometry":
        """Return this geometry if it is that of an array (z, y, x) of `shape`, else a new one.

        The intent is kept in either case.
        """
        known = [self._of_sform()] * (self.sform_code > 0) + [self._of_qform()] * (
            self.qform_code > 0
        )
        scale = UNITS.get(self.units & 7, 1.0)
        wanted = affine.to_nifti()[:3]
        same = any(np.abs(matrix * scale - wanted).max() < FAR_MM for matrix in known)
        if self.shape == tuple(reversed(shape)) and (same or not known):
            return self
        return replace(NiftiGeometry.of_affine(affine), intent=self.intent)

    def _of_sform(self) -> NDArray[np.float64]:
        return np.array(self.sform).reshape(3, 4)

    def _of_qform(self) -> NDArray[np.float64]:
        b, c, d = self.quaternion
        a = float(np.sqrt(max(0.0, 1 - b * b - c * c - d * d)))
        turn = np.array(
            [
                [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
                [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
                [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - b * b - c * c],
            ]
        )
        qfac = -1.0 if self.pixdim[0] < 0 else 1.0
        steps = turn * np.array(self.pixdim[1:4]) * [1, 1, qfac]
        return np.column_stack([steps, self.offset])


def _quaternion(turn: NDArray[np.float64]) -> tuple[float, ...]:
    """Return b, c, d of the unit quaternion of a rotation, with a >= 0."""
    from scipy.spatial.transform import Rotation

    b, c, d, a = Rotation.from_matrix(turn).as_quat()
    sign = -1.0 if a < 0 else 1.0
    return float(sign * b), float(sign * c), float(sign * d)


def _parse(data: bytes) -> NiftiGeometry | None:
    if len(data) < HEADER_BYTES:
        return None
    for order in "<>":
        (size,) = struct.unpack_from(f"{order}i", data)
        if size == HEADER_BYTES and data[344:346] in (b"n+", b"ni"):
            return _parse_one(struct.unpack_from(order + ONE.format[1:], data))
        if size == 540 and data[4:6] in (b"n+", b"ni") and len(data) >= 540:
            return _parse_two(struct.unpack_from(order + TWO, data))
    return None


def _parse_one(v: tuple[Any, ...]) -> NiftiGeometry:
    return NiftiGeometry(
        pixdim=v[22:26],
        qform_code=v[44],
        sform_code=v[45],
        quaternion=v[46:49],
        offset=v[49:52],
        sform=v[52:64],
        units=v[35],
        dim_info=v[6],
        intent=(v[18], *v[15:18], v[64]),
        shape=v[8:11],
    )


def _parse_two(v: tuple[Any, ...]) -> NiftiGeometry:
    return NiftiGeometry(
        pixdim=v[15:19],
        qform_code=v[34],
        sform_code=v[35],
        quaternion=v[36:39],
        offset=v[39:42],
        sform=v[42:54],
        units=v[55] & 0xFF,
        dim_info=v[58],
        intent=(v[56], *v[12:15], v[57]),
        shape=v[5:8],
    )


def pack_header(
    geometry: NiftiGeometry,
    shape: Sequence[int],
    dtype: np.dtype[Any],
    *,
    largest: float = 0.0,
    slope: float = 1.0,
) -> bytes:
    """Return the first 352 bytes of a NIfTI-1 file.

    Parameters
    ----------
    geometry
        Where the voxels are.
    shape
        (z, y, x) or (z, y, x, c).
    dtype
        Little-endian, one of those of NIfTI.
    largest
        Value up to which viewers shall show.
    slope
        By which readers multiply what is stored.

    Raises
    ------
    UsageError
        If an axis is too long.
    """
    if max(shape) > LONGEST_AXIS:
        raise UsageError(f"NIfTI holds at most {LONGEST_AXIS} voxels along an axis, found {shape}")
    dims = [*reversed(shape[:3]), *shape[3:]]
    ones = [1] * (7 - len(dims))
    code, *parameters, name = geometry.intent
    head = ONE.pack(
        *(HEADER_BYTES, b"", b"", 0, 0, b"r", geometry.dim_info),
        *(len(dims), *dims, *ones),
        *(*parameters, code),
        *(DATATYPES[dtype.str[1:]], dtype.itemsize * 8, 0),
        *(*geometry.pixdim, 1.0, 1.0, 1.0, 1.0),
        *(float(DATA_AT), slope, 0.0, 0, 0, geometry.units),
        *(largest, 0.0, 0.0, 0.0, 0, 0, b"wsiseg", b""),
        *(geometry.qform_code, geometry.sform_code),
        *(*geometry.quaternion, *geometry.offset, *geometry.sform),
        *(name, b"n+1\0"),
    )
    return head + bytes(DATA_AT - HEADER_BYTES)

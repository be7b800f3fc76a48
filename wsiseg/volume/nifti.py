"""NIfTI out: arrays on the grid of a scan, written as they were read, plane by plane."""

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from wsiseg.errors import unwritable
from wsiseg.source.volumes import Volume

if TYPE_CHECKING:
    from nibabel.nifti1 import Nifti1Header

__all__ = ["write_nifti"]

PLANES_BYTES = 8 << 20
"""Compressed at once."""

SCANNER = 1
"""NIfTI code: coordinates of the scanner; for scans that come without a code."""

LEVEL = 1
"""Of gzip; labels are small at any."""


def write_nifti(path: Path, values: NDArray[Any], scan: Volume) -> None:
    """Write an array on the grid of a scan, with the scan's own forms and codes.

    Parameters
    ----------
    path
        `.nii` or `.nii.gz`.
    values
        `(z, y, x)` in the stored axes of the scan; uint8 or float32.
    scan
        Whose grid it is; of a NIfTI file, sform, qform, their codes, units and intent are kept.

    Raises
    ------
    DiskFullError, RunError
        If the file cannot be written.
    """
    header = _header(values, scan)
    content = b"".join([header.binaryblock, bytes(4)])
    try:
        with path.open("wb") as file:
            if path.name.endswith(".gz"):
                from isal import igzip

                # No name and no time: equal labels are equal files.
                with igzip.GzipFile(
                    filename="", fileobj=file, mode="wb", compresslevel=LEVEL, mtime=0
                ) as packed:
                    packed.write(content)
                    for part in _parts(values):
                        packed.write(part)
            else:
                file.write(content)
                for part in _parts(values):
                    file.write(part)
    except OSError as error:
        raise unwritable(error, path) from error


def _parts(values: NDArray[Any]) -> Iterator[bytes]:
    """Yield the bytes of whole planes; the last axis of the array is NIfTI's first."""
    plane = values.shape[1] * values.shape[2] * values.dtype.itemsize
    step = max(1, PLANES_BYTES // max(1, plane))
    for start in range(0, len(values), step):
        yield np.ascontiguousarray(values[start : start + step]).tobytes()


def _header(values: NDArray[Any], scan: Volume) -> "Nifti1Header":
    from nibabel.nifti1 import Nifti1Header

    header = Nifti1Header(endianness="<")
    header.set_data_dtype(values.dtype)
    header.set_data_shape(values.shape[::-1])
    affine = scan.as_stored().affine.to_nifti()
    kept = _kept(scan)
    if kept is None or not _same(kept, affine):
        header.set_sform(affine, SCANNER)
        header.set_qform(affine, SCANNER)
    else:
        for field in FORMS:
            header[field] = kept[field]
        header["pixdim"] = kept["pixdim"]
        header["pixdim"][4:] = 0
    header["xyzt_units"] = 2 if kept is None else int(kept["xyzt_units"]) & 7
    if kept is not None:
        header["intent_code"] = kept["intent_code"]
        for field in ("intent_p1", "intent_p2", "intent_p3", "intent_name"):
            header[field] = kept[field]
    header["scl_slope"], header["scl_inter"] = 1.0, 0.0
    header["vox_offset"] = 352
    header["magic"] = b"n+1"
    return header


FORMS = (
    "qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d",
    "qoffset_x", "qoffset_y", "qoffset_z", "srow_x", "srow_y", "srow_z",
)  # fmt: skip


def _kept(scan: Volume) -> "Nifti1Header | None":
    """Return the header of the file a scan was read from; `None` where that is no NIfTI-1."""
    if scan.metadata.reader != "nifti" or scan.path is None:
        return None
    from nibabel.nifti1 import Nifti1Header

    head = _first_bytes(Path(scan.path))
    for order in "<>":
        if len(head) >= 348 and struct.unpack_from(f"{order}i", head)[0] == 348:
            return Nifti1Header(head[:348], order, check=False).as_byteswapped("<")
    return None


def _first_bytes(path: Path) -> bytes:
    name = path.name.lower()
    for image, header in ((".img.gz", ".hdr.gz"), (".img", ".hdr")):
        if name.endswith(image):
            path = path.with_name(path.name[: -len(image)] + header)
    try:
        with path.open("rb") as file:
            head = file.read(2)
        if head != b"\x1f\x8b":
            with path.open("rb") as file:
                return file.read(348)
        from isal import igzip

        with igzip.open(path, "rb") as packed:
            content: bytes = packed.read(348)
    except OSError:
        return b""
    return content


def _same(header: "Nifti1Header", affine: NDArray[np.float64]) -> bool:
    """Return whether the forms of a header place voxels as an affine in mm does."""
    if int(header["xyzt_units"]) & 7 not in (0, 2):
        return False
    coded, _ = header.get_sform(coded=True)
    form = coded if coded is not None else header.get_qform()
    return bool(np.allclose(form, affine, atol=1e-3))

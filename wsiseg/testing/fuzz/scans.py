"""Small scans in every format, to be changed."""

import gzip
import struct
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from wsiseg.geometry import Affine

__all__ = ["SCANS"]

SHAPE = (6, 12, 8)
"""Voxels (z, y, x)."""

VOXELS = np.arange(576, dtype="<i2").reshape(SHAPE)
AFFINE = Affine.from_lps(
    np.array([[0.7, 0, 0, -4], [0, 0.7, 0, -5], [0, 0, 3, -9], [0, 0, 0, 1]], np.float64)
)

Maker = Callable[[Path], Path]


def _nifti(ending: str) -> Maker:
    def make(folder: Path) -> Path:
        """Write a NIfTI-1 volume."""
        z, y, x = SHAPE
        head = bytearray(352)
        struct.pack_into("<i", head, 0, 348)
        struct.pack_into("<8h", head, 40, 3, x, y, z, 1, 1, 1, 1)
        struct.pack_into("<hh", head, 70, 4, 16)
        struct.pack_into("<8f", head, 76, 1, 0.7, 0.7, 3, 0, 0, 0, 0)
        struct.pack_into("<3f", head, 108, 352, 1, 0)
        struct.pack_into("<hh", head, 252, 1, 1)
        struct.pack_into("<12f", head, 280, *AFFINE.to_nifti()[:3].ravel())
        head[344:348] = b"n+1\0"
        content = bytes(head) + VOXELS.tobytes()
        path = folder / f"volume{ending}"
        path.write_bytes(gzip.compress(content, mtime=0) if ending.endswith("gz") else content)
        return path

    return make


def _nrrd(encoding: str) -> Maker:
    def make(folder: Path) -> Path:
        """Write an NRRD file."""
        header = (
            "NRRD0004\ntype: short\ndimension: 3\nspace: left-posterior-superior\n"
            "sizes: 8 12 6\nspace directions: (0.7,0,0) (0,0.7,0) (0,0,3)\n"
            f"kinds: domain domain domain\nendian: little\nencoding: {encoding}\n"
            "space origin: (-4,-5,-9)\n\n"
        )
        data = VOXELS.tobytes()
        if encoding == "gzip":
            data = gzip.compress(data, mtime=0)
        if encoding == "text":
            data = " ".join(map(str, VOXELS.ravel())).encode()
        path = folder / "volume.nrrd"
        path.write_bytes(header.encode() + data)
        return path

    return make


def _metaimage(*, packed: bool) -> Maker:
    def make(folder: Path) -> Path:
        """Write a MetaImage."""
        header = (
            "ObjectType = Image\nNDims = 3\nBinaryData = True\nBinaryDataByteOrderMSB = False\n"
            f"CompressedData = {packed}\nTransformMatrix = 1 0 0 0 1 0 0 0 1\n"
            "Offset = -4 -5 -9\nElementSpacing = 0.7 0.7 3\nDimSize = 8 12 6\n"
            "ElementType = MET_SHORT\nElementDataFile = LOCAL\n"
        )
        data = VOXELS.tobytes()
        path = folder / "volume.mha"
        path.write_bytes(header.encode() + (zlib.compress(data) if packed else data))
        return path

    return make


def _series(folder: Path) -> Path:
    """Write a DICOM series, a file per slice."""
    from wsiseg.testing.scans import write_series

    write_series(folder / "series", VOXELS, AFFINE, intercept=-1024)
    return folder / "series"


def _multiframe(folder: Path) -> Path:
    """Write an enhanced multi-frame DICOM file."""
    from wsiseg.testing.scans import write_multiframe

    return write_multiframe(folder / "frames.dcm", VOXELS, AFFINE, slopes=[1.5] * SHAPE[0])


def _zarr(folder: Path) -> Path:
    """Write an OME-Zarr image with a z axis."""
    path = folder / "volume.zarr"
    group = zarr.open_group(path, mode="w")
    group.create_array("0", data=VOXELS, chunks=(2, 8, 8))
    growth = ("inferior-to-superior", "anterior-to-posterior", "right-to-left")
    axes: list[Any] = [
        {
            "name": name,
            "type": "space",
            "unit": "millimeter",
            "orientation": {"type": "anatomical", "value": value},
        }
        for name, value in zip("zyx", growth, strict=True)
    ]
    scale: Any = {"type": "scale", "scale": [3, 0.7, 0.7]}
    datasets: list[Any] = [{"path": "0", "coordinateTransformations": [scale]}]
    multiscales: list[Any] = [{"axes": axes, "datasets": datasets}]
    group.attrs["ome"] = {"version": "0.5", "multiscales": multiscales}
    return path


SCANS: Mapping[str, Maker] = {
    "nifti": _nifti(".nii"),
    "nifti-gz": _nifti(".nii.gz"),
    "nrrd-raw": _nrrd("raw"),
    "nrrd-gzip": _nrrd("gzip"),
    "nrrd-text": _nrrd("text"),
    "mha": _metaimage(packed=False),
    "mha-zlib": _metaimage(packed=True),
    "series": _series,
    "multiframe": _multiframe,
    "ome-zarr-volume": _zarr,
}
"""Makers of scans, by name."""

"""Files that are wrong in one known way each."""

import shutil
from pathlib import Path

import numpy as np
from tifffile import TiffFile, TiffPage, TiffWriter

from wsiseg.testing.slides import make_svs, tissue_disc

__all__ = [
    "damage_tile",
    "empty_tile",
    "make_fluorescence",
    "make_without_mpp",
    "make_z_stack",
    "truncate",
]


def truncate(source: Path, target: Path, keep: float) -> Path:
    """Copy a file and cut it to the share `keep` of its bytes."""
    data = source.read_bytes()
    target.write_bytes(data[: int(len(data) * keep)])
    return target


def damage_tile(source: Path, target: Path, *, page: int = 0, tile: int = 0) -> Path:
    """Copy a TIFF and overwrite the second half of the bytes of one block with zeros.

    A JPEG stream then ends without its closing marker.
    """
    shutil.copyfile(source, target)
    with TiffFile(source) as tiff:
        where = tiff.pages[page]
        offset, nbytes = where.dataoffsets[tile], where.databytecounts[tile]
    with target.open("r+b") as file:
        file.seek(offset + nbytes // 2)
        file.write(b"\x00" * (nbytes - nbytes // 2))
    return target


def empty_tile(source: Path, target: Path, *, page: int = 0, tile: int = 0) -> Path:
    """Copy a TIFF and let its directory say that one block has no bytes, at the place it had."""
    shutil.copyfile(source, target)
    with TiffFile(target, mode="r+") as tiff:
        where = tiff.pages[page]
        if not isinstance(where, TiffPage):
            raise TypeError(f"{source}: page {page} has no directory of its own")
        tag = where.tags["TileByteCounts"]
        counts = list(tag.value)
        counts[tile] = 0
        tag.overwrite(counts)
    return target


def make_without_mpp(path: Path, mpp: str | None = None) -> Path:
    """Write a small SVS whose description has no pixel size, or an absurd one (`"0"`, `"nan"`)."""
    return make_svs(path, tissue_disc((300, 400))[0], levels=(1,), mpp=mpp)


def make_z_stack(path: Path, planes: int = 3) -> Path:
    """Write a TIFF of several full-size RGB pages: focal planes, not levels."""
    pixels, _ = tissue_disc((256, 320))
    with TiffWriter(path) as writer:
        for _ in range(planes):
            writer.write(
                pixels, photometric="rgb", tile=(128, 128), compression="zlib", metadata=None
            )
    return path


def make_fluorescence(path: Path, channels: int = 4, dtype: str = "uint16") -> Path:
    """Write an OME-TIFF of fluorescence channels."""
    values = np.random.default_rng(0).integers(0, 200, (channels, 128, 160)).astype(dtype)
    with TiffWriter(path, ome=True) as writer:
        writer.write(values, photometric="minisblack", tile=(64, 64), metadata={"axes": "CYX"})
    return path

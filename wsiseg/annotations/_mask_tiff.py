"""Masks in TIFF files, tiled, in strips or as a pyramid: read block by block."""

import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tifffile import COMPRESSION, PHOTOMETRIC, TiffFile, TiffPage

from wsiseg.annotations._mask_image import one_channel, refuse_lossy_jpeg
from wsiseg.errors import AnnotationError
from wsiseg.geometry import Box, ceil_div
from wsiseg.source._blocks import block_indices
from wsiseg.source._bytes import ByteReader, open_bytes
from wsiseg.source._cache import BlockCache
from wsiseg.source._tiff_layout import TIFF_ERRORS, walk_pages

__all__ = ["TiffLevel", "open_mask_tiff"]

CACHE_BYTES = 64 << 20
MAX_BLOCK_BYTES = 256 << 20
"""A larger strip or tile, which can only be decoded whole, is refused."""

SAME_ASPECT = 0.02
"""Pages whose aspects differ by more, relatively, do not show the same field."""

JPEGS = frozenset({COMPRESSION.JPEG, COMPRESSION.OJPEG})
READ = JPEGS | {
    COMPRESSION.NONE, COMPRESSION.LZW, COMPRESSION.ADOBE_DEFLATE, COMPRESSION.DEFLATE,
    COMPRESSION.PACKBITS, COMPRESSION.LZMA, COMPRESSION.ZSTD, COMPRESSION.ZSTD_DEPRECATED,
    COMPRESSION.CCITTRLE, COMPRESSION.CCITTFAX3, COMPRESSION.CCITTFAX4,
}  # fmt: skip
"""Codecs that are told how many bytes to give. Others take the size from their own stream, which
may claim any."""

Values = NDArray[Any]


class TiffLevel:
    """One resolution of a TIFF mask; may be read from any thread."""

    def __init__(self, page: TiffPage, file: ByteReader, cache: BlockCache, path: Path) -> None:
        self.shape = (page.imagelength, page.imagewidth)
        self._page, self._file, self._cache, self._path = page, file, cache, path
        block = page.chunks[:2] if page.is_tiled else (page.rowsperstrip, page.imagewidth)
        self._block = (min(block[0], page.imagelength), block[1])
        self._check_blocks()
        self._columns = ceil_div(page.imagewidth, self._block[1])
        self._check()

    def read(self, box: Box) -> Values:
        """Return the values of a box inside."""
        values = np.zeros(box.shape, np.uint8 if self._page.bitspersample <= 8 else np.uint16)
        for row, column in block_indices(box, self._block):
            block = self._decoded(row * self._columns + column)
            origin = (row * self._block[0], column * self._block[1])
            whole = Box.of_shape(block.shape).shift(origin)
            part = box.intersect(whole)
            values[part.relative_to(box).slices()] = block[part.relative_to(whole).slices()]
        return values

    def _check_blocks(self) -> None:
        """Refuse a directory whose blocks do not cover the image."""
        found = min(len(self._page.dataoffsets), len(self._page.databytecounts))
        needed = 0
        if min(*self.shape, *self._block) > 0:
            needed = math.prod(map(ceil_div, self.shape, self._block))
        if not 0 < needed <= found:
            raise AnnotationError(
                f"{self._path}: {self.shape[1]} x {self.shape[0]} pixels in blocks of "
                f"{self._block[1]} x {self._block[0]}, of which {found} are listed; copy it anew"
            )

    def _check(self) -> None:
        page, path = self._page, self._path
        integers = page.sampleformat == 1 and page.bitspersample in {1, 2, 4, 8, 16}
        if (
            not integers
            or max(page.imagedepth, page.tiledepth if page.is_tiled else 1) > 1
            or (page.planarconfig != 1 and page.samplesperpixel > 1)
        ):
            raise AnnotationError(
                f"{path}: needed unsigned integers of 1 to 16 bits, one value per pixel, found "
                f"{page.dtype} with {page.samplesperpixel} samples; save the mask anew"
            )
        samples_bytes = page.samplesperpixel * math.ceil(page.bitspersample / 8)
        if math.prod(self._block) * samples_bytes > MAX_BLOCK_BYTES:
            raise AnnotationError(
                f"{path}: its blocks of {self._block[1]} x {self._block[0]} pixels can only be "
                "decoded whole; save the mask as a tiled TIFF"
            )
        if page.compression not in READ:
            raise AnnotationError(
                f"{path}: compression {getattr(page.compression, 'name', page.compression)}, "
                "needed LZW, Deflate or another that keeps bytes; save the mask anew"
            )
        if page.compression in JPEGS:
            first = next((i for i, size in enumerate(page.databytecounts) if size), None)
            if first is not None:
                refuse_lossy_jpeg(self._bytes(first) or b"", path)

    def _decoded(self, index: int) -> Values:
        return self._cache.get((self._page.offset, index), lambda: self._decode(index))

    def _decode(self, index: int) -> Values:
        page, data = self._page, self._bytes(index)
        if data and page.compression in JPEGS:
            refuse_lossy_jpeg(data, self._path)
        try:
            decoded, _, shape = page.decode(data, index, jpegtables=page.jpegtables)
        except (ValueError, RuntimeError, OSError, TypeError, MemoryError) as error:
            raise AnnotationError(
                f"{self._path}: block {index} cannot be decoded: {error}; copy the file anew"
            ) from error
        if decoded is None:  # left out of the file
            return np.full(shape[1:3], page.nodata or 0, np.uint8)
        block = np.asarray(decoded)[0, : shape[1], : shape[2]]
        values = one_channel(block if block.shape[-1] > 1 else block[..., 0], self._path)
        if page.photometric == PHOTOMETRIC.MINISWHITE:
            values = (1 << page.bitspersample) - 1 - values
        return values

    def _bytes(self, index: int) -> bytes | None:
        offset, size = self._page.dataoffsets[index], self._page.databytecounts[index]
        return self._file.read(offset, size) if size else None


def open_mask_tiff(path: Path) -> tuple[TiffLevel, ...]:
    """Open a TIFF mask; return its levels, finest first.

    Raises
    ------
    AnnotationError
        If it cannot be read, or is no image of one integer per pixel.
    """
    try:
        with TiffFile(path) as tiff:
            for _ in walk_pages(tiff):  # refuses circles, which would be followed without end
                pass
            pages = [level.keyframe for level in tiff.series[0].levels]
            if len(tiff.series[0].pages) != 1:
                raise AnnotationError(f"{path}: needed one image, found a stack; export one")
            pages += [
                series.keyframe for series in tiff.series[1:] if _is_level(series.keyframe, pages)
            ]
            file, cache = open_bytes(path), BlockCache(CACHE_BYTES)
            shapes = {(page.imagelength, page.imagewidth): page for page in reversed(pages)}
            return tuple(
                TiffLevel(shapes[shape], file, cache, path)
                for shape in sorted(shapes, reverse=True)
            )
    except TIFF_ERRORS as error:
        if isinstance(error, AnnotationError):
            raise
        raise AnnotationError(f"{path}: not a readable TIFF ({error}); copy it anew") from error


def _is_level(page: object, pages: list[Any]) -> bool:
    """Tell whether a page is the mask again, at a lower resolution."""
    if not isinstance(page, TiffPage):
        return False
    first = pages[0]
    ratios = [a / b for a, b in zip(first.shape[:2], page.shape[:2], strict=True)]
    same_field = min(ratios) > 1 and abs(ratios[0] / ratios[1] - 1) < SAME_ASPECT
    return bool(page.dtype == first.dtype and same_field)

"""From the compressed bytes of one TIFF block to RGB pixels.

JPEG is decoded by libjpeg-turbo with its accurate integer DCT and its smooth chroma upsampling,
the defaults that OpenSlide uses, so pixels are equal bit for bit. Every codec is strict: bytes
that are damaged or end early raise `CodecError` instead of giving grey or white.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import imagecodecs
import numpy as np
import simplejpeg  # type: ignore[import-untyped]
from numpy.typing import NDArray

from wsiseg.geometry import ceil_div
from wsiseg.source._codec import BlockDecoder, CodecError, check_size, with_samples
from wsiseg.source._jpeg2000 import Jpeg2000
from wsiseg.source.base import Pixels

__all__ = ["APERIO_J2K_YCBCR", "Jpeg", "decoder_for"]


JPEG_SCALES = (2, 4, 8)
"""Factors by which libjpeg-turbo reduces in the frequency domain: it transforms the 4 x 4, 2 x 2 or
1 x 1 lowest frequencies of a block of 8 x 8 back."""

JPEG_MCU = 16
"""Sides of the largest unit that JPEG codes together in slides: 8 x 8 with its chroma halved."""

JPEG = 7
APERIO_J2K_YCBCR = 33003
JPEG2000 = (33005, 34712)
PHOTOMETRIC_YCBCR = 6

_APP14 = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00"
"""Adobe's JPEG marker up to its last byte, the colour transform: 0 RGB, 1 YCbCr."""


@dataclass(frozen=True, slots=True)
class Jpeg:
    """JPEG streams, complete or abbreviated (tables stored once for all tiles)."""

    prefix: bytes
    """Start of image, the colour marker and the tables; goes in front of each tile's own part."""

    samples: int

    def __call__(
        self, data: bytes, _shape: tuple[int, int], buffer: Pixels | None = None, /
    ) -> Pixels:
        return self.scaled(data, 1, buffer)

    def scales(self, _data: bytes, block: Sequence[int], ratio: Sequence[int]) -> tuple[int, ...]:
        """Return those of `JPEG_SCALES` that divide the ratio, for blocks of whole units."""
        whole = self.keeps_out(block, block)
        return tuple(s for s in JPEG_SCALES if whole and not any(r % s for r in ratio))

    def keeps_out(self, part: Sequence[int], _block: Sequence[int]) -> bool:
        """Return whether the part consists of whole units, each transformed for itself."""
        return not any(n % JPEG_MCU for n in part)

    def scaled(self, data: bytes, scale: int, buffer: Pixels | None = None) -> Pixels:
        """Return the block reduced by 1 or one of `JPEG_SCALES`, sides rounded up."""
        if data[:2] != b"\xff\xd8":
            raise CodecError(f"no JPEG stream, it begins with {data[:4].hex(' ')}")
        stream = b"".join((self.prefix, memoryview(data)[2:]))
        try:
            height, width, *_ = simplejpeg.decode_jpeg_header(stream)
            check_size(height, width)
            height, width = ceil_div(height, scale), ceil_div(width, scale)
            nbytes = height * width * self.samples
            if buffer is None or buffer.size < nbytes:
                buffer = np.empty(nbytes, dtype=np.uint8)
            block: Pixels = simplejpeg.decode_jpeg(
                stream,
                colorspace="RGB" if self.samples == 3 else "GRAY",
                min_height=height,  # the strongest reduction that is not smaller than this
                min_width=width,
                min_factor=scale,
                buffer=buffer,
            )
        except ValueError as error:
            raise CodecError(str(error)) from error
        return block


def _jpeg(tables: bytes | None, photometric: int, samples: int) -> Jpeg:
    """Return the decoder of JPEG tiles with these tables.

    TIFF states the colour space in its photometric tag, and Aperio's tiles hold neither a JFIF
    nor an Adobe marker, from which libjpeg would learn it; so the tag is passed on as an Adobe
    marker. A marker in the tile itself comes later or, as JFIF, ranks higher, and wins.
    """
    prefix = b"\xff\xd8"
    if samples == 3:
        prefix += _APP14 + bytes([photometric == PHOTOMETRIC_YCBCR])
    if tables:
        prefix += tables[2:].removesuffix(b"\xff\xd9")
    return Jpeg(prefix, samples)


@dataclass(frozen=True, slots=True)
class _Bytes:
    """Codecs that give back the bytes of a block in row order, with TIFF's predictor 1 or 2."""

    expand: Callable[[bytes, int], bytes | bytearray]
    samples: int
    differences: bool
    """Predictor 2: each sample is stored as the difference to its left neighbour."""

    def __call__(
        self, data: bytes, shape: tuple[int, int], _buffer: Pixels | None = None, /
    ) -> Pixels:
        nbytes = shape[0] * shape[1] * self.samples
        try:
            flat: Pixels = np.frombuffer(self.expand(data, nbytes), dtype=np.uint8)
        except (ValueError, RuntimeError) as error:
            raise CodecError(str(error)) from error
        if flat.size < nbytes:
            raise CodecError(f"needed {nbytes} bytes of pixels, found {flat.size}")
        block: Pixels = flat[:nbytes].reshape(*shape, self.samples)
        if self.differences:
            block = imagecodecs.delta_decode(block, axis=1)
        return block


@dataclass(frozen=True, slots=True)
class _Image:
    """Codecs that give back an image: JPEG XL, JPEG XR, WebP, PNG.

    They get the memory for one block to fill, so a stream that declares another size is refused
    before it takes more.
    """

    expand: Callable[[bytes, Pixels], NDArray[np.generic]]
    samples: int

    def __call__(
        self, data: bytes, shape: tuple[int, int], _buffer: Pixels | None = None, /
    ) -> Pixels:
        room = np.empty(shape if self.samples == 1 else (*shape, self.samples), np.uint8)
        try:
            return with_samples(self.expand(data, room), self.samples)
        except (ValueError, RuntimeError) as error:
            raise CodecError(str(error)) from error


_BYTE_CODECS: dict[int, Callable[[bytes, int], bytes | bytearray]] = {
    1: lambda data, _: data,
    5: lambda data, nbytes: imagecodecs.lzw_decode(data, out=nbytes),
    8: lambda data, nbytes: imagecodecs.zlib_decode(data, out=nbytes),
    32946: lambda data, nbytes: imagecodecs.zlib_decode(data, out=nbytes),
    32773: lambda data, nbytes: imagecodecs.packbits_decode(data, out=nbytes),
    34925: lambda data, nbytes: imagecodecs.lzma_decode(data, out=nbytes),
    34926: lambda data, nbytes: imagecodecs.zstd_decode(data, out=nbytes),
    50000: lambda data, nbytes: imagecodecs.zstd_decode(data, out=nbytes),
}

_IMAGE_CODECS: dict[int, Callable[[bytes, Pixels], NDArray[np.generic]]] = {
    22610: lambda data, room: imagecodecs.jpegxr_decode(data, out=room),
    34934: lambda data, room: imagecodecs.jpegxr_decode(data, out=room),
    34927: lambda data, room: imagecodecs.webp_decode(data, out=room),
    50001: lambda data, room: imagecodecs.webp_decode(data, out=room),
    34933: lambda data, room: imagecodecs.png_decode(data, out=room),
    50002: lambda data, room: imagecodecs.jpegxl_decode(data, out=room),
}


def decoder_for(
    compression: int, *, photometric: int, samples: int, predictor: int, tables: bytes | None
) -> BlockDecoder | None:
    """Return the decoder of a TIFF page's blocks, or `None` where there is none.

    Parameters
    ----------
    compression, photometric, predictor
        The values of TIFF's tags.
    samples
        Samples per pixel that one block holds.
    tables
        TIFF's JPEGTables.
    """
    if compression == JPEG and samples in {1, 3} and predictor == 1:
        return _jpeg(tables, photometric, samples)
    if compression == APERIO_J2K_YCBCR and samples == 3:
        return Jpeg2000(samples, ycbcr=True)
    if compression in JPEG2000:
        return Jpeg2000(samples)
    if compression in _IMAGE_CODECS:
        return _Image(_IMAGE_CODECS[compression], samples)
    # other codecs store YCbCr with its chroma subsampled, which nobody writes for slides
    if compression in _BYTE_CODECS and predictor in {1, 2} and photometric != PHOTOMETRIC_YCBCR:
        return _Bytes(_BYTE_CODECS[compression], samples, differences=predictor == 2)
    return None

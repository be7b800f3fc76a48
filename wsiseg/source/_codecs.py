"""From the compressed bytes of one TIFF block to RGB pixels.

JPEG is decoded by libjpeg-turbo with its accurate integer DCT and its smooth chroma upsampling,
the defaults that OpenSlide uses, so pixels are equal bit for bit. Every codec is strict: bytes
that are damaged or end early raise `CodecError` instead of giving grey or white.
"""

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import imagecodecs
import numpy as np
import simplejpeg  # type: ignore[import-untyped]
from numpy.typing import NDArray

from wsiseg.geometry import ceil_div
from wsiseg.source.base import Pixels

__all__ = [
    "APERIO_J2K_YCBCR",
    "JPEG_MCU",
    "JPEG_SCALES",
    "MAX_BLOCK_BYTES",
    "BlockDecoder",
    "CodecError",
    "Jpeg",
    "decoder_for",
]


class BlockDecoder(Protocol):
    """From a block's bytes to its samples."""

    def __call__(
        self, data: bytes, shape: tuple[int, int], buffer: Pixels | None = None, /
    ) -> Pixels:
        """Return `(y, x, sample)` uint8.

        Parameters
        ----------
        data
            Compressed bytes.
        shape
            The block's nominal rows and columns.
        buffer
            Flat memory the result may take: memory used before costs no page faults, which here
            are a quarter of the time of a JPEG tile.
        """
        ...


JPEG_SCALES = (2, 4, 8)
"""Factors by which libjpeg-turbo reduces in the frequency domain: it transforms the 4 x 4, 2 x 2 or
1 x 1 lowest frequencies of a block of 8 x 8 back."""

JPEG_MCU = 16
"""Sides of the largest unit that JPEG codes together in slides: 8 x 8 with its chroma halved."""

JPEG = 7
APERIO_J2K_YCBCR = 33003
PHOTOMETRIC_YCBCR = 6

MAX_BLOCK_BYTES = 1 << 29
"""Largest block decoded in one piece; a compressed strip beyond it cannot be read in parts."""

_APP14 = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00"
"""Adobe's JPEG marker up to its last byte, the colour transform: 0 RGB, 1 YCbCr."""


class CodecError(ValueError):
    """A block's bytes cannot be decoded; the caller knows the file, level and tile to name."""


def _check_size(height: int, width: int) -> None:
    """Refuse a stream that declares a gigantic image, before memory is set aside for it."""
    if height * width * 3 > MAX_BLOCK_BYTES:
        raise CodecError(f"it declares {width} x {height} pixels, too many for one block")


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

    def scaled(self, data: bytes, scale: int, buffer: Pixels | None = None) -> Pixels:
        """Return the block reduced by 1 or one of `JPEG_SCALES`, sides rounded up."""
        if data[:2] != b"\xff\xd8":
            raise CodecError(f"no JPEG stream, it begins with {data[:4].hex(' ')}")
        stream = b"".join((self.prefix, memoryview(data)[2:]))
        try:
            height, width, *_ = simplejpeg.decode_jpeg_header(stream)
            _check_size(height, width)
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
        block = flat[:nbytes].reshape(*shape, self.samples)
        if self.differences:
            block = imagecodecs.delta_decode(block, axis=1)
        return block


@dataclass(frozen=True, slots=True)
class _Image:
    """Codecs that give back an image: JPEG 2000, JPEG XL, JPEG XR, WebP, PNG."""

    expand: Callable[[bytes], NDArray[np.generic]]
    samples: int

    def __call__(
        self, data: bytes, _shape: tuple[int, int], _buffer: Pixels | None = None, /
    ) -> Pixels:
        try:
            block = self.expand(data)
        except (ValueError, RuntimeError) as error:
            raise CodecError(str(error)) from error
        if block.ndim == 2:
            block = block[..., np.newaxis]
        if block.dtype != np.uint8 or block.shape[2] != self.samples:
            raise CodecError(
                f"needed {self.samples} samples of uint8, found {block.dtype} {block.shape}"
            )
        return block.view(np.uint8)


def _jpeg2000(data: bytes) -> Pixels:
    """Decode JPEG 2000; the size of a bare codestream is looked at first (ITU-T T.800, A.5.1)."""
    if data.startswith(b"\xff\x4f\xff\x51") and len(data) >= 16:
        width, height = struct.unpack_from(">II", data, 8)
        _check_size(height, width)
    return imagecodecs.jpeg2k_decode(data)


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

_IMAGE_CODECS: dict[int, Callable[[bytes], NDArray[np.generic]]] = {
    33005: _jpeg2000,
    34712: _jpeg2000,
    22610: imagecodecs.jpegxr_decode,
    34934: imagecodecs.jpegxr_decode,
    34927: imagecodecs.webp_decode,
    50001: imagecodecs.webp_decode,
    34933: imagecodecs.png_decode,
    50002: imagecodecs.jpegxl_decode,
}


def _aperio_ycbcr(data: bytes) -> NDArray[np.generic]:
    """Decode Aperio's JPEG 2000 of YCbCr components, which the codestream does not declare."""
    return _rgb_from_ycbcr(_jpeg2000(data))


def _rgb_from_ycbcr(block: Pixels) -> Pixels:
    """Convert full-range YCbCr to RGB (ITU-T T.871, section 7) in libjpeg's 16-bit fixed point."""
    y, cb, cr = np.moveaxis(block.astype(np.int32), -1, 0)
    cb -= 128
    cr -= 128
    half = 1 << 15
    red = y + ((91881 * cr + half) >> 16)
    green = y + ((-22554 * cb - 46802 * cr + half) >> 16)
    blue = y + ((116130 * cb + half) >> 16)
    return np.stack((red, green, blue), axis=-1).clip(0, 255).astype(np.uint8)


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
        return _Image(_aperio_ycbcr, samples)
    if compression in _IMAGE_CODECS:
        return _Image(_IMAGE_CODECS[compression], samples)
    # other codecs store YCbCr with its chroma subsampled, which nobody writes for slides
    if compression in _BYTE_CODECS and predictor in {1, 2} and photometric != PHOTOMETRIC_YCBCR:
        return _Bytes(_BYTE_CODECS[compression], samples, differences=predictor == 2)
    return None

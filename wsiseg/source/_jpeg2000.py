"""From JPEG 2000 streams to RGB pixels, in full or with their finest wavelets left out."""

import io
import struct
from collections.abc import Sequence
from dataclasses import dataclass

import imagecodecs
import numpy as np
from numpy.typing import NDArray

from wsiseg.geometry import Box, ceil_div
from wsiseg.resample import area
from wsiseg.source._codec import CodecError, check_size, with_samples
from wsiseg.source.base import Pixels

__all__ = ["Jpeg2000"]

WAVELET_SCALES = (2, 4)
"""Factors by which JPEG 2000 is reduced: one or two wavelet levels are left out.

The low frequencies are no mean. On a real Aperio slide they are at 40 dB from it at 1/2, at 31 dB
at 1/4 and at 29 dB at 1/8; but where the mean does at least the last half, at 47 dB for 1/4 and at
41 dB for 1/8. Decoding itself takes 0.46 and 0.23 of the time."""


CODESTREAM = b"\xff\x4f\xff\x51"
"""How one begins: its start, and the marker of its size."""


@dataclass(frozen=True, slots=True)
class Jpeg2000:
    """JPEG 2000 streams: bare codestreams, which can be reduced, or in a container.

    Notes
    -----
    Sample `k` of the low frequencies at scale `s` lies on pixel `s k` (ITU-T T.800, annex F), but
    a reduced pixel on the middle of `s k` to `s k + s - 1`. So samples are moved by
    `(s - 1) / 2` pixels, by cubic convolution.

    References
    ----------
    Keys 1981, Cubic convolution interpolation, doi:10.1109/TASSP.1981.1163711.
    """

    samples: int
    ycbcr: bool = False
    """Aperio's: the components are YCbCr, which the codestream does not declare."""

    def __call__(
        self, data: bytes, _shape: tuple[int, int], _buffer: Pixels | None = None, /
    ) -> Pixels:
        return self.scaled(data, 1)

    def scales(self, data: bytes, _block: Sequence[int], ratio: Sequence[int]) -> tuple[int, ...]:
        """Return the scales that the stream has wavelet levels for; see `WAVELET_SCALES`."""
        levels = _wavelet_levels(data)
        return tuple(
            s
            for s in WAVELET_SCALES
            if s <= 1 << levels and not any(r % (s if s == 2 else 2 * s) for r in ratio)
        )

    def keeps_out(self, part: Sequence[int], block: Sequence[int]) -> bool:
        """Return whether the part is the whole block: wavelets overlap."""
        return tuple(part) == tuple(block)

    def scaled(self, data: bytes, scale: int, _buffer: Pixels | None = None) -> Pixels:
        """Return the block reduced by 1 or one of `WAVELET_SCALES`, sides rounded up."""
        try:
            if scale == 1 or 1 << _wavelet_levels(data) < scale:  # unlike the other blocks
                block = _mean(self._rgb(_jpeg2000(data)), scale)
            else:
                block = _moved(self._rgb(_low_frequencies(data, scale)), (scale - 1) / (2 * scale))
        except (ValueError, RuntimeError, OSError, SyntaxError) as error:
            raise CodecError(str(error)) from error
        return block

    def _rgb(self, block: NDArray[np.generic]) -> Pixels:
        pixels = with_samples(block, self.samples)
        return _rgb_from_ycbcr(pixels) if self.ycbcr else pixels


def _jpeg2000(data: bytes) -> Pixels:
    """Decode JPEG 2000; the size of the codestream, bare or in a container, is looked at first."""
    start = max(0, data.find(CODESTREAM))
    if _is_codestream(data[start : start + 24]):
        check_size(*_codestream_shape(data[start:]))
    return imagecodecs.jpeg2k_decode(data)


def _low_frequencies(data: bytes, scale: int) -> Pixels:
    """Decode a codestream without its finest wavelet levels, by Pillow: imagecodecs cannot."""
    from PIL.Jpeg2KImagePlugin import Jpeg2KImageFile

    shape = _codestream_shape(data)
    check_size(*shape)
    with Jpeg2KImageFile(io.BytesIO(data)) as image:
        image.reduce = scale.bit_length() - 1
        image.load()
        block = np.asarray(image)
    needed = tuple(ceil_div(n, scale) for n in shape)
    if block.shape[:2] != needed:
        raise CodecError(f"needed {needed} pixels at 1/{scale}, found {block.shape[:2]}")
    return block


def _moved(block: Pixels, pixels: float) -> Pixels:
    """Return the values `pixels` to the right of, and below, each pixel; the edge is repeated."""
    import cv2

    t, t2, t3 = (pixels**power for power in (1, 2, 3))
    weights = np.array([2 * t2 - t - t3, 2 - 5 * t2 + 3 * t3, t + 4 * t2 - 3 * t3, t3 - t2]) / 2
    found = cv2.sepFilter2D(
        block, -1, weights, weights, anchor=(1, 1), borderType=cv2.BORDER_REPLICATE
    )
    return np.asarray(found, np.uint8).reshape(block.shape)


def _mean(block: Pixels, scale: int) -> Pixels:
    if scale == 1:
        return block
    whole = Box.of_shape(block.shape[:2])
    target = Box.of_shape(tuple(ceil_div(n, scale) for n in whole.shape))
    return area(block, whole, target, (scale, scale), whole.shape)


def _is_codestream(data: bytes) -> bool:
    """Return whether it is JPEG 2000 without a container: start and size (ITU-T T.800, A.5.1)."""
    return data.startswith(CODESTREAM) and len(data) >= 24


def _codestream_shape(data: bytes) -> tuple[int, int]:
    width, height = struct.unpack_from(">II", data, 8)
    return height, width


def _wavelet_levels(data: bytes) -> int:
    """Return how many wavelet levels a codestream can be decoded without; 0: no telling.

    They stand in the coding style, COD (ITU-T T.800, A.6.1). Where a component has a style of its
    own (COC), or the image does not begin at the origin, none is left out.
    """
    if not _is_codestream(data) or any(data[16:24]):
        return 0
    levels, at = 0, 2
    while at + 10 <= len(data):
        marker, length = struct.unpack_from(">HH", data, at)
        if marker == 0xFF52:
            levels = data[at + 9]
        elif marker == 0xFF53:
            return 0
        elif marker == 0xFF90:  # the first tile begins
            return levels
        at += 2 + length
    return 0


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

"""PNG of a byte per pixel and a table of colours: another table makes another picture.

Written here since it is a page of the standard (W3C, PNG Specification, Third Edition), and since
so the compressed pixels are kept while the colours change.
"""

import struct
import zlib

import numpy as np
from numpy.typing import NDArray

__all__ = ["Palette", "packed", "picture"]

Palette = NDArray[np.uint8]
"""(256, 4) red, green, blue and opacity of each code."""

SIGNATURE = b"\x89PNG\r\n\x1a\n"
PALETTE_COLOR = 3
LEVEL = 1
"""Of zlib: tiles go over loopback, where time counts and bytes do not."""


def packed(codes: NDArray[np.uint8]) -> bytes:
    """Return the header and pixel chunks of codes (y, x)."""
    height, width = codes.shape
    header = struct.pack(">IIBBBBB", width, height, 8, PALETTE_COLOR, 0, 0, 0)
    rows = np.zeros((height, width + 1), np.uint8)  # each row begins with its filter, 0: none
    rows[:, 1:] = codes
    return _chunk(b"IHDR", header) + _chunk(b"IDAT", zlib.compress(rows.tobytes(), LEVEL))


def picture(pixels: bytes, palette: Palette) -> bytes:
    """Return the PNG of packed codes in the colours of a palette."""
    header_end = 25  # length, type, 13 bytes, checksum
    table = _chunk(b"PLTE", palette[:, :3].tobytes()) + _chunk(b"tRNS", palette[:, 3].tobytes())
    end = _chunk(b"IEND", b"")
    return SIGNATURE + pixels[:header_end] + table + pixels[header_end:] + end


def _chunk(kind: bytes, content: bytes) -> bytes:
    checksum = zlib.crc32(content, zlib.crc32(kind))
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)

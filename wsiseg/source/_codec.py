"""What a block decoder is, whatever the codec."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from wsiseg.source.base import Pixels

__all__ = [
    "MAX_BLOCK_BYTES",
    "BlockDecoder",
    "CodecError",
    "ReducingDecoder",
    "check_size",
    "with_samples",
]

MAX_BLOCK_BYTES = 1 << 29
"""Largest block decoded in one piece; a compressed strip beyond it cannot be read in parts."""


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


@runtime_checkable
class ReducingDecoder(BlockDecoder, Protocol):
    """A codec that can reduce while it decodes."""

    def scales(self, data: bytes, block: Sequence[int], ratio: Sequence[int]) -> tuple[int, ...]:
        """Return by what factors it reduces well on the way to a ratio, rising.

        Parameters
        ----------
        data
            Compressed bytes of one block, of which the others are like.
        block
            Its rows and columns.
        ratio
            Pixels per reduced pixel in the end; what the codec leaves is done by the mean.
        """
        ...

    def scaled(self, data: bytes, scale: int, buffer: Pixels | None = None) -> Pixels:
        """Return the block reduced by one of `scales`, or by 1; sides rounded up."""
        ...

    def keeps_out(self, part: Sequence[int], block: Sequence[int]) -> bool:
        """Return whether the first `part` pixels, reduced, owe nothing to the rest of the block."""
        ...


class CodecError(ValueError):
    """A block's bytes cannot be decoded; the caller knows the file, level and tile to name."""


def check_size(height: int, width: int) -> None:
    """Refuse a stream that declares a gigantic image, before memory is set aside for it."""
    if height * width * 3 > MAX_BLOCK_BYTES:
        raise CodecError(f"it declares {width} x {height} pixels, too many for one block")


def with_samples(block: NDArray[np.generic], samples: int) -> Pixels:
    """Return an image as `(y, x, sample)` uint8; refuse other types and numbers of samples."""
    if block.ndim == 2:
        block = block[..., np.newaxis]
    if block.dtype != np.uint8 or block.shape[2] != samples:
        raise CodecError(f"needed {samples} samples of uint8, found {block.dtype} {block.shape}")
    return block.view(np.uint8)

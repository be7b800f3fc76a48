"""Pixels of one DICOM image as values, decoded by pydicom and its plug-ins."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from wsiseg.errors import DamagedFileError, SourceError, UnsupportedFormatError
from wsiseg.source._dicom_files import BROKEN, PYDICOM_SETTINGS
from wsiseg.source.volumes._dicom_headers import Frame
from wsiseg.source.volumes._stored import scaled_dtype
from wsiseg.source.volumes.base import Voxels

__all__ = ["check_pixels", "decode", "value_dtype"]

MAX_FRAME_BYTES = 512 << 20
"""Headers may ask for any size; a larger image would be a mistake or an attack."""

COLOUR = frozenset({"RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT"})
GREY = frozenset({"MONOCHROME1", "MONOCHROME2"})

NATIVE = frozenset({"1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2"})
"""Transfer syntaxes that do not pack pixels."""


def check_pixels(frames: Sequence[Frame]) -> None:
    """Refuse images whose pixels are no plain numbers, or more than their files can hold.

    Raises
    ------
    UnsupportedFormatError
        If values are told by a table, or pixels are neither grey nor 8-bit colour.
    DamagedFileError
        If a file is too short for what its header says.
    """
    for frame in frames:
        kind = frame.kind
        if frame.has_table:
            raise UnsupportedFormatError(
                f"{frame.path.name}: needed values told by slope and intercept, found a table "
                "(ModalityLUTSequence); convert the series"
            )
        is_grey = kind.samples == 1 and kind.photometric in GREY
        is_colour = kind.samples == 3 and kind.photometric in COLOUR and kind.allocated == 8
        if not (is_grey or is_colour) or kind.allocated not in {8, 16, 32, 64}:
            raise UnsupportedFormatError(
                f"{frame.path.name}: needed grey images of 8 to 32 bits or 8-bit colour, found "
                f"{kind.samples} x {kind.allocated} bit {kind.photometric}; convert the series"
            )
        nbytes = kind.rows * kind.columns * kind.samples * kind.allocated // 8
        if not 0 < nbytes <= MAX_FRAME_BYTES or not 0 < kind.stored <= kind.allocated:
            raise DamagedFileError(
                f"{frame.path.name}: impossible image of {kind.columns} x {kind.rows} pixels of "
                f"{kind.stored} bits in {kind.allocated}; copy the file anew",
                path=frame.path,
            )
        wanted = nbytes * (frame.index + 1)
        if frame.transfer_syntax in NATIVE and frame.path.stat().st_size < wanted:
            raise DamagedFileError(
                f"{frame.path.name}: the file ends early: needed {wanted} bytes of pixels, found "
                f"{frame.path.stat().st_size} in all; copy it anew",
                path=frame.path,
            )


def value_dtype(frames: Sequence[Frame]) -> np.dtype[Any]:
    """Return the type that holds the values of all images."""
    kind = frames[0].kind
    if kind.is_float:
        return np.dtype(np.float32)
    stored = np.dtype(f"{'i' if kind.is_signed else 'u'}{kind.allocated // 8}")
    scales = {(frame.slope, frame.intercept) for frame in frames}
    if len(scales) > 1:
        return np.dtype(np.float32)
    return scaled_dtype(stored, *scales.pop(), limits=_limits(frames[0]))


def decode(frame: Frame, dtype: np.dtype[Any], *, invert: bool) -> Voxels:
    """Return the values of one image, `(y, x, channel)`; not to be written to.

    Parameters
    ----------
    frame
        Which image.
    dtype
        Of the values.
    invert
        Whether the lowest stored number is the brightest.

    Raises
    ------
    DamagedFileError
        If it cannot be decoded.
    SourceError
        If no decoder for it is installed.
    """
    kind = frame.kind
    pixels = _decoded(frame)
    wanted = (kind.rows, kind.columns) if kind.samples == 1 else (kind.rows, kind.columns, 3)
    if pixels.shape != wanted:
        raise DamagedFileError(
            f"{frame.path.name}: needed {wanted} pixels, decoded {pixels.shape}; copy it anew",
            path=frame.path,
        )
    stored = pixels if kind.is_float else _meaningful_bits(pixels, frame)
    if invert:
        least, most = _limits(frame)
        stored = (least + most) - stored.astype(np.int64)
    with np.errstate(all="ignore"):  # beyond float32 is infinite, and nan stays nan
        if (frame.slope, frame.intercept) != (1.0, 0.0):
            whole = dtype.kind in "iu"
            values: Voxels = stored.astype(np.int64 if whole else np.float64)
            values *= int(frame.slope) if whole else frame.slope
            values += int(frame.intercept) if whole else frame.intercept
            stored = values
        return np.ascontiguousarray(stored.reshape(kind.rows, kind.columns, -1), dtype=dtype)


def _decoded(frame: Frame) -> Voxels:
    from pydicom.config import disable_value_validation
    from pydicom.pixels.utils import pixel_array

    # One image at a time: the setting belongs to the process, and not all decoders say that threads
    # may share them.
    try:
        with PYDICOM_SETTINGS, disable_value_validation():
            found = pixel_array(frame.path, index=frame.index)
    except (RuntimeError, NotImplementedError) as error:
        if "missing dependencies" in str(error) or "plugins are missing" in str(error):
            raise SourceError(
                f"{frame.path.name}: its compression needs a decoder that is missing; "
                "pip install 'wsiseg[dicom]'",
                path=frame.path,
            ) from error
        raise _undecodable(frame, error) from error
    except (OSError, *BROKEN) as error:
        raise _undecodable(frame, error) from error
    return np.asarray(found)


def _undecodable(frame: Frame, error: Exception) -> DamagedFileError:
    return DamagedFileError(
        f"{frame.label}: the image cannot be decoded ({str(error) or type(error).__name__}); copy "
        "the file anew",
        path=frame.path,
    )


def _limits(frame: Frame) -> tuple[int, int]:
    """Return the least and the greatest number that the bits of an image can hold."""
    bits = frame.kind.stored
    return (-(1 << bits - 1), (1 << bits - 1) - 1) if frame.kind.is_signed else (0, (1 << bits) - 1)


def _meaningful_bits(pixels: Voxels, frame: Frame) -> Voxels:
    """Return the numbers without what else lies in their bits (overlays), the sign extended."""
    kind = frame.kind
    bits = pixels.dtype.itemsize * 8
    unused = bits - kind.stored
    if not unused or kind.stored > bits:
        return pixels
    left = max(0, bits - 1 - kind.high_bit)
    shifted = np.left_shift(pixels, left)
    moved: Voxels = np.right_shift(shifted, unused)
    return moved

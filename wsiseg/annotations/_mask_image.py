"""Masks in plain image files: PNG and other lossless formats, decoded whole."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsiseg.errors import AnnotationError
from wsiseg.geometry import Box

__all__ = ["ArrayLevel", "one_channel", "read_mask_image", "refuse_lossy_jpeg"]

Values = NDArray[Any]
"""Integers (y, x)."""

JPEG = b"\xff\xd8\xff"
MAX_JPEG_PIXELS = 1 << 27
NOT_SIZES = frozenset({0xC4, 0xC8, 0xCC})
LOSSLESS = 0xC3


class ArrayLevel:
    """A mask in memory."""

    def __init__(self, values: Values) -> None:
        self._values = values
        self.shape = (values.shape[0], values.shape[1])

    def read(self, box: Box) -> Values:
        """Return the values of a box inside."""
        part: Values = self._values[box.slices()]
        return part


def read_mask_image(path: Path, head: bytes) -> ArrayLevel:
    """Read a plain image: grey, palette (its indices count) or black and white (0 and 1).

    Raises
    ------
    AnnotationError
        If it cannot be decoded, holds colours, is a lossy JPEG or too large to decode whole.
    """
    if head.startswith(JPEG):
        import imagecodecs

        data = path.read_bytes()
        refuse_lossy_jpeg(data, path)
        try:
            return ArrayLevel(one_channel(imagecodecs.ljpeg_decode(data), path))
        except (imagecodecs.LjpegError, ValueError) as error:
            raise AnnotationError(f"{path}: cannot be decoded: {error}; copy it anew") from error
    from PIL import Image, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(path)
        with image:
            if getattr(image, "n_frames", 1) > 1:
                raise AnnotationError(f"{path}: needed one image, found several; export one")
            return ArrayLevel(one_channel(np.array(image), path))
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise AnnotationError(
            f"{path}: needed a mask of at most {Image.MAX_IMAGE_PIXELS} pixels in this format, "
            "found more; save it as a tiled TIFF"
        ) from error
    except UnidentifiedImageError as error:
        raise AnnotationError(
            f"{path}: no annotations in a known format: needed GeoJSON (.geojson, .json, each also "
            ".gz, .zip), XML of ASAP or ImageScope, a mask as PNG or TIFF, or OME-Zarr labels"
        ) from error
    except (OSError, SyntaxError, ValueError) as error:
        if isinstance(error, AnnotationError):
            raise
        raise AnnotationError(f"{path}: no readable mask: {error}; export it anew") from error


def one_channel(values: Values, path: Path) -> Values:
    """Return integers (y, x) of an image whose channels say the same thing.

    Raises
    ------
    AnnotationError
        If they do not: neither are all equal, nor is only the first one in use.
    """
    if values.dtype == bool:
        values = values.astype(np.uint8)
    if values.dtype.kind not in "ui":
        raise AnnotationError(
            f"{path}: needed integers in the mask, found {values.dtype}; round and save it anew"
        )
    if values.ndim == 2:
        return values
    first: Values = values[..., 0]
    colours = values[..., 1:3] if values.shape[-1] > 2 else values[..., :0]
    is_grey, only_first = (colours == first[..., None]).all(), not colours.any()
    if values.shape[-1] in (2, 4) and (values[..., -1] != np.iinfo(values.dtype).max).any():
        raise AnnotationError(f"{path}: the mask is transparent in part; save it without alpha")
    if not (is_grey or only_first):
        raise AnnotationError(
            f"{path}: needed one value per pixel, found colours; save class values as grey, or as "
            "a palette"
        )
    return first


def _refuse_gigantic(size: bytes, path: Path) -> None:
    height, width = int.from_bytes(size[:2], "big"), int.from_bytes(size[2:], "big")
    if height * width > MAX_JPEG_PIXELS:
        raise AnnotationError(
            f"{path}: a JPEG of {width} x {height} pixels, needed at most {MAX_JPEG_PIXELS}; save "
            "the mask as a tiled TIFF"
        )


def refuse_lossy_jpeg(data: bytes, path: Path) -> None:
    """Raise `AnnotationError` where a JPEG stream is not lossless: it would smear the classes.

    Neither may it be of gigantic size.
    """
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if 0xC0 <= marker <= 0xCF and marker not in NOT_SIZES:
            if marker == LOSSLESS:
                _refuse_gigantic(data[at + 5 : at + 9], path)
                return
            break
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    raise AnnotationError(
        f"{path}: JPEG changes values, so that classes are lost; save the mask as PNG or as TIFF "
        "with LZW or Deflate"
    )

"""Plain images: PNG, JPEG, BMP, WebP, JPEG 2000, ... decoded whole, one level.

The resolution such files state is that of a printer or a screen, so it is never used: the pixel
size has to be given. A camera's orientation tag is not applied either, as viewers of slides do
not apply it, and annotations must lie on the stored pixels.
"""

import warnings
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from wsiseg.errors import DamagedFileError, SourceError, UnsupportedFormatError
from wsiseg.source.array import ArraySource
from wsiseg.source.base import Pixels

__all__ = ["ImageSource", "read_image"]

_OPAQUE_MODES = frozenset({"RGB", "L", "1", "YCbCr"})
_TRANSPARENT_MODES = frozenset({"P", "PA", "LA", "La", "RGBA", "RGBa"})
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PNG_BIT_DEPTH_AT = 24


def ImageSource(path: Path | str) -> ArraySource:  # noqa: N802 - made and used like the other sources
    """Return the pixels of a plain image as a source of one level.

    Raises
    ------
    UnsupportedFormatError
        If it is no 8-bit image, is animated, or is larger than Pillow's limit of pixels.
    DamagedFileError
        If it cannot be decoded.
    """
    path = Path(path)
    return ArraySource(read_image(path), name=path.name, reader="image")


def read_image(path: Path) -> Pixels:
    """Return a plain image as `(y, x, 3)` uint8 RGB, transparency composed on white."""
    name = path.name
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(path)
        with image:
            _check(image, path)
            return _rgb(image)
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise UnsupportedFormatError(
            f"{name}: needed at most {Image.MAX_IMAGE_PIXELS} pixels for a plain image, found "
            "more; convert it to a tiled TIFF",
            path=path,
        ) from error
    except UnidentifiedImageError as error:
        raise UnsupportedFormatError(
            f"{name}: not an image that Pillow knows", path=path
        ) from error
    except (OSError, SyntaxError, ValueError) as error:
        if isinstance(error, SourceError):
            raise
        raise DamagedFileError(
            f"{name}: the image cannot be decoded: {error}; copy the file anew", path=path
        ) from error


def _check(image: Image.Image, path: Path) -> None:
    """Refuse what is no still image of 8 bits per sample."""
    frames = getattr(image, "n_frames", 1)
    if frames > 1:
        raise UnsupportedFormatError(
            f"{path.name}: needed one image, found {frames} frames; export one of them", path=path
        )
    with path.open("rb") as file:
        head = file.read(_PNG_BIT_DEPTH_AT + 1)
    is_deep_png = head.startswith(_PNG_SIGNATURE) and head[_PNG_BIT_DEPTH_AT] > 8
    if is_deep_png or image.mode not in _OPAQUE_MODES | _TRANSPARENT_MODES:
        found = "16 bits" if is_deep_png else f"mode {image.mode}"
        raise UnsupportedFormatError(
            f"{path.name}: needed 8-bit RGB or grey, found {found}; export it as 8-bit RGB",
            path=path,
        )


def _rgb(image: Image.Image) -> Pixels:
    """Return RGB pixels of an opened image."""
    if image.mode in _TRANSPARENT_MODES or "transparency" in image.info:
        transparent = image.convert("RGBA")
        paper = Image.new("RGBA", image.size, (255, 255, 255, 255))
        image = Image.alpha_composite(paper, transparent)
    pixels: Pixels = np.array(image.convert("RGB"))
    return pixels

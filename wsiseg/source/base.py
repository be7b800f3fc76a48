"""What every source of pixels promises: the `PyramidSource` protocol and its metadata."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from wsiseg.geometry import Box, LevelInfo, Spacing

__all__ = [
    "CachingSource",
    "CompressedTile",
    "CompressedTileSource",
    "CountingSource",
    "Pixels",
    "PyramidSource",
    "ReadCount",
    "ReducingSource",
    "SlideMetadata",
]

Pixels = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class SlideMetadata:
    """What a file says about the slide; nothing personal, no pixels."""

    name: str
    """File name without folder; the annotation and output names come from its stem."""

    reader: str
    """`tiff`, `openslide`, `omezarr`, `dicom`, `image` or `array`."""

    vendor: str
    """Vendor in OpenSlide's words (`aperio`, `hamamatsu`, `mirax`, ...), or `generic`."""

    spacing: Spacing | None
    """Level-0 µm per pixel (y, x), or `None` where the file does not say."""

    objective_power: float | None = None
    """The scanner's nominal magnification; a label, never used in arithmetic."""

    bounds: Box | None = None
    """The non-empty part in level-0 pixels where the vendor declares one (OpenSlide's bounds)."""

    background: tuple[int, int, int] = (255, 255, 255)
    """RGB of what lies outside the image and in tiles that the file leaves out."""

    properties: Mapping[str, str] = field(default_factory=dict)
    """Technical properties as the file gives them; patient and operator fields left out."""


@dataclass(frozen=True, slots=True)
class CompressedTile:
    """One block as it lies in the file: where it is in its level, and where in the file."""

    box: Box
    """Level pixels covered; may overhang the right and lower edge of the level."""

    offset: int
    nbytes: int
    """0 where the file leaves the tile out."""


@dataclass(frozen=True, slots=True)
class ReadCount:
    """What reading a slide has cost so far."""

    decoded: int
    """Compressed tiles decoded."""

    distinct: int
    """Different ones among them; one decoded at two scales (see `ReducingSource`) counts twice."""

    bytes_read: int
    """Compressed bytes they took."""

    @property
    def amplification(self) -> float:
        """How often a tile was decoded on average; 1 is the best there is, also before any read."""
        return self.decoded / self.distinct if self.distinct else 1.0


class PyramidSource(Protocol):
    """Anything with pixels at one or more resolutions.

    The contract, checked for each source by `wsiseg.testing.SourceContract`:

    * `levels[0]` is the finest; downsamples increase; `levels[0].downsample` is all ones.
    * `read` returns exactly `(*box.shape, 3)` uint8 RGB for any box: pixels outside the level,
      and tiles the file leaves out, hold `metadata.background`.
    * `read` may be called from any number of threads at once and gives the same bytes each time.
    * A block that cannot be decoded raises `DamagedFileError`; it is never filled with white.
    * Associated images (label, macro, thumbnail) are named, and read only when asked for.
    """

    @property
    def levels(self) -> tuple[LevelInfo, ...]:
        """Levels from finest to coarsest."""
        ...

    @property
    def metadata(self) -> SlideMetadata:
        """What the file says about the slide."""
        ...

    @property
    def associated_names(self) -> tuple[str, ...]:
        """Names of the associated images; looking at them reads no pixels."""
        ...

    def read_associated(self, name: str) -> Pixels:
        """Return one associated image, `(y, x, 3)` uint8."""
        ...

    def read(self, level: int, box: Box) -> Pixels:
        """Return the pixels of `box` (level pixels), `(*box.shape, 3)` uint8."""
        ...

    def close(self) -> None:
        """Free files and caches; reading afterwards raises `SourceError`."""
        ...


@runtime_checkable
class CompressedTileSource(PyramidSource, Protocol):
    """A source whose compressed tiles can be walked one by one (the fast path)."""

    def compressed_tiles(self, level: int) -> Iterator[CompressedTile]:
        """Yield the tiles of a level in file order."""
        ...

    def decode(self, level: int, tile: CompressedTile) -> Pixels:
        """Return the pixels of one compressed tile, cropped to the level, `(y, x, 3)` uint8."""
        ...


@runtime_checkable
class ReducingSource(PyramidSource, Protocol):
    """A source that reduces block by block, so that full resolution is never put together."""

    def codec_scales(self, level: int, ratio: tuple[int, int]) -> tuple[int, ...]:
        """Return by what factors the codec of a level reduces well while it decodes, rising.

        Parameters
        ----------
        level
            Index of the level.
        ratio
            Level pixels per reduced pixel (y, x) in the end; the factors divide it.
        """
        ...

    def read_reduced(
        self, level: int, box: Box, ratio: tuple[int, int], *, scale: int = 1
    ) -> Pixels:
        """Return the pixels of `box` of a level reduced by area, `(*box.shape, 3)` uint8.

        Parameters
        ----------
        level
            Index of the level.
        box
            Reduced pixels, anywhere; outside the level lies the background.
        ratio
            Level pixels per reduced pixel (y, x), divisors of the level's chunk.
        scale
            Of `codec_scales`: how much of the reduction the codec does. With
            1 the pixels are those of `read` and `wsiseg.resample.area`, bit for bit; otherwise the
            codec's filter takes the place of the mean.
        """
        ...


@runtime_checkable
class CachingSource(PyramidSource, Protocol):
    """A source that keeps decoded blocks for neighbouring reads."""

    def limit_cache(self, limit_bytes: int | None) -> None:
        """Keep at most so many bytes from now on; `None`: as many as at first."""
        ...


@runtime_checkable
class CountingSource(PyramidSource, Protocol):
    """A source that counts what it decodes."""

    @property
    def reads(self) -> ReadCount:
        """What reading has cost so far."""
        ...

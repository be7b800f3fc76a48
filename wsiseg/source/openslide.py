"""Every vendor format that OpenSlide knows: MIRAX, NDPI, SCN, BIF, VMS, Philips, ...

Reference: Goode et al. 2013, OpenSlide, doi:10.4103/2153-3539.119005
"""

import math
import threading
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from wsiseg.errors import DamagedFileError, SourceError, UnsupportedFormatError
from wsiseg.geometry import Box, LevelInfo, Spacing
from wsiseg.source._blocks import level_at
from wsiseg.source._cache import BlockCache
from wsiseg.source._codec import MAX_BLOCK_BYTES
from wsiseg.source._properties import technical
from wsiseg.source._spacing import declared_spacing, plausible_tag_spacing, positive
from wsiseg.source.base import Pixels, SlideMetadata

if TYPE_CHECKING:
    from openslide import OpenSlide
    from PIL.Image import Image

__all__ = ["OpenSlideSource", "detect_vendor"]

CACHE_BYTES = 64 << 20
"""Decoded blocks kept for levels that are read block by block."""

BLOCK = 512
"""Side of those blocks in level pixels."""

_TAG_SPACING_VENDORS = frozenset({"generic-tiff", "synthetic"})
"""Vendors whose `openslide.mpp-*` come from TIFF resolution tags, which often mean printing."""

_BOUNDS_IGNORED = frozenset({"generic-tiff", "argos"})
"""Vendors that only OpenSlide 4.0.1 gives bounds, around missing tiles; viewers built on earlier
versions show the whole image, and annotations must lie in the frame they show."""


def detect_vendor(path: Path) -> str | None:
    """Return OpenSlide's word for the format of a file (`mirax`, `aperio`, ...), or `None`."""
    import openslide

    try:
        vendor = openslide.OpenSlide.detect_format(path)
    except openslide.OpenSlideError:
        return None
    return None if vendor is None else str(vendor)


class OpenSlideSource:
    """A slide through OpenSlide; see `PyramidSource` for the contract.

    Parameters
    ----------
    path
        The slide file; for MIRAX the `.mrxs` file, which needs its folder beside it.

    Raises
    ------
    UnsupportedFormatError
        If OpenSlide does not know the format.
    SourceError
        If OpenSlide knows it and cannot open it.

    Notes
    -----
    OpenSlide addresses every level in level-0 pixels, so on levels whose downsample is not whole a
    window starts between pixels and is interpolated. Such levels are read in fixed blocks, so
    that a pixel has one value, whichever box it is read with.

    A failed read leaves an OpenSlide handle useless, also for the threads beside it. Every read
    that fails is therefore repeated on a handle of its own before it counts as damage.
    """

    def __init__(self, path: Path | str) -> None:
        self._path = Path(path)
        self._lock = threading.Lock()
        self._cache = BlockCache(CACHE_BYTES)
        handle = _open(self._path)
        self._handle: OpenSlide | None = handle
        properties = dict(handle.properties)
        vendor = properties.get("openslide.vendor", "unknown")
        spacing = _spacing(properties, vendor)
        self._downsamples: tuple[float, ...] = handle.level_downsamples
        self._levels = _levels(handle, properties, spacing)
        _refuse_large_tiles(self._levels, self._path)
        self._associated_names = tuple(sorted(handle.associated_images))
        self._metadata = SlideMetadata(
            name=self._path.name,
            reader="openslide",
            vendor=vendor,
            spacing=spacing,
            objective_power=positive(properties.get("openslide.objective-power")),
            bounds=None if vendor in _BOUNDS_IGNORED else _bounds(properties),
            background=_background(properties),
            properties=technical(properties),
        )

    @property
    def levels(self) -> tuple[LevelInfo, ...]:
        """Levels from finest to coarsest."""
        return self._levels

    @property
    def metadata(self) -> SlideMetadata:
        """What the file says about the slide."""
        return self._metadata

    @property
    def associated_names(self) -> tuple[str, ...]:
        """Names of the associated images; looking at them reads no pixels."""
        return self._associated_names

    def read_associated(self, name: str) -> Pixels:
        """Return one associated image, `(y, x, 3)` uint8."""
        from openslide import OpenSlideError

        self._current()
        if name not in self._associated_names:
            raise SourceError(
                f"{self._path.name}: no associated image {name!r}, found {self._associated_names}",
                path=self._path,
            )
        try:
            image = _open(self._path).associated_images[name]
        except OpenSlideError as error:
            raise DamagedFileError(
                f"{self._path.name}: the {name} image cannot be decoded: {error}; copy the file "
                "anew",
                path=self._path,
            ) from error
        return _on_background(image, self._metadata.background)

    def read(self, level: int, box: Box) -> Pixels:
        """Return the pixels of `box` (level pixels), `(*box.shape, 3)` uint8."""
        inside = box.clip(level_at(self._levels, level, self._path.name).shape)
        self._current()
        whole = self._downsamples[level].is_integer()
        if inside == box and box.size and whole:
            return self._read_region(level, box)
        pixels = np.full((*box.shape, 3), self._metadata.background, dtype=np.uint8)
        if inside.size and whole:
            pixels[inside.relative_to(box).slices()] = self._read_region(level, inside)
        elif inside.size:
            self._read_blocks(level, inside, pixels[inside.relative_to(box).slices()])
        return pixels

    def limit_cache(self, limit_bytes: int | None) -> None:
        """Keep at most so many decoded bytes from now on; `None`: as many as at first."""
        self._cache.limit(limit_bytes)

    def close(self) -> None:
        """Free the file and the cache; reading afterwards raises `SourceError`."""
        with self._lock:
            self._handle = None  # reads in flight keep theirs
            self._cache.clear()

    def _read_blocks(self, level: int, box: Box, out: Pixels) -> None:
        """Fill `out` with the pixels of `box`, through blocks that start at multiples of BLOCK."""
        shape = self._levels[level].shape
        for top in range(box.start[0] // BLOCK * BLOCK, box.stop[0], BLOCK):
            for left in range(box.start[1] // BLOCK * BLOCK, box.stop[1], BLOCK):
                area = Box((top, left), (top + BLOCK, left + BLOCK)).clip(shape)
                block = self._cache.get((level, area), partial(self._read_region, level, area))
                part = area.intersect(box)
                out[part.relative_to(box).slices()] = block[part.relative_to(area).slices()]

    def _read_region(self, level: int, box: Box) -> Pixels:
        """Read a box that lies inside the level."""
        from openslide import OpenSlideError

        downsample = self._downsamples[level]
        y, x = (round(start * downsample) for start in box.start)
        height, width = box.shape
        handle = self._current()
        try:
            image = handle.read_region((x, y), level, (width, height))
        except OpenSlideError:
            self._replace(handle)
            try:
                image = _open(self._path).read_region((x, y), level, (width, height))
            except OpenSlideError as error:
                raise DamagedFileError(
                    f"{self._path.name}: level {level}: the {width} x {height} pixels "
                    f"at (y, x) {box.start} cannot be decoded: {error}; copy the file anew",
                    path=self._path,
                ) from error
        return _on_background(image, self._metadata.background)

    def _current(self) -> "OpenSlide":
        handle = self._handle
        if handle is None:
            raise SourceError(
                f"{self._path.name}: the slide was closed; open it again", path=self._path
            )
        return handle

    def _replace(self, failed: "OpenSlide") -> None:
        """Put a fresh handle in place of a failed one; reads in flight keep theirs."""
        with self._lock:
            if self._handle is failed:
                self._handle = _open(self._path)


def _open(path: Path) -> "OpenSlide":
    import openslide

    try:
        return openslide.OpenSlide(path)
    except openslide.OpenSlideUnsupportedFormatError as error:
        raise UnsupportedFormatError(
            f"{path.name}: needed a slide format that OpenSlide knows, found another; "
            "convert it to a tiled TIFF",
            path=path,
        ) from error
    except openslide.OpenSlideError as error:
        raise SourceError(
            f"{path.name}: OpenSlide cannot open it: {error}; copy the file anew", path=path
        ) from error
    except OSError as error:
        raise SourceError(f"{path.name}: cannot be opened ({error.strerror})", path=path) from error


def _refuse_large_tiles(levels: Sequence[LevelInfo], path: Path) -> None:
    """Refuse tiles that OpenSlide could not set memory aside for: it would end the process."""
    for info in levels:
        height, width = info.chunk
        if 4 * height * width > MAX_BLOCK_BYTES:
            raise UnsupportedFormatError(
                f"{path.name}: level {info.index} has tiles of {width} x {height} pixels, too "
                "large to decode in one piece; convert the file to smaller tiles",
                path=path,
            )


def _levels(
    handle: "OpenSlide", properties: Mapping[str, str], spacing: Spacing | None
) -> tuple[LevelInfo, ...]:
    """Return the levels, with the true downsample per axis, which OpenSlide averages."""
    base = handle.level_dimensions[0]
    levels = []
    for index, (width, height) in enumerate(handle.level_dimensions):
        downsample = base[1] / height, base[0] / width
        tile = tuple(
            int(properties.get(f"openslide.level[{index}].tile-{side}", BLOCK))
            for side in ("height", "width")
        )
        level_spacing = spacing.times(downsample) if spacing else None
        levels.append(LevelInfo(index, (height, width), downsample, level_spacing, tile))
    return tuple(levels)


def _spacing(properties: Mapping[str, str], vendor: str) -> Spacing | None:
    mpp = (properties.get(f"openslide.mpp-{axis}") for axis in "xy")
    spacing = declared_spacing(*mpp)
    return plausible_tag_spacing(spacing) if vendor in _TAG_SPACING_VENDORS else spacing


def _bounds(properties: Mapping[str, str]) -> Box | None:
    """Return the non-empty part where all four numbers are given, as viewers require."""
    keys = ("y", "x", "height", "width")
    values = [properties.get(f"openslide.bounds-{key}") for key in keys]
    if any(value is None for value in values):
        return None
    y, x, height, width = (math.floor(float(str(value))) for value in values)
    return Box((y, x), (y + height, x + width))


def _background(properties: Mapping[str, str]) -> tuple[int, int, int]:
    color = bytes.fromhex(properties.get("openslide.background-color", "ffffff"))
    return color[0], color[1], color[2]


def _on_background(image: "Image", background: tuple[int, int, int]) -> Pixels:
    """Return RGB pixels, what is transparent composed on the background."""
    rgba = np.asarray(image)
    alpha = rgba[..., 3:]
    if alpha.min(initial=255) == 255:
        return np.ascontiguousarray(rgba[..., :3])
    weight = alpha.astype(np.uint16)
    under = np.array(background, dtype=np.uint16)
    mixed = rgba[..., :3] * weight + under * (255 - weight)
    return ((mixed + 127) // 255).astype(np.uint8)

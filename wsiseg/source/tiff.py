"""TIFF slides read directly: Aperio SVS, OME-TIFF, tiled pyramids, strips.

tifffile tells where the blocks lie; this module reads and decodes them one by one. Pixels equal
OpenSlide's bit for bit (JPEG 2000: within 1), several times as fast, because nothing is composed
with transparency.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, cast

import numpy as np
from tifffile import TiffFile

from wsiseg.errors import DamagedFileError, SourceError
from wsiseg.geometry import Box, LevelInfo, ceil_div
from wsiseg.resample import area
from wsiseg.source._blocks import level_at
from wsiseg.source._bytes import ByteReader, FileLike, open_bytes
from wsiseg.source._cache import BlockCache
from wsiseg.source._codec import CodecError, ReducingDecoder
from wsiseg.source._properties import technical
from wsiseg.source._reads import ReadCounter
from wsiseg.source._tiff_layout import (
    TIFF_ERRORS,
    NeedsOpenSlideError,
    TiffImage,
    TiffLayout,
    read_layout,
)
from wsiseg.source.base import CompressedTile, Pixels, ReadCount, SlideMetadata

__all__ = ["TiffSource"]

CACHE_BYTES = 64 << 20
"""Decoded blocks kept per slide: two rows of 256 px tiles across a slide of 40,000 px."""

SCRATCH_BYTES = 1 << 22
"""Memory each thread keeps for full-resolution blocks that are reduced at once."""

SAMPLES = 4
"""Blocks looked at to learn what a codec does, where the first ones are damaged."""


class TiffSource:
    """A TIFF slide; see `PyramidSource` for the contract.

    Parameters
    ----------
    file
        Path, or an open seekable binary file (remote, in memory), which stays the caller's.
    name
        File name for messages and metadata; by default that of the path.

    Raises
    ------
    UnsupportedFormatError
        If it is no 8-bit RGB or grey brightfield image; `NeedsOpenSlideError`, a subclass, where
        only this direct way cannot read it.
    DamagedFileError
        If the TIFF structure cannot be read.

    Notes
    -----
    Each block is decoded once while it stays in a cache of `CACHE_BYTES`, also when several
    threads ask for it at the same moment; blocks read reduced are kept reduced. `compressed_tiles`
    and `decode` go past the cache.
    """

    def __init__(self, file: Path | str | FileLike, *, name: str | None = None) -> None:
        target = Path(file) if isinstance(file, str | Path) else file
        self._name = name or (target.name if isinstance(target, Path) else "slide.tif")
        self._path = target if isinstance(target, Path) else self._name
        layout = self._read_layout(target)
        self._images = layout.levels
        self._associated = layout.associated
        self._bytes: ByteReader | None = open_bytes(target)
        self._cache = BlockCache(CACHE_BYTES)
        self._levels = tuple(_level_info(i, layout) for i in range(len(layout.levels)))
        self._metadata = SlideMetadata(
            name=self._name,
            reader="tiff",
            vendor=layout.vendor,
            spacing=layout.spacing,
            objective_power=layout.objective_power,
            properties=technical(layout.properties),
        )
        self._background = np.array(self._metadata.background, dtype=np.uint8)
        self._counter = ReadCounter()
        self._scales: dict[tuple[int, tuple[int, int]], tuple[int, ...]] = {}
        self._thread = threading.local()
        self._probe()

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
        return tuple(self._associated)

    def read_associated(self, name: str) -> Pixels:
        """Return one associated image, `(y, x, 3)` uint8."""
        if name not in self._associated:
            raise SourceError(
                f"{self._name}: no associated image {name!r}, found {self.associated_names}",
                path=self._path,
            )
        image = self._associated[name]
        pixels = self._blank(image.shape)
        for index in range(image.grid[0] * image.grid[1]):
            if not image.is_left_out(index):
                box = image.block_box(index).clip(image.shape)
                pixels[box.slices()] = self._decode(image, index, name)
        return pixels

    def read(self, level: int, box: Box) -> Pixels:
        """Return the pixels of `box` (level pixels), `(*box.shape, 3)` uint8."""
        image = self._image(level)
        return self._compose(
            box, image.shape, image.block, lambda index: self._block(level, image, index)
        )

    def codec_scales(self, level: int, ratio: tuple[int, int]) -> tuple[int, ...]:
        """Return by what factors JPEG or JPEG 2000 can reduce while it is decoded."""
        image = self._image(level)
        if not isinstance(image.decode, ReducingDecoder):
            return ()
        if (level, ratio) not in self._scales:
            scales: tuple[int, ...] = ()
            for index in _samples(image):
                try:
                    scales = image.decode.scales(self._fetch(image, index), image.block, ratio)
                except (CodecError, OSError):
                    continue
                if scales:
                    break  # a damaged block gives none
            self._scales[level, ratio] = scales
        return self._scales[level, ratio]

    def read_reduced(
        self, level: int, box: Box, ratio: tuple[int, int], *, scale: int = 1
    ) -> Pixels:
        """Return the pixels of `box` of a level reduced by area; see `ReducingSource`."""
        image = self._image(level)
        if any(n % r for n, r in zip(image.block, ratio, strict=True)) or (
            scale != 1 and scale not in self.codec_scales(level, ratio)
        ):
            raise SourceError(
                f"{self._name}: level {level} has blocks of {image.block} pixels, which cannot be "
                f"reduced by {ratio} with 1/{scale} in the codec; read it in full and use area",
                path=self._path,
            )
        shape, block = (
            tuple(ceil_div(n, r) for n, r in zip(size, ratio, strict=True))
            for size in (image.shape, image.block)
        )
        return self._compose(
            box, shape, block, lambda index: self._block(level, image, index, ratio, scale)
        )

    @property
    def reads(self) -> ReadCount:
        """Tiles decoded and bytes read so far, by all threads; associated images do not count."""
        return self._counter.snapshot()

    def compressed_tiles(self, level: int) -> Iterator[CompressedTile]:
        """Yield the tiles of a level in file order; those the file leaves out come first."""
        image = self._image(level)
        for index in sorted(range(image.grid[0] * image.grid[1]), key=image.offsets.__getitem__):
            nbytes = image.nbytes[index]
            yield CompressedTile(image.block_box(index), image.offsets[index], nbytes)

    def decode(self, level: int, tile: CompressedTile) -> Pixels:
        """Return the pixels of one compressed tile, cropped to the level, `(y, x, 3)` uint8.

        The cache is neither asked nor filled.
        """
        image = self._image(level)
        row, column = (a // n for a, n in zip(tile.box.start, image.block, strict=True))
        index = row * image.grid[1] + column
        if image.is_left_out(index):
            return self._blank(tile.box.clip(image.shape).shape)
        return self._decode_counted(level, image, index)

    def limit_cache(self, limit_bytes: int | None) -> None:
        """Keep at most so many decoded bytes from now on; `None`: as many as at first."""
        self._cache.limit(limit_bytes)

    def close(self) -> None:
        """Free the file and the cache; reading afterwards raises `SourceError`."""
        self._bytes = None
        self._cache.clear()

    def _read_layout(self, file: Path | FileLike) -> TiffLayout:
        try:
            with TiffFile(cast("Path | IO[bytes]", file)) as tiff:
                return read_layout(tiff, self._name)
        except SourceError:
            raise
        except TIFF_ERRORS as error:
            raise DamagedFileError(
                f"{self._name}: not a readable TIFF ({error}); copy the file anew", path=self._path
            ) from error
        except OSError as error:
            raise SourceError(
                f"{self._name}: cannot be opened ({error.strerror or error})", path=self._path
            ) from error

    def _probe(self) -> None:
        """Decode a tile of Aperio's YCbCr JPEG 2000, whose chroma may be subsampled."""
        image = self._images[0]
        refusal: DamagedFileError | None = None
        for index in _samples(image) if image.needs_probe else ():
            try:
                self._decode(image, index, 0)
            except DamagedFileError as error:
                refusal = error
            else:
                return
        if refusal is not None:
            raise NeedsOpenSlideError(str(refusal), path=self._path) from refusal

    def _image(self, level: int) -> TiffImage:
        return self._images[level_at(self._levels, level, self._name).index]

    def _blank(self, shape: tuple[int, ...]) -> Pixels:
        return np.full((*shape, 3), self._background, dtype=np.uint8)

    def _compose(
        self,
        box: Box,
        shape: Sequence[int],
        block: Sequence[int],
        block_at: Callable[[int], Pixels | None],
    ) -> Pixels:
        """Return the pixels of `box` of an image of `shape`, put together from its blocks."""
        inside = box.clip(shape)
        pixels = np.empty((*box.shape, 3), dtype=np.uint8)
        if inside.shape != box.shape:
            pixels[:] = self._background
        if not inside.size:
            return pixels
        (height, width), (y0, x0) = block, box.start
        columns = ceil_div(shape[1], width)
        for row in range(inside.start[0] // height, (inside.stop[0] - 1) // height + 1):
            top, bottom = row * height, (row + 1) * height
            y = slice(max(inside.start[0], top), min(inside.stop[0], bottom))
            for column in range(inside.start[1] // width, (inside.stop[1] - 1) // width + 1):
                left, right = column * width, (column + 1) * width
                x = slice(max(inside.start[1], left), min(inside.stop[1], right))
                part = block_at(row * columns + column)
                pixels[y.start - y0 : y.stop - y0, x.start - x0 : x.stop - x0] = (
                    self._background
                    if part is None
                    else part[y.start - top : y.stop - top, x.start - left : x.stop - left]
                )
        return pixels

    def _block(
        self,
        level: int,
        image: TiffImage,
        index: int,
        ratio: tuple[int, int] = (1, 1),
        scale: int = 1,
    ) -> Pixels | None:
        """Return a block through the cache, reduced; `None` where the file leaves it out."""
        self._opened()
        if image.is_left_out(index):
            return None
        return self._cache.get(
            (level, index, ratio, scale),
            lambda: self._decode_reduced(level, image, index, ratio, scale),
        )

    def _decode_reduced(
        self, level: int, image: TiffImage, index: int, ratio: tuple[int, int], scale: int
    ) -> Pixels:
        """Decode one block and reduce it by area, or the rest of the way after the codec."""
        if ratio == (1, 1):
            return self._decode_counted(level, image, index)
        box = image.inside(index)
        (top, left), (bottom, right) = box.start, box.stop
        decoder = image.decode
        if scale > 1 and not (
            isinstance(decoder, ReducingDecoder) and decoder.keeps_out(box.shape, image.block)
        ):
            scale = 1  # what lies outside the image would reach into its last pixels
        if scale == 1:
            buffer = self._scratch(image)
            pixels = self._decode_counted(level, image, index, buffer=buffer)
        else:
            pixels = self._decode_counted(level, image, index, scale=scale)
            if ratio == (scale, scale):
                return pixels
        target = Box(
            (top // ratio[0], left // ratio[1]),
            (ceil_div(bottom, ratio[0]), ceil_div(right, ratio[1])),
        )
        scaled = Box((top // scale, left // scale), (bottom // scale, right // scale))
        shape = image.shape[0] // scale, image.shape[1] // scale
        return area(pixels, scaled, target, (ratio[0] // scale, ratio[1] // scale), shape)

    def _scratch(self, image: TiffImage) -> Pixels | None:
        """Return memory of this thread for one block; `None` where blocks are large or several."""
        nbytes = image.block[0] * image.block[1] * image.samples
        if nbytes > SCRATCH_BYTES or image.planes > 1:
            return None
        buffer: Pixels | None = getattr(self._thread, "buffer", None)
        if buffer is None or buffer.size < nbytes:
            buffer = self._thread.buffer = np.empty(nbytes, dtype=np.uint8)
        return buffer

    def _decode_counted(
        self,
        level: int,
        image: TiffImage,
        index: int,
        *,
        scale: int = 1,
        buffer: Pixels | None = None,
    ) -> Pixels:
        block = self._decode(image, index, level, scale=scale, buffer=buffer)
        tiles = image.grid[0] * image.grid[1]
        nbytes = sum(image.nbytes[index + plane * tiles] for plane in range(image.planes))
        self._counter.add(level, scale, index, tiles, nbytes)
        return block

    def _decode(
        self,
        image: TiffImage,
        index: int,
        where: int | str,
        *,
        scale: int = 1,
        buffer: Pixels | None = None,
    ) -> Pixels:
        """Read and decode one block, cropped to the image, `(y, x, 3)` uint8.

        With a `scale`, the codec reduces it by that. The result may lie in `buffer`.
        """
        inside = image.inside(index).shape
        shape = image.block if image.is_tiled else (inside[0], image.block[1])
        needed = tuple(ceil_div(n, scale) for n in inside)
        count = image.grid[0] * image.grid[1]
        decode = image.decode
        try:
            planes = [
                decode.scaled(data, scale, buffer)
                if scale > 1 and isinstance(decode, ReducingDecoder)
                else decode(data, shape, buffer)
                for data in (
                    self._fetch(image, index + plane * count) for plane in range(image.planes)
                )
            ]
            block = planes[0] if len(planes) == 1 else np.concatenate(planes, axis=2)
        except (CodecError, OSError) as error:
            raise self._damaged(image, index, where, error) from error
        if block.shape[0] < needed[0] or block.shape[1] < needed[1]:
            reason = CodecError(f"needed {needed} pixels, found {block.shape[:2]}")
            raise self._damaged(image, index, where, reason)
        return self._to_rgb(image, block[: needed[0], : needed[1]])

    def _damaged(
        self, image: TiffImage, index: int, where: int | str, reason: Exception
    ) -> DamagedFileError:
        row, column = divmod(index, image.grid[1])
        place = f"level {where}" if isinstance(where, int) else f"the {where} image"
        return DamagedFileError(
            f"{self._name}: {place}: tile at row {row}, column {column} cannot be decoded: "
            f"{reason}; copy the file anew",
            path=self._path,
        )

    def _fetch(self, image: TiffImage, index: int) -> bytes:
        offset, nbytes = image.offsets[index], image.nbytes[index]
        if not nbytes:
            raise CodecError("it has no bytes")
        data = self._opened().read(offset, nbytes)
        if len(data) < nbytes:
            raise CodecError(
                f"the file ends too early: needed {nbytes} bytes at {offset}, found {len(data)}"
            )
        return data

    def _to_rgb(self, image: TiffImage, block: Pixels) -> Pixels:
        """Turn grey and transparent samples into RGB."""
        if image.samples == 3:
            return block
        if image.samples == 1:
            grey = 255 - block if image.white_is_zero else block
            return np.repeat(grey, 3, axis=2)
        alpha = block[..., 3:].astype(np.uint16)
        mixed = block[..., :3] * alpha + self._background.astype(np.uint16) * (255 - alpha)
        return ((mixed + 127) // 255).astype(np.uint8)

    def _opened(self) -> ByteReader:
        """Return the file, held open for as long as the reference lives."""
        if self._bytes is None:
            raise SourceError(f"{self._name}: the slide was closed; open it again", path=self._path)
        return self._bytes


def _samples(image: TiffImage) -> list[int]:
    """Return a few blocks with bytes, spread over the image: one of them may be damaged."""
    stored = [index for index, nbytes in enumerate(image.nbytes) if nbytes]
    return sorted({stored[len(stored) * i // SAMPLES] for i in range(SAMPLES)}) if stored else []


def _level_info(index: int, layout: TiffLayout) -> LevelInfo:
    image, base = layout.levels[index], layout.levels[0]
    downsample = base.shape[0] / image.shape[0], base.shape[1] / image.shape[1]
    spacing = layout.spacing.times(downsample) if layout.spacing else None
    return LevelInfo(index, image.shape, downsample, spacing, image.block)

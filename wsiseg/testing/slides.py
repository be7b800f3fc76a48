"""Small slides made on the spot: real containers, pixels whose truth is a formula.

Makers take an array and write a file with tifffile. Underneath, `write_tiles` takes tiles already
encoded, one by one, so that a slide larger than memory can be written the same way.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import imagecodecs
import numpy as np
import simplejpeg  # type: ignore[import-untyped]
from numpy.typing import NDArray
from tifffile import TiffWriter

from wsiseg.geometry import ceil_div

__all__ = [
    "EncodedImage",
    "encode_jpeg_tiles",
    "make_ome_tiff",
    "make_sparse_tiff",
    "make_svs",
    "make_tiff_pyramid",
    "pyramid_pixels",
    "split_jpeg_tables",
    "tissue_disc",
    "write_tiles",
]

Pixels = NDArray[np.uint8]

LIBRARY = "Aperio Image Library v12.0.15 "
_TIFF_SUBSAMPLING = {"444": (1, 1), "422": (2, 1), "420": (2, 2)}
_APERIO_J2K = {"rgb": 33005, "ycbcr": 33003}


def tissue_disc(
    shape: tuple[int, int],
    *,
    center: tuple[float, float] | None = None,
    radius: float | None = None,
    seed: int = 0,
) -> tuple[Pixels, NDArray[np.bool_]]:
    """Return a textured pink disc on glass, and the mask that is its truth.

    Parameters
    ----------
    shape
        Pixels (y, x).
    center, radius
        In pixels, pixel `i` covering [i, i + 1); by default in the middle, a third of the side.

    Returns
    -------
    pixels, mask
        `(y, x, 3)` uint8, and `(y, x)` bool: pixels whose centre lies in the disc, about
        `pi * radius ** 2` of them.
    """
    center = center or (shape[0] / 2, shape[1] / 2)
    radius = min(shape) / 3 if radius is None else radius
    y, x = (np.arange(size) + 0.5 - middle for size, middle in zip(shape, center, strict=True))
    mask = np.add.outer(y * y, x * x) <= radius * radius
    rng = np.random.default_rng(seed)
    noise = rng.integers(-20, 21, (ceil_div(shape[0], 4), ceil_div(shape[1], 4), 3))
    texture = noise.repeat(4, axis=0).repeat(4, axis=1)[: shape[0], : shape[1]]
    waves = 12 * np.add.outer(np.sin(y / 9), np.cos(x / 13))[..., np.newaxis]
    stained = np.array((196, 112, 168)) + texture + waves
    colour = np.where(mask[..., np.newaxis], stained, 243 + texture / 10)
    return colour.clip(0, 255).astype(np.uint8), mask


def pyramid_pixels(pixels: Pixels, downsamples: Sequence[float]) -> tuple[Pixels, ...]:
    """Return an image reduced by area to each downsample; sides are rounded down, as scanners do.

    Downsamples need not be whole: 4.4055 happens.
    """
    import cv2

    height, width = pixels.shape[:2]
    levels = []
    for downsample in downsamples:
        size = max(1, int(width / downsample)), max(1, int(height / downsample))
        reduced = pixels if downsample == 1 else cv2.resize(pixels, size, interpolation=3)
        levels.append(np.ascontiguousarray(reduced, dtype=np.uint8))
    return tuple(levels)


@dataclass(frozen=True, slots=True)
class EncodedImage:
    """One page: where its tiles come from, and what TIFF has to say about them."""

    shape: tuple[int, int]
    tile: tuple[int, int]
    segments: Iterable[bytes]
    """Encoded tiles, row by row; empty bytes leave a tile out. Consumed while writing."""

    compression: int
    photometric: str = "rgb"
    subsampling: tuple[int, int] | None = None
    tables: bytes | None = None


def write_tiles(
    writer: TiffWriter, image: EncodedImage, *, description: str | None = None, **options: object
) -> None:
    """Append a page of encoded tiles; `options` go to `TiffWriter.write`."""
    arguments = {"outcolorspace": image.photometric} if image.compression == 7 else None
    options = {"metadata": None, "software": False, **options}
    writer.write(
        iter(image.segments),
        shape=(*image.shape, 3),
        dtype=np.uint8,
        tile=image.tile,
        photometric=image.photometric,
        compression=image.compression,
        compressionargs=arguments,
        subsampling=image.subsampling,
        jpegtables=image.tables,
        description=description,
        **options,  # type: ignore[arg-type]
    )


def encode_jpeg_tiles(
    pixels: Pixels,
    *,
    tile: int,
    subsampling: str = "422",
    quality: int = 80,
    rgb_coded: bool = False,
    missing: Collection[int] = (),
) -> EncodedImage:
    """Return an image as abbreviated JPEG tiles with their tables apart, as Aperio writes them.

    Parameters
    ----------
    pixels
        `(y, x, 3)` uint8.
    subsampling
        `444`, `422` or `420`; RGB-coded tiles are never subsampled.
    rgb_coded
        Store red, green and blue as they are, with no marker in the tile that says so.
    missing
        Tiles to leave out, counted row by row.
    """

    def encode(block: Pixels) -> bytes:
        if rgb_coded:
            stream = imagecodecs.jpeg8_encode(
                block, level=quality, colorspace="RGB", outcolorspace="RGB"
            )
            return bytes(stream)
        data: bytes = simplejpeg.encode_jpeg(block, quality=quality, colorsubsampling=subsampling)
        return data

    tables, _ = split_jpeg_tables(encode(np.zeros((tile, tile, 3), dtype=np.uint8)))
    blocks = _blocks(pixels, tile)
    return EncodedImage(
        shape=(pixels.shape[0], pixels.shape[1]),
        tile=(tile, tile),
        segments=(
            b"" if index in missing else split_jpeg_tables(encode(block))[1]
            for index, block in enumerate(blocks)
        ),
        compression=7,
        photometric="rgb" if rgb_coded else "ycbcr",
        subsampling=(1, 1) if rgb_coded else _TIFF_SUBSAMPLING[subsampling],
        tables=tables,
    )


def split_jpeg_tables(stream: bytes) -> tuple[bytes, bytes]:
    """Split a JPEG stream into its tables and the rest; application markers are dropped.

    Both parts are streams of their own (ITU-T T.81, B.4 and B.5). Streams of one encoder setting
    without optimised Huffman codes share their tables.
    """
    tables, rest = bytearray(b"\xff\xd8"), bytearray(b"\xff\xd8")
    at = 2
    while stream[at + 1] != 0xDA:  # start of scan
        size = 2 + int.from_bytes(stream[at + 2 : at + 4], "big")
        marker = stream[at + 1]
        if marker in {0xDB, 0xC4}:  # quantisation and Huffman tables
            tables += stream[at : at + size]
        elif not 0xE0 <= marker <= 0xEF:
            rest += stream[at : at + size]
        at += size
    return bytes(tables + b"\xff\xd9"), bytes(rest + stream[at:])


def make_svs(  # noqa: PLR0913 - one argument per way in which slides differ
    path: Path,
    pixels: Pixels,
    *,
    levels: Sequence[float] = (1, 4, 16),
    tile: int = 240,
    subsampling: str = "422",
    quality: int = 80,
    rgb_coded: bool = False,
    jpeg2000: str | bool = False,
    mpp: float | str | None = 0.25,
    associated: bool = True,
    missing_tiles: Collection[int] = (),
) -> Path:
    """Write an Aperio SVS that OpenSlide takes for one, and return its path.

    Parameters
    ----------
    pixels
        Level 0, `(y, x, 3)` uint8.
    levels
        Downsamples, beginning with 1.
    tile
        Side of a tile in pixels, a multiple of 16.
    subsampling, quality, rgb_coded
        See `encode_jpeg_tiles`.
    jpeg2000
        `True` or `"rgb"` for compression 33005, `"ycbcr"` for 33003; nearly lossless.
    mpp
        µm per pixel as the description states it; text is written as it is, `None` not at all.
    associated
        Add a thumbnail, a label and a macro image.
    missing_tiles
        Tiles of level 0 without bytes, counted row by row; damage, as scanners of this make leave
        none out. See `make_sparse_tiff`.
    """
    height, width = pixels.shape[:2]
    codec = "JPEG/RGB Q=80" if not jpeg2000 else "J2K/KDU Q=80"
    fields = "|AppMag = 40|Date = 01/02/23|Time = 10:11:12|User = a user|Filename = a patient"
    if mpp is not None:
        fields += f"|MPP = {mpp if isinstance(mpp, str) else format(mpp, '.4f')}"
    with TiffWriter(path) as writer:
        for index, level in enumerate(pyramid_pixels(pixels, levels)):
            missing = missing_tiles if index == 0 else ()
            if jpeg2000:
                kind = "rgb" if jpeg2000 is True else jpeg2000
                image = _j2k_tiles(level, tile=tile, kind=kind, missing=missing)
            else:
                image = encode_jpeg_tiles(
                    level, tile=tile, subsampling=subsampling, quality=quality,
                    rgb_coded=rgb_coded, missing=missing,
                )  # fmt: skip
            size = f"{level.shape[1]}x{level.shape[0]}"
            area = "" if index == 0 else f" -> {size}"
            text = f"{LIBRARY}\r\n{width}x{height} ({tile}x{tile}){area} {codec}{fields}"
            write_tiles(writer, image, description=text)
            if associated and index == 0:
                _write_thumbnail(writer, pixels, fields)
        if associated:
            _write_label_and_macro(writer)
    return path


def make_tiff_pyramid(
    path: Path,
    pixels: Pixels,
    *,
    levels: Sequence[float] = (1, 2, 4),
    tile: int | None = 256,
    compression: str | None = "zlib",
    predictor: bool = False,
    mpp: float | tuple[float, float] | None = None,
    subifds: bool = False,
    **options: object,
) -> Path:
    """Write a generic TIFF pyramid, lossless unless `compression` says otherwise.

    Parameters
    ----------
    tile
        Side of a tile in pixels, or `None` for strips.
    compression
        tifffile's name of a codec, `None` for none.
    mpp
        µm per pixel, one value or (x, y), written as resolution tags in pixels per centimetre.
    subifds
        Hang the coarser levels under the first page instead of in the chain of pages.
    options
        Passed to `TiffWriter.write` for every level.
    """
    shared: dict[str, object] = {
        "metadata": None, "software": False, "photometric": "rgb",
        "compression": compression, "predictor": predictor, **options,
    }  # fmt: skip
    if tile is not None:
        shared["tile"] = (tile, tile)
    if mpp is not None:
        x, y = (mpp, mpp) if isinstance(mpp, int | float) else mpp
        shared["resolution"] = (10_000 / x, 10_000 / y)
        shared["resolutionunit"] = "CENTIMETER"
    first, *rest = pyramid_pixels(pixels, levels)
    with TiffWriter(path) as writer:
        writer.write(first, **shared, subifds=len(rest) if subifds else None)  # type: ignore[arg-type]
        for level in rest:
            writer.write(level, **shared, subfiletype=1)  # type: ignore[arg-type]
    return path


def make_sparse_tiff(
    path: Path,
    pixels: Pixels,
    *,
    missing_tiles: Collection[int],
    levels: Sequence[float] = (1,),
    tile: int = 240,
    mpp: float = 0.25,
) -> Path:
    """Write a generic TIFF of JPEG tiles, of which level 0 leaves some out, as formats may.

    Parameters
    ----------
    missing_tiles
        Tiles of level 0, counted row by row; they have neither bytes nor a place in the file.
    """
    with TiffWriter(path) as writer:
        for index, level in enumerate(pyramid_pixels(pixels, levels)):
            missing = missing_tiles if index == 0 else ()
            write_tiles(
                writer, encode_jpeg_tiles(level, tile=tile, missing=missing),
                resolution=(10_000 / mpp, 10_000 / mpp), resolutionunit="CENTIMETER",
                subfiletype=int(index > 0),
            )  # fmt: skip
    return path


def make_ome_tiff(
    path: Path,
    pixels: Pixels,
    *,
    levels: Sequence[float] = (1, 2, 4),
    tile: int = 256,
    compression: str | None = "zlib",
    mpp: tuple[float, float] | None = (0.25, 0.25),
    unit: str = "µm",
    associated: bool = False,
    **options: object,
) -> Path:
    """Write an OME-TIFF whose coarser levels are SubIFDs.

    Parameters
    ----------
    mpp
        Physical size of a pixel (x, y) in `unit`; `None` leaves it out.
    associated
        Put a small label image first, as some exporters do: the largest image is the slide.
    options
        Passed to `TiffWriter.write` for every level.
    """
    first, *rest = pyramid_pixels(pixels, levels)
    metadata: dict[str, object] = {"axes": "YXS", "Name": "slide"}
    if mpp is not None:
        for axis, size in zip("XY", mpp, strict=True):
            metadata |= {f"PhysicalSize{axis}": size, f"PhysicalSize{axis}Unit": unit}
    shared: dict[str, object] = {
        "photometric": "rgb", "tile": (tile, tile), "compression": compression, **options,
    }  # fmt: skip
    with TiffWriter(path, ome=True) as writer:
        if associated:
            label = {"axes": "YXS", "Name": "label image"}
            writer.write(_flat((48, 64), 90), photometric="rgb", metadata=label)
        writer.write(first, **shared, subifds=len(rest), metadata=metadata)  # type: ignore[arg-type]
        for level in rest:
            writer.write(level, **shared, subfiletype=1)  # type: ignore[arg-type]
    return path


def _blocks(pixels: Pixels, tile: int) -> Iterator[Pixels]:
    """Yield the tiles of an image row by row; edge tiles repeat the last pixels."""
    for top in range(0, pixels.shape[0], tile):
        for left in range(0, pixels.shape[1], tile):
            block = pixels[top : top + tile, left : left + tile]
            missing = tile - block.shape[0], tile - block.shape[1]
            yield np.pad(block, ((0, missing[0]), (0, missing[1]), (0, 0)), mode="edge")


def _j2k_tiles(pixels: Pixels, *, tile: int, kind: str, missing: Collection[int]) -> EncodedImage:
    convert: Callable[[Pixels], Pixels] = _ycbcr if kind == "ycbcr" else np.asarray
    segments = (
        b""
        if index in missing
        else bytes(
            imagecodecs.jpeg2k_encode(
                convert(block), level=45, codecformat="j2k", mct=kind == "rgb"
            )
        )
        for index, block in enumerate(_blocks(pixels, tile))
    )
    return EncodedImage(
        shape=(pixels.shape[0], pixels.shape[1]),
        tile=(tile, tile),
        segments=segments,
        compression=_APERIO_J2K[kind],
    )


def _ycbcr(block: Pixels) -> Pixels:
    """Convert RGB to full-range YCbCr (ITU-T T.871, section 7)."""
    matrix = np.array(
        [[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]]
    )
    values = np.rint(block @ matrix.T + (0, 128, 128))
    return np.asarray(values.clip(0, 255), dtype=np.uint8)


def _write_thumbnail(writer: TiffWriter, pixels: Pixels, fields: str) -> None:
    height, width = pixels.shape[:2]
    (thumbnail,) = pyramid_pixels(pixels, (max(1.0, max(height, width) / 128),))
    text = f"{LIBRARY}\r\n{width}x{height} -> {thumbnail.shape[1]}x{thumbnail.shape[0]} - {fields}"
    writer.write(
        thumbnail, photometric="rgb", compression="lzw", rowsperstrip=16, metadata=None,
        software=False, description=text,
    )  # fmt: skip


def _write_label_and_macro(writer: TiffWriter) -> None:
    for name, shape, grey, kind in (("label", (60, 50), 90, 1), ("macro", (40, 120), 160, 9)):
        writer.write(
            _flat(shape, grey), photometric="rgb", compression="lzw", rowsperstrip=16,
            metadata=None, software=False, subfiletype=kind,
            description=f"{LIBRARY}\r\n{name} {shape[1]}x{shape[0]}",
        )  # fmt: skip


def _flat(shape: tuple[int, int], grey: int) -> Pixels:
    return np.full((*shape, 3), grey, dtype=np.uint8)

"""Make a large Aperio-style slide from real pixels: blobs of tissue on scanner-white.

    python benchmarks/make_slide.py slide.svs --size 40000 30000 --texture region.jpg [more.jpg ...]

SVS, JPEG 4:2:2 quality 80, 256 px tiles, levels 1/4/16, 0.25 µm per pixel, 30 % tissue.
Written tile by tile: memory does not grow with the slide.
"""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import simplejpeg
from tifffile import TiffWriter

from wsiseg.testing.slides import LIBRARY, EncodedImage, split_jpeg_tables, write_tiles

TILE = 256
LEVELS = (1, 4, 16)
FIELD = 512
"""Level-0 pixels between the samples of the field whose zero line is the tissue's edge."""

GLASS = 243
EDGE_PX = 60
"""Width in level-0 pixels over which tissue fades into glass."""


@dataclass(frozen=True)
class Painter:
    """Pixels of any window of any level, without ever holding the slide."""

    textures: dict[int, np.ndarray]
    noise: np.ndarray
    field: np.ndarray

    @classmethod
    def create(cls, size: tuple[int, int], textures: list[Path], tissue: float, seed: int):
        height, width = size
        rng = np.random.default_rng(seed)
        field = rng.normal(size=(height // FIELD + 4, width // FIELD + 4)).astype(np.float32)
        field = cv2.GaussianBlur(field, (0, 0), 5)
        field -= np.quantile(field, 1 - tissue)
        slope = np.abs(np.gradient(field)).mean() / FIELD
        images = [cv2.imread(str(path))[..., ::-1] for path in textures]
        rows = min(i.shape[0] for i in images) // 16 * 16
        mosaic = np.concatenate([i[:rows, : i.shape[1] // 16 * 16] for i in images], axis=1)
        mosaic = np.concatenate([mosaic, mosaic[::-1]], axis=0)  # mirrored: no seams
        mosaic = np.concatenate([mosaic, mosaic[:, ::-1]], axis=1)
        reduced = {
            d: cv2.resize(mosaic, None, fx=1 / d, fy=1 / d, interpolation=cv2.INTER_AREA)
            for d in LEVELS
        }
        noise = rng.integers(-2, 3, (TILE, TILE, 1)).astype(np.float32)
        return cls(reduced, noise, field / (slope * EDGE_PX))

    def tile(self, downsample: int, top: int, left: int) -> np.ndarray | None:
        """Return one tile, or None where it is all glass."""
        scale = downsample / FIELD
        to_field = np.array(
            [[scale, 0, (left + 0.5) * scale + 1], [0, scale, (top + 0.5) * scale + 1]]
        )
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        field = cv2.warpAffine(self.field, to_field, (TILE, TILE), flags=flags, borderMode=1)
        alpha = np.clip(field + 0.5, 0, 1)[..., np.newaxis]
        if not alpha.any():
            return None
        texture = self.textures[downsample]
        y = (top + np.arange(TILE)) % texture.shape[0]
        x = (left + np.arange(TILE)) % texture.shape[1]
        glass = GLASS + self.noise
        return (glass + alpha * (texture[np.ix_(y, x)] - glass)).clip(0, 255).astype(np.uint8)


def encode(pixels: np.ndarray) -> bytes:
    return simplejpeg.encode_jpeg(np.ascontiguousarray(pixels), quality=80, colorsubsampling="422")


def level_image(painter: Painter, size: tuple[int, int], downsample: int) -> EncodedImage:
    shape = size[0] // downsample, size[1] // downsample
    glass = np.broadcast_to((GLASS + painter.noise).astype(np.uint8), (TILE, TILE, 3))
    tables, empty = split_jpeg_tables(encode(glass))

    def segments() -> Iterator[bytes]:
        for top in range(0, shape[0], TILE):
            for left in range(0, shape[1], TILE):
                pixels = painter.tile(downsample, top, left)
                yield empty if pixels is None else split_jpeg_tables(encode(pixels))[1]

    return EncodedImage(shape, (TILE, TILE), segments(), 7, "ycbcr", (2, 1), tables)


def make_slide(path: Path, size: tuple[int, int], textures: list[Path], tissue=0.3, seed=0) -> None:
    """Write the slide; `size` is (y, x) in level-0 pixels."""
    painter = Painter.create(size, textures, tissue, seed)
    with TiffWriter(path, bigtiff=size[0] * size[1] > 2_000_000_000) as writer:
        for downsample in LEVELS:
            image = level_image(painter, size, downsample)
            area = f" -> {image.shape[1]}x{image.shape[0]}" if downsample > 1 else ""
            text = f"{LIBRARY}\r\n{size[1]}x{size[0]} ({TILE}x{TILE}){area} JPEG/RGB Q=80"
            write_tiles(writer, image, description=f"{text}|AppMag = 40|MPP = 0.2500")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("path", type=Path)
    parser.add_argument("--size", type=int, nargs=2, default=(40_000, 30_000), metavar=("X", "Y"))
    parser.add_argument("--texture", type=Path, nargs="+", required=True, help="H&E at 0.25 µm/px")
    parser.add_argument("--tissue", type=float, default=0.3, help="share of tissue")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    make_slide(args.path, tuple(args.size[::-1]), args.texture, args.tissue, args.seed)
    print(f"{args.path}: {args.path.stat().st_size / 1e6:.0f} MB")


if __name__ == "__main__":
    main()

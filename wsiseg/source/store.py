"""An open slide as a read-only Zarr store: a multiscale image for whatever takes Zarr.

Nothing is converted: a chunk is decoded when somebody reads it. napari and dask take the arrays
as they are, and a store copied key by key is a valid OME-Zarr folder. The store is OME-NGFF 0.5 on
Zarr v3 rather than 0.4 on v2: what hands a Python object around runs zarr-python 3, whose own
format is v3, and one JSON document per node carries everything. (Files for programs outside
Python, such as heatmaps for QuPath, are 0.4.)
"""

import asyncio
import json
import math
from collections.abc import AsyncIterator, Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import zarr
from zarr.abc.store import (
    ByteRequest,
    OffsetByteRequest,
    RangeByteRequest,
    Store,
    SuffixByteRequest,
)
from zarr.core.buffer import Buffer, BufferPrototype

from wsiseg.errors import SourceError
from wsiseg.geometry import Box, ceil_div
from wsiseg.source.base import Pixels

if TYPE_CHECKING:
    from wsiseg.source.pyramid import Level, Pyramid

__all__ = ["SlideStore", "as_zarr"]

CHUNK_SIDE = 512
"""Chunks are as many whole blocks of the file as reach this many pixels: small enough to show
quickly, large enough that Zarr's own millisecond per chunk does not count."""

MAX_CHUNK_SIDE = 2048
"""A wider block (the strips of an untiled file) is cut, so that no chunk is as wide as a slide."""

COLORS = {"R": "FF0000", "G": "00FF00", "B": "0000FF"}


def as_zarr(pyramid: "Pyramid") -> zarr.Group:
    """Return a slide as a read-only multiscale Zarr group; no pixel is read.

    Parameters
    ----------
    pyramid
        An open slide; the group can be read until it is closed.

    Returns
    -------
    zarr.Group
        Arrays `"0"`, `"1"`, ..., one per level, `(c, y, x)` uint8 RGB, the axis order that
        OME-NGFF prescribes, and its metadata. Without a known pixel size the scale counts
        level-0 pixels and no unit is given.
    """
    return zarr.open_group(SlideStore(pyramid), mode="r", zarr_format=3, use_consolidated=False)


class SlideStore(Store):
    """The keys of a Zarr v3 hierarchy, made from a slide on request; writing is refused.

    Parameters
    ----------
    pyramid
        An open slide.
    """

    supports_writes = False
    supports_deletes = False
    supports_listing = True

    def __init__(self, pyramid: "Pyramid") -> None:
        super().__init__(read_only=True)
        self._pyramid = pyramid
        self._levels = {str(level.index): level for level in pyramid.levels}
        self._documents = {"zarr.json": _json(_group_metadata(pyramid))}
        for path, level in self._levels.items():
            self._documents[f"{path}/zarr.json"] = _json(_array_metadata(level))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SlideStore) and other._pyramid is self._pyramid

    def __hash__(self) -> int:
        return id(self._pyramid)

    def __str__(self) -> str:
        return f"slide://{self._pyramid.name}"

    def __repr__(self) -> str:
        return f"SlideStore({self._pyramid.name!r})"

    def with_read_only(self, read_only: bool = False) -> "SlideStore":
        """Return this store; raise `SourceError` if it should become writable."""
        if not read_only:
            raise self._refusal()
        return self

    async def get(
        self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        """Return a metadata document or a decoded chunk, or `None` where there is no such key.

        Raises
        ------
        DamagedFileError
            If a block of the slide cannot be decoded.
        SourceError
            If the slide was closed.
        """
        document = self._documents.get(key)
        if document is not None:
            return prototype.buffer.from_bytes(_cut(document, byte_range))
        place = self._place(key)
        if place is None:
            return None
        chunk = await asyncio.to_thread(_read_chunk, *place)
        if byte_range is None:
            return prototype.buffer.from_array_like(chunk)
        return prototype.buffer.from_bytes(_cut(chunk.tobytes(), byte_range))

    async def get_partial_values(
        self, prototype: BufferPrototype, key_ranges: Iterable[tuple[str, ByteRequest | None]]
    ) -> list[Buffer | None]:
        """Return the parts asked for, in order."""
        return list(await asyncio.gather(*(self.get(k, prototype, r) for k, r in key_ranges)))

    async def exists(self, key: str) -> bool:
        """Return whether there is such a key; reads no pixels."""
        return key in self._documents or self._place(key) is not None

    async def list(self) -> AsyncIterator[str]:
        """Yield all keys."""
        for key in self._documents:
            yield key
        for path, level in self._levels.items():
            rows, columns = _grid(level)
            for row in range(rows):
                for column in range(columns):
                    yield f"{path}/c/0/{row}/{column}"

    async def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        """Yield the keys that begin with `prefix`."""
        async for key in self.list():
            if key.startswith(prefix):
                yield key

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        """Yield the names directly under `prefix`."""
        folder = f"{prefix.strip('/')}/" if prefix.strip("/") else ""
        seen = set()
        async for key in self.list_prefix(folder):
            name = key.removeprefix(folder).partition("/")[0]
            if name not in seen:
                seen.add(name)
                yield name

    async def set(self, key: str, value: Buffer) -> None:
        """Raise `SourceError`: a slide is never written."""
        raise self._refusal()

    async def delete(self, key: str) -> None:
        """Raise `SourceError`: a slide is never written."""
        raise self._refusal()

    def _refusal(self) -> SourceError:
        name = self._pyramid.name
        return SourceError(f"{name}: this Zarr group shows a slide and is read-only; copy it first")

    def _place(self, key: str) -> "tuple[Level, int, int] | None":
        """Return the level, row and column of a chunk key such as `2/c/0/7/31`."""
        parts = key.split("/")
        if len(parts) != 5 or parts[1:3] != ["c", "0"] or parts[0] not in self._levels:
            return None
        level = self._levels[parts[0]]
        if not all(part.isascii() and part.isdigit() for part in parts[3:]):
            return None
        row, column = int(parts[3]), int(parts[4])
        rows, columns = _grid(level)
        return (level, row, column) if row < rows and column < columns else None


def _read_chunk(level: "Level", row: int, column: int) -> Pixels:
    """Return the bytes of one chunk, (c, y, x) flattened; background beyond the level."""
    height, width = _chunk(level)
    box = Box((row * height, column * width), ((row + 1) * height, (column + 1) * width))
    pixels = level.read(box)
    planes = np.empty((3, height, width), np.uint8)
    for channel in range(3):  # one by one: six times as fast as one transposed copy
        planes[channel] = pixels[..., channel]
    return planes.reshape(-1)


def _chunk(level: "Level") -> tuple[int, ...]:
    sides = (block * max(1, math.ceil(CHUNK_SIDE / block)) for block in level.chunk)
    return tuple(
        CHUNK_SIDE if side > MAX_CHUNK_SIDE else min(side, size)
        for side, size in zip(sides, level.shape, strict=True)
    )


def _grid(level: "Level") -> tuple[int, ...]:
    return tuple(ceil_div(n, side) for n, side in zip(level.shape, _chunk(level), strict=True))


def _cut(data: bytes, byte_range: ByteRequest | None) -> bytes:
    match byte_range:
        case RangeByteRequest(start, end):
            return data[start:end]
        case OffsetByteRequest(offset):
            return data[offset:]
        case SuffixByteRequest(suffix):
            return data[max(len(data) - suffix, 0) :]
        case _:
            return data


def _json(document: dict[str, Any]) -> bytes:
    return json.dumps(document, ensure_ascii=False).encode()


def _array_metadata(level: "Level") -> dict[str, Any]:
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": [3, *level.shape],
        "data_type": "uint8",
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [3, *_chunk(level)]}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": 255,
        "codecs": [{"name": "bytes"}],
        "dimension_names": ["c", "y", "x"],
        "attributes": {},
    }


def _group_metadata(pyramid: "Pyramid") -> dict[str, Any]:
    unit = {"unit": "micrometer"} if pyramid.has_spacing else {}
    multiscale = {
        "name": pyramid.stem,
        "axes": [
            {"name": "c", "type": "channel"},
            *({"name": axis, "type": "space", **unit} for axis in "yx"),
        ],
        "datasets": [_dataset(pyramid, level) for level in pyramid.levels],
    }
    window = {"min": 0, "max": 255, "start": 0, "end": 255}
    channels = [
        {"label": label, "color": color, "window": window, "active": True}
        for label, color in COLORS.items()
    ]
    omero = {"channels": channels, "rdefs": {"model": "color"}}
    ome = {"version": "0.5", "multiscales": [multiscale], "omero": omero}
    return {"zarr_format": 3, "node_type": "group", "attributes": {"ome": ome}}


def _dataset(pyramid: "Pyramid", level: "Level") -> dict[str, Any]:
    """Return where a level lies: NGFF coordinates are those of pixel centres."""
    base = pyramid.spacing.um if pyramid.has_spacing else (1.0, 1.0)
    pairs = list(zip(base, level.downsample, strict=True))
    scale = [1.0, *(unit * downsample for unit, downsample in pairs)]
    translation = [0.0, *(unit * (downsample - 1) / 2 for unit, downsample in pairs)]
    return {
        "path": str(level.index),
        "coordinateTransformations": [
            {"type": "scale", "scale": scale},
            {"type": "translation", "translation": translation},
        ],
    }

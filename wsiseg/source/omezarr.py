"""OME-Zarr images (OME-NGFF 0.4 in Zarr v2, 0.5 in Zarr v3), local or behind a URL."""

import math
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from zarr.abc.store import Store

from wsiseg.errors import DamagedFileError, SourceError, UnsupportedFormatError
from wsiseg.geometry import Box, LevelInfo
from wsiseg.source import remote
from wsiseg.source._blocks import assemble, block_indices, level_at
from wsiseg.source._cache import BlockCache
from wsiseg.source._ngff import Multiscale, read_multiscale
from wsiseg.source._zarr_store import ZARR_ERRORS, ChunkLimit, check_array, open_store
from wsiseg.source.base import Pixels, SlideMetadata

__all__ = ["OmeZarrSource", "find_image", "open_group"]

CACHE_BYTES = 128 << 20

ASPECT_TOLERANCE = 0.02
"""Levels whose downsample differs by more between the axes do not show the same field."""

REMOTE_THREADS = 8
"""Chunks of one box fetched at once from a server, where waiting costs more than decoding."""


class OmeZarrSource:
    """A slide in OME-Zarr.

    Axes are taken by name, in any order; `t` and `z` must have one element. Three channels are
    red, green and blue; one channel, or no channel axis, is grey. Chunks that were never written
    hold the array's fill value, as Zarr defines it.

    Parameters
    ----------
    path
        Folder of the image, or its URL (`http(s)://`, `s3://`). A bioformats2raw folder opens
        as its first image.
    storage_options
        Passed to fsspec for a URL.

    Raises
    ------
    UnsupportedFormatError
        If it is no OME-Zarr image of version 0.4 or 0.5, or not 8-bit RGB or grey.
    DamagedFileError
        If the metadata of a level cannot be read.
    SourceError
        If the path or the server cannot be reached.
    """

    def __init__(
        self, path: str | Path, *, storage_options: Mapping[str, Any] | None = None
    ) -> None:
        is_remote = isinstance(path, str) and remote.is_url(path)
        self._url = remote.redacted(str(path)) if is_remote else None
        self._name = Path(self._url or path).name
        self._store = open_store(path, storage_options)
        self._pool = ThreadPoolExecutor(REMOTE_THREADS) if is_remote else None
        self._cache = BlockCache(CACHE_BYTES)
        self._closed = False
        with self._guard("the metadata"):
            group = open_group(self._store, self._name)
            image, multiscale = find_image(group, self._name)
            layers = [
                _Layer.open(image, data.path, multiscale.axis_names, self._name)
                for data in multiscale.datasets
            ]
        sizes = {layer.shape: index for index, layer in reversed(list(enumerate(layers)))}
        order = [sizes[shape] for shape in sorted(sizes, key=math.prod, reverse=True)]
        self._layers = [layers[index] for index in order]
        self._store.chunk_limits = {layer.array.path: layer.limit for layer in layers}
        self._metadata = SlideMetadata(
            name=self._name,
            reader="omezarr",
            vendor="generic",
            spacing=multiscale.spacing(order[0]),
            properties={"ome-zarr.axes": multiscale.axis_names},
        )
        self._levels = tuple(self._level(index) for index in range(len(self._layers)))

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
        """Empty: OME-Zarr has no names for a label or an overview."""
        return ()

    def read_associated(self, name: str) -> Pixels:
        """Raise `SourceError`: there are no associated images."""
        raise SourceError(f"{self._name}: no associated image {name!r}, found none")

    def read(self, level: int, box: Box) -> Pixels:
        """Return the pixels of `box` (level pixels), `(*box.shape, 3)` uint8.

        Raises
        ------
        DamagedFileError
            If a chunk cannot be decoded; the message names its level, row and column.
        LevelError
            If there is no such level.
        SourceError
            If the source is closed, or a server does not deliver.
        """
        if self._closed:
            raise self._closed_error()
        info = level_at(self._levels, level, self._name)
        indices = block_indices(box.clip(info.shape), info.chunk) if self._pool else []
        fetched = self._fetch(level, indices)

        def block_at(row: int, column: int) -> Pixels:
            return fetched[row, column] if fetched else self._block(level, row, column)

        return assemble(box, info, self._metadata.background, block_at)

    def limit_cache(self, limit_bytes: int | None) -> None:
        """Keep at most so many decoded bytes from now on; `None`: as many as at first."""
        self._cache.limit(limit_bytes)

    def close(self) -> None:
        """Free the cache and the store; reading afterwards raises `SourceError`."""
        self._closed = True
        if self._pool is not None:
            self._pool.shutdown()
        self._cache.clear()
        self._store.close()

    def _level(self, index: int) -> LevelInfo:
        base, layer = self._layers[0], self._layers[index]
        width = base.shape[1] * layer.shape[0] / base.shape[0]
        if abs(width - layer.shape[1]) > max(1, ASPECT_TOLERANCE * layer.shape[1]):
            raise UnsupportedFormatError(
                f"{self._name}: needed levels of one field, found {layer.shape} under "
                f"{base.shape}, another aspect",
                path=self._name,
            )
        pairs = zip(base.shape, layer.shape, strict=True)
        downsample = tuple(whole / part for whole, part in pairs)
        spacing = self._metadata.spacing
        return LevelInfo(
            index=index,
            shape=layer.shape,
            downsample=downsample,
            spacing=spacing.times(downsample) if spacing else None,
            chunk=layer.chunk,
        )

    def _fetch(self, level: int, indices: list[tuple[int, int]]) -> dict[tuple[int, int], Pixels]:
        """Return several blocks, read at the same time."""
        if self._pool is None:
            return {}
        with self._guard(f"level {level}"):
            blocks = self._pool.map(lambda index: self._block(level, *index), indices)
            return dict(zip(indices, blocks, strict=True))

    def _block(self, level: int, row: int, column: int) -> Pixels:
        layer = self._layers[level]

        def load() -> Pixels:
            with self._guard(f"level {level}, chunk in row {row}, column {column}"):
                return layer.read(row, column)

        return self._cache.get((level, row, column), load)

    @contextmanager
    def _guard(self, what: str) -> Iterator[None]:
        """Turn the errors of zarr and its codecs into this project's."""
        try:
            yield
        except SourceError:
            raise
        except ZARR_ERRORS as error:
            if self._closed:
                raise self._closed_error() from error
            raise DamagedFileError(
                f"{self._name}: {what} cannot be decoded: {error}; copy the folder anew",
                path=self._name,
            ) from error

    def _closed_error(self) -> SourceError:
        return SourceError(f"{self._name}: the slide is closed; open it again", path=self._name)


@dataclass(frozen=True, slots=True)
class _Layer:
    """One resolution: an array, and where y, x and the channels are in it."""

    array: zarr.Array[Any]
    axes: str
    shape: tuple[int, int]
    chunk: tuple[int, int]
    limit: ChunkLimit
    """What a stored chunk may be."""

    @classmethod
    def open(cls, image: zarr.Group, path: str, axes: str, name: str) -> "_Layer":
        """Open the array at `path`, and refuse what is not 8-bit RGB or grey."""
        array = image.get(path)
        if not isinstance(array, zarr.Array):
            raise DamagedFileError(f"{name}: needed an array at {path!r}, found none", path=name)
        if len(array.shape) != len(axes) or min(array.shape) < 1:
            raise UnsupportedFormatError(
                f"{name}: needed an array of axes {axes}, found shape {array.shape} at {path!r}"
            )
        sizes = dict(zip(axes, array.shape, strict=True))
        chunks = dict(zip(axes, array.chunks, strict=True))
        _check_pixels(array, sizes, name)
        block_bytes = math.prod(max(sizes[a] if a == "c" else 1, chunks[a]) for a in axes)
        limit = check_array(array, path, name, block_bytes)
        return cls(
            array=array,
            axes=axes,
            shape=(sizes["y"], sizes["x"]),
            chunk=(chunks["y"], chunks["x"]),
            limit=limit,
        )

    def read(self, row: int, column: int) -> Pixels:
        """Return the pixels of one chunk, cropped to the level, `(y, x, 3)` uint8."""
        index: dict[str, int | slice] = dict.fromkeys("tz", 0)
        for axis, place, size, stop in zip(
            "yx", (row, column), self.chunk, self.shape, strict=True
        ):
            index[axis] = slice(place * size, min((place + 1) * size, stop))
        values = np.asarray(self.array[tuple(index.get(axis, slice(None)) for axis in self.axes)])
        kept = [axis for axis in self.axes if axis in "yxc"]
        planes = values.transpose([kept.index(axis) for axis in "cyx" if axis in kept])
        pixels = np.empty((*planes.shape[-2:], 3), np.uint8)
        for channel in range(3):  # one by one: six times as fast as one transposed copy
            pixels[..., channel] = planes[channel % len(planes)] if planes.ndim == 3 else planes
        return pixels


def open_group(store: Store, name: str) -> zarr.Group:
    """Return the root group of a store; refuse what is none."""
    try:
        return zarr.open_group(store, mode="r", use_consolidated=False)
    except FileNotFoundError as error:
        raise UnsupportedFormatError(
            f"{name}: needed an OME-Zarr image, found a folder without Zarr metadata; copy the "
            "whole folder, or name the image in it",
            path=name,
        ) from error
    except zarr.errors.ContainsArrayError as error:
        raise UnsupportedFormatError(
            f"{name}: needed an OME-Zarr image, found a plain Zarr array; "
            "pass zarr.open_array(...) instead of the path",
            path=name,
        ) from error


def find_image(
    group: zarr.Group, name: str, *, results: bool = False
) -> tuple[zarr.Group, Multiscale]:
    """Return the group that holds the image, and its metadata.

    Results of wsiseg are refused unless `results` is true.
    """
    attributes = _ome_attributes(group)
    if "wsiseg" in group.attrs and not results:
        raise UnsupportedFormatError(
            f"{name}: needed a slide, found a heatmap or labels written by wsiseg; "
            "pass the slide they were made from",
            path=name,
        )
    if "plate" in attributes:
        raise UnsupportedFormatError(
            f"{name}: needed one image, found a plate of many; name one of them, such as A/1/0 in "
            "it",
            path=name,
        )
    multiscale = read_multiscale(attributes, name)
    if multiscale is not None:
        return group, multiscale
    first = group.get("0") if "bioformats2raw.layout" in attributes else None
    multiscale = (
        read_multiscale(_ome_attributes(first), name) if isinstance(first, zarr.Group) else None
    )
    if isinstance(first, zarr.Group) and multiscale is not None:
        return first, multiscale
    raise UnsupportedFormatError(
        f"{name}: needed an OME-Zarr image (multiscales in its attributes), found a Zarr group "
        "without; pass the folder of the image itself",
        path=name,
    )


def _ome_attributes(group: zarr.Group) -> Mapping[str, Any]:
    """Return where NGFF keeps its metadata: under `ome` since 0.5, before that at the top."""
    attributes = group.attrs.asdict()
    inner = attributes.get("ome")
    return inner if isinstance(inner, dict) else attributes


def _check_pixels(array: zarr.Array[Any], sizes: Mapping[str, int], name: str) -> None:
    single = all(sizes.get(axis, 1) == 1 for axis in "tz")
    if array.dtype != np.uint8 or sizes.get("c", 1) not in {1, 3} or not single:
        found = ", ".join(f"{axis} = {size}" for axis, size in sizes.items())
        is_volume = sizes.get("z", 1) > 1
        remedy = "open a volume with wsiseg.open_volume" if is_volume else "convert it to 8-bit RGB"
        raise UnsupportedFormatError(
            f"{name}: needed 8-bit RGB or grey (uint8, c = 1 or 3, t = z = 1), found "
            f"{array.dtype}, {found}; {remedy}",
            path=name,
        )

"""DICOM whole-slide images, through wsidicom.

wsidicom finds and decodes the frames; which files belong together, which focal plane is read, the
geometry of the levels and the cache are decided here. wsidicom holds a lock per file around "seek
and read", so any number of threads may ask for frames. Its decoder for uncompressed frames keeps
the frame in one shared dataset, though, and hands threads each other's tiles: decoders other than
imagecodecs, which keeps nothing, work in turn.
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np

from wsiseg.errors import DamagedFileError, MissingSpacingError, SourceError
from wsiseg.geometry import Box, LevelInfo, Spacing
from wsiseg.source._blocks import assemble, level_at
from wsiseg.source._cache import BlockCache
from wsiseg.source.base import Pixels, SlideMetadata

if TYPE_CHECKING:
    from wsidicom import WsiInstance  # type: ignore[import-untyped]

    from wsiseg.source._dicom_files import DicomFile
    from wsiseg.source._dicom_series import DicomSeries

__all__ = ["DicomSource"]

CACHE_BYTES = 64 << 20
"""Decoded blocks kept per slide; wsidicom's own caches are switched off."""


class DicomSource:
    """A slide in DICOM: all files of one series.

    The base of the pyramid is the largest image of type VOLUME. Of several focal planes the
    middle one is read. Tiles that sparse images leave out are background. Of the headers only
    technical fields are kept.

    Parameters
    ----------
    path
        One file, which brings the files of its series that lie in its folder, or a folder with
        one series.

    Raises
    ------
    UnsupportedFormatError
        If it is no whole-slide image of 8-bit RGB or grey, or has several optical paths.
    DamagedFileError
        If a file of the series cannot be read.
    SourceError
        If wsidicom is missing, or the files do not make up exactly one slide.
    """

    def __init__(self, path: str | Path) -> None:
        self._path = Path(path)
        self._name = self._path.name
        self._closed = False
        self._cache = BlockCache(CACHE_BYTES)
        series = _open(self._path)
        self._source = series.source
        with self._guard("the header"):
            spacing = _spacing(series.levels[0][0])
            self._images = [_TiledImage.of(*pair) for pair in series.levels]
            self._associated = {
                name: _TiledImage.of(instance, instance.default_z)
                for name, instance in series.associated.items()
            }
        self._levels = _level_infos(self._images, spacing)
        self._metadata = _metadata(self._name, series.files, spacing)

    @property
    def levels(self) -> tuple[LevelInfo, ...]:
        """Levels from finest to coarsest."""
        return self._levels

    @property
    def metadata(self) -> SlideMetadata:
        """What the files say about the slide."""
        return self._metadata

    @property
    def associated_names(self) -> tuple[str, ...]:
        """Those of `label`, `macro` (DICOM: overview) and `thumbnail` that there are."""
        return tuple(self._associated)

    def read_associated(self, name: str) -> Pixels:
        """Return one associated image, `(y, x, 3)` uint8.

        Raises
        ------
        SourceError
            If there is none of that name, or the source is closed.
        DamagedFileError
            If it cannot be decoded.
        """
        self._check_open()
        if name not in self._associated:
            found = ", ".join(self._associated) or "none"
            raise SourceError(f"{self._name}: no associated image {name!r}, found {found}")
        image = self._associated[name]
        return self._assemble(image, Box.of_shape(image.info.shape), image.info, f"the {name}")

    def read(self, level: int, box: Box) -> Pixels:
        """Return the pixels of `box` (level pixels), `(*box.shape, 3)` uint8.

        Raises
        ------
        DamagedFileError
            If a tile cannot be decoded; the message names its level, row and column.
        LevelError
            If there is no such level.
        SourceError
            If the source is closed.
        """
        self._check_open()
        info = level_at(self._levels, level, self._name)
        return self._assemble(self._images[level], box, info, f"level {level}")

    def limit_cache(self, limit_bytes: int | None) -> None:
        """Keep at most so many decoded bytes from now on; `None`: as many as at first."""
        self._cache.limit(limit_bytes)

    def close(self) -> None:
        """Close the files; reading afterwards raises `SourceError`."""
        self._closed = True
        self._cache.clear()
        self._source.close()

    def _assemble(self, image: "_TiledImage", box: Box, info: LevelInfo, what: str) -> Pixels:
        def tile_at(row: int, column: int) -> Pixels | None:
            with self._guard(f"{what}, tile in row {row}, column {column}"):
                if image.is_missing(row, column):
                    return None
                return self._cache.get((what, row, column), lambda: image.decode(row, column))

        return assemble(box, info, self._metadata.background, tile_at)

    def _check_open(self) -> None:
        if self._closed:
            raise SourceError(f"{self._name}: the slide is closed; open it again", path=self._path)

    @contextmanager
    def _guard(self, what: str) -> Iterator[None]:
        """Turn the errors of wsidicom, pydicom and the codecs into this project's."""
        from wsiseg.source._dicom_series import READ_ERRORS

        try:
            yield
        except SourceError:
            raise
        except READ_ERRORS as error:
            self._check_open()
            reason = str(error) or type(error).__name__
            raise DamagedFileError(
                f"{self._name}: {what} cannot be decoded: {reason}; copy the series anew",
                path=self._path,
            ) from error


@dataclass(frozen=True, slots=True)
class _TiledImage:
    """One plane of one instance: its tiles."""

    data: Any
    """wsidicom's `WsiDicomImageData`."""

    z: float
    path: str
    info: LevelInfo

    turn: AbstractContextManager[object]
    """Held while a frame is decoded; a lock where wsidicom's decoder keeps state."""

    @classmethod
    def of(cls, instance: "WsiInstance", z: float) -> "_TiledImage":
        """Return the focal plane `z` of an instance."""
        from wsidicom.codec.decoder import ImageCodecsDecoder  # type: ignore[import-untyped]

        data = instance.image_data
        stateless = isinstance(data.decoder, ImageCodecsDecoder)
        size, tile = data.image_size, data.tile_size
        info = LevelInfo(
            index=0,
            shape=(size.height, size.width),
            downsample=(1.0, 1.0),
            spacing=None,
            chunk=(tile.height, tile.width),
        )
        return cls(data, z, data.default_path, info, nullcontext() if stateless else Lock())

    def is_missing(self, row: int, column: int) -> bool:
        """Return whether the file leaves a tile out."""
        from wsidicom.geometry import Point  # type: ignore[import-untyped]

        return bool(self.data.is_sparse(Point(column, row), self.z, self.path))

    def decode(self, row: int, column: int) -> Pixels:
        """Return one tile, `(y, x, 3)` uint8; it may overhang the level."""
        from pydicom.uid import JPEGBaseline8Bit
        from wsidicom.geometry import Point

        frame = self.data.get_encoded_tile(Point(column, row), self.z, self.path)
        # libjpeg fills what is missing at the end of a stream with grey, without an error
        is_jpeg = self.data.transfer_syntax == JPEGBaseline8Bit
        if is_jpeg and b"\xff\xd9" not in frame[-16:]:
            raise ValueError("the JPEG stream ends early")
        with self.turn:
            tile = self.data.decoder.decode(frame)
        if tile.shape[:2] != self.info.chunk or tile.dtype != np.uint8:
            raise ValueError(
                f"needed {self.info.chunk} pixels of uint8, found {tile.shape} of {tile.dtype}"
            )
        pixels = np.empty((*self.info.chunk, 3), np.uint8)
        pixels[:] = tile[..., np.newaxis] if tile.ndim == 2 else tile
        return pixels


def _open(path: Path) -> "DicomSeries":
    try:
        from wsiseg.source._dicom_series import open_series
    except ImportError as error:
        raise SourceError(
            f"{path.name}: DICOM slides need a package that is missing ({error.name}); "
            "pip install 'wsiseg[dicom]'",
            path=path,
        ) from error
    return open_series(path)


def _spacing(instance: "WsiInstance") -> Spacing | None:
    """Return µm per pixel (y, x) of an instance, or `None` where missing or absurd."""
    size = instance.pixel_spacing
    try:
        return None if size is None else Spacing.from_mm((size.height, size.width))
    except MissingSpacingError:
        return None


def _level_infos(images: Sequence[_TiledImage], spacing: Spacing | None) -> tuple[LevelInfo, ...]:
    """Return the levels with their true downsamples, from the sizes of the images."""
    base = images[0].info.shape
    infos = []
    for index, image in enumerate(images):
        pairs = zip(base, image.info.shape, strict=True)
        downsample = tuple(whole / part for whole, part in pairs)
        level_spacing = spacing.times(downsample) if spacing else None
        infos.append(replace(image.info, index=index, downsample=downsample, spacing=level_spacing))
    return tuple(infos)


def _metadata(name: str, files: Sequence["DicomFile"], spacing: Spacing | None) -> SlideMetadata:
    from wsiseg.source._dicom_files import objective_power

    base = next(file for file in files if file.flavor == "VOLUME")
    properties = {
        "dicom.Manufacturer": base.maker,
        "dicom.ManufacturerModelName": base.model,
        "dicom.TransferSyntax": base.transfer_syntax.name,
        "dicom.Pixels": base.pixels,
    }
    return SlideMetadata(
        name=name,
        reader="dicom",
        vendor="dicom",
        spacing=spacing,
        objective_power=objective_power(base),
        properties={key: value for key, value in properties.items() if value},
    )

"""A slide as users meet it: `Pyramid`, and its resolutions, `Level`."""

import uuid
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, final, get_args

import numpy as np

from wsiseg.errors import LevelError, MissingSpacingError, SourceError
from wsiseg.geometry import Box, LevelInfo, Spacing, ceil_div
from wsiseg.resample import area, area_span, target_shape
from wsiseg.source._blocks import check_box
from wsiseg.source._spacing import missing_spacing, parse_mpp
from wsiseg.source.base import (
    CachingSource,
    CountingSource,
    Pixels,
    PyramidSource,
    ReadCount,
    SlideMetadata,
)
from wsiseg.source.ledger import Ledger
from wsiseg.source.mending import Mender
from wsiseg.source.naming import stem_of

if TYPE_CHECKING:
    import dask.array
    import zarr
    from matplotlib.figure import Figure

    from wsiseg.source.view import View

__all__ = ["Level", "OnDamage", "Pyramid"]

OnDamage = Literal["raise", "replace", "nodata"]
"""What a block that cannot be decoded is: an error; the same place of another level, else `nodata`;
or `nodata` unless a finer level has it. See `wsiseg.source.mending`."""

DASK_SIDE = 2048
"""Longest side of a Dask chunk in pixels: 12 MB, decoded in about 25 ms."""

STRIP_PIXELS = 1 << 20
"""Level pixels reduced at once for a thumbnail: 3 MB, and some 30 MB as floats."""

WHOLE_RATIO = 8
"""Thumbnails reduced by more than this take a whole ratio: at most an eighth smaller, and much
faster where a slide has no coarse level."""


@final
class Level:
    """One resolution of a slide; level 0 is the finest.

    Attributes
    ----------
    info : LevelInfo
        Everything that is known without reading pixels.
    """

    def __init__(self, pyramid: "Pyramid", info: LevelInfo) -> None:
        self._pyramid = pyramid
        self._source = pyramid.source
        self.info = info

    @property
    def index(self) -> int:
        """Place in the pyramid, 0 is the finest."""
        return self.info.index

    @property
    def shape(self) -> tuple[int, ...]:
        """Pixels (y, x)."""
        return self.info.shape

    @property
    def downsample(self) -> tuple[float, ...]:
        """Level-0 pixels per pixel of this level, (y, x)."""
        return self.info.downsample

    @property
    def chunk(self) -> tuple[int, ...]:
        """Pixels (y, x) of the block that the file stores."""
        return self.info.chunk

    @property
    def spacing(self) -> Spacing:
        """µm per pixel (y, x); raises `MissingSpacingError` where it is not known."""
        if self.info.spacing is None:
            raise missing_spacing(self._pyramid.name, self._pyramid.metadata.properties)
        return self.info.spacing

    def read(self, box: Box) -> Pixels:
        """Return the pixels of `box`, from any thread.

        Parameters
        ----------
        box
            Level pixels (y, x), anywhere; outside the level lies the background.

        Returns
        -------
        ndarray
            `(*box.shape, 3)` uint8 RGB.

        Raises
        ------
        DamagedFileError
            If a block cannot be decoded, unless the slide was opened to go on then.
        SourceError
            If `box` is no box of two axes, or the slide is closed.
        """
        check_box(box, len(self.shape), self._pyramid.name)
        return self._pyramid.reader.read(self.info.index, box)

    def limit_cache(self, limit_bytes: int | None) -> None:
        """Bound what the slide keeps of decoded blocks, of all levels; `None`: as at first.

        For whoever reads whole blocks of the file, each once: keeping them would be of no use.
        """
        if isinstance(self._source, CachingSource):
            self._source.limit_cache(limit_bytes)

    def to_dask(self) -> "dask.array.Array":
        """Return the level as a lazy Dask array `(y, x, 3)` uint8.

        Chunks hold whole blocks of the file. Computing any part gives the bytes of `read`.
        """
        import dask.array

        lazy: dask.array.Array = dask.array.from_array(  # type: ignore[no-untyped-call]
            _Sliceable(self),
            chunks=(*_dask_chunk(self.chunk, self.shape), 3),
            name=f"{self._pyramid.stem}-level{self.index}-{uuid.uuid4().hex}",
            fancy=False,
            meta=np.empty((0, 0, 0), dtype=np.uint8),
        )
        return lazy

    def __repr__(self) -> str:
        y, x = self.shape
        return f"<Level {self.index}: {x} x {y} px, downsample {max(self.downsample):.4g}>"

    def _repr_html_(self) -> str:
        from wsiseg.source.html import level_html

        return level_html(self)


@final
class Pyramid:
    """An open slide; made by `wsiseg.open`. Use it in a `with` block, or `close` it.

    Parameters
    ----------
    source
        Where the pixels come from.
    spacing
        µm per level-0 pixel (y, x), in place of what the file says.
    path
        What was opened: file, folder or URL.
    on_damage
        What is read where a block cannot be decoded; see `OnDamage`.

    Attributes
    ----------
    source : PyramidSource
        Where the pixels come from.
    path : str, Path or None
        What was opened; `None` for arrays.
    metadata : SlideMetadata
        What is known about the slide; its spacing is the one in effect.
    levels : tuple of Level
        From finest to coarsest.
    reader : PyramidSource or Mender
        The source, or what goes on reading where it is damaged.
    on_damage : str
        As given.
    """

    def __init__(
        self,
        source: PyramidSource,
        *,
        spacing: Spacing | None = None,
        path: str | Path | None = None,
        on_damage: OnDamage = "raise",
    ) -> None:
        if on_damage not in get_args(OnDamage):
            raise SourceError(
                f"{source.metadata.name}: on_damage needs one of {', '.join(get_args(OnDamage))}, "
                f"found {on_damage!r}"
            )
        self.source = source
        self.path = path
        self.on_damage: OnDamage = on_damage
        mends, degraded = on_damage != "raise", on_damage == "replace"
        self.reader = Mender(source, degraded=degraded) if mends else source
        spacing = spacing or source.metadata.spacing
        self.metadata: SlideMetadata = replace(source.metadata, spacing=spacing)
        self.levels = tuple(
            Level(self, _with_spacing(info, spacing, self.name)) for info in source.levels
        )

    @property
    def name(self) -> str:
        """File name without folder."""
        return self.metadata.name

    @property
    def stem(self) -> str:
        """File name without folder and suffix; `.ome.tif` and `.ome.zarr` count as one suffix."""
        return stem_of(self.name)

    @property
    def shape(self) -> tuple[int, ...]:
        """Level-0 pixels (y, x)."""
        return self.levels[0].shape

    @property
    def has_spacing(self) -> bool:
        """Whether the pixel size is known."""
        return self.metadata.spacing is not None

    @property
    def spacing(self) -> Spacing:
        """µm per level-0 pixel (y, x); raises `MissingSpacingError` where it is not known."""
        return self.levels[0].spacing

    @property
    def ledger(self) -> Ledger | None:
        """The damaged blocks met so far; `None` where damage is an error."""
        return self.reader.ledger if isinstance(self.reader, Mender) else None

    def with_damage(self, on_damage: OnDamage) -> "Pyramid":
        """Return the same open slide, read by another rule where it is damaged; it shares the file.

        A slide that follows the rule already is returned as it is, with its ledger.
        """
        if on_damage == self.on_damage:
            return self
        spacing = self.metadata.spacing
        return Pyramid(self.source, spacing=spacing, path=self.path, on_damage=on_damage)

    @property
    def associated_names(self) -> tuple[str, ...]:
        """Names of the label, macro and thumbnail images; none of them is read."""
        return self.source.associated_names

    def associated_image(self, name: str) -> Pixels:
        """Return one associated image, `(y, x, 3)` uint8. A label may show a patient's name.

        Raises
        ------
        SourceError
            If there is none of that name.
        """
        return self.source.read_associated(name)

    def thumbnail(self, max_size: int = 1024) -> Pixels:
        """Return the whole slide, no side longer than `max_size` pixels, `(y, x, 3)` uint8.

        Made from the slide's own pixels by area, never from the associated thumbnail, which may
        show another crop.
        """
        if max_size < 1:
            raise LevelError(f"{self.name}: needed a thumbnail of at least 1 px, got {max_size}")
        fitting = [level for level in self.levels if max(level.shape) >= max_size]
        level = fitting[-1] if fitting else self.levels[0]
        longest = max(level.shape)
        whole = ceil_div(longest, max_size)
        reduction = max(1.0, longest / max_size)
        if reduction > WHOLE_RATIO or ceil_div(longest, whole) == max_size:
            reduction = float(whole)
        ratio = (reduction, reduction)
        height, width = target_shape(level.shape, ratio)
        pixels = np.empty((height, width, 3), dtype=np.uint8)
        rows = max(1, int(STRIP_PIXELS / (level.shape[1] * reduction)))
        for top in range(0, height, rows):
            box = Box((top, 0), (min(top + rows, height), width))
            span = area_span(box, ratio).clip(level.shape)
            pixels[box.slices()] = area(level.read(span), span, box, ratio, level.shape)
        return pixels

    @property
    def reads(self) -> ReadCount | None:
        """Compressed tiles decoded and bytes read so far, where the reader counts them."""
        return self.source.reads if isinstance(self.source, CountingSource) else None

    def at(self, spacing_um: float | Sequence[float] | Spacing, *, scaled: bool = False) -> "View":
        """Return the slide at a spacing, in µm per pixel, from the level that serves it best.

        Parameters
        ----------
        spacing_um
            One number, or (x, y) as `mpp` of `wsiseg.open`; or a `Spacing`, which is (y, x).
        scaled
            Let a JPEG reduce while it is decoded: faster, pixels differ a little; see `View`.

        Raises
        ------
        MissingSpacingError
            If the pixel size of the slide is not known, or the one asked for is impossible.
        SpacingUnavailableError
            If the slide is coarser than that.
        """
        from wsiseg.source.view import View

        if not isinstance(spacing_um, Spacing):
            spacing_um = parse_mpp(spacing_um, self.name)
        return View(self, spacing_um, scaled=scaled)

    def to_zarr(self) -> "zarr.Group":
        """Return the slide as a read-only Zarr group, an OME-Zarr multiscale image."""
        from wsiseg.source.store import as_zarr

        return as_zarr(self)

    def forget(self) -> None:
        """Drop the decoded blocks that are kept for neighbouring reads."""
        self.levels[0].limit_cache(0)
        self.levels[0].limit_cache(None)

    def close(self) -> None:
        """Free the file; reading afterwards raises `SourceError`."""
        self.source.close()

    def __enter__(self) -> "Pyramid":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        y, x = self.shape
        size = "unknown pixel size"
        if self.metadata.spacing is not None:
            size = " x ".join(f"{um:.4g}" for um in reversed(self.metadata.spacing.um)) + " µm/px"
        return f"<Pyramid {self.name}: {x} x {y} px, {len(self.levels)} levels, {size}>"

    def plot(self, size: int = 1024) -> "Figure":
        """Return a matplotlib figure of the whole slide, with a scale bar where that is known."""
        from wsiseg.draw import plot_image

        pixels, spacing = self.thumbnail(size), self.metadata.spacing
        um = spacing.um[1] * self.shape[1] / pixels.shape[1] if spacing else None
        return plot_image(pixels, um, title=self.name)

    def _repr_html_(self) -> str:
        from wsiseg.source.html import repr_html

        return repr_html(self)


class _Sliceable:
    """A level as something that Dask can slice."""

    ndim = 3
    dtype = np.dtype(np.uint8)

    def __init__(self, level: Level) -> None:
        self.shape = (*level.shape, 3)
        self._level = level

    def __getitem__(self, key: tuple[slice, ...]) -> Pixels:
        keys = (*key, *(slice(None),) * (3 - len(key)))
        if not all(isinstance(one, slice) and one.step in {None, 1} for one in keys):
            raise SourceError(f"{self._level!r}: needed slices of step 1, got {key}")
        start, stop = [], []
        for one, size in zip(keys[:2], self.shape, strict=False):
            first, last, _ = one.indices(size)
            start.append(first)
            stop.append(max(first, last))
        pixels: Pixels = self._level.read(Box(tuple(start), tuple(stop)))[..., keys[2]]
        return pixels


def _dask_chunk(block: tuple[int, ...], shape: tuple[int, ...]) -> tuple[int, int]:
    """Return a multiple of the file's block, up to `DASK_SIDE` a side, of as many pixels at most.

    A strip is as wide as the slide, so fewer of its rows are taken.
    """
    width = min(block[1] * max(1, DASK_SIDE // block[1]), shape[1])
    rows = min(DASK_SIDE, DASK_SIDE * DASK_SIDE // width)
    return min(block[0] * max(1, rows // block[0]), shape[0]), width


def _with_spacing(info: LevelInfo, spacing: Spacing | None, name: str) -> LevelInfo:
    try:
        return replace(info, spacing=spacing.times(info.downsample) if spacing else None)
    except MissingSpacingError as error:
        raise MissingSpacingError(f"{name}: level {info.index}: {error}", path=name) from error

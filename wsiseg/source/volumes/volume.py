"""A scan as users meet it: `Volume`."""

import hashlib
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

import numpy as np

from wsiseg.errors import SourceError
from wsiseg.geometry import Affine, Box, Reorientation, Spacing
from wsiseg.source.naming import stem_of
from wsiseg.source.volumes.base import VolumeMetadata, VolumeSource, Voxels

if TYPE_CHECKING:
    from collections.abc import Sequence

    import dask.array
    from matplotlib.figure import Figure

__all__ = ["Volume"]

AS_STORED = Reorientation((0, 1, 2), (False, False, False))

SLAB_BYTES = 32 << 20
"""Read at once by what walks through a whole volume."""


@final
class Volume:
    """An open scan; made by `wsiseg.open_volume`. Use it in a `with` block, or `close` it.

    Parameters
    ----------
    source
        Where the voxels come from.
    path
        What was opened: file or folder.
    turn
        How the axes differ from the stored ones; see `oriented`.

    Attributes
    ----------
    source : VolumeSource
        Where the voxels come from; its axes are as stored.
    path : str, Path or None
        What was opened; `None` for arrays.
    turn : Reorientation
        From the stored axes to those of this volume; `turn.inverse()` is the way back.
    """

    def __init__(
        self,
        source: VolumeSource,
        *,
        path: str | Path | None = None,
        turn: Reorientation = AS_STORED,
    ) -> None:
        self.source = source
        self.path = path
        self.turn = turn

    @property
    def name(self) -> str:
        """Name of the file or folder, without where it lies."""
        return self.metadata.name

    @property
    def stem(self) -> str:
        """Name without suffix; `.nii.gz` and `.ome.zarr` count as one suffix."""
        return stem_of(self.name)

    @property
    def metadata(self) -> VolumeMetadata:
        """What is known about the scan."""
        return self.source.metadata

    @property
    def shape(self) -> tuple[int, ...]:
        """Voxels (z, y, x)."""
        return self.turn.shape(self.source.shape)

    @property
    def channels(self) -> int:
        """1; 3 or 4 for colour."""
        return self.source.channels

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the voxels."""
        return self.source.dtype

    @property
    def affine(self) -> Affine:
        """Where the voxels are."""
        return self.source.affine.turned(self.turn, self.source.shape)

    @property
    def spacing(self) -> Spacing:
        """µm between voxels (z, y, x)."""
        return self.affine.spacing

    @property
    def chunk(self) -> tuple[int, ...]:
        """Voxels (z, y, x) that are best read together; whole planes of the file."""
        return self.turn.shape(self.source.chunk)

    def read(self, box: Box) -> Voxels:
        """Return the voxels of a box, from any thread.

        Parameters
        ----------
        box
            Voxels (z, y, x), inside the volume.

        Returns
        -------
        ndarray
            `(*box.shape, channels)` of `dtype`, contiguous.

        Raises
        ------
        DamagedFileError
            If voxels cannot be decoded.
        SourceError
            If the box is not inside the volume, or the volume is closed.
        """
        shape = self.shape
        if len(box.start) != 3 or box.clip(shape) != box:
            raise SourceError(f"{self.name}: needed a box inside {shape} voxels, found {box}")
        stored = self.source.read(self.turn.box_before(box, self.source.shape))
        return np.ascontiguousarray(self.turn.apply(stored))

    def oriented(self, orientation: str = "RAS") -> "Volume":
        """Return the same open scan with its axes permuted and flipped; it shares the file.

        No voxel is changed or interpolated: an oblique scan stays oblique, its axes nearest to the
        directions asked for.

        Parameters
        ----------
        orientation
            `RAS`: x grows to the patient's right, y to anterior, z to superior, in arrays
            `(z, y, x)`.

        Raises
        ------
        GridError
            If it is no orientation.
        """
        turn = self.turn.then(self.affine.turn_to(orientation))
        return Volume(self.source, path=self.path, turn=turn)

    def as_stored(self) -> "Volume":
        """Return the same open scan with the axes of the file."""
        return Volume(self.source, path=self.path)

    def to_dask(self) -> "dask.array.Array":
        """Return the scan as a lazy Dask array, `(z, y, x)`, or `(z, y, x, channel)` of colour."""
        import dask.array

        chunks = self.chunk if self.channels == 1 else (*self.chunk, self.channels)
        lazy: dask.array.Array = dask.array.from_array(  # type: ignore[no-untyped-call]
            _Sliceable(self),
            chunks=chunks,
            name=f"{self.stem}-{uuid.uuid4().hex}",
            fancy=False,
            meta=np.empty((0,) * len(chunks), dtype=self.dtype),
        )
        return lazy

    def fingerprint(self) -> str:
        """Return the SHA-256, in hex, of all voxels and where they are; axes as in this volume.

        Every voxel is read, some slices at a time.
        """
        told = (self.shape, self.channels, self.dtype.str, self.affine.matrix)
        digest = hashlib.sha256(repr(told).encode())
        whole = self.shape
        plane = self.dtype.itemsize * self.channels * whole[1] * whole[2]
        step = max(1, SLAB_BYTES // plane)
        for z in range(0, whole[0], step):
            part = Box((z, 0, 0), (min(z + step, whole[0]), *whole[1:]))
            digest.update(self.read(part).data)
        return digest.hexdigest()

    def close(self) -> None:
        """Free the file; reading afterwards raises `SourceError`."""
        self.source.close()

    def __enter__(self) -> "Volume":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        z, y, x = self.shape
        mm = " x ".join(f"{value:.4g}" for value in reversed(self.affine.spacing_mm))
        kind = f"{self.metadata.modality} " if self.metadata.modality else ""
        colour = f" x {self.channels} channels" if self.channels > 1 else ""
        return (
            f"<Volume {self.name}: {kind}{x} x {y} x {z} voxels{colour}, {self.dtype}, {mm} mm, "
            f"{self.affine.orientation}>"
        )

    def plot(self, at: "Sequence[float] | None" = None, *, size: int = 420) -> "Figure":
        """Return a matplotlib figure of the axial, coronal and sagittal slice through a place.

        Parameters
        ----------
        at
            mm (x, y, z): to the patient's right, anterior, superior; `None`: the middle.
        size
            Pixels of the longest side of any plane.

        Raises
        ------
        UsageError
            If the place is outside of the scan.
        """
        from wsiseg.draw import plot_image
        from wsiseg.source.volumes.picture import middle_planes

        pixels, mm_per_pixel = middle_planes(self, size, at)
        return plot_image(pixels, 1000 * mm_per_pixel, title=self.name)

    def _repr_html_(self) -> str:
        from wsiseg.source.volumes.picture import volume_html

        return volume_html(self)


class _Sliceable:
    """A volume as something that Dask can slice."""

    def __init__(self, volume: Volume) -> None:
        self._volume = volume
        self._colour = volume.channels > 1
        self.shape = (*volume.shape, volume.channels) if self._colour else volume.shape
        self.ndim = len(self.shape)
        self.dtype = volume.dtype

    def __getitem__(self, key: tuple[slice, ...]) -> Voxels:
        keys = (*key, *(slice(None),) * (self.ndim - len(key)))
        if not all(isinstance(one, slice) and one.step in {None, 1} for one in keys):
            raise SourceError(f"{self._volume!r}: needed slices of step 1, got {key}")
        spans = [one.indices(size) for one, size in zip(keys, self.shape, strict=True)]
        start = tuple(first for first, _, _ in spans[:3])
        stop = tuple(max(first, last) for first, last, _ in spans[:3])
        voxels = self._volume.read(Box(start, stop))
        return voxels[..., keys[3]] if self._colour else voxels[..., 0]

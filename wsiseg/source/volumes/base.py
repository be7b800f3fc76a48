"""What every source of voxels promises: the `VolumeSource` protocol and its metadata."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from wsiseg.geometry import Affine, Box

__all__ = ["Modality", "VolumeMetadata", "VolumeSource", "Voxels"]

Voxels = NDArray[Any]
"""`(z, y, x, channel)`; the type is that of the source."""

Modality = Literal["CT", "MR", "PT"]


@dataclass(frozen=True, slots=True)
class VolumeMetadata:
    """What a file says about a scan; nothing personal, no free text, no voxels."""

    name: str
    """Name of the file or folder, without where it lies."""

    reader: str
    """One of `VOLUME_READERS`."""

    modality: Modality | None = None
    """`None` where the format does not say."""

    properties: Mapping[str, str] = field(default_factory=dict)
    """Technical properties: how the geometry was told, types, codecs."""

    opened: Mapping[str, str | bool] = field(default_factory=dict)
    """Options of `open_volume` that it was opened with, to open it so again."""


class VolumeSource(Protocol):
    """A scan on a regular grid, at one resolution.

    The contract, checked for each source by `wsiseg.testing.VolumeSourceContract`:

    * `read` returns exactly `(*box.shape, channels)` of `dtype` for any box inside `shape`.
    * Integers stay integers where that is exact; what is scaled or floating is float32. What is
      not a number in the file is not a number here.
    * `read` may be called from any number of threads at once and gives the same bytes each time.
    * What cannot be decoded raises `DamagedFileError`; nothing is filled in.
    * `affine` is what the file says. A file that does not say where its voxels are is refused.
    """

    @property
    def shape(self) -> tuple[int, ...]:
        """Voxels (z, y, x) as stored: slices first, the fastest axis last."""
        ...

    @property
    def channels(self) -> int:
        """1; 3 or 4 for colour."""
        ...

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of what `read` returns, in the machine's byte order."""
        ...

    @property
    def affine(self) -> Affine:
        """Where the voxels are."""
        ...

    @property
    def chunk(self) -> tuple[int, ...]:
        """Voxels (z, y, x) that are best read together."""
        ...

    @property
    def metadata(self) -> VolumeMetadata:
        """What the file says about the scan."""
        ...

    def read(self, box: Box) -> Voxels:
        """Return the voxels of a box inside the volume, `(*box.shape, channels)`."""
        ...

    def close(self) -> None:
        """Free files and caches; reading afterwards raises `SourceError`."""
        ...

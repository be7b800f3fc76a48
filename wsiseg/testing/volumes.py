"""The contract of sources of voxels: subclass it to test your own reader.

::

    class TestMyReader(VolumeSourceContract):
        def make_source(self):
            return MyVolume("scan.mine")

It needs pytest.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from wsiseg.errors import SourceError
from wsiseg.geometry import Affine, Box
from wsiseg.source import Volume, VolumeSource

__all__ = ["VolumeSourceContract"]

THREADS = 4
SIDE = 24
"""Largest side of the windows that are read."""


class VolumeSourceContract:
    """What every `VolumeSource` promises."""

    def make_source(self) -> VolumeSource:
        """Return a new source of the same scan each time."""
        raise NotImplementedError

    @pytest.fixture
    def source(self) -> Iterator[VolumeSource]:
        """Give a source, closed at the end."""
        source = self.make_source()
        yield source
        source.close()

    def test_shape_type_and_place(self, source: VolumeSource) -> None:
        """Three sizes, a type in the machine's byte order, an affine, a chunk within the volume."""
        assert len(source.shape) == len(source.chunk) == 3
        assert all(
            1 <= chunk <= size for chunk, size in zip(source.chunk, source.shape, strict=True)
        )
        assert source.channels in {1, 3, 4}
        assert source.dtype.isnative
        assert source.dtype.kind in "bui" or source.dtype == np.float32
        assert isinstance(source.affine, Affine)

    def test_boxes_have_their_shape_and_agree(self, source: VolumeSource) -> None:
        """Any box gives its exact shape, and the same voxels as a larger one."""
        whole = _window(source.shape)
        voxels = source.read(whole)
        assert voxels.shape == (*whole.shape, source.channels)
        assert voxels.dtype == source.dtype
        for box in _parts(whole):
            part = source.read(box)
            assert part.shape == (*box.shape, source.channels)
            inner = voxels[box.relative_to(whole).slices()]
            assert np.array_equal(part, inner, equal_nan=source.dtype.kind == "f")

    def test_the_corners_can_be_read(self, source: VolumeSource) -> None:
        """The first and the last voxel are inside."""
        last = tuple(size - 1 for size in source.shape)
        for start in ((0, 0, 0), last):
            box = Box(start, tuple(a + 1 for a in start))
            assert source.read(box).shape == (1, 1, 1, source.channels)

    def test_empty_boxes_are_empty(self, source: VolumeSource) -> None:
        """A box without voxels gives none."""
        assert source.read(Box((0, 0, 0), (0, 1, 1))).shape == (0, 1, 1, source.channels)

    def test_a_read_is_the_readers_own(self, source: VolumeSource) -> None:
        """What is returned may be changed without changing what is read next."""
        box = _window(source.shape)
        first = source.read(box)
        kept = first.copy()
        first[...] = 1
        assert source.read(box).tobytes() == kept.tobytes()

    def test_threads_read_the_same(self, source: VolumeSource) -> None:
        """Reads from several threads at once give the same bytes."""
        boxes = list(_parts(_window(source.shape))) * THREADS
        alone = [source.read(box).tobytes() for box in boxes]
        fresh = self.make_source()
        with ThreadPoolExecutor(THREADS) as pool:
            together = list(pool.map(lambda box: fresh.read(box).tobytes(), boxes))
        fresh.close()
        assert together == alone

    def test_orientations_are_exact_and_come_back(self, source: VolumeSource) -> None:
        """Turned to RAS, each voxel keeps its value and its place."""
        volume = Volume(source).oriented("RAS")
        assert volume.affine.orientation == "RAS"
        last = tuple(size - 1 for size in volume.shape)
        stored = volume.turn.box_before(Box(last, volume.shape), source.shape)
        there = source.affine.world([stored.start])
        assert np.allclose(volume.affine.world([last]), there, atol=1e-3)
        own = volume.read(Box(last, volume.shape))
        assert own.tobytes() == source.read(stored).tobytes()

    def test_metadata_holds_nothing_personal(self, source: VolumeSource) -> None:
        """Keys that speak of people, institutions, texts or times are not passed on."""
        metadata = source.metadata
        assert metadata.name
        assert metadata.reader
        assert metadata.modality in {None, "CT", "MR", "PT"}
        personal = (
            "patient", "user", "operator", "physician", "institution", "station", "accession",
            "description", "comment", "date", "time", "birth", "name", "uid",
        )  # fmt: skip
        for key in metadata.properties:
            assert not any(word in key.lower() for word in personal)

    def test_closed_means_closed(self) -> None:
        """Reading after `close` raises `SourceError`; closing twice is fine."""
        source = self.make_source()
        source.close()
        source.close()
        with pytest.raises(SourceError, match="closed"):
            source.read(Box((0, 0, 0), (1, 1, 1)))


def _window(shape: tuple[int, ...]) -> Box:
    """Return a window around the middle."""
    size = tuple(min(n, SIDE) for n in shape)
    start = tuple((n - s) // 2 for n, s in zip(shape, size, strict=True))
    return Box(start, tuple(a + s for a, s in zip(start, size, strict=True)))


def _parts(box: Box) -> Iterator[Box]:
    """Yield the box, planes, rows and single voxels of it."""
    yield box
    for axis in range(3):
        middle = (box.start[axis] + box.stop[axis]) // 2
        start, stop = list(box.start), list(box.stop)
        start[axis], stop[axis] = middle, middle + 1
        yield Box(tuple(start), tuple(stop))
        yield Box(box.start, tuple(middle + 1 if i == axis else b for i, b in enumerate(box.stop)))

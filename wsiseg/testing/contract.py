"""The promises of `PyramidSource` as tests: subclass, say how to make a source, run pytest."""

import itertools
from abc import ABC, abstractmethod
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from wsiseg.errors import LevelError, SourceError
from wsiseg.geometry import Box, LevelInfo
from wsiseg.source.base import Pixels, PyramidSource

__all__ = ["SourceContract"]

THREADS = 8
WINDOW = 700
"""Longest side read from a level, so that a large slide can be checked too."""


class SourceContract(ABC):
    """Checks each clause of `PyramidSource`.

    Subclass it in a test module under a name that begins with `Test`, implement `make_source`,
    and, where the level-0 pixels are known, `truth`.
    """

    tolerance: int = 0
    """Largest difference to the truth that a lossy codec is allowed."""

    @abstractmethod
    def make_source(self) -> PyramidSource:
        """Return a freshly opened source; called once per test."""

    def truth(self) -> Pixels | None:
        """Return level 0, `(y, x, 3)` uint8, from somewhere else than the source, if known."""
        return None

    @pytest.fixture
    def source(self) -> Iterator[PyramidSource]:
        """Open the source for one test and close it afterwards."""
        source = self.make_source()
        yield source
        source.close()

    def test_levels_go_from_finest_to_coarsest(self, source: PyramidSource) -> None:
        """Level 0 has downsample 1; shapes shrink, downsamples grow and tell the shapes' ratio."""
        levels = source.levels
        assert [level.index for level in levels] == list(range(len(levels)))
        assert levels[0].downsample == (1.0, 1.0)
        for fine, coarse in itertools.pairwise(levels):
            assert max(fine.downsample) < max(coarse.downsample)
            assert all(a >= b for a, b in zip(fine.shape, coarse.shape, strict=True))
        for level in levels:
            assert min(level.shape) >= 1
            assert min(level.chunk) >= 1
            for axis in range(2):
                expected = level.shape[axis] * level.downsample[axis]
                assert abs(expected - levels[0].shape[axis]) <= level.downsample[axis]

    def test_spacing_grows_with_the_downsample(self, source: PyramidSource) -> None:
        """Levels know their spacing exactly where the slide knows its own."""
        base = source.metadata.spacing
        for level in source.levels:
            assert (level.spacing is None) == (base is None)
            if base is not None and level.spacing is not None:
                assert level.spacing.um == pytest.approx(base.times(level.downsample).um)

    def test_read_gives_rgb_of_the_shape_asked_for(self, source: PyramidSource) -> None:
        """Any box gives `(*box.shape, 3)` uint8, one the caller may write to."""
        for level in source.levels:
            for box in (_window(level), Box((0, 0), (1, 1)), Box((0, 0), (3, 0))):
                pixels = source.read(level.index, box)
                assert pixels.shape == (*box.shape, 3)
                assert pixels.dtype == np.uint8
                before = pixels.copy()
                if pixels.flags.writeable:
                    pixels[:] = 17
                assert np.array_equal(source.read(level.index, box), before)

    def test_empty_boxes_are_empty_anywhere(self, source: PyramidSource) -> None:
        """A box without pixels is no error, wherever it lies."""
        for corner in ((0, 0), (-5, 7), source.levels[0].shape):
            assert source.read(0, Box(corner, corner)).shape == (0, 0, 3)

    def test_outside_lies_the_background(self, source: PyramidSource) -> None:
        """Boxes off the level hold the background only."""
        background = np.array(source.metadata.background)
        for level in source.levels:
            y, x = level.shape
            for start in ((-40, -40), (y, 0), (0, x), (y + 1000, x + 1000), (-(10**6), 3)):
                box = Box(start, (start[0] + 30, start[1] + 40))
                assert (source.read(level.index, box) == background).all()

    def test_overhanging_boxes_are_the_image_and_background(self, source: PyramidSource) -> None:
        """A box over a corner equals the part inside, set into background."""
        for level in source.levels:
            y, x = level.shape
            for box in (
                Box((-7, -9), (min(y, 20), min(x, 30))),
                Box((max(0, y - 20), max(0, x - 30)), (y + 9, x + 7)),
            ):
                inside = box.clip(level.shape)
                expected = np.empty((*box.shape, 3), dtype=np.uint8)
                expected[:] = source.metadata.background
                expected[inside.relative_to(box).slices()] = source.read(level.index, inside)
                assert np.array_equal(source.read(level.index, box), expected)

    def test_parts_equal_the_whole(self, source: PyramidSource) -> None:
        """A pixel has one value, whichever box it is read with."""
        for level in source.levels:
            window = _window(level)
            whole = source.read(level.index, window)
            rng = np.random.default_rng(level.index)
            for _ in range(12):
                ends = [np.sort(rng.integers(0, n + 1, 2)) for n in window.shape]
                part = Box(tuple(int(e[0]) for e in ends), tuple(int(e[1]) for e in ends))
                pixels = source.read(level.index, part.shift(window.start))
                assert np.array_equal(pixels, whole[part.slices()])

    def test_level_zero_shows_the_truth(self, source: PyramidSource) -> None:
        """Level 0 equals what is known about it."""
        truth = self.truth()
        if truth is None:
            pytest.skip("no truth given")
        assert truth.shape == (*source.levels[0].shape, 3)
        pixels = source.read(0, Box.of_shape(truth.shape[:2]))
        difference = np.abs(pixels.astype(np.int16) - truth)
        assert difference.max(initial=0) <= self.tolerance

    def test_threads_read_the_same_bytes(self, source: PyramidSource) -> None:
        """Many threads at once, on all levels and on the same blocks, change nothing."""
        jobs = []
        for level in source.levels:
            window = _window(level)
            for row in range(3):
                corner = tuple(
                    a + row * n // 4 for a, n in zip(window.start, window.shape, strict=True)
                )
                jobs.append((level.index, Box(corner, window.stop)))
        alone = [source.read(*job) for job in jobs]
        fresh = self.make_source()
        try:
            with ThreadPoolExecutor(THREADS) as pool:
                together = list(pool.map(lambda job: fresh.read(*job), jobs * THREADS))
        finally:
            fresh.close()
        for index, pixels in enumerate(together):
            assert np.array_equal(pixels, alone[index % len(alone)])

    def test_unknown_levels_are_refused(self, source: PyramidSource) -> None:
        """There is no level -1, and none after the last."""
        for level in (-1, len(source.levels)):
            with pytest.raises(LevelError, match="level"):
                source.read(level, Box((0, 0), (1, 1)))

    def test_associated_images_stay_apart(self, source: PyramidSource) -> None:
        """They are listed by name, read on demand, and unknown names are refused."""
        names = source.associated_names
        assert isinstance(names, tuple)
        for name in names:
            pixels = source.read_associated(name)
            assert pixels.ndim == 3
            assert pixels.shape[2] == 3
            assert pixels.dtype == np.uint8
        with pytest.raises(SourceError, match="no such image"):
            source.read_associated("no such image")

    def test_metadata_holds_nothing_personal(self, source: PyramidSource) -> None:
        """Keys that speak of people, labels, files or times are not passed on."""
        metadata = source.metadata
        assert metadata.name
        assert metadata.reader
        personal = ("patient", "user", "operator", "barcode", "label", "filename", "date", "time")
        for key in metadata.properties:
            assert not any(word in key.lower() for word in personal)

    def test_closed_means_closed(self) -> None:
        """Reading after `close` raises `SourceError`; closing twice is fine."""
        source = self.make_source()
        source.close()
        source.close()
        with pytest.raises(SourceError, match="closed"):
            source.read(0, Box((0, 0), (1, 1)))


def _window(level: LevelInfo) -> Box:
    """Return a window around the middle of a level."""
    size = tuple(min(n, WINDOW) for n in level.shape)
    start = tuple((n - s) // 2 for n, s in zip(level.shape, size, strict=True))
    return Box(start, tuple(a + s for a, s in zip(start, size, strict=True)))

"""Every source of this package keeps the promises of `PyramidSource`."""

from pathlib import Path

import dask.array
import numpy as np
import pytest
import zarr
from PIL import Image

from wsiseg.source.array import ArraySource
from wsiseg.source.image import ImageSource
from wsiseg.source.openslide import OpenSlideSource
from wsiseg.source.tiff import TiffSource
from wsiseg.testing.contract import SourceContract
from wsiseg.testing.slides import (
    make_ome_tiff,
    make_sparse_tiff,
    make_svs,
    make_tiff_pyramid,
    pyramid_pixels,
    tissue_disc,
)

PIXELS, _ = tissue_disc((530, 770), seed=3)


class InFolder(SourceContract):
    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path: Path):
        self.folder = tmp_path

    def path(self, name: str) -> Path:
        return self.folder / name

    def truth(self):
        return PIXELS


class TestSvs(InFolder):
    tolerance = 120

    def make_source(self):
        path = self.path("a.svs")
        if not path.exists():
            make_svs(path, PIXELS, levels=(1, 4.4055), quality=95, subsampling="444")
        return TiffSource(path)


class TestTiffWithoutSomeTiles(InFolder):
    def make_source(self):
        path = self.path("a.tif")
        if not path.exists():
            make_sparse_tiff(path, PIXELS, levels=(1, 2), missing_tiles={0, 4})
        return TiffSource(path)

    def truth(self):
        return None


class TestPyramidTiff(InFolder):
    def make_source(self):
        path = self.path("a.tif")
        if not path.exists():
            make_tiff_pyramid(path, PIXELS, predictor=True, tile=128, mpp=(0.25, 0.3))
        return TiffSource(path)


class TestStrips(InFolder):
    def make_source(self):
        path = self.path("a.tif")
        if not path.exists():
            make_tiff_pyramid(path, PIXELS, levels=(1, 3), tile=None, compression=None)
        return TiffSource(path)


class TestOmeTiff(InFolder):
    def make_source(self):
        path = self.path("a.ome.tif")
        if not path.exists():
            make_ome_tiff(path, PIXELS, tile=128, associated=True)
        return TiffSource(path)


class TestOpenFile(InFolder):
    def make_source(self):
        path = self.path("a.tif")
        if not path.exists():
            make_tiff_pyramid(path, PIXELS, tile=128)
        self.file = path.open("rb")
        self.files = [*getattr(self, "files", []), self.file]
        return TiffSource(self.file, name="a.tif")

    @pytest.fixture(autouse=True)
    def _close_files(self):
        yield
        for file in self.files:
            file.close()


class TestOpenSlide(InFolder):
    tolerance = 120

    def make_source(self):
        path = self.path("a.svs")
        if not path.exists():
            make_svs(path, PIXELS, levels=(1, 4.4055), quality=95, subsampling="444")
        return OpenSlideSource(path)


class TestOpenSlideWithoutSomeTiles(InFolder):
    def make_source(self):
        path = self.path("a.svs")
        if not path.exists():
            make_svs(path, PIXELS, levels=(1, 2), missing_tiles={0, 4})
        return OpenSlideSource(path)

    def truth(self):
        return None


class TestImage(InFolder):
    def make_source(self):
        path = self.path("a.png")
        if not path.exists():
            Image.fromarray(PIXELS).save(path)
        return ImageSource(path)


class TestNumpyPyramid(SourceContract):
    def make_source(self):
        return ArraySource(pyramid_pixels(PIXELS, (1, 2.5, 6)))

    def truth(self):
        return PIXELS


class TestDask(SourceContract):
    def make_source(self):
        return ArraySource(dask.array.from_array(PIXELS, chunks=(100, 128, 3)))

    def truth(self):
        return PIXELS


class TestZarr(SourceContract):
    def make_source(self):
        array = zarr.create_array({}, shape=PIXELS.shape, chunks=(128, 128, 3), dtype="uint8")
        array[:] = PIXELS
        return ArraySource(array)

    def truth(self):
        return PIXELS


REAL = (
    "cmu-1-small-region.svs",
    "tcga-cr-7395-01a-01-ts1.svs",
    "petebankhead_OS-2-vsi.ome.tif",
    "kidney-48-5.tif",
    "openslide-python/boxes.tiff",
)


@pytest.mark.realdata
class TestRealTiff(SourceContract):
    @pytest.fixture(autouse=True, params=REAL)
    def _slide(self, request, data_dir: Path):
        self.slide = data_dir / "slides" / request.param

    def make_source(self):
        return TiffSource(self.slide)


@pytest.mark.realdata
class TestRealOpenSlide(SourceContract):
    @pytest.fixture(autouse=True, params=(REAL[0], REAL[1], REAL[4]))
    def _slide(self, request, data_dir: Path):
        self.slide = data_dir / "slides" / request.param

    def make_source(self):
        return OpenSlideSource(self.slide)


class Broken(SourceContract):
    """A source that breaks one promise at a time; the contract must notice each."""

    def __init__(self, source):
        self.broken = source

    def make_source(self):
        return self.broken


class ShiftedOutside(ArraySource):
    def read(self, level, box):
        pixels = super().read(level, box)
        return np.roll(pixels, 1, axis=0) if box.start[0] < 0 else pixels


class BlackOutside(ArraySource):
    def read(self, level, box):
        pixels = super().read(level, box)
        return pixels if box.clip(self.levels[level].shape).size else pixels * 0


class NeverClosed(ArraySource):
    def close(self):
        pass


@pytest.mark.parametrize(
    ("kind", "check"),
    [
        (ShiftedOutside, "test_overhanging_boxes_are_the_image_and_background"),
        (BlackOutside, "test_outside_lies_the_background"),
    ],
)
def test_the_contract_notices(kind, check):
    contract = Broken(kind(PIXELS))
    with pytest.raises(AssertionError):
        getattr(contract, check)(contract.make_source())


def test_the_contract_notices_a_source_that_does_not_close():
    with pytest.raises(pytest.fail.Exception):
        Broken(NeverClosed(PIXELS)).test_closed_means_closed()

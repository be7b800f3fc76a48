"""An open slide as a Zarr group: the pixels of the slide, and metadata that others understand."""

import asyncio
import json
from concurrent.futures import ThreadPoolExecutor

import dask.array
import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st
from zarr.abc.store import OffsetByteRequest, RangeByteRequest, SuffixByteRequest
from zarr.core.buffer import default_buffer_prototype

from wsiseg.errors import DamagedFileError, SourceError
from wsiseg.geometry import Spacing
from wsiseg.source.array import ArraySource
from wsiseg.source.omezarr import OmeZarrSource
from wsiseg.source.pyramid import Pyramid
from wsiseg.source.store import as_zarr

PIXELS = np.random.default_rng(1).integers(0, 256, (1300, 1111, 3), dtype=np.uint8)
LEVELS = (PIXELS, PIXELS[::4, ::4], PIXELS[::9, ::9])
SPACING = Spacing((0.5, 0.25))


class Counting(ArraySource):
    """A source that counts its reads, with blocks of a chosen size, damaged when told so."""

    def __init__(self, block=(240, 240), damaged=False, spacing=SPACING):
        arrays = [_Blocks(level, block) for level in LEVELS]
        super().__init__(arrays, name="slide.svs", spacing=spacing)
        self.reads = 0
        self.damaged = damaged

    def read(self, level, box):
        self.reads += 1
        if self.damaged:
            raise DamagedFileError("slide.svs: level 0, tile 3 cannot be decoded")
        return super().read(level, box)


class _Blocks:
    def __init__(self, pixels, block):
        self.pixels, self.shape, self.dtype, self.chunks = pixels, pixels.shape, pixels.dtype, block

    def __getitem__(self, key):
        return self.pixels[key]


def make(**options):
    source = Counting(**options)
    return source, as_zarr(Pyramid(source))


def fetch(store, key, byte_range=None):
    value = asyncio.run(store.get(key, default_buffer_prototype(), byte_range))
    return None if value is None else value.to_bytes()


def keys_of(iterator):
    async def collect():
        return [key async for key in iterator]

    return asyncio.run(collect())


@pytest.fixture(scope="module")
def level_0():
    return make()[1]["0"]


def test_each_level_is_an_array_channel_first():
    _, group = make()
    assert sorted(group.array_keys()) == ["0", "1", "2"]
    for index, pixels in enumerate(LEVELS):
        array = group[str(index)]
        assert array.dtype == np.uint8
        assert array.metadata.dimension_names == ("c", "y", "x")
        np.testing.assert_array_equal(np.moveaxis(array[:], 0, -1), pixels)


edges = st.tuples(st.integers(0, 1300), st.integers(0, 1300)).map(sorted)


@given(rows=edges, columns=edges, channel=st.integers(0, 2))
def test_any_slice_equals_the_slide(level_0, rows, columns, channel):
    part = slice(*rows), slice(*columns)
    np.testing.assert_array_equal(level_0[(channel, *part)], PIXELS[(*part, channel)])


def test_opening_and_describing_read_no_pixels():
    source, group = make()
    array = group["0"]
    assert array.shape == (3, 1300, 1111)
    assert array.nbytes == 3 * 1300 * 1111
    dask.array.from_zarr(array)
    assert source.reads == 0
    array[:, :10, :10]
    assert source.reads == 1


@pytest.mark.parametrize(
    ("block", "chunk"),
    [
        ((240, 240), (3, 720, 720)),
        ((256, 256), (3, 512, 512)),
        ((1024, 1024), (3, 1024, 1024)),
        ((7, 5000), (3, 518, 1111)),
        ((5000, 5000), (3, 1300, 1111)),
    ],
)
def test_chunks_are_whole_blocks(block, chunk):
    _, group = make(block=block)
    assert group["0"].chunks == chunk


def test_strips_as_wide_as_a_slide_are_cut():
    wide = np.zeros((40, 9000, 3), np.uint8)
    group = as_zarr(Pyramid(ArraySource(_Blocks(wide, (4, 9000)))))
    assert group["0"].chunks == (3, 40, 512)


def test_the_metadata_satisfies_the_specification():
    from ome_zarr_models.v05.image import Image

    image = Image.from_zarr(make()[1])
    multiscale = image.attributes.ome.multiscales[0]
    assert [axis.name for axis in multiscale.axes] == ["c", "y", "x"]
    assert {axis.unit for axis in multiscale.axes[1:]} == {"micrometer"}
    scale, translation = multiscale.datasets[1].coordinateTransformations
    downsample = (1300 / 325, 1111 / 278)
    expected = [SPACING.um[i] * downsample[i] for i in range(2)]
    assert scale.scale == pytest.approx([1.0, *expected])
    # The centre of the first pixel of level 1 lies half of what the pixel grew by further in.
    inset = [(expected[i] - SPACING.um[i]) / 2 for i in range(2)]
    assert translation.translation == pytest.approx([0.0, *inset])


def test_without_a_pixel_size_there_is_no_unit():
    _, group = make(spacing=None)
    multiscale = group.attrs["ome"]["multiscales"][0]
    assert all("unit" not in axis for axis in multiscale["axes"])
    scale = multiscale["datasets"][2]["coordinateTransformations"][0]["scale"]
    assert scale == pytest.approx([1.0, 1300 / 145, 1111 / 124])


@pytest.fixture
def copy(tmp_path):
    """All keys of the store written to a folder, as any tool that copies stores does."""
    store = make()[1].store
    for key in keys_of(store.list()):
        file = tmp_path / "copy.zarr" / key
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(fetch(store, key))
    return tmp_path / "copy.zarr"


def test_a_copy_on_disk_is_the_same_slide(copy):
    with Pyramid(OmeZarrSource(copy)) as slide:
        assert slide.spacing.um == pytest.approx(SPACING.um)
        for level, pixels in zip(slide.levels, LEVELS, strict=True):
            np.testing.assert_array_equal(level.to_dask().compute(), pixels)


def test_ome_zarr_py_reads_a_copy(copy):
    from ome_zarr.io import ZarrLocation
    from ome_zarr.reader import Reader

    (node,) = Reader(ZarrLocation(copy))()
    assert [axis["name"] for axis in node.metadata["axes"]] == ["c", "y", "x"]
    for data, pixels in zip(node.data, LEVELS, strict=True):
        np.testing.assert_array_equal(np.moveaxis(data.compute(), 0, -1), pixels)


def test_listing_and_asking_agree():
    source, group = make()
    store = group.store
    keys = keys_of(store.list())
    assert {"zarr.json", "0/zarr.json", "0/c/0/1/1", "2/c/0/0/0"} <= set(keys)
    assert len(keys) == 1 + 3 + 2 * 2 + 1 + 1
    assert all(asyncio.run(store.exists(key)) for key in keys)
    assert sorted(keys_of(store.list_dir(""))) == ["0", "1", "2", "zarr.json"]
    assert sorted(keys_of(store.list_dir("0/c/0"))) == ["0", "1"]
    assert keys_of(store.list_prefix("2/c/")) == ["2/c/0/0/0"]
    assert source.reads == 0


@pytest.mark.parametrize(
    "key", ["", "3/zarr.json", "0/c/0/2/0", "0/c/1/0/0", "0/c/0/-1/0", "0/c/0/0", "0/c/0/x/0", "9"]
)
def test_other_keys_do_not_exist(key):
    store = make()[1].store
    assert fetch(store, key) is None
    assert not asyncio.run(store.exists(key))


@pytest.mark.parametrize("key", ["0/zarr.json", "2/c/0/0/0"])
def test_parts_of_a_value_are_parts_of_it(key):
    store = make()[1].store
    value = fetch(store, key)
    assert fetch(store, key, RangeByteRequest(3, 9)) == value[3:9]
    assert fetch(store, key, OffsetByteRequest(5)) == value[5:]
    assert fetch(store, key, SuffixByteRequest(4)) == value[-4:]
    assert fetch(store, key, SuffixByteRequest(10**9)) == value


def test_chunks_beyond_the_edge_hold_background():
    store = make()[1].store
    chunk = np.frombuffer(fetch(store, "0/c/0/1/1"), np.uint8).reshape(3, 720, 720)
    np.testing.assert_array_equal(chunk[:, :580, :391], np.moveaxis(PIXELS[720:, 720:], -1, 0))
    assert (chunk[:, 580:] == 255).all()


def test_writing_is_refused():
    _, group = make()
    with pytest.raises(SourceError, match="read-only"):
        group["0"][0, 0, 0] = 1
    with pytest.raises(SourceError, match="read-only"):
        group.create_array("new", shape=(1,), dtype="uint8")
    with pytest.raises(SourceError, match="read-only"):
        asyncio.run(group.store.delete("0/zarr.json"))
    with pytest.raises(SourceError, match="read-only"):
        group.store.with_read_only(False)
    with pytest.raises((ValueError, SourceError), match="read"):
        zarr.open_group(group.store, mode="r+")


def test_damage_and_closing_come_through_as_they_are():
    source, group = make(damaged=True)
    with pytest.raises(DamagedFileError, match="tile 3"):
        group["0"][:, :5, :5]
    source.damaged = False
    source.close()
    with pytest.raises(SourceError, match="closed"):
        group["0"][:, :5, :5]


def test_many_threads_and_dask_read_the_same(level_0):
    lazy = dask.array.from_zarr(level_0)
    with ThreadPoolExecutor(8) as pool:
        parts = list(pool.map(lambda row: level_0[:, row : row + 100, :], range(0, 1300, 100)))
    np.testing.assert_array_equal(np.concatenate(parts, 1), np.moveaxis(PIXELS, -1, 0))
    np.testing.assert_array_equal(lazy.compute(), np.moveaxis(PIXELS, -1, 0))


def test_a_real_slide(data_dir):
    import tifffile

    import wsiseg.source

    path = data_dir / "slides/petebankhead_OS-1-detail.ome.tif"
    with wsiseg.source.open(path) as slide:
        group = slide.to_zarr()
        np.testing.assert_allclose(np.moveaxis(group["0"][:], 0, -1), tifffile.imread(path), atol=1)
        document = json.loads(fetch(group.store, "zarr.json"))
        scale = document["attributes"]["ome"]["multiscales"][0]["datasets"][0]
        assert scale["coordinateTransformations"][0]["scale"][1] == pytest.approx(0.2271, abs=1e-4)

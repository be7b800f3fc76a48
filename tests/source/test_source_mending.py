"""Slides damaged on purpose, read to their end: what stands in for a block, and the ledger."""

import shutil
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import zarr
from PIL import Image
from tifffile import TiffFile

import wsiseg
from wsiseg.errors import DamagedFileError, SourceError
from wsiseg.geometry import Box
from wsiseg.resample import area
from wsiseg.source import State
from wsiseg.source.mending import NODATA_GREY
from wsiseg.source.openslide import OpenSlideSource
from wsiseg.source.pyramid import Pyramid
from wsiseg.testing import hostile
from wsiseg.testing.slides import make_svs, pyramid_pixels, tissue_disc

SIDE = 240
TILE = 4 * 6 + 2
"""Row 4, column 2 of a level 0 of 1,400 pixels, six tiles wide: stained tissue."""

HURT = Box((4 * SIDE, 2 * SIDE), (5 * SIDE, 3 * SIDE))


@pytest.fixture(scope="module")
def pixels(data_dir):
    """Real tissue, (1300, 1400, 3)."""
    path = sorted((data_dir / "histology/bcss/images").iterdir())[0]
    return np.asarray(Image.open(path).convert("RGB"))[:1300, :1400]


@pytest.fixture(scope="module")
def whole(pixels, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    return make_svs(folder / "a.svs", pixels, levels=(1, 2, 4), associated=False, quality=90)


def read(path, level=0, **options):
    """Return a whole level, and the slide, closed."""
    with wsiseg.open(path, on_damage="replace", **options) as slide:
        return slide.levels[level].read(Box.of_shape(slide.levels[level].shape)), slide


def psnr(found, truth):
    error = np.mean((found.astype(float) - truth) ** 2)
    return 10 * np.log10(255**2 / error)


def outside(shape, box):
    kept = np.ones(shape, np.bool_)
    kept[box.slices()] = False
    return kept


def test_a_coarser_level_stands_in_and_is_called_degraded(whole, tmp_path):
    truth, slide = read(whole)
    assert len(slide.ledger) == 0
    hurt = hostile.damage_tile(whole, tmp_path / "b.svs", tile=TILE)
    found, slide = read(hurt)
    kept = outside(truth.shape[:2], HURT)
    assert np.array_equal(found[kept], truth[kept])
    inside, own = found[HURT.slices()], truth[HURT.slices()]
    white = np.full_like(own, 255)
    assert psnr(inside, own) > 25 > psnr(white, own) + 10
    assert abs(inside.mean() - own.mean()) < 1  # no shift of brightness or of place
    (block,) = slide.ledger.blocks
    assert (block.level, block.index, block.state) == (0, (4, 2), State.DEGRADED)
    assert (block.box, block.l0_box, block.source_level) == (HURT, HURT, 1)
    assert "cannot be decoded" in block.reason


def test_the_stand_in_lies_in_the_right_place(tmp_path):
    """A ramp, enlarged: half a pixel off would show as a difference of half a step."""
    ramp = np.add.outer(np.arange(720), np.arange(720)) / 6
    pixels = np.repeat(ramp[..., None], 3, axis=2).astype(np.uint8)
    path = make_svs(tmp_path / "a.svs", pixels, levels=(1, 4), tile=240, quality=100)
    found, _ = read(hostile.damage_tile(path, tmp_path / "b.svs", tile=4))
    inside = found[240:480, 240:480].astype(float)
    assert abs((inside - pixels[240:480, 240:480]).mean()) < 0.3
    found, _ = read(hostile.damage_tile(path, tmp_path / "c.svs", tile=8))
    off = found[-240:, -240:].astype(float) - pixels[-240:, -240:]
    assert np.abs(off).max() < 4  # at the edge of the slide, too: no white from beyond comes in


def test_a_finer_level_restores_a_coarse_block(whole, tmp_path):
    truth, _ = read(whole, 1)
    found, slide = read(hostile.damage_tile(whole, tmp_path / "b.svs", page=1, tile=2 * 3 + 1), 1)
    box = Box((480, 240), (650, 480))
    kept = outside(truth.shape[:2], box)
    assert np.array_equal(found[kept], truth[kept])
    assert psnr(found[box.slices()], truth[box.slices()]) > 33
    (block,) = slide.ledger.blocks
    assert (block.state, block.source_level, block.level) == (State.RESTORED, 0, 1)
    assert block.l0_box == Box((960, 480), (1300, 960))


def test_the_next_level_that_can_be_read_is_taken(whole, tmp_path):
    hurt = hostile.damage_tile(whole, tmp_path / "b.svs", tile=TILE)
    hurt = hostile.damage_tile(hurt, tmp_path / "c.svs", page=1, tile=2 * 3 + 1)
    found, slide = read(hurt)
    truth, _ = read(whole)
    (block,) = slide.ledger.blocks
    assert (block.state, block.source_level) == (State.DEGRADED, 2)
    assert psnr(found[HURT.slices()], truth[HURT.slices()]) > 20
    hurt = hostile.damage_tile(hurt, tmp_path / "d.svs", page=2, tile=1 * 2)
    found, slide = read(hurt)
    assert (found[HURT.slices()] == 127).all()  # grey: white would be glass
    assert [block.state for block in slide.ledger.blocks] == [State.NODATA]


def test_without_degraded_pixels_there_are_none(whole, tmp_path):
    hurt = hostile.damage_tile(whole, tmp_path / "b.svs", tile=TILE)
    with wsiseg.open(hurt, on_damage="nodata") as slide:
        assert (slide.levels[0].read(HURT) == NODATA_GREY).all()
        assert slide.ledger.blocks[0].state == State.NODATA
        assert slide.with_damage("nodata") is slide


def test_damage_is_an_error_unless_asked_otherwise(whole, tmp_path):
    hurt = hostile.damage_tile(whole, tmp_path / "b.svs", tile=TILE)
    with wsiseg.open(hurt) as slide:
        assert slide.ledger is None
        with pytest.raises(DamagedFileError, match="row 4, column 2 cannot be decoded"):
            slide.levels[0].read(HURT)
        assert slide.with_damage("replace").levels[0].read(HURT).shape == (240, 240, 3)
    with pytest.raises(SourceError, match="on_damage needs one of raise, replace, nodata"):
        wsiseg.open(whole, on_damage="white")


@pytest.mark.parametrize("scaled", [False, True])
def test_views_reduce_what_stands_in(whole, tmp_path, scaled):
    hurt = hostile.damage_tile(whole, tmp_path / "b.svs", tile=TILE)
    with wsiseg.open(hurt, on_damage="replace", mpp=0.25) as slide:
        level = slide.levels[0]
        mended = level.read(HURT)
        view = slide.at(0.375, scaled=scaled)  # reduced in parts of pixels
        assert view.level.index == 0
        assert view.read(Box((0, 0), (40, 40))).shape == (40, 40, 3)
        single = Pyramid(slide.source, spacing=slide.spacing, on_damage="replace")
        single.levels = single.levels[:1]  # so that 0.5 µm is made of level 0
        view = single.at(0.5, scaled=scaled)
        ratio, box = (2, 2), Box((480, 240), (600, 360))
        assert (view.level.index, view.ratio) == (0, (2.0, 2.0))
        expected = area(mended, HURT, box, ratio, level.shape)
        assert np.array_equal(view.read(box), expected)
        around = view.read(Box.of_shape(view.shape))
        assert np.array_equal(around[box.slices()], expected)
    with wsiseg.open(whole, mpp=0.25) as slide:
        slide.levels = slide.levels[:1]
        truth = slide.at(0.5, scaled=scaled).read(Box.of_shape(view.shape))
    kept = outside(view.shape, box)
    assert np.array_equal(around[kept], truth[kept])


def test_each_block_counts_once_from_many_threads(whole, tmp_path):
    hurt = hostile.damage_tile(whole, tmp_path / "b.svs", tile=TILE)
    hurt = hostile.damage_tile(hurt, tmp_path / "c.svs", tile=0)
    rng = np.random.default_rng(0)
    corners = [tuple(int(n) for n in rng.integers(0, 1000, 2)) for _ in range(80)]
    truth, _ = read(hurt)
    with wsiseg.open(hurt, on_damage="replace") as slide, ThreadPoolExecutor(8) as pool:

        def one(corner):
            box = Box(corner, (corner[0] + 300, corner[1] + 300))
            return box, slide.levels[0].read(box)

        for box, found in pool.map(one, corners):
            assert np.array_equal(found, truth[box.slices()])
        slide.reader._cache.limit(0)  # so that blocks are replaced anew for each read
        for box, found in pool.map(one, corners):
            assert np.array_equal(found, truth[box.slices()])
        slide.thumbnail(100)
        assert [block.index for block in slide.ledger.blocks] == [(0, 0), (4, 2)]
        assert len(slide.ledger) == 2


@pytest.mark.parametrize("hurt_by", [hostile.damage_tile, hostile.empty_tile])
def test_one_real_level_has_no_stand_in_and_no_white(data_dir, tmp_path, hurt_by):
    path = data_dir / "slides/cmu-1-small-region.svs"
    truth, _ = read(path)
    found, slide = read(hurt_by(path, tmp_path / "b.svs", tile=5 * 10 + 4))
    box = Box((1200, 960), (1440, 1200))
    assert (found[box.slices()] == NODATA_GREY).all()
    kept = outside(truth.shape[:2], box)
    assert np.array_equal(found[kept], truth[kept])
    assert [(b.index, b.state) for b in slide.ledger.blocks] == [((5, 4), State.NODATA)]


def test_a_tile_without_bytes_and_place_is_damage_where_scanners_leave_none_out(tmp_path):
    pixels, _ = tissue_disc((500, 500))
    path = make_svs(tmp_path / "a.svs", pixels, levels=(1, 2), missing_tiles={0})
    with wsiseg.open(path) as slide, pytest.raises(DamagedFileError, match="has no bytes"):
        slide.levels[0].read(Box((0, 0), (1, 1)))
    _, slide = read(path)
    assert slide.ledger.blocks[0].state == State.DEGRADED


def test_a_file_cut_short_is_read_as_far_as_it_goes(pixels, tmp_path):
    path = make_svs(tmp_path / "a.svs", pixels, levels=(1,), associated=False)
    truth, _ = read(path)
    with TiffFile(path) as tiff:
        last = tiff.pages[0].dataoffsets[30]
        assert tiff.pages[0].offset < last
    with (tmp_path / "b.svs").open("wb") as file:
        file.write(path.read_bytes()[: last + 10])
    found, slide = read(tmp_path / "b.svs")
    assert len(slide.ledger) == 36 - 30
    assert np.array_equal(found[: 5 * SIDE], truth[: 5 * SIDE])
    assert (found[5 * SIDE :] == NODATA_GREY).all()


def test_jpeg_2000(data_dir, tmp_path):
    path = data_dir / "slides/tcga-cr-7395-01a-01-ts1.svs"
    truth, slide = read(path, mpp=0.5)
    columns = -(-slide.shape[1] // 256)
    hurt = tmp_path / "b.svs"
    shutil.copyfile(path, hurt)
    with TiffFile(path) as tiff, hurt.open("r+b") as file:
        page = tiff.pages[0]
        for index in (0, 6 * columns + 7):  # the first is what a codec is judged by
            file.seek(page.dataoffsets[index])
            file.write(bytes(page.databytecounts[index]))
    found, slide = read(hurt, mpp=0.5)
    assert {(b.index, b.state) for b in slide.ledger.blocks} == {
        ((0, 0), State.DEGRADED),
        ((6, 7), State.DEGRADED),
    }
    place = np.s_[6 * 256 : 7 * 256, 7 * 256 : 8 * 256]
    assert psnr(found[place], truth[place]) > 22
    with wsiseg.open(path, mpp=0.5) as good, wsiseg.open(hurt, mpp=0.5) as bad:
        scales = good.source.codec_scales(0, (4, 4))
        assert scales
        assert bad.source.codec_scales(0, (4, 4)) == scales


def test_ome_zarr(pixels, tmp_path):
    group = zarr.open_group(tmp_path / "a.zarr", mode="w", zarr_format=2)
    datasets = []
    for index, level in enumerate(pyramid_pixels(pixels, (1, 4))):
        array = group.create_array(
            str(index), shape=(3, *level.shape[:2]), chunks=(3, 256, 256), dtype="uint8"
        )
        array[:] = np.moveaxis(level, -1, 0)
        scale = {"type": "scale", "scale": [1, 0.25 * 4**index, 0.25 * 4**index]}
        datasets.append({"path": str(index), "coordinateTransformations": [scale]})
    axes = [{"name": "c", "type": "channel"}]
    axes += [{"name": n, "type": "space", "unit": "micrometer"} for n in "yx"]
    group.attrs["multiscales"] = [{"version": "0.4", "axes": axes, "datasets": datasets}]
    (chunk,) = (tmp_path / "a.zarr/0").glob("0*2*3")
    chunk.write_bytes(chunk.read_bytes()[:-100])
    found, slide = read(tmp_path / "a.zarr")
    box = Box((512, 768), (768, 1024))
    kept = outside(found.shape[:2], box)
    assert np.array_equal(found[kept], pixels[kept])
    assert psnr(found[box.slices()], pixels[box.slices()]) > 20
    assert [(b.index, b.state) for b in slide.ledger.blocks] == [((2, 3), State.DEGRADED)]


def test_dicom(data_dir, tmp_path):
    pytest.importorskip("wsidicom")
    path = data_dir / "slides/google_ezwsi_multiframe_camelyon.dcm"
    truth, slide = read(path)
    content = bytearray(path.read_bytes())
    frames = [i for i in range(len(content) - 2) if content[i : i + 3] == b"\xff\xd8\xff"]
    content[frames[3] + 300 : frames[4] - 12] = bytes(frames[4] - 12 - frames[3] - 300)
    hurt = tmp_path / "b.dcm"
    hurt.write_bytes(content)
    found, slide = read(hurt)
    (block,) = slide.ledger.blocks
    assert block.state == State.NODATA
    assert (found[block.box.slices()] == NODATA_GREY).all()
    kept = outside(truth.shape[:2], block.box)
    assert np.array_equal(found[kept], truth[kept])


def test_openslide(whole, tmp_path):
    hurt = hostile.damage_tile(whole, tmp_path / "b.svs", tile=TILE)
    truth = OpenSlideSource(whole)
    slide = Pyramid(OpenSlideSource(hurt), on_damage="replace")
    box = Box.of_shape(slide.shape)
    found = slide.levels[0].read(box)
    kept = outside(slide.shape, HURT)
    assert np.array_equal(found[kept], truth.read(0, box)[kept])
    assert [(b.index, b.state) for b in slide.ledger.blocks] == [((4, 2), State.DEGRADED)]
    slide.close()


def test_outside_lies_the_background_as_ever(whole, tmp_path):
    hurt = hostile.damage_tile(whole, tmp_path / "b.svs", tile=0)
    with wsiseg.open(hurt, on_damage="replace") as slide:
        found = slide.levels[0].read(Box((-10, -20), (30, 40)))
        assert (found[:10] == 255).all()
        assert (found[:, :20] == 255).all()
        assert np.array_equal(found[10:, 20:], slide.levels[0].read(Box((0, 0), (30, 40))))
        assert not (found[10:, 20:] == 255).all()
        assert slide.levels[0].read(Box((5, 5), (5, 9))).shape == (0, 4, 3)

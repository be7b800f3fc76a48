"""Slides at other spacings: reduced by area, reduced by the codec, and what that costs."""

import threading
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st

import wsiseg
from wsiseg.errors import DamagedFileError, MissingSpacingError, SourceError
from wsiseg.geometry import Box, Spacing
from wsiseg.resample import area, target_shape
from wsiseg.source import Pyramid
from wsiseg.source import tiff as tiff_module
from wsiseg.source._codec import CodecError
from wsiseg.source._codecs import decoder_for
from wsiseg.source._jpeg2000 import Jpeg2000
from wsiseg.source.array import ArraySource
from wsiseg.source.base import ReadCount
from wsiseg.source.tiff import TiffSource
from wsiseg.testing import hostile
from wsiseg.testing.slides import make_sparse_tiff, make_svs, make_tiff_pyramid, tissue_disc

PIXELS, _ = tissue_disc((701, 899), seed=3)
MISSING = (4,)


def reduced(level0: np.ndarray, ratio: tuple[float, float]) -> np.ndarray:
    """The whole image reduced by area at once, with the background around it."""
    shape = target_shape(level0.shape[:2], ratio)
    whole = Box.of_shape(level0.shape[:2])
    return area(level0, whole, Box.of_shape(shape), ratio, level0.shape[:2])


def window(image: np.ndarray, box: Box) -> np.ndarray:
    out = np.full((*box.shape, 3), 255, np.uint8)
    inside = box.clip(image.shape[:2])
    out[inside.relative_to(box).slices()] = image[inside.slices()]
    return out


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / np.square(a.astype(float) - b).mean()))


def svs(path: Path, **options) -> TiffSource:
    options = {"levels": (1,), "associated": False, "mpp": 0.25, **options}
    return TiffSource(make_svs(path, PIXELS, **options))


@pytest.fixture(scope="module")
def gappy(tmp_path_factory: pytest.TempPathFactory) -> tuple[TiffSource, np.ndarray]:
    """A slide with tiles of 240 px, one of them missing, and its pixels."""
    path = tmp_path_factory.mktemp("view") / "a.tif"
    source = TiffSource(make_sparse_tiff(path, PIXELS, missing_tiles=set(MISSING)))
    return source, source.read(0, Box.of_shape(PIXELS.shape[:2]))


@given(
    ratio=st.sampled_from([(2, 2), (3, 3), (4, 4), (2, 5), (240, 120), (1, 2)]),
    corner=st.tuples(st.integers(-40, 360), st.integers(-40, 460)),
    size=st.tuples(st.integers(0, 150), st.integers(0, 150)),
)
def test_reading_reduced_is_reading_and_reducing(gappy, ratio, corner, size):
    source, pixels = gappy
    box = Box.of_shape(size).shift(corner)
    found = source.read_reduced(0, box, ratio)
    assert np.array_equal(found, window(reduced(pixels, ratio), box))


@pytest.mark.parametrize("compression", ["zlib", "lzw", None, "jpeg2000"])
@pytest.mark.parametrize("tile", [64, None])
def test_every_codec_reads_reduced(tmp_path: Path, compression, tile):
    if tile is None and compression == "jpeg2000":
        pytest.skip("nobody writes strips of JPEG 2000")
    path = make_tiff_pyramid(
        tmp_path / "a.tif", PIXELS[:, :898], levels=(1,), compression=compression,
        tile=tile, mpp=0.25, **({} if tile else {"rowsperstrip": 10}),
    )  # fmt: skip
    with wsiseg.open(path) as slide:
        assert slide.at(0.5, scaled=True).scaled == (compression == "jpeg2000")
        view = slide.at(0.5)
        found = view.read(Box.of_shape(view.shape))
    assert np.array_equal(found, reduced(PIXELS[:, :898], (2, 2)))


def test_planes_of_jpeg_are_not_mixed_up(tmp_path: Path):
    path = tmp_path / "a.tif"
    tifffile.imwrite(
        path, np.moveaxis(PIXELS, -1, 0), photometric="rgb", planarconfig="separate",
        tile=(128, 128), compression="jpeg", compressionargs={"level": 90}, metadata=None,
    )  # fmt: skip
    source = TiffSource(path)
    pixels = source.read(0, Box.of_shape(PIXELS.shape[:2]))
    for scale, least in ((1, 99), (2, 35)):
        found = source.read_reduced(0, Box((0, 0), (350, 449)), (2, 2), scale=scale)
        error = found.astype(float) - reduced(pixels, (2, 2))[:350, :449]
        assert not error.any() or psnr(error, 0 * error) > least
    assert psnr(pixels, PIXELS) > 35


@pytest.mark.parametrize(
    ("ratio", "scale"), [((7, 2), 1), ((2, 2), 3), ((2, 2), 4), ((2, 4), 4), ((3, 3), 2)]
)
def test_what_blocks_cannot_give_is_refused(gappy, ratio, scale):
    with pytest.raises(SourceError, match="cannot be reduced by"):
        gappy[0].read_reduced(0, Box((0, 0), (1, 1)), ratio, scale=scale)


@given(
    spacing=st.sampled_from([0.25, 0.5, 0.75, 0.31, 1.0, 1.1]),
    corner=st.tuples(st.integers(-40, 360), st.integers(-40, 460)),
    size=st.tuples(st.integers(0, 150), st.integers(0, 150)),
)
def test_a_view_is_the_whole_slide_reduced(gappy, spacing, corner, size):
    source, pixels = gappy
    view = Pyramid(source).at(spacing)
    box = Box.of_shape(size).shift(corner)
    assert np.array_equal(view.read(box), window(reduced(pixels, view.ratio), box))


@pytest.mark.realdata
@pytest.mark.parametrize(("spacing_um", "least_db"), [(1.0, 50), (2.0, 45), (4.0, 45)])
def test_a_scaled_real_region_is_near_its_mean(data_dir: Path, spacing_um, least_db):
    """An RGB-coded Aperio slide: with the wrong colours it would be at 11 dB."""
    with wsiseg.open(data_dir / "slides/cmu-1-small-region.svs") as slide:
        scaled, exact = slide.at(spacing_um, scaled=True), slide.at(spacing_um)
        assert (scaled.scaled, exact.scaled) == (True, False)
        assert scaled.ratio == exact.ratio
        box = Box.of_shape(exact.shape)
        assert psnr(scaled.read(box), exact.read(box)) > least_db


@pytest.mark.realdata
@pytest.mark.parametrize(("ratio", "least_db"), [(2, 39), (4, 46), (8, 40)])
def test_scaled_jpeg_2000_of_a_real_slide_is_near_its_mean(data_dir: Path, ratio, least_db):
    """Without moving the low frequencies to where pixels are it would be at 31, 35 and 30 dB."""
    source = TiffSource(data_dir / "slides/tcga-cr-7395-01a-01-ts1.svs")
    scale = max(source.codec_scales(0, (ratio, ratio)))
    box = Box((500 // ratio, 300 // ratio), (2500 // ratio, 3800 // ratio))
    exact = source.read_reduced(0, box, (ratio, ratio))
    assert psnr(source.read_reduced(0, box, (ratio, ratio), scale=scale), exact) > least_db


def jpeg2000_svs(path: Path, image: np.ndarray, **options) -> Pyramid:
    """An Aperio slide of lossy or lossless JPEG 2000, with as many wavelet levels as asked."""
    tifffile.imwrite(
        path, image, tile=(256, 256), photometric="rgb", compression=33005,
        compressionargs={"codecformat": "j2k", "level": 45, "mct": True, **options},
        description="Aperio Image Library|AppMag = 40|MPP = 0.25", metadata=None,
    )  # fmt: skip
    return Pyramid(TiffSource(path))


@pytest.mark.parametrize("reversible", [True, False])
@pytest.mark.parametrize(("ratio", "expected"), [(2, 2), (4, 2), (8, 4), (16, 4)])
def test_jpeg_2000_is_reduced_as_far_as_is_accurate(
    tmp_path, monkeypatch, ratio, expected, reversible
):
    slide = jpeg2000_svs(tmp_path / "a.svs", PIXELS, reversible=reversible)
    scales = []
    real = TiffSource.read_reduced

    def spy(self, *args, scale=1):
        scales.append(scale)
        return real(self, *args, scale=scale)

    monkeypatch.setattr(TiffSource, "read_reduced", spy)
    scaled, exact = slide.at(0.25 * ratio, scaled=True), slide.at(0.25 * ratio)
    box = Box.of_shape(exact.shape)
    found, reference = scaled.read(box), exact.read(box)
    assert scales == [expected, 1]
    assert (found != reference).any()
    assert psnr(found, reference) > 35
    last = PIXELS.shape[0] // 256 * 256 // ratio  # tiles that overhang are decoded whole
    assert np.array_equal(found[last:], reference[last:])


@pytest.mark.parametrize(("resolutions", "scales"), [(1, ()), (2, (2,)), (3, (2, 4)), (6, (2, 4))])
def test_wavelet_levels_bound_the_scales(tmp_path: Path, resolutions, scales):
    slide = jpeg2000_svs(tmp_path / "a.svs", PIXELS, resolutions=resolutions)
    assert slide.source.codec_scales(0, (8, 8)) == scales
    assert slide.at(0.5, scaled=True).scaled == bool(scales)
    assert slide.at(2.0, scaled=True).scaled == bool(scales)


def test_a_tile_with_fewer_wavelet_levels_than_the_first_is_still_read(tmp_path: Path):
    codec = decoder_for(33005, photometric=2, samples=3, predictor=1, tables=None)
    assert isinstance(codec, Jpeg2000)
    block = np.ascontiguousarray(PIXELS[200:456, 300:556])
    for resolutions, container in ((1, "j2k"), (2, "j2k"), (6, "jp2")):
        data = imagecodecs.jpeg2k_encode(
            block, level=0, reversible=True, resolutions=resolutions, codecformat=container
        )
        assert np.array_equal(codec.scaled(data, 4), reduced(block, (4, 4)))
        assert codec.scales(data, (256, 256), (8, 8)) == ((2,) if resolutions == 2 else ())


@pytest.mark.parametrize("cut", [30, 200, -100])
def test_damaged_jpeg_2000_is_refused_when_reduced(cut):
    codec = decoder_for(33005, photometric=2, samples=3, predictor=1, tables=None)
    assert isinstance(codec, Jpeg2000)
    data = imagecodecs.jpeg2k_encode(PIXELS[200:456, 300:556].copy(), level=40, codecformat="j2k")
    assert codec.scaled(data, 2).shape == (128, 128, 3)
    with pytest.raises(CodecError):
        codec.scaled(data[:cut], 2)


@pytest.mark.parametrize("kind", ["rgb", "ycbcr"])
def test_scaled_jpeg_2000_has_the_right_colours(tmp_path: Path, kind):
    slide = Pyramid(svs(tmp_path / "a.svs", jpeg2000=kind))
    scaled, exact = slide.at(0.5, scaled=True), slide.at(0.5)
    assert scaled.scaled
    box = Box((0, 0), (256, 384))
    error = scaled.read(box).astype(float) - exact.read(box)
    assert (np.abs(error.mean(axis=(0, 1))) < 0.5).all()
    assert psnr(error, 0 * error) > 30


@pytest.mark.parametrize("options", [{}, {"rgb_coded": True}, {"subsampling": "420"}])
@pytest.mark.parametrize("spacing_um", [0.5, 1.0, 1.5, 2.0, 4.0])
def test_scaled_edges_are_as_good_as_the_middle(tmp_path: Path, options, spacing_um):
    slide = Pyramid(svs(tmp_path / "a.svs", tile=240 if spacing_um != 4 else 256, **options))
    scaled, exact = slide.at(spacing_um, scaled=True), slide.at(spacing_um)
    assert scaled.scaled
    box = Box.of_shape(exact.shape).grow(3)
    found, expected = scaled.read(box), exact.read(box)
    assert (found != expected).any()
    assert psnr(found, expected) > 35
    for edge in ((slice(-5, None), slice(None)), (slice(None), slice(-5, None))):
        assert np.array_equal(found[edge], expected[edge])  # tiles that overhang are decoded whole


@pytest.mark.parametrize("subsampling", ["444", "422", "420", "jpeg2000"])
@pytest.mark.parametrize("ratio", [2, 4, 8])
def test_scaled_pixels_lie_where_they_should(tmp_path: Path, ratio, subsampling):
    """The centre of mass of a lopsided blob, against its formula; half a pixel would be 0.5."""
    y, x = np.mgrid[:512, :512] + 0.5
    centre = 201.3, 330.8
    blob = np.exp(-((y - centre[0]) ** 2 / 2 / 30**2) - ((x - centre[1]) ** 2 / 2 / 17**2))
    image = np.repeat((250 - 200 * blob)[..., None], 3, axis=2).astype(np.uint8)
    path = tmp_path / "a.svs"
    if subsampling == "jpeg2000":
        slide = jpeg2000_svs(path, image, level=0, reversible=True)
    else:
        options = {"levels": (1,), "tile": 256, "mpp": 0.25, "associated": False}
        slide = Pyramid(TiffSource(make_svs(path, image, subsampling=subsampling, **options)))
    view = slide.at(0.25 * ratio, scaled=True)
    assert view.scaled
    dark = np.clip(246.0 - view.read(Box.of_shape(view.shape)), 0, None)
    rows, columns = (np.arange(n) + 0.5 for n in view.shape)
    for channel in range(3):
        weight = dark[..., channel] / dark[..., channel].sum()
        found = (weight.sum(axis=1) @ rows, weight.sum(axis=0) @ columns)
        assert np.array(found) * ratio == pytest.approx(centre, abs=0.05 * ratio)


@pytest.mark.parametrize(
    ("options", "spacing_um"),
    [
        ({"tile": 240}, 0.75),
        ({"tile": 240}, 0.61),
        ({"tile": 240}, 8.0),
        ({}, 0.25),
        ({"jpeg2000": "rgb"}, 0.75),
    ],
)
def test_what_cannot_be_scaled_is_exact(tmp_path: Path, options, spacing_um):
    slide = Pyramid(svs(tmp_path / "a.svs", **options))
    scaled, exact = slide.at(spacing_um, scaled=True), slide.at(spacing_um)
    assert not scaled.scaled
    box = Box.of_shape(exact.shape)
    assert np.array_equal(scaled.read(box), exact.read(box))


def test_scaled_and_exact_do_not_share_the_cache(tmp_path: Path):
    slide = Pyramid(svs(tmp_path / "a.svs"))
    box = Box((0, 0), (256, 256))
    exact = slide.at(0.5).read(box)
    scaled = slide.at(0.5, scaled=True).read(box)
    assert (scaled != exact).any()
    assert np.array_equal(slide.at(0.5).read(box), exact)
    assert np.array_equal(slide.at(0.5, scaled=True).read(box), scaled)


def test_threads_read_reduced_at_once(tmp_path: Path):
    """Each thread decodes into memory of its own."""
    source = svs(tmp_path / "a.svs", tile=128)
    expected = reduced(source.read(0, Box.of_shape(PIXELS.shape[:2])), (2, 2))
    start, wrong = threading.Barrier(4), []

    def work(order: np.ndarray) -> None:
        view = Pyramid(source).at(0.5)
        start.wait()
        for top in order:
            box = Box((int(top), 0), (int(top) + 10, 450))
            if not np.array_equal(view.read(box), expected[box.slices()]):
                wrong.append(box)

    orders = [np.random.default_rng(seed).permutation(330) for seed in range(4)]
    threads = [threading.Thread(target=work, args=(order,)) for order in orders]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert source.reads.amplification == 2  # once in full, once reduced


def test_a_corner_tile_of_one_pixel_stays_what_it_is(tmp_path: Path):
    """It needs no reducing; the memory it was decoded in is used again for the next tile."""
    pixels = PIXELS[:257, :257]
    view = Pyramid(TiffSource(make_svs(tmp_path / "a.svs", pixels, levels=(1,), tile=128))).at(1.0)
    corner = Box((128, 128), (129, 129))
    first = view.read(corner)
    view.read(Box.of_shape((128, 128)))
    np.testing.assert_array_equal(view.read(corner), first)


@pytest.mark.parametrize("scaled", [False, True])
def test_damage_is_named_in_reduced_reads(tmp_path: Path, scaled):
    good = make_svs(tmp_path / "a.svs", PIXELS, levels=(1,), tile=256, mpp=0.25)
    with wsiseg.open(hostile.damage_tile(good, tmp_path / "b.svs", tile=5)) as slide:
        view = slide.at(0.5, scaled=scaled)
        with pytest.raises(DamagedFileError, match=r"b\.svs: level 0: tile at row 1, column 1"):
            view.read(Box((100, 100), (200, 200)))
        assert view.read(Box((0, 0), (128, 256))).shape == (128, 256, 3)


def test_reads_are_counted(tmp_path: Path):
    path = make_sparse_tiff(tmp_path / "a.tif", PIXELS, tile=256, missing_tiles={0})
    slide = Pyramid(TiffSource(path))
    assert slide.reads == ReadCount(0, 0, 0)
    assert slide.reads.amplification == 1
    view = slide.at(0.5)
    view.read(Box.of_shape(view.shape))
    view.read(Box.of_shape(view.shape))
    tiles = [tile for tile in slide.source.compressed_tiles(0) if tile.nbytes]
    assert slide.reads == ReadCount(11, 11, sum(tile.nbytes for tile in tiles))
    slide.at(0.5, scaled=True).read(Box((128, 128), (256, 256)))
    assert (slide.reads.decoded, slide.reads.distinct) == (12, 12)
    slide.source.decode(0, tiles[0])
    assert (slide.reads.decoded, slide.reads.distinct) == (13, 12)
    assert slide.reads.amplification == 13 / 12


def test_a_small_cache_shows_in_the_count(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(tiff_module, "CACHE_BYTES", 1)
    source = svs(tmp_path / "a.svs", tile=256)
    for _ in range(3):
        source.read(0, Box((0, 0), (256, 512)))
    assert (source.reads.decoded, source.reads.distinct, source.reads.amplification) == (6, 2, 3)


def test_sources_that_do_not_count_say_so():
    assert wsiseg.open(PIXELS, mpp=0.25).reads is None


@pytest.mark.parametrize("mpp", ["0", "1e9", "nan"])
def test_an_absurd_pixel_size_is_named(tmp_path: Path, mpp):
    slide = wsiseg.open(hostile.make_without_mpp(tmp_path / "a.svs", mpp))
    with slide, pytest.raises(MissingSpacingError, match=rf"aperio\.MPP = '{mpp}'\); pass"):
        slide.at(0.5)


def test_a_silent_file_is_not_quoted(tmp_path: Path):
    slide = wsiseg.open(hostile.make_without_mpp(tmp_path / "a.svs"))
    with slide, pytest.raises(MissingSpacingError, match="pixel size in the file; pass"):
        slide.at(0.5)


def test_a_pair_is_x_y_as_everywhere_a_user_says_mpp():
    slide = Pyramid(ArraySource(np.zeros((400, 600, 3), np.uint8)), spacing=Spacing((0.5, 0.25)))
    view = slide.at((0.5, 1.0))
    assert view.requested == Spacing((1.0, 0.5))
    assert view.shape == (200, 300)
    assert slide.at(np.float32(1)).requested == Spacing((1.0, 1.0))
    for absurd in (0, -1, True, (1, 2, 3), None, "1"):
        with pytest.raises(MissingSpacingError, match=r"array: .*one number or"):
            slide.at(absurd)

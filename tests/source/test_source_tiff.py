"""The direct TIFF path against OpenSlide, tifffile and formulas."""

import threading
from pathlib import Path

import imagecodecs
import numpy as np
import openslide
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st

from wsiseg.errors import DamagedFileError, SourceError, UnsupportedFormatError
from wsiseg.geometry import Box, Spacing
from wsiseg.source import tiff as tiff_module
from wsiseg.source._tiff_layout import NeedsOpenSlideError
from wsiseg.source.tiff import TiffSource
from wsiseg.testing import hostile
from wsiseg.testing.slides import (
    encode_jpeg_tiles,
    make_ome_tiff,
    make_sparse_tiff,
    make_svs,
    make_tiff_pyramid,
    pyramid_pixels,
    split_jpeg_tables,
    tissue_disc,
    write_tiles,
)

PIXELS, _ = tissue_disc((700, 900), seed=1)


def read_all(source: TiffSource, level: int = 0) -> np.ndarray:
    return source.read(level, Box.of_shape(source.levels[level].shape))


def openslide_pixels(path: Path, level: int, box: Box) -> np.ndarray:
    """What OpenSlide shows, composed on white; `box` in pixels of a level of whole downsample."""
    with openslide.OpenSlide(path) as slide:
        downsample = slide.level_downsamples[level]
        corner = tuple(round(start * downsample) for start in box.start[::-1])
        rgba = np.asarray(slide.read_region(corner, level, box.shape[::-1])).astype(int)
    return np.where(rgba[..., 3:] == 0, 255, rgba[..., :3])


@pytest.mark.parametrize(
    ("options", "tolerance"),
    [
        ({"subsampling": "444"}, 0),
        ({"subsampling": "422"}, 0),
        ({"subsampling": "420"}, 0),
        ({"subsampling": "420", "tile": 256}, 0),
        ({"rgb_coded": True}, 0),
        ({"jpeg2000": "rgb"}, 1),
        ({"jpeg2000": "ycbcr"}, 1),
        ({"levels": (1, 4.4055, 9.1)}, 0),
    ],
)
def test_pixels_equal_openslide(tmp_path: Path, options, tolerance):
    path = make_svs(tmp_path / "a.svs", PIXELS, **options)
    source = TiffSource(path)
    with openslide.OpenSlide(path) as slide:
        assert slide.properties["openslide.vendor"] == "aperio"
        assert [d[::-1] for d in slide.level_dimensions] == [level.shape for level in source.levels]
    for level in source.levels:
        box = Box.of_shape(level.shape)
        expected = openslide_pixels(path, level.index, box)
        assert np.abs(source.read(level.index, box) - expected).max() <= tolerance


@pytest.mark.parametrize("tile", [240, 256])
def test_missing_tiles_are_background(tmp_path: Path, tile):
    path = make_sparse_tiff(tmp_path / "a.tif", PIXELS, tile=tile, missing_tiles={0, 5})
    pixels = read_all(TiffSource(path))
    assert (pixels[:tile, :tile] == 255).all()
    assert (pixels[tile : 2 * tile, tile : 2 * tile] == 255).all()
    assert np.array_equal(pixels, openslide_pixels(path, 0, Box.of_shape(PIXELS.shape[:2])))


@pytest.mark.realdata
@pytest.mark.parametrize(
    "name", ["cmu-1-small-region.svs", "tcga-cr-7395-01a-01-ts1.svs", "openslide-python/boxes.tiff"]
)
def test_real_slides_equal_openslide(data_dir: Path, name):
    path = data_dir / "slides" / name
    source = TiffSource(path)
    tolerance = 1 if "tcga" in name else 0
    for level in source.levels:
        box = Box.of_shape(level.shape)
        expected = openslide_pixels(path, level.index, box)
        assert np.abs(source.read(level.index, box) - expected).max() <= tolerance
    with openslide.OpenSlide(path) as slide:
        for image in source.associated_names:
            expected = np.asarray(slide.associated_images[image].convert("RGB"))
            assert np.array_equal(source.read_associated(image), expected)
        assert set(source.associated_names) == set(slide.associated_images)


@pytest.mark.realdata
@pytest.mark.parametrize(
    "name", ["petebankhead_OS-1-detail.ome.tif", "instanseg_HE_example.tif", "kidney-48-5.tif"]
)
def test_real_tiffs_equal_tifffile(data_dir: Path, name):
    path = data_dir / "slides" / name
    assert np.array_equal(read_all(TiffSource(path)), tifffile.imread(path))


@given(
    y=st.integers(-300, 800),
    x=st.integers(-300, 1000),
    h=st.integers(0, 520),
    w=st.integers(0, 520),
)
def test_any_window_is_a_window_of_the_image(lossless: TiffSource, y, x, h, w):
    box = Box((y, x), (y + h, x + w))
    expected = np.full((h, w, 3), 255, dtype=np.uint8)
    inside = box.clip(PIXELS.shape[:2])
    expected[inside.relative_to(box).slices()] = PIXELS[inside.slices()]
    assert np.array_equal(lossless.read(0, box), expected)


@pytest.fixture(scope="module")
def lossless(tmp_path_factory: pytest.TempPathFactory) -> TiffSource:
    return TiffSource(make_tiff_pyramid(tmp_path_factory.mktemp("tiff") / "a.tif", PIXELS))


@pytest.mark.parametrize(
    "options",
    [
        {"compression": None},
        {"compression": None, "tile": None},
        {"compression": None, "tile": None, "rowsperstrip": 7},
        {"compression": "zlib", "tile": None, "rowsperstrip": 33},
        {"compression": "zlib", "predictor": True},
        {"compression": "lzw", "predictor": True},
        {"compression": "zstd"},
        {"compression": "packbits"},
        {"compression": "lzma"},
        {"compression": "webp", "compressionargs": {"lossless": True}},
        {"compression": "png"},
        {"compression": "jpeg2000"},
        {"subifds": True},
    ],
)
def test_lossless_files_give_the_pixels_written(tmp_path: Path, options):
    source = TiffSource(make_tiff_pyramid(tmp_path / "a.tif", PIXELS, **options))
    expected = pyramid_pixels(PIXELS, (1, 2, 4))
    assert len(source.levels) == 3
    for level in source.levels:
        assert np.array_equal(read_all(source, level.index), expected[level.index])


@pytest.mark.parametrize("options", [{"bigtiff": True}, {"byteorder": ">"}])
def test_other_kinds_of_tiff(tmp_path: Path, options):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, PIXELS, photometric="rgb", tile=(64, 64), metadata=None, **options)
    assert np.array_equal(read_all(TiffSource(path)), PIXELS)


def test_planes_stored_apart_are_put_together(tmp_path: Path):
    path = tmp_path / "a.tif"
    tifffile.imwrite(
        path, np.moveaxis(PIXELS, -1, 0), photometric="rgb", planarconfig="separate",
        tile=(128, 128), compression="zlib", metadata=None,
    )  # fmt: skip
    assert np.array_equal(read_all(TiffSource(path)), PIXELS)


@pytest.mark.parametrize("photometric", ["minisblack", "miniswhite"])
def test_grey_becomes_rgb(tmp_path: Path, photometric):
    grey = PIXELS[..., 1]
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, grey, photometric=photometric, tile=(128, 128), metadata=None)
    shown = grey if photometric == "minisblack" else 255 - grey
    assert np.array_equal(read_all(TiffSource(path)), np.stack([shown] * 3, axis=-1))


def test_transparency_is_composed_on_the_background(tmp_path: Path):
    rgba = np.zeros((64, 64, 4), dtype=np.uint8)
    rgba[:, :32, 3] = 255
    rgba[:32, :, 0] = 200
    path = tmp_path / "a.tif"
    tifffile.imwrite(
        path, rgba, photometric="rgb", extrasamples=["unassalpha"], tile=(32, 32), metadata=None
    )
    pixels = read_all(TiffSource(path))
    assert pixels[0, 0].tolist() == [200, 0, 0]
    assert pixels[0, 40].tolist() == [255, 255, 255]


def test_complete_jpeg_streams_state_their_own_colours(tmp_path: Path):
    """JFIF says YCbCr even where the photometric tag says RGB, as some OME-TIFF writers have it."""
    image = encode_jpeg_tiles(PIXELS, tile=128, subsampling="444", quality=100)
    tables = image.tables
    complete = [tables[:-2] + tile[2:] for tile in image.segments]
    jfif = b"\xff\xe0\0\x10JFIF\0\1\1\0\0\1\0\1\0\0"
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as writer:
        writer.write(
            iter([tile[:2] + jfif + tile[2:] for tile in complete]), shape=PIXELS.shape,
            dtype=np.uint8, tile=(128, 128), photometric="rgb", compression="jpeg",
            compressionargs={"outcolorspace": "rgb"}, metadata=None,
        )  # fmt: skip
    with tifffile.TiffFile(path) as tiff:
        assert tiff.pages[0].photometric == tifffile.PHOTOMETRIC.RGB
    assert np.abs(read_all(TiffSource(path)).astype(int) - PIXELS).mean() < 2


def test_split_tables_hold_no_pixels():
    stream = imagecodecs.jpeg8_encode(PIXELS, level=80)
    tables, rest = split_jpeg_tables(stream)
    assert len(tables) < 700 < len(rest)
    joined = imagecodecs.jpeg8_decode(rest, tables=tables)
    assert np.array_equal(joined, imagecodecs.jpeg8_decode(stream))


def test_aperio_metadata(tmp_path: Path):
    metadata = TiffSource(make_svs(tmp_path / "a.svs", PIXELS, mpp=0.2523)).metadata
    assert metadata.vendor == "aperio"
    assert metadata.spacing == Spacing.from_mpp(0.2523)
    assert metadata.objective_power == 40
    assert metadata.properties["aperio.MPP"] == "0.2523"
    assert "patient" not in " ".join([*metadata.properties, *metadata.properties.values()])
    assert "a user" not in metadata.properties.values()


@pytest.mark.parametrize("mpp", [None, "0", "-0.25", "nan", "inf", "1e9", "0.0001", "text", ""])
def test_no_usable_mpp_is_none(tmp_path: Path, mpp):
    assert TiffSource(hostile.make_without_mpp(tmp_path / "a.svs", mpp)).metadata.spacing is None


def test_a_decimal_comma_is_understood(tmp_path: Path):
    path = hostile.make_without_mpp(tmp_path / "a.svs", "0,2500")
    assert TiffSource(path).metadata.spacing == Spacing.from_mpp(0.25)


@pytest.mark.parametrize(
    ("unit", "size"), [("µm", 0.25), ("nm", 250), ("mm", 0.00025), ("cm", 0.000025), ("Å", 2500)]
)
def test_ome_units(tmp_path: Path, unit, size):
    path = make_ome_tiff(tmp_path / "a.ome.tif", PIXELS, mpp=(size, 2 * size), unit=unit)
    spacing = TiffSource(path).metadata.spacing
    assert spacing is not None
    assert spacing.um == pytest.approx((0.5, 0.25))


def test_ome_pixels_are_no_unit(tmp_path: Path):
    path = make_ome_tiff(tmp_path / "a.ome.tif", PIXELS, mpp=(1, 1), unit="pixel")
    assert TiffSource(path).metadata.spacing is None
    path = make_ome_tiff(tmp_path / "b.ome.tif", PIXELS, mpp=None)
    assert TiffSource(path).metadata.spacing is None


def test_the_largest_ome_image_is_the_slide(tmp_path: Path):
    source = TiffSource(make_ome_tiff(tmp_path / "a.ome.tif", PIXELS, associated=True))
    assert [level.shape for level in source.levels] == [(700, 900), (350, 450), (175, 225)]
    assert source.associated_names == ("label",)
    assert (source.read_associated("label") == 90).all()


@pytest.mark.parametrize(
    ("mpp", "believed"),
    [(0.25, True), ((0.25, 0.31), True), (352.8, False), (84.7, False), (5.3, False), (10, False)],
)
def test_resolution_tags_count_where_a_microscope_made_them(tmp_path: Path, mpp, believed):
    spacing = TiffSource(make_tiff_pyramid(tmp_path / "a.tif", PIXELS, mpp=mpp)).metadata.spacing
    assert (spacing is not None) == believed
    if spacing is not None:
        x, y = mpp if isinstance(mpp, tuple) else (mpp, mpp)
        assert spacing.um == pytest.approx((y, x), rel=1e-6)


@pytest.mark.parametrize("unit", ["INCH", "NONE"])
def test_resolution_tags_have_units(tmp_path: Path, unit):
    path = make_tiff_pyramid(
        tmp_path / "a.tif", PIXELS, resolution=(25_400 / 0.5, 25_400 / 0.5), resolutionunit=unit
    )
    spacing = TiffSource(path).metadata.spacing
    assert (spacing is None) == (unit == "NONE")
    if spacing is not None:
        assert spacing.um == pytest.approx((0.5, 0.5))


def test_downsamples_are_those_of_the_file(tmp_path: Path):
    source = TiffSource(make_svs(tmp_path / "a.svs", PIXELS, levels=(1, 4.4055)))
    assert source.levels[1].shape == (158, 204)
    assert source.levels[1].downsample == (700 / 158, 900 / 204)
    assert source.levels[1].spacing == Spacing((0.25 * 700 / 158, 0.25 * 900 / 204))


def test_pages_of_another_aspect_are_no_levels(tmp_path: Path):
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as writer:
        for pixels in (PIXELS[:, :300], PIXELS[:350, :450], PIXELS):
            writer.write(
                np.ascontiguousarray(pixels), photometric="rgb", tile=(64, 64), metadata=None
            )
    assert [level.shape for level in TiffSource(path).levels] == [(700, 900), (350, 450)]


def test_tiles_walk_in_file_order_and_cover_the_level(tmp_path: Path):
    path = make_sparse_tiff(tmp_path / "a.tif", PIXELS, levels=(1, 4), missing_tiles={3})
    source = TiffSource(path)
    for level in source.levels:
        whole = read_all(source, level.index)
        tiles = list(source.compressed_tiles(level.index))
        offsets = [tile.offset for tile in tiles if tile.nbytes]
        assert offsets == sorted(offsets)
        assert sum(not tile.nbytes for tile in tiles) == (level.index == 0)
        seen = np.zeros(level.shape, dtype=int)
        data = path.read_bytes()
        for tile in tiles:
            inside = tile.box.clip(level.shape)
            seen[inside.slices()] += 1
            assert np.array_equal(source.decode(level.index, tile), whole[inside.slices()])
            if tile.nbytes:
                assert data[tile.offset : tile.offset + 2] == b"\xff\xd8"
        assert (seen == 1).all()


def test_threads_decode_a_tile_once(tmp_path: Path, monkeypatch):
    source = TiffSource(make_svs(tmp_path / "a.svs", PIXELS, tile=256))
    calls = []
    decode = TiffSource._decode
    monkeypatch.setattr(
        TiffSource,
        "_decode",
        lambda self, *args, **options: calls.append(args[1]) or decode(self, *args, **options),
    )
    start = threading.Barrier(8)

    def work() -> None:
        start.wait()
        source.read(0, Box((100, 100), (612, 612)))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(calls) == [0, 1, 2, 4, 5, 6, 8, 9, 10]


def test_the_cache_is_bounded(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(tiff_module, "CACHE_BYTES", 500_000)
    source = TiffSource(make_svs(tmp_path / "a.svs", PIXELS, tile=256))
    whole = read_all(source)
    kept = source._cache._entries.values()
    assert 0 < sum(entry.block.nbytes for entry in kept) <= 500_000
    assert np.array_equal(read_all(source), whole)


def test_associated_images_are_not_touched(tmp_path: Path):
    """A slide whose label is garbage opens and reads; only asking for the label fails."""
    good = make_svs(tmp_path / "a.svs", PIXELS, levels=(1,))
    path = hostile.damage_tile(good, tmp_path / "b.svs", page=2)
    source = TiffSource(path)
    assert source.associated_names == ("thumbnail", "label", "macro")
    assert np.array_equal(read_all(source), read_all(TiffSource(good)))
    assert (source.read_associated("macro") == 160).all()
    with pytest.raises(DamagedFileError, match=r"b\.svs: the label image: tile at row 0"):
        source.read_associated("label")


def test_a_damaged_tile_is_named_and_the_others_live(tmp_path: Path):
    good = make_svs(tmp_path / "a.svs", PIXELS, levels=(1,), tile=256)
    path = hostile.damage_tile(good, tmp_path / "b.svs", tile=5)
    source = TiffSource(path)
    for _ in range(2):
        with pytest.raises(DamagedFileError, match=r"b\.svs: level 0: tile at row 1, column 1"):
            source.read(0, Box((300, 300), (310, 310)))
    expected = TiffSource(good).read(0, Box((0, 0), (256, 900)))
    assert np.array_equal(source.read(0, Box((0, 0), (256, 900))), expected)


@pytest.mark.parametrize("compression", ["zlib", "lzw", "zstd", "jpeg2000", "webp"])
def test_damage_is_found_in_every_codec(tmp_path: Path, compression):
    good = make_tiff_pyramid(tmp_path / "a.tif", PIXELS, levels=(1,), compression=compression)
    with tifffile.TiffFile(good) as tiff:
        offset = tiff.pages[0].dataoffsets[0]
    data = bytearray(good.read_bytes())
    data[offset : offset + 40] = b"\xa5" * 40
    path = tmp_path / "b.tif"
    path.write_bytes(data)
    with pytest.raises(DamagedFileError, match=r"row 0, column 0 cannot be decoded: .*; copy the"):
        read_all(TiffSource(path))


def test_a_file_cut_after_its_directory_names_the_tile(tmp_path: Path):
    """tifffile writes the directory first: the end of a cut file holds pixels."""
    good = make_svs(tmp_path / "a.svs", PIXELS, levels=(1,), associated=False)
    path = hostile.truncate(good, tmp_path / "b.svs", 0.5)
    source = TiffSource(path)
    assert source.read(0, Box((0, 0), (10, 10))).shape == (10, 10, 3)
    with pytest.raises(DamagedFileError, match=r"b\.svs: level 0: tile at row .* ends too early"):
        read_all(source)


def test_a_file_cut_before_its_directory_does_not_open(tmp_path: Path):
    good = make_svs(tmp_path / "a.svs", PIXELS, levels=(1,), associated=False)
    path = tmp_path / "b.svs"
    path.write_bytes(good.read_bytes()[:60])
    with pytest.raises(SourceError, match=r"b\.svs"):
        TiffSource(path)


def test_a_stream_that_declares_a_gigantic_image_is_damage(tmp_path: Path):
    image = encode_jpeg_tiles(PIXELS[:128, :128], tile=128)
    (tile,) = image.segments
    at = tile.index(b"\xff\xc0") + 5
    bomb = tile[:at] + b"\x70\x00\x70\x00" + tile[at + 4 :]
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as writer:
        write_tiles(
            writer,
            type(image)(
                image.shape, image.tile, [bomb], 7, "ycbcr", image.subsampling, image.tables
            ),
        )
    with pytest.raises(DamagedFileError, match="declares 28672 x 28672 pixels"):
        read_all(TiffSource(path))


@pytest.mark.parametrize(
    ("make", "found"),
    [
        (hostile.make_z_stack, "stack of 3 pages"),
        (hostile.make_fluorescence, r"channels \(C=4, uint16\)"),
        (lambda path: hostile.make_fluorescence(path, 2, "uint8"), r"channels \(C=2, uint8\)"),
        (
            lambda path: tifffile.imwrite(path, PIXELS.astype("uint16"), photometric="rgb"),
            "16 bits",
        ),
        (lambda path: tifffile.imwrite(path, PIXELS[..., 0].astype("float32")), "float32"),
    ],
)
def test_what_is_no_brightfield_is_refused(tmp_path: Path, make, found):
    path = tmp_path / "a.tif"
    make(path)
    with pytest.raises(UnsupportedFormatError, match=f"RGB brightfield.*{found}") as caught:
        TiffSource(path)
    assert not isinstance(caught.value, NeedsOpenSlideError)


def test_codecs_left_to_openslide_are_told(tmp_path: Path):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, PIXELS, photometric="rgb", compression="lerc", metadata=None)
    with pytest.raises(NeedsOpenSlideError, match="compression lerc"):
        TiffSource(path)


def test_closing_frees_the_file_after_the_last_read(tmp_path: Path):
    source = TiffSource(make_svs(tmp_path / "a.svs", PIXELS))
    reader = source._opened()
    source.close()
    assert reader.read(0, 4) == b"II*\0"
    tile = next(source.compressed_tiles(0))
    with pytest.raises(SourceError, match="closed"):
        source.decode(0, tile)

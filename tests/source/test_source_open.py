"""`open`: which reader serves a file, and what is said about files that none serves."""

import contextlib
import os
import warnings
from importlib.metadata import EntryPoint
from pathlib import Path

import dask.array
import numpy as np
import pytest
import tifffile
from PIL import Image

import wsiseg.source
from wsiseg.errors import (
    DamagedFileError,
    IncompleteSlideWarning,
    LevelError,
    MissingSpacingError,
    SourceError,
    UnsupportedFormatError,
)
from wsiseg.geometry import Box, Spacing
from wsiseg.source.array import ArraySource
from wsiseg.source.openslide import OpenSlideSource
from wsiseg.source.tiff import TiffSource
from wsiseg.testing import hostile
from wsiseg.testing.slides import make_ome_tiff, make_svs, make_tiff_pyramid, tissue_disc

PIXELS, MASK = tissue_disc((600, 800), seed=2)


@pytest.fixture
def svs(tmp_path: Path) -> Path:
    return make_svs(tmp_path / "case.svs", PIXELS)


@pytest.mark.parametrize(
    ("name", "make", "reader"),
    [
        ("a.svs", make_svs, "tiff"),
        ("a.tif", make_tiff_pyramid, "tiff"),
        ("a.ome.tiff", make_ome_tiff, "tiff"),
        ("tiff-without-suffix", make_tiff_pyramid, "tiff"),
        ("a.png", lambda path, pixels: Image.fromarray(pixels).save(path), "image"),
        ("jpeg-in-disguise.svs", lambda path, pixels: _save(path, pixels, "JPEG"), "image"),
        ("😐.svs", make_svs, "tiff"),
        ("ä b'c.tif", make_tiff_pyramid, "tiff"),
    ],
)
def test_content_decides(tmp_path: Path, name, make, reader):
    make(tmp_path / name, PIXELS)
    with wsiseg.source.open(tmp_path / name) as slide:
        assert slide.metadata.reader == reader
        assert slide.shape == (600, 800)
        assert slide.name == name


def _save(path: Path, pixels: np.ndarray, kind: str) -> None:
    Image.fromarray(pixels).save(path, format=kind)


def test_paths_may_be_text_and_long(tmp_path: Path):
    folder = tmp_path / ("d" * 200) / ("e" * 200)
    folder.mkdir(parents=True)
    path = make_svs(folder / f"{'f' * 200}.svs", PIXELS, levels=(1,))
    with wsiseg.source.open(str(path)) as slide:
        assert slide.levels[0].read(Box((0, 0), (9, 9))).shape == (9, 9, 3)


def test_reader_can_be_forced(svs: Path):
    with wsiseg.source.open(svs, reader="openslide") as slow, wsiseg.source.open(svs) as fast:
        assert isinstance(slow.source, OpenSlideSource)
        assert isinstance(fast.source, TiffSource)
        assert slow.metadata.spacing == fast.metadata.spacing
        box = Box((50, 60), (400, 500))
        assert np.array_equal(slow.levels[0].read(box), fast.levels[0].read(box))
    with pytest.raises(SourceError, match=r"no reader 'magic'.*openslide"):
        wsiseg.source.open(svs, reader="magic")
    with pytest.raises(SourceError, match=r"case\.svs"):
        wsiseg.source.open(svs, reader="image")


def test_tiffs_beyond_the_direct_path_go_to_openslide(tmp_path: Path, monkeypatch):
    path = make_svs(tmp_path / "a.svs", PIXELS)
    monkeypatch.setattr("wsiseg.source._tiff_layout.decoder_for", lambda *_, **__: None)
    with wsiseg.source.open(path) as slide:
        assert slide.metadata.reader == "openslide"
    with pytest.raises(UnsupportedFormatError, match="cannot be decoded"):
        wsiseg.source.open(make_tiff_pyramid(tmp_path / "strips.tif", PIXELS, tile=None))


def test_sixteen_bits_are_not_handed_to_openslide(tmp_path: Path):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, PIXELS.astype("uint16"), photometric="rgb", tile=(64, 64), metadata=None)
    with pytest.raises(UnsupportedFormatError, match=r"a\.tif: needed an RGB.*16 bits.*uint16"):
        wsiseg.source.open(path)


class Point(EntryPoint):
    """An installed reader of files that begin with `MINE`."""

    def load(self):
        return _mine


def _mine(path: Path) -> ArraySource:
    if not path.read_bytes().startswith(b"MINE"):
        raise UnsupportedFormatError("not mine")
    return ArraySource(PIXELS, name=path.name, reader="mine")


def test_installed_readers_are_asked_last(tmp_path: Path, monkeypatch, svs):
    point = Point("mine", "nowhere:nothing", "wsiseg.sources")
    monkeypatch.setattr("importlib.metadata.entry_points", lambda group: (point,))
    (tmp_path / "a.mine").write_bytes(b"MINE" + bytes(200))
    (tmp_path / "a.other").write_bytes(b"OTHER" + bytes(200))
    assert wsiseg.source.open(tmp_path / "a.mine").metadata.reader == "mine"
    assert wsiseg.source.open(svs).metadata.reader == "tiff"
    with pytest.raises(UnsupportedFormatError, match="not mine"):
        wsiseg.source.open(svs, reader="mine")
    with pytest.raises(UnsupportedFormatError, match="no reader knows"):
        wsiseg.source.open(tmp_path / "a.other")


@pytest.mark.parametrize(
    ("name", "content", "error", "text"),
    [
        ("missing.svs", None, SourceError, r"missing\.svs: cannot be opened"),
        ("empty.svs", b"", DamagedFileError, r"empty\.svs: the file is empty"),
        ("text.svs", b"hello" * 99, UnsupportedFormatError, r"text\.svs: no reader knows"),
        ("short.tif", b"II*\0", DamagedFileError, r"short\.tif: not a readable TIFF"),
        (
            "far.tif",
            b"II*\0\xff\xff\xff\x7f",
            DamagedFileError,
            r"far\.tif: the file ends at byte 8, before its directory; copy",
        ),
        ("none.tif", b"II*\0\0\0\0\0", DamagedFileError, r"none\.tif: the TIFF holds no image"),
        ("noise.tif", b"II*\0\x08\0\0\0" + bytes(range(256)), SourceError, r"noise\.tif"),
        ("short.png", b"\x89PNG\r\n\x1a\n", SourceError, r"short\.png"),
        ("index.mrxs", b"\xff\xd8\xff\xe0" + bytes(99), UnsupportedFormatError, "folder index"),
    ],
)
def test_broken_files_are_named(tmp_path: Path, name, content, error, text):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(error, match=text):
        wsiseg.source.open(tmp_path / name)


@pytest.mark.parametrize("name", ["x" * 5000, "a\0b.svs", "no/folder.svs"])
def test_impossible_paths_are_errors_of_ours(tmp_path: Path, name):
    with pytest.raises(SourceError, match="cannot be opened"):
        wsiseg.source.open(tmp_path / name)


def test_folders_are_no_slides(tmp_path: Path):
    with pytest.raises(UnsupportedFormatError, match="found a folder"):
        wsiseg.source.open(tmp_path)
    (tmp_path / "case").mkdir()
    (tmp_path / "case.mrxs").write_bytes(b"x")
    with pytest.raises(UnsupportedFormatError, match=r"belongs to case\.mrxs"):
        wsiseg.source.open(tmp_path / "case")
    for name in ("a.zarr", "a.ome.zarr", "a.ZARR"):
        (tmp_path / name / "0").mkdir(parents=True)
        with pytest.raises(UnsupportedFormatError, match=r"needed an OME-Zarr.*without Zarr metad"):
            wsiseg.source.open(tmp_path / name)


@pytest.mark.parametrize("what", [None, 3, b"case.svs", {}, object()])
def test_what_is_no_slide_is_told_what_is(what):
    with pytest.raises(SourceError, match=rf"needed the path.*found {type(what).__name__}; pass"):
        wsiseg.source.open(what)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_unreadable_files_are_named(svs: Path):
    svs.chmod(0)
    with pytest.raises(SourceError, match=r"case\.svs: cannot be opened"):
        wsiseg.source.open(svs)


def test_truncated_slides_never_show_white(tmp_path: Path, svs: Path):
    whole = wsiseg.source.open(svs).levels[0]
    damaged = 0
    for keep in (0.02, 0.3, 0.6, 0.97):
        path = hostile.truncate(svs, tmp_path / "cut.svs", keep)
        with contextlib.suppress(SourceError), warnings.catch_warnings():
            warnings.simplefilter("ignore", IncompleteSlideWarning)
            level = wsiseg.source.open(path).levels[0]
            for y in range(0, 600, 100):
                box = Box((y, 0), (y + 100, 800))
                try:
                    assert np.array_equal(level.read(box), whole.read(box))
                except DamagedFileError:
                    damaged += 1
    assert damaged


@pytest.mark.parametrize("make", [make_svs, make_ome_tiff])
def test_levels_that_are_not_there_any_more_are_missed(tmp_path: Path, make):
    """A copy that was cut short has its first level: the others would be lost without a word."""
    path = make(tmp_path / "a.tiff", PIXELS, levels=(1, 2, 4), tile=128)
    with wsiseg.source.open(path) as slide:
        assert len(slide.levels) == 3
    cut = hostile.truncate(path, tmp_path / "b.tiff", 0.4)
    with pytest.warns(IncompleteSlideWarning, match=r"b\.tiff: the file ends at byte \d+, before"):
        assert len(wsiseg.source.open(cut).levels) < 3


@pytest.mark.realdata
@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("openslide-python/unopenable.tiff", "52479"),
        ("histolab-broken.svs", "no reader knows"),
        ("libvips_multi-channel-z-series.ome.tif", "needed an RGB.*C=3, Z=5, int8"),
    ],
)
def test_real_files_that_are_no_slides(data_dir: Path, name, text):
    with pytest.raises(UnsupportedFormatError, match=text):
        wsiseg.source.open(data_dir / "slides" / name)


@pytest.mark.realdata
def test_the_unreadable_real_slide_is_damaged(data_dir: Path):
    with (
        wsiseg.source.open(data_dir / "slides/openslide-python/unreadable.svs") as slide,
        pytest.raises(DamagedFileError, match=r"unreadable\.svs: level 0: tile at row 0, column 0"),
    ):
        slide.levels[0].read(Box((0, 0), (16, 16)))


@pytest.mark.parametrize(
    ("mpp", "um"),
    [
        (0.5, (0.5, 0.5)),
        (1, (1.0, 1.0)),
        ((0.5, 0.6), (0.6, 0.5)),
        (np.float32(0.5), (0.5, 0.5)),
        (np.int64(1), (1.0, 1.0)),
        (np.array([0.5, 0.6]), (0.6, 0.5)),
    ],
)
def test_mpp_overrides_the_file(svs: Path, mpp, um):
    with wsiseg.source.open(svs, mpp=mpp) as slide:
        assert slide.spacing == Spacing(um)
        assert slide.metadata.spacing == Spacing(um)
        assert slide.levels[1].spacing == Spacing(um).times(slide.levels[1].downsample)


@pytest.mark.parametrize(
    "mpp",
    [
        *(0, -0.25, float("nan"), float("inf"), 1e9, 1e-9, 9000, True, np.array(0.5)),
        *((0.25, 0), (0.5, True), (1, 2, 3), (1,), (), "0.25"),
    ],
)
def test_absurd_mpp_is_refused_and_the_file_named(svs: Path, mpp):
    with pytest.raises(MissingSpacingError, match=r"^case\.svs: .*--mpp") as caught:
        wsiseg.source.open(svs, mpp=mpp)
    assert caught.value.path == "case.svs"


def test_a_box_needs_two_axes(svs: Path):
    with wsiseg.source.open(svs) as slide:
        for image in (slide.levels[0], slide.at(0.5), slide.at(slide.spacing)):
            for box in (Box((0, 0, 0), (1, 9, 9)), Box((0,), (9,)), (0, 0, 9, 9)):
                with pytest.raises(SourceError, match=r"case\.svs: .*needed a box of 2 axes"):
                    image.read(box)


@pytest.mark.parametrize("mpp", [None, "0", "nan"])
def test_without_mpp_a_slide_opens_and_says_what_to_do(tmp_path: Path, mpp):
    path = hostile.make_without_mpp(tmp_path / "case.svs", mpp)
    with wsiseg.source.open(path) as slide:
        assert not slide.has_spacing
        assert slide.thumbnail(64).shape == (48, 64, 3)
        for ask in (lambda: slide.spacing, lambda: slide.levels[0].spacing, lambda: slide.at(1)):
            with pytest.raises(MissingSpacingError, match=r"case\.svs: .*--mpp 0\.25"):
                ask()


def test_a_pyramid_knows_its_names(tmp_path: Path):
    for name, stem in (("a.b.svs", "a.b"), ("case.ome.tif", "case")):
        with wsiseg.source.open(make_tiff_pyramid(tmp_path / name, PIXELS)) as slide:
            assert (slide.name, slide.stem) == (name, stem)


def test_level_hands_out_a_lazy_dask_array(svs: Path):
    with wsiseg.source.open(svs) as slide:
        for level in slide.levels:
            lazy = level.to_dask()
            assert lazy.shape == (*level.shape, 3)
            assert lazy.dtype == np.uint8
            whole = level.read(Box.of_shape(level.shape))
            assert np.array_equal(lazy.compute(), whole)
            assert np.array_equal(lazy[3:50, 7:90].compute(), whole[3:50, 7:90])
            assert np.array_equal(lazy[::5, 7:90:3, 1].compute(), whole[::5, 7:90:3, 1])
            assert np.array_equal(lazy[10].mean(axis=0).compute(), whole[10].mean(axis=0))
            assert np.array_equal(lazy[::-1, -5].compute(), whole[::-1, -5])


def test_dask_chunks_hold_whole_blocks(tmp_path: Path):
    class Wide(ArraySource):
        def read(self, level, box):
            raise AssertionError("to_dask must not read")

    slide = wsiseg.source.Pyramid(
        Wide(dask.array.zeros((9000, 30_000, 3), chunks=(240, 240, 3), dtype="uint8"))
    )
    lazy = slide.levels[0].to_dask()
    assert lazy.chunks[0][0] == lazy.chunks[1][0] == 1920
    strips = wsiseg.source.Pyramid(
        Wide(dask.array.zeros((9000, 30_000, 3), chunks=(8, 30_000, 3), dtype="uint8"))
    )
    assert strips.levels[0].to_dask().chunks[0][0] == 136
    assert strips.levels[0].to_dask().chunks[1][0] == 30_000


@pytest.mark.parametrize("size", [1, 37, 100, 200, 2000])
def test_thumbnail_is_the_whole_slide(svs: Path, size):
    with wsiseg.source.open(svs) as slide:
        thumbnail = slide.thumbnail(size)
        assert max(thumbnail.shape[:2]) <= size
        assert max(thumbnail.shape[:2]) >= min(800, size) * 7 // 8
        assert abs(thumbnail.shape[1] * 600 / 800 - thumbnail.shape[0]) <= 1
        assert np.abs(thumbnail.mean(axis=(0, 1)) - PIXELS.mean(axis=(0, 1))).max() < 4
        with pytest.raises(LevelError, match="at least 1 px"):
            slide.thumbnail(0)


def test_thumbnail_of_one_huge_level_is_read_in_strips(monkeypatch):
    monkeypatch.setattr("wsiseg.source.pyramid.STRIP_PIXELS", 20_000)
    slide = wsiseg.source.open(PIXELS)
    sizes = []
    read = ArraySource.read
    monkeypatch.setattr(
        ArraySource,
        "read",
        lambda self, level, box: sizes.append(box.size) or read(self, level, box),
    )
    in_strips = slide.thumbnail(80)
    assert max(sizes) <= 20_000 < sum(sizes)
    expected = PIXELS.reshape(60, 10, 80, 10, 3).mean(axis=(1, 3))
    assert np.abs(in_strips - expected).max() <= 0.51


def test_arrays_open(tmp_path: Path):
    with wsiseg.source.open([PIXELS, PIXELS[::2, ::2]], mpp=0.25) as slide:
        assert slide.metadata.reader == "array"
        assert slide.levels[1].downsample == (2, 2)
        assert slide.spacing.um == (0.25, 0.25)
    with pytest.raises(SourceError, match="needs a path"):
        wsiseg.source.open(PIXELS, reader="tiff")


@pytest.mark.parametrize(
    ("arrays", "found"),
    [
        (PIXELS.astype("uint16"), "uint16"),
        (PIXELS[..., 0], r"\(600, 800\)"),
        (PIXELS[..., :2], r"\(600, 800, 2\)"),
        (np.zeros((0, 5, 3), "uint8"), r"\(0, 5, 3\)"),
        ([], "found none"),
        ([PIXELS, 3], "int"),
        ([PIXELS[::2, ::2], PIXELS], "finest to coarsest"),
        ([PIXELS, PIXELS[::2, ::3]], "another aspect"),
    ],
)
def test_arrays_that_are_no_slides(arrays, found):
    with pytest.raises(UnsupportedFormatError, match=found):
        wsiseg.source.open(arrays)


def test_repr_tells_the_essentials(svs: Path):
    with wsiseg.source.open(svs) as slide:
        assert repr(slide) == "<Pyramid case.svs: 800 x 600 px, 3 levels, 0.25 x 0.25 µm/px>"
        assert repr(slide.levels[1]) == "<Level 1: 200 x 150 px, downsample 4>"

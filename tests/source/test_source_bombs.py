"""Files that claim gigantic sizes are refused before memory is set aside for them."""

import bz2
import gzip
import io
import lzma
import struct
import zipfile
import zlib

import imagecodecs
import numpy as np
import pytest
import zarr
from tifffile import TiffFile, TiffWriter, imwrite
from zarr.codecs import BloscCodec, GzipCodec, ZstdCodec

import wsiseg
from wsiseg.annotations import open_labels
from wsiseg.errors import (
    AnnotationError,
    DamagedFileError,
    ModelCardError,
    ModelError,
    UnsupportedFormatError,
)
from wsiseg.geometry import Box
from wsiseg.model import ModelCard
from wsiseg.model.package import Package
from wsiseg.source import _zarr_store
from wsiseg.source.openslide import OpenSlideSource
from wsiseg.testing.models import make_colour_model

HUGE = 99_840
SEEN = Box((0, 0), (8, 8))


@pytest.fixture(autouse=True)
def _little_memory():
    """Whatever would take a gigabyte more than there is in use fails."""
    resource = pytest.importorskip("resource")
    limits = resource.getrlimit(resource.RLIMIT_AS)
    with open("/proc/self/statm") as file:  # noqa: PTH123 - not a file to speak of
        used = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + (1 << 30), limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, limits)


def png(width, height, depth=8, colour=2):
    """Return a PNG that claims a size and has a few bytes of pixels."""

    def chunk(kind, data):
        crc = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", crc)

    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    pixels = zlib.compress(bytes(1000))
    parts = chunk(b"IHDR", head) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def jpeg2000(width, height):
    pixels = np.zeros((64, 64, 3), np.uint8)
    data = bytearray(imagecodecs.jpeg2k_encode(pixels, level=20, codecformat="jp2"))
    for at in (data.find(b"ihdr") + 4, data.find(b"\xff\x4f\xff\x51") + 8):
        first, second = (height, width) if at < 60 else (width, height)
        struct.pack_into(">II", data, at, first, second)
    return bytes(data)


def webp(width, height):
    """Return the head of a lossless WebP: 14 bits for each side."""
    bits = (width - 1) | (height - 1) << 14
    body = b"VP8L" + struct.pack("<I", 16) + b"\x2f" + struct.pack("<I", bits) + bytes(11)
    return b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WEBP" + body


def tiff(path, segment, compression, *, tile=64, **claims):
    with TiffWriter(path) as writer:
        writer.write(
            iter([segment]), shape=(tile, tile, 3), dtype=np.uint8, tile=(tile, tile),
            photometric="rgb", compression=compression, metadata=None,
        )  # fmt: skip
    with TiffFile(path, mode="r+b") as file:
        for name, value in claims.items():
            file.pages[0].tags[name].overwrite(value)
    return path


def test_a_gigantic_tile_is_refused_by_both_readers(tmp_path):
    sides = dict.fromkeys(("ImageWidth", "ImageLength", "TileWidth", "TileLength"), HUGE)
    path = tiff(tmp_path / "a.tif", zlib.compress(bytes(64 * 64 * 3)), "deflate", **sides)
    with pytest.raises(UnsupportedFormatError, match="too large to decode in one piece"):
        wsiseg.open(path)
    with pytest.raises(UnsupportedFormatError, match=f"tiles of {HUGE} x {HUGE} pixels, too large"):
        OpenSlideSource(path)


@pytest.mark.parametrize(
    ("compression", "segment", "message"),
    [
        ("png", png(30_000, 30_000), r"invalid out.shape"),
        ("webp", webp(16_000, 16_000), r"invalid out.shape"),
        ("jpeg2000", jpeg2000(60_000, 60_000), "60000 x 60000 pixels, too many for one block"),
        (
            "jpegxl",
            bytes(imagecodecs.jpegxl_encode(np.zeros((128, 64, 3), np.uint8))),
            "invalid out.shape",
        ),
    ],
)
def test_a_block_that_claims_more_than_its_tile_is_damaged(tmp_path, compression, segment, message):
    path = tiff(tmp_path / "a.tif", segment, compression)
    with wsiseg.open(path) as slide, pytest.raises(DamagedFileError, match=message):
        slide.levels[0].read(SEEN)


def ome_zarr(path, *, codec=None, shards=None, chunk=b"", side=256, chunks=(3, 64, 64)):
    group = zarr.open_group(path, mode="w", zarr_format=3)
    options = {} if codec is None else {"compressors": [codec]}
    shape = (3, side, side)
    group.create_array("0", shape=shape, chunks=chunks, shards=shards, dtype="uint8", **options)
    axes = [{"name": "c", "type": "channel"}, *({"name": n, "type": "space"} for n in "yx")]
    scale = [{"type": "scale", "scale": [1, 1, 1]}]
    multiscale = {"axes": axes, "datasets": [{"path": "0", "coordinateTransformations": scale}]}
    group.attrs["ome"] = {"version": "0.5", "multiscales": [multiscale]}
    file = path / "0/c/0/0/0"
    file.parent.mkdir(parents=True)
    file.write_bytes(chunk)
    return path


def blosc_claiming(nbytes):
    data = bytearray(BLOSC)
    data[4:8] = nbytes.to_bytes(4, "little")
    return bytes(data)


BLOSC = bytes(imagecodecs.blosc_encode(bytes(3 * 64 * 64)))
ZSTD = b"\x28\xb5\x2f\xfd" + bytes([0xE0]) + (1 << 40).to_bytes(8, "little") + bytes(20)


@pytest.mark.parametrize(
    ("codec", "chunk", "message"),
    [
        (GzipCodec(), gzip.compress(bytes(1 << 26)), "packed into"),
        (ZstdCodec(), ZSTD, "that claims 1099511627776"),
        (BloscCodec(), blosc_claiming(2_000_000_000), "that claims 2000000000"),
    ],
)
def test_a_chunk_that_unpacks_to_more_than_it_may_is_damaged(tmp_path, codec, chunk, message):
    path = ome_zarr(tmp_path / "a.zarr", codec=codec, chunk=chunk)
    with wsiseg.open(path, on_damage="raise") as slide:
        with pytest.raises(DamagedFileError, match=message):
            slide.levels[0].read(SEEN)
        slide.levels[0].read(Box((64, 64), (70, 70)))


@pytest.mark.parametrize("index_location", ["start", "end"])
def test_a_chunk_in_a_shard_that_claims_too_much_is_damaged(tmp_path, index_location):
    shards = {"shape": (3, 128, 128), "index_location": index_location}
    path = ome_zarr(tmp_path / "a.zarr", codec=BloscCodec(), shards=shards)
    zarr.open_group(path)["0"][:] = 7
    file = path / "0/c/0/0/0"
    content = bytearray(file.read_bytes())
    begins = 4 * 16 + 4 if index_location == "start" else 0
    content[begins + 4 : begins + 8] = (2_000_000_000).to_bytes(4, "little")
    file.write_bytes(content)
    with wsiseg.open(path, on_damage="raise") as slide:
        with pytest.raises(DamagedFileError, match="that claims 2000000000"):
            slide.levels[0].read(SEEN)
        assert (slide.levels[0].read(Box((64, 64), (70, 70))) == 7).all()


@pytest.mark.parametrize("codec", ["gzip", "zlib", "bz2", "lzma"])
def test_chunks_that_tell_no_size_are_unpacked_up_to_what_they_may_be(codec, monkeypatch):
    """A second stream behind the first one could be the gigantic one."""
    monkeypatch.setattr(_zarr_store, "MAX_BLOCK_BYTES", 1 << 16)
    pack = {"gzip": gzip, "zlib": zlib, "bz2": bz2, "lzma": lzma}[codec].compress
    limit = _zarr_store.ChunkLimit(10_000, codec)
    honest = np.random.default_rng(0).integers(0, 4, 10_000, dtype=np.uint8).tobytes()
    limit.check(memoryview(pack(honest)))
    for content in (pack(bytes(4_000_000)), pack(honest) + pack(bytes(4_000_000))):
        with pytest.raises(ValueError, match="a chunk of 10000 bytes that unpacks to more"):
            limit.check(memoryview(content))


def test_honest_chunks_pass(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (3, 256, 256), dtype=np.uint8)
    for name, codec in (("g", GzipCodec()), ("z", ZstdCodec()), ("b", BloscCodec())):
        path = ome_zarr(tmp_path / f"{name}.zarr", codec=codec)
        zarr.open_group(path)["0"][:] = pixels
        with wsiseg.open(path) as slide:
            found = slide.levels[0].read(Box((0, 0), (256, 256)))
        assert np.array_equal(found, np.moveaxis(pixels, 0, -1))


def test_a_shard_of_too_many_chunks_is_refused(tmp_path):
    side = 1 << 20
    path = ome_zarr(tmp_path / "a.zarr", shards=(3, side, side), side=side, chunks=(3, 16, 16))
    with pytest.raises(UnsupportedFormatError, match="4294967296 chunks per shard"):
        wsiseg.open(path)


@pytest.mark.parametrize("mark", ["<!DOCTYPE OME [", "<!ENTITY a"])
def test_ome_xml_declares_no_entities(tmp_path, mark):
    grow = '<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;">'
    xml = f'<?xml version="1.0"?>{mark} {grow}]><OME>&b;</OME>'
    imwrite(tmp_path / "a.ome.tif", np.zeros((64, 64, 3), np.uint8), description=xml, metadata=None)
    with pytest.raises(UnsupportedFormatError, match="declares a DOCTYPE"):
        wsiseg.open(tmp_path / "a.ome.tif")


@pytest.fixture
def slide():
    return wsiseg.open(np.zeros((64, 64, 3), np.uint8), mpp=1.0)


def lossless_jpeg(width, height):
    data = bytearray(imagecodecs.ljpeg_encode(np.zeros((64, 64), np.uint8)))
    at = data.find(b"\xff\xc3") + 5
    struct.pack_into(">HH", data, at, height, width)
    return bytes(data)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.png", png(HUGE, HUGE, colour=0), "needed a mask of at most"),
        ("a.jpg", lossless_jpeg(60_000, 60_000), "a JPEG of 60000 x 60000 pixels"),
    ],
)
def test_gigantic_label_images_are_refused(tmp_path, slide, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(AnnotationError, match=message):
        open_labels(tmp_path / name, slide, ["background", "tumour"])


def test_masks_in_codecs_that_claim_their_own_size_are_refused(tmp_path, slide):
    path = tiff(tmp_path / "a.tif", webp(16_000, 16_000), "webp")
    with pytest.raises(AnnotationError, match="compression WEBP, needed LZW"):
        open_labels(path, slide, ["background", "tumour"])


@pytest.mark.parametrize(
    "text", ["[" * 300_000, '{"a":' * 300_000, '{"features":[' + "[" * 300_000]
)
def test_json_of_any_depth_is_refused_in_one_line(tmp_path, slide, text):
    path = tmp_path / "a.geojson"
    path.write_text(text)
    with pytest.raises(AnnotationError):
        wsiseg.read_geojson(path)
    assert wsiseg.verify_geojson(path).verdict == "error"
    with pytest.raises(AnnotationError):
        open_labels(path, slide, ["background", "tumour"])
    (tmp_path / "model.json").write_text(text)
    with pytest.raises(ModelCardError):
        ModelCard.read(tmp_path / "model.json")
    (tmp_path / "a.zarr").mkdir()
    (tmp_path / "a.zarr" / "zarr.json").write_text(text)
    with pytest.raises(DamagedFileError):
        wsiseg.open(tmp_path / "a.zarr")


def test_arrays_of_a_models_check_that_claim_to_be_gigantic_are_refused(tmp_path):
    package = make_colour_model(tmp_path / "model")
    claimed = io.BytesIO()
    head = {"descr": "|u1", "fortran_order": False, "shape": (1 << 50,)}
    np.lib.format.write_array_header_1_0(claimed, head)
    with zipfile.ZipFile(package / "check.npz", "w") as archive:
        archive.writestr("patches.input0.npy", claimed.getvalue())
    with pytest.raises(ModelError, match="no usable check"):
        Package.open(package).read_examples()


def test_pickles_in_models_are_refused_whatever_their_name(tmp_path):
    package = make_colour_model(tmp_path / "model")
    stored = dict(np.load(package / "check.npz"))
    stored["patches.input0"] = np.array([print], dtype=object)
    np.savez(package / "check.npz", **stored)
    with pytest.raises(ModelError, match="no usable check: Object arrays cannot be loaded"):
        Package.open(package).read_examples()
    (package / "patches.onnx").write_bytes(b"\x80\x04\x95" + bytes(20))
    with pytest.raises(ModelError, match="a pickle can run any program"):
        Package.open(package)

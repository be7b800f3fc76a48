"""What fuzzing found, each made by hand."""

import json
import struct
import tracemalloc
import warnings
import zipfile

import numpy as np
import pytest
import zarr
from tifffile import TiffFile, TiffWriter

import wsiseg
from wsiseg.annotations import open_labels
from wsiseg.errors import (
    AnnotationError,
    DamagedFileError,
    HeatmapError,
    IncompleteSlideWarning,
    ModelError,
    SourceError,
)
from wsiseg.exchange import export_result, import_annotations
from wsiseg.geometry import Box, Spacing
from wsiseg.model import check_model
from wsiseg.source._bytes import open_bytes
from wsiseg.stitch import HeatmapStore, LabelClass, LabelStore, Placement
from wsiseg.testing.models import make_colour_model
from wsiseg.testing.slides import make_ome_tiff, make_tiff_pyramid, tissue_disc

CLASSES = ("background", "tumour")
SHAPE = (200, 260)


@pytest.fixture
def slide():
    return wsiseg.open(np.full((*SHAPE, 3), 240, np.uint8), mpp=0.5)


def overwrite(path, **values):
    with TiffFile(path, mode="r+b") as tiff:
        for name, value in values.items():
            tiff.pages[0].tags[name].overwrite(value)


def in_a_circle(path):
    """Let the second directory lead back to itself."""
    with TiffFile(path) as tiff:
        second = tiff.pages[1].offset
        entries = len(tiff.pages[1].tags)
    with path.open("r+b") as file:
        file.seek(second + 2 + 12 * entries)
        file.write(struct.pack("<I", second))


def mask_tiff(path, pages=1):
    with TiffWriter(path) as writer:
        for step in range(pages):
            labels = tissue_disc(SHAPE)[1].astype(np.uint8)[:: 1 + step, :: 1 + step]
            writer.write(labels, tile=(64, 64), compression="zlib", metadata=None)
    return path


@pytest.mark.timeout(30)
def test_directories_in_a_circle_do_not_hang(tmp_path, slide):
    path = make_tiff_pyramid(tmp_path / "a.tif", tissue_disc(SHAPE)[0], levels=(1, 2), tile=64)
    in_a_circle(path)
    with pytest.raises(DamagedFileError, match="directories lead in a circle"):
        wsiseg.open(path, reader="tiff")
    path = mask_tiff(tmp_path / "m.tif", pages=2)
    in_a_circle(path)
    with pytest.raises(AnnotationError, match="directories lead in a circle"):
        open_labels(path, slide, CLASSES)


@pytest.mark.parametrize("tag", ["TileWidth", "TileLength", "ImageWidth", "ImageLength"])
def test_sizes_of_nothing_are_refused(tmp_path, slide, tag):
    path = make_tiff_pyramid(tmp_path / "a.tif", tissue_disc(SHAPE)[0], levels=(1,), tile=64)
    overwrite(path, **{tag: 0})
    with pytest.raises(SourceError):
        wsiseg.open(path, reader="tiff")
    path = make_ome_tiff(tmp_path / "a.ome.tif", tissue_disc(SHAPE)[0], levels=(1,), tile=64)
    overwrite(path, **{tag: 0})
    with pytest.raises(SourceError):
        wsiseg.open(path, reader="tiff")
    path = mask_tiff(tmp_path / "m.tif")
    overwrite(path, **{tag: 0})
    with pytest.raises(AnnotationError):
        open_labels(path, slide, CLASSES)


def test_a_mask_with_too_few_blocks_is_refused(tmp_path, slide):
    path = mask_tiff(tmp_path / "m.tif")
    overwrite(path, ImageLength=SHAPE[0] * 4)
    with pytest.raises(AnnotationError, match="blocks of 64 x 64, of which 20 are listed"):
        open_labels(path, slide, CLASSES)


def labels(path):
    placement = Placement(SHAPE, Spacing((0.5, 0.5)), (1.0, 1.0))
    classes = [LabelClass(name, (1, 2, 3)) for name in CLASSES]
    with LabelStore.create(path, placement, classes=classes) as writer:
        writer.write(Box((0, 0), SHAPE), tissue_disc(SHAPE)[1].astype(np.uint8))
        writer.finish()
    return path


def edit(path, change):
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


@pytest.mark.parametrize(
    ("file", "key", "value"),
    [
        (".zattrs", "downsample", [float("nan"), 1.0]),
        (".zattrs", "downsample", [0.0, 1.0]),
        (".zattrs", "origin", [1.0]),
        (".zattrs", "names", None),
        ("0/.zarray", "fill_value", 32767),
        ("0/.zarray", "shape", [200, {"a": 1}]),
    ],
)
def test_labels_whose_metadata_make_no_sense_are_refused(tmp_path, slide, file, key, value):
    path = labels(tmp_path / "m.zarr")

    def change(document):
        (document["wsiseg"] if file == ".zattrs" else document)[key] = value

    edit(path / file, change)
    with pytest.raises(AnnotationError):
        open_labels(path, slide, CLASSES)


@pytest.mark.parametrize("damage", ["metadata", "chunk"])
def test_a_damaged_store_of_a_result_is_one_error(tmp_path, damage):
    placement = Placement(SHAPE, Spacing((0.5, 0.5)), (1.0, 1.0))
    folder = tmp_path / "case"
    with HeatmapStore.create(folder / "heatmap.zarr", placement, channels=("t",)) as writer:
        writer.write(Box((0, 0), SHAPE), np.full((*SHAPE, 1), 7, np.uint8))
        writer.finish()
    labels(folder / "mask.zarr")
    if damage == "metadata":
        (folder / "mask.zarr" / "0" / ".zarray").write_bytes(b'{"zarr_format": "\xc9"}')
    else:
        chunk = next(
            p for p in (folder / "mask.zarr" / "0").rglob("*") if p.is_file() and p.name[0] != "."
        )
        chunk.write_bytes(chunk.read_bytes()[:20])
    with pytest.raises(HeatmapError, match=r"mask\.zarr.*cannot be read.*run the slide again"):
        export_result(folder, "ome-tiff", tmp_path / "out")
    assert not list((tmp_path / "out").glob("*"))


def test_damaged_hdf5_is_one_error(tmp_path, slide):
    h5py = pytest.importorskip("h5py")
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("coords", data=np.zeros((3, 2), np.int64)).attrs["patch_size"] = 64
    good = path.read_bytes()
    for signature in (b"SNOD", b"TREE", b"HEAP"):
        path.write_bytes(good.replace(signature, b"XXXX"))
        with pytest.raises(AnnotationError, match="cannot be read as HDF5"):
            import_annotations(path, slide)
    with h5py.File(path, "w") as file:
        file.create_dataset("coords", (10**12, 2), "i8", chunks=(64, 2))
    with pytest.raises(AnnotationError, match="claims 1000000000000 tiles"):
        import_annotations(path, slide)


def test_annotations_of_an_endless_slide_are_refused(tmp_path):
    about = {"image": "a", "level0_width": 1e400, "level0_height": 5, "mpp": [1, 1], "vendor": "x"}
    path = tmp_path / "a.geojson"
    path.write_text(json.dumps({"type": "FeatureCollection", "wsiseg": about, "features": []}))
    with pytest.raises(AnnotationError, match="its wsiseg member is incomplete"):
        wsiseg.read_geojson(path)


@pytest.mark.parametrize("header", ["{'descr': (", "{'descr': '<f4', 1", "1 2"])
def test_a_check_whose_headers_are_no_literals_is_refused(tmp_path, header):
    package = make_colour_model(tmp_path / "model")
    check = package / "check.npz"
    with zipfile.ZipFile(check) as archive:
        names = archive.namelist()
    line = header.encode().ljust(117) + b"\n"
    array = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(line)) + line
    with zipfile.ZipFile(check, "w") as archive:
        for name in names:
            archive.writestr(name, array)
    with pytest.raises(ModelError, match=r"check.npz: no usable check"):
        check_model(package)


def test_a_tile_that_claims_more_bytes_than_the_file_has_takes_no_memory(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"abc")
    content = open_bytes(path)
    tracemalloc.start()
    assert content.read(1, 1 << 40) == b"bc"
    assert content.read(9, 1 << 40) == b""
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()


def test_a_check_that_holds_no_arrays_is_refused(tmp_path):
    package = make_colour_model(tmp_path / "model")
    with zipfile.ZipFile(package / "check.npz") as archive:
        names = archive.namelist()
    with zipfile.ZipFile(package / "check.npz", "w") as archive:
        for name in names:
            archive.writestr(name, b"no array")
    with pytest.raises(ModelError, match=r"no usable check: 'patches\.input0' is no array"):
        check_model(package, backend="onnxruntime")


# --- DICOM


@pytest.fixture
def series(tmp_path):
    pytest.importorskip("wsidicom")
    from wsiseg.testing.fuzz.dicom import write_level

    for index in (1, 2):
        pixels = tissue_disc((100, 130))[0]
        write_level(tmp_path / f"{index}.dcm", pixels, mpp=0.5, tile=64, series=index)
    return tmp_path


def patched(path, before, after):
    content = path.read_bytes()
    assert content.count(before)
    path.write_bytes(content.replace(before, after))


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b"\x28\x00\x10\x00US\x02\x00\x40\x00", b"\x28\x00\x10\x00US\x02\x00\x00\x00"),  # no rows
        (b"\x48\x00\x06\x00UL", b"\x48\x00\x06\x00FD"),  # a width of half a number
        (
            b"\x08\x00\x16\x00UI\x1e\x00" + b"1.2.840",
            b"\x08\x00\x16\x00UI\x1e\x00" + b"1\\2.840",
        ),  # two of them
    ],
)
def test_elements_of_another_kind_are_one_error(series, before, after):
    path = series / "1.dcm"
    patched(path, before, after)
    with pytest.raises(SourceError, match=r"1\.dcm"), wsiseg.open(path) as slide:
        slide.levels[0].read(Box((0, 0), (10, 10)))


def test_a_damaged_neighbour_costs_no_other_slide(series):
    """Slides of many series in one folder: the damaged one fails, the other is read."""
    (series / "1.dcm").write_bytes((series / "1.dcm").read_bytes()[:700])  # its series is known
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with wsiseg.open(series / "2.dcm") as slide:
            assert slide.levels[0].shape == (100, 130)
    (series / "1.dcm").write_bytes((series / "1.dcm").read_bytes()[:200])
    with pytest.warns(IncompleteSlideWarning, match=r"2\.dcm: left out 1\.dcm"):
        wsiseg.open(series / "2.dcm").close()
    with pytest.raises(DamagedFileError, match=r"1\.dcm"):
        wsiseg.open(series)


# --- messages


def test_messages_are_one_line_whatever_a_file_says(tmp_path, slide):
    path = tmp_path / "a.xml"
    path.write_text(f"<{'a' * 70_000}/>")
    with pytest.raises(AnnotationError) as caught:
        import_annotations(path, slide)
    assert len(str(caught.value)) <= 1000
    told = str(SourceError("a.svs: \x1b[31mred\nline\ud800; copy it anew"))
    assert told == "a.svs:  [31mred line ; copy it anew"
    told = str(SourceError(f"{'x' * 5000}; copy it anew"))
    assert told.endswith("; copy it anew")
    assert len(told) == 1000


def test_arrays_of_other_kinds_are_no_heatmap(tmp_path):
    path = labels(tmp_path / "m.zarr")
    zarr.create_array(path / "0", shape=(3,), dtype="f8", zarr_format=2, overwrite=True)
    with pytest.raises(HeatmapError, match=r"an array \(3,\) of float64"):
        LabelStore.open(path)

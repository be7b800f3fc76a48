"""OME-Zarr as a source: written here and by ome-zarr-py, read back pixel for pixel."""

import itertools
import json
import shutil
from typing import Any, ClassVar

import numcodecs
import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st
from zarr.codecs import BloscCodec, Crc32cCodec, GzipCodec

from wsiseg.errors import DamagedFileError, SourceError, UnsupportedFormatError
from wsiseg.geometry import Box
from wsiseg.source.omezarr import OmeZarrSource
from wsiseg.testing.contract import SourceContract

PIXELS = np.random.default_rng(0).integers(0, 256, (150, 210, 3), dtype=np.uint8)
LEVELS = [PIXELS, PIXELS[::3, ::3], PIXELS[1::7, 1::7]]
MICROMETER = {"y": "micrometer", "x": "micrometer"}


def write(
    path,
    levels=LEVELS,
    *,
    axes="cyx",
    version="0.5",
    chunk=64,
    scale=(0.5, 0.25),
    units=MICROMETER,
    more=None,
    **array_options,
):
    """Write arrays (y, x, c) as an image with axes in any order; returns the group."""
    zarr_format = 2 if version == "0.4" else 3
    group = zarr.open_group(path, mode="w", zarr_format=zarr_format)
    datasets = []
    for index, pixels in enumerate(levels):
        values = (
            pixels.reshape(*pixels.shape, 1, 1) if pixels.ndim == 3 else pixels[..., None, None]
        )
        names = "yxctz" if pixels.ndim == 3 else "yxtz"
        dropped = [i for i, name in enumerate(names) if name not in axes]
        values = values.squeeze(tuple(dropped))
        names = [name for name in names if name in axes]
        values = values.transpose([names.index(name) for name in axes])
        chunks = tuple(chunk if name in "yx" else 3 if name == "c" else 1 for name in axes)
        array = group.create_array(
            str(index), shape=values.shape, chunks=chunks, dtype=values.dtype, **array_options
        )
        array[:] = values
        ratio = levels[0].shape[0] / pixels.shape[0]
        sizes = {"y": scale[0] * ratio, "x": scale[1] * ratio}
        transformation = {"type": "scale", "scale": [sizes.get(name, 1.0) for name in axes]}
        datasets.append({"path": str(index), "coordinateTransformations": [transformation]})
    kinds = {"t": "time", "c": "channel"}
    described = [{"name": name, "type": kinds.get(name, "space")} for name in axes]
    for axis in described:
        if axis["name"] in units:
            axis["unit"] = units[axis["name"]]
    multiscale = {"axes": described, "datasets": datasets, **(more or {})}
    if version == "0.5":
        group.attrs["ome"] = {"version": "0.5", "multiscales": [multiscale]}
    else:
        group.attrs["multiscales"] = [{"version": version, **multiscale}]
    return group


def change(path, edit, file="zarr.json"):
    """Edit a JSON document in place."""
    document = json.loads((path / file).read_text())
    edit(document)
    (path / file).write_text(json.dumps(document))


def whole(source, level=0):
    return source.read(level, Box.of_shape(source.levels[level].shape))


class _Contract(SourceContract):
    options: ClassVar[dict[str, Any]] = {}

    @pytest.fixture(autouse=True)
    def _write(self, tmp_path):
        self.path = tmp_path / "slide.ome.zarr"
        write(self.path, **self.options)

    def make_source(self):
        return OmeZarrSource(self.path)

    def truth(self):
        return PIXELS


class TestVersion05(_Contract):
    pass


class TestVersion04(_Contract):
    options: ClassVar = {"version": "0.4", "axes": "tczyx"}


class TestSharded(_Contract):
    options: ClassVar = {"axes": "yxc", "shards": (128, 128, 3)}


class TestChannelLastUncompressed(_Contract):
    options: ClassVar = {"axes": "zyxc", "compressors": None, "chunk": 1000}


class TestGrey(SourceContract):
    @pytest.fixture(autouse=True)
    def _write(self, tmp_path):
        self.path = tmp_path / "grey.zarr"
        write(self.path, [level[..., 0] for level in LEVELS], axes="yx")

    def make_source(self):
        return OmeZarrSource(self.path)

    def truth(self):
        return np.repeat(PIXELS[..., :1], 3, axis=-1)


@pytest.mark.parametrize("axes", ["".join(p) for p in itertools.permutations("cyx")])
def test_axes_are_taken_by_name(tmp_path, axes):
    write(tmp_path / "a.zarr", axes=axes)
    with_axes = OmeZarrSource(tmp_path / "a.zarr")
    for level, pixels in enumerate(LEVELS):
        np.testing.assert_array_equal(whole(with_axes, level), pixels)
    assert with_axes.metadata.spacing.um == (0.5, 0.25)


def test_one_channel_is_grey(tmp_path):
    write(tmp_path / "a.zarr", [PIXELS[..., 1:2]])
    expected = np.repeat(PIXELS[..., 1:2], 3, axis=-1)
    np.testing.assert_array_equal(whole(OmeZarrSource(tmp_path / "a.zarr")), expected)


@pytest.mark.filterwarnings("ignore:Call to deprecated class Scaler:DeprecationWarning")
@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_an_image_of_ome_zarr_py_reads_the_same(tmp_path, version):
    from ome_zarr.format import format_from_version
    from ome_zarr.writer import write_multiscale

    levels = [np.moveaxis(level, -1, 0) for level in LEVELS]
    axes = [{"name": "c", "type": "channel"}]
    axes += [{"name": axis, "type": "space", "unit": "nanometer"} for axis in "yx"]
    scale = {"c": 1.0, "y": 500.0, "x": 250.0}
    path, form = tmp_path / "a.zarr", format_from_version(version)
    write_multiscale(levels, str(path), axes=axes, scale=scale, fmt=form)
    source = OmeZarrSource(path)
    assert source.metadata.spacing.um == pytest.approx((0.5, 0.25))
    for level, pixels in enumerate(LEVELS):
        np.testing.assert_array_equal(whole(source, level), pixels)


@given(
    start=st.tuples(st.integers(-80, 230), st.integers(-80, 230)),
    size=st.tuples(st.integers(0, 170), st.integers(0, 170)),
)
def test_any_box_equals_the_slice_of_a_padded_image(written, start, size):
    box = Box(start, (start[0] + size[0], start[1] + size[1]))
    padded = np.pad(PIXELS, ((400, 400), (400, 400), (0, 0)), constant_values=255)
    expected = padded[box.shift((400, 400)).slices()]
    np.testing.assert_array_equal(written.read(0, box), expected)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    path = tmp_path_factory.mktemp("omezarr") / "slide.zarr"
    write(path)
    return OmeZarrSource(path)


@pytest.mark.parametrize(
    ("unit", "um"),
    [
        ("micrometer", (0.5, 0.25)),
        ("nanometer", (0.0005, 0.00025)),
        ("millimeter", (500.0, 250.0)),
        ("µm", (0.5, 0.25)),
        (None, None),
        ("pixel", None),
        ("parsec", None),
    ],
)
def test_spacing_needs_a_unit_of_length(tmp_path, unit, um):
    scale = (500.0, 250.0) if unit == "nanometer" else (0.5, 0.25)
    um = (0.5, 0.25) if unit == "nanometer" else um
    units = {"y": unit, "x": unit} if unit else {}
    write(tmp_path / "a.zarr", scale=scale, units=units)
    source = OmeZarrSource(tmp_path / "a.zarr")
    found = source.metadata.spacing
    assert (found and found.um) == (um and pytest.approx(um))
    assert (source.levels[1].spacing is None) == (um is None)


def test_units_may_differ_between_axes(tmp_path):
    write(tmp_path / "a.zarr", scale=(500.0, 0.25), units={"y": "nanometer", "x": "micrometer"})
    assert OmeZarrSource(tmp_path / "a.zarr").metadata.spacing.um == pytest.approx((0.5, 0.25))


@pytest.mark.parametrize("scale", [(0.0, 0.0), (-1.0, 1.0), (float("inf"), 1.0), (1e9, 1e9)])
def test_an_absurd_scale_is_no_spacing(tmp_path, scale):
    write(tmp_path / "a.zarr", scale=scale)
    assert OmeZarrSource(tmp_path / "a.zarr").metadata.spacing is None


def test_the_scale_of_the_whole_image_multiplies(tmp_path):
    more = {"coordinateTransformations": [{"type": "scale", "scale": [1.0, 3.0, 5.0]}]}
    write(tmp_path / "a.zarr", more=more)
    assert OmeZarrSource(tmp_path / "a.zarr").metadata.spacing.um == pytest.approx((1.5, 1.25))


def test_levels_are_sorted_and_keep_their_true_downsample(tmp_path):
    write(tmp_path / "a.zarr")
    change(
        tmp_path / "a.zarr",
        lambda d: d["attributes"]["ome"]["multiscales"][0]["datasets"].reverse(),
    )
    source = OmeZarrSource(tmp_path / "a.zarr")
    assert [level.shape for level in source.levels] == [(150, 210), (50, 70), (22, 30)]
    assert source.levels[2].downsample == (150 / 22, 210 / 30)
    assert source.levels[0].spacing.um == pytest.approx((0.5, 0.25))
    np.testing.assert_array_equal(whole(source, 2), LEVELS[2])


def test_a_missing_chunk_holds_the_fill_value(tmp_path):
    write(tmp_path / "a.zarr", fill_value=7)
    (tmp_path / "a.zarr/0/c/0/1/1").unlink()
    source = OmeZarrSource(tmp_path / "a.zarr")
    assert (source.read(0, Box((64, 64), (128, 128))) == 7).all()
    np.testing.assert_array_equal(source.read(0, Box((0, 0), (64, 210))), PIXELS[:64])


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_a_bioformats2raw_folder_opens_as_its_first_image(tmp_path, version):
    write(tmp_path / "slide.zarr/0", version=version)
    root = zarr.open_group(tmp_path / "slide.zarr", zarr_format=2 if version == "0.4" else 3)
    layout = {"bioformats2raw.layout": 3}
    root.attrs.update({"ome": layout} if version == "0.5" else layout)
    source = OmeZarrSource(tmp_path / "slide.zarr")
    assert source.metadata.name == "slide.zarr"
    np.testing.assert_array_equal(whole(source), PIXELS)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"compressors": BloscCodec()},
        {"compressors": GzipCodec()},
        {"compressors": None},
        {"version": "0.4", "compressors": numcodecs.Blosc()},
        {"version": "0.4", "compressors": numcodecs.Zlib()},
        {"shards": (3, 128, 128)},
    ],
    ids=["zstd", "blosc", "gzip", "raw", "v2-blosc", "v2-zlib", "sharded"],
)
def test_a_chunk_cut_short_is_named_and_the_others_still_read(tmp_path, options):
    path = tmp_path / "a.zarr"
    write(path, **options)
    name = "0.1.1" if options.get("version") == "0.4" else "c/0/1/1"
    file = path / "0" / (name if "shards" not in options else "c/0/0/1")
    for keep in (0.5, 0.98, 0.0):
        data = file.read_bytes()
        file.write_bytes(data[: int(len(data) * keep)])
        with OmeZarrSourceClosing(path) as source:
            column = 1 if "shards" not in options else 2
            named = rf"level 0, chunk in row 1, column {column}.*; copy the folder anew"
            with pytest.raises(DamagedFileError, match=named):
                source.read(0, Box((70, 64 * column), (80, 64 * column + 9)))
            np.testing.assert_array_equal(source.read(0, Box((0, 0), (64, 64))), PIXELS[:64, :64])


class OmeZarrSourceClosing:
    def __init__(self, path):
        self.source = OmeZarrSource(path)

    def __enter__(self):
        return self.source

    def __exit__(self, *_):
        self.source.close()


def test_a_checksum_after_blosc_is_no_damage(tmp_path):
    write(tmp_path / "a.zarr", compressors=[BloscCodec(), Crc32cCodec()])
    np.testing.assert_array_equal(whole(OmeZarrSource(tmp_path / "a.zarr")), PIXELS)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"levels": [PIXELS.astype(np.uint16)]}, "uint16, c = 3, y = 150, x = 210"),
        ({"levels": [np.concatenate([PIXELS, PIXELS[..., :1]], -1)]}, "c = 4"),
        ({"levels": [PIXELS[..., :2]]}, "c = 2"),
        ({"levels": [PIXELS, PIXELS[::3, ::2]]}, "another aspect"),
        ({"version": "0.3"}, "version 0.4 or 0.5, found '0.3'"),
    ],
)
def test_other_images_are_refused_with_what_was_found(tmp_path, options, message):
    write(tmp_path / "a.zarr", **options)
    with pytest.raises(UnsupportedFormatError, match=message):
        OmeZarrSource(tmp_path / "a.zarr")


def test_a_stack_is_refused(tmp_path):
    write(tmp_path / "a.zarr", axes="zcyx")
    group = zarr.open_group(tmp_path / "a.zarr")
    group.create_array("0", shape=(5, 3, 64, 64), dtype="uint8", overwrite=True)
    with pytest.raises(UnsupportedFormatError, match="z = 5"):
        OmeZarrSource(tmp_path / "a.zarr")


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({}, "found a Zarr group without"),
        ({"wsiseg": {"kind": "heatmap"}, "multiscales": [{}]}, "heatmap or labels written by"),
        ({"plate": {}}, "found a plate"),
        ({"multiscales": "x"}, "multiscales.: Input"),
        ({"multiscales": 5}, "not a list"),
        ({"multiscales": [{"axes": ["c", "y", "x"], "datasets": []}]}, "axes.0"),
        (
            {"multiscales": [{"axes": [{"name": n} for n in "yxq"], "datasets": [{"path": "0"}]}]},
            "q",
        ),
        (
            {"multiscales": [{"axes": [{"name": n} for n in "yy"], "datasets": [{"path": "0"}]}]},
            "y, y",
        ),
    ],
)
def test_metadata_that_is_no_image_is_refused(tmp_path, attributes, message):
    zarr.open_group(tmp_path / "a.zarr", mode="w", zarr_format=2).attrs.update(attributes)
    with pytest.raises(UnsupportedFormatError, match=message):
        OmeZarrSource(tmp_path / "a.zarr")


def test_folders_without_an_image_say_so(tmp_path):
    with pytest.raises(SourceError, match="needed a folder"):
        OmeZarrSource(tmp_path / "missing.zarr")
    (tmp_path / "empty.zarr").mkdir()
    with pytest.raises(UnsupportedFormatError, match="without Zarr metadata"):
        OmeZarrSource(tmp_path / "empty.zarr")
    zarr.create_array(tmp_path / "plain.zarr", shape=(9, 9, 3), dtype="uint8")
    with pytest.raises(UnsupportedFormatError, match="plain Zarr array"):
        OmeZarrSource(tmp_path / "plain.zarr")


def test_a_level_that_is_not_there_is_damage(tmp_path):
    write(tmp_path / "a.zarr")
    shutil.rmtree(tmp_path / "a.zarr/1")
    with pytest.raises(DamagedFileError, match="needed an array at '1'"):
        OmeZarrSource(tmp_path / "a.zarr")


@pytest.mark.parametrize("path", ["../other", "0/../../other", "", "."])
def test_levels_cannot_lie_outside_the_folder(tmp_path, path):
    write(tmp_path / "a.zarr")
    zarr.create_array(tmp_path / "other", shape=(3, 9, 9), dtype="uint8")

    def edit(document):
        document["attributes"]["ome"]["multiscales"][0]["datasets"][0]["path"] = path

    change(tmp_path / "a.zarr", edit)
    with pytest.raises(SourceError, match=r"a\.zarr"):
        OmeZarrSource(tmp_path / "a.zarr")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("shape", [3, -1, 9]),
        ("shape", "x"),
        ("shape", [3, 0, 9]),
        ("data_type", "object"),
        ("fill_value", "NaN"),
        ("codecs", []),
        ("codecs", [{"name": "evil"}]),
        ("chunk_grid", {"name": "regular", "configuration": {"chunk_shape": [3, 10**6, 10**6]}}),
        ("chunk_grid", {"name": "regular", "configuration": {"chunk_shape": [3, 0, 0]}}),
        ("chunk_grid", {}),
        ("node_type", "group"),
        ("zarr_format", 9),
    ],
)
def test_broken_array_metadata_is_no_traceback(tmp_path, key, value):
    write(tmp_path / "a.zarr")
    change(tmp_path / "a.zarr/0", lambda document: document.update({key: value}))
    with pytest.raises(SourceError, match=r"a\.zarr"):
        OmeZarrSource(tmp_path / "a.zarr")


@pytest.mark.parametrize("text", ["", "{", "[]", "5", '{"zarr_format": 3}', '"' * 9])
def test_broken_group_metadata_is_no_traceback(tmp_path, text):
    write(tmp_path / "a.zarr")
    (tmp_path / "a.zarr/zarr.json").write_text(text)
    with pytest.raises(SourceError, match=r"a\.zarr"):
        OmeZarrSource(tmp_path / "a.zarr")


@pytest.mark.parametrize(
    ("version", "codecs", "message"),
    [
        ("0.4", {"filters": [{"id": "packbits"}]}, "codec packbits"),
        ("0.4", {"compressor": {"id": "pickle", "protocol": 5}}, "pickle"),
        ("0.4", {"filters": [{"id": "pickle", "protocol": 5}]}, "pickle"),
        ("0.5", {"codecs": [{"name": "vlen-bytes"}]}, "codec"),
    ],
)
def test_codecs_outside_the_list_are_refused(tmp_path, version, codecs, message):
    write(tmp_path / "a.zarr", [PIXELS], version=version)
    file = ".zarray" if version == "0.4" else "zarr.json"
    change(tmp_path / "a.zarr/0", lambda document: document.update(codecs), file)
    with pytest.raises(SourceError, match=message):
        OmeZarrSource(tmp_path / "a.zarr")


def test_real_pixels_survive(data_dir, tmp_path):
    import tifffile

    pixels = tifffile.imread(data_dir / "slides/cmu-1-small-region.svs")
    write(tmp_path / "cmu.zarr", [pixels, pixels[::4, ::4]], chunk=512, scale=(0.499, 0.499))
    source = OmeZarrSource(tmp_path / "cmu.zarr")
    box = Box((700, 500), (1500, 1300))
    np.testing.assert_array_equal(source.read(0, box), pixels[box.slices()])
    assert source.metadata.spacing.um == (0.499, 0.499)

"""Heatmaps and label images on disk."""

import errno
import hashlib
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from wsiseg.errors import (
    DiskFullError,
    HeatmapError,
    HeatmapExistsError,
    UnfinishedHeatmapError,
)
from wsiseg.geometry import Box, Spacing
from wsiseg.stitch import (
    HeatmapStore,
    LabelClass,
    LabelStore,
    Placement,
    Probabilities,
    Slab,
    pyramid,
    writer_bytes,
)

CLASSES = [LabelClass("background"), LabelClass("Tumor", (200, 0, 0)), LabelClass("Stroma")]


def placement_of(shape):
    axes = len(shape)
    return Placement(shape, Spacing((0.5,) * axes), (2.0,) * axes)


@pytest.fixture
def small_chunks(monkeypatch):
    """Chunks and levels so small that every seam is met in a small image."""
    monkeypatch.setattr(pyramid, "CHUNK", {2: 4, 3: 4})
    monkeypatch.setattr("wsiseg.stitch.placement.SMALLEST_LEVEL", 3)


def write_rows(writer, codes, depths=(3, 1, 2)):
    """Write codes `(*shape, channel)` in slabs of changing depth."""
    row, turn = 0, 0
    while row < len(codes):
        stop = min(row + depths[turn % len(depths)], len(codes))
        shape = writer.placement.shape
        box = Box((row, *(0 for _ in shape[1:])), (stop, *shape[1:]))
        writer.write(box, codes[row:stop])
        row, turn = stop, turn + 1


def write_heatmap(path, codes, **options):
    names = [f"class {k}" for k in range(codes.shape[-1])]
    with HeatmapStore.create(path, placement_of(codes.shape[:-1]), channels=names, **options) as w:
        write_rows(w, codes)
        return w.finish()


def write_labels(path, labels, **options):
    with LabelStore.create(path, placement_of(labels.shape), classes=CLASSES, **options) as w:
        write_rows(w, labels)
        return w.finish()


def random_codes(shape, channels, seed=0, nodata=0.3):
    rng = np.random.default_rng(seed)
    codes = rng.integers(1, 256, (*shape, channels), dtype=np.uint8)
    codes[rng.random(shape) < nodata] = 0
    return codes


def halved_by_loop(codes, reduce):
    """Halve plane by plane and pixel by pixel, as the definition says."""
    steps = [2 if n > 1 else 1 for n in codes.shape]
    out = np.zeros([-(-n // s) for n, s in zip(codes.shape, steps, strict=True)], codes.dtype)
    for index in np.ndindex(*out.shape):
        window = tuple(slice(s * i, s * i + s) for i, s in zip(index, steps, strict=True))
        out[index] = reduce(codes[window].ravel())
    return out


def mean_of_covered(values):
    covered = values[values > 0].astype(float)
    return int(np.floor(covered.mean() + 0.5)) if covered.size else 0


def most_frequent(values):
    counts = np.bincount(values)
    return int(np.flatnonzero(counts == counts.max()).max())


few = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)

shapes = st.one_of(
    st.tuples(st.integers(1, 21), st.integers(1, 21)),
    st.tuples(*[st.integers(1, 9)] * 3),
)


@few
@given(shape=shapes, channels=st.integers(1, 3), seed=st.integers(0, 9))
def test_a_heatmap_comes_back_and_its_levels_are_means(
    small_chunks, tmp_path_factory, shape, channels, seed
):
    codes = random_codes(shape, channels, seed)
    store = write_heatmap(tmp_path_factory.mktemp("h") / "h.zarr", codes)
    whole = Box.of_shape(shape)
    np.testing.assert_array_equal(np.moveaxis(store.codes[:], 0, -1), codes)
    np.testing.assert_allclose(
        store.read(whole), (codes.astype(float) - 1).clip(0) / 254, atol=1e-7
    )
    np.testing.assert_array_equal(store.covered(whole), codes[..., 0] > 0)
    expected = np.moveaxis(codes, -1, 0)
    for level in range(1, store.placement.levels):
        expected = np.stack([halved_by_loop(plane, mean_of_covered) for plane in expected])
        found = zarr.open_group(store.path, mode="r")[str(level)][:]
        np.testing.assert_array_equal(found, expected)


@few
@given(shape=shapes, seed=st.integers(0, 9))
def test_labels_come_back_and_their_levels_are_modes(small_chunks, tmp_path_factory, shape, seed):
    labels = np.random.default_rng(seed).integers(0, 3, shape, dtype=np.uint8)
    store = write_labels(tmp_path_factory.mktemp("l") / "l.zarr", labels)
    np.testing.assert_array_equal(store.labels[:], labels)
    expected = labels
    for level in range(1, store.placement.levels):
        expected = halved_by_loop(expected, most_frequent)
        found = zarr.open_group(store.path, mode="r")[str(level)][:]
        np.testing.assert_array_equal(found, expected)


def test_blank_chunks_are_not_written(small_chunks, tmp_path):
    codes = np.zeros((16, 16, 1), np.uint8)
    codes[:4, 12:] = 9
    store = write_heatmap(tmp_path / "h.zarr", codes)
    chunks = [p for p in (store.path / "0").rglob("*") if p.is_file() and p.name[0] != "."]
    assert [p.relative_to(store.path).as_posix() for p in chunks] == ["0/0/0/3"]
    np.testing.assert_array_equal(np.moveaxis(store.codes[:], 0, -1), codes)


@given(
    start=st.tuples(st.integers(-8, 14), st.integers(-8, 14)),
    size=st.tuples(st.integers(0, 20), st.integers(0, 20)),
)
def test_outside_the_heatmap_is_nodata(heatmap, start, size):
    store, codes = heatmap
    box = Box(start, tuple(a + n for a, n in zip(start, size, strict=True)))
    padded = np.zeros((60, 60, 2), np.uint8)
    padded[20:31, 20:29] = codes
    expected = padded[box.shift((20, 20)).slices()]
    np.testing.assert_allclose(
        store.read(box), (expected.astype(float) - 1).clip(0) / 254, atol=1e-7
    )
    np.testing.assert_array_equal(store.covered(box), expected[..., 0] > 0)
    assert store.read(box).flags.c_contiguous


@pytest.fixture(scope="module")
def heatmap(tmp_path_factory):
    codes = random_codes((11, 9), 2)
    return write_heatmap(tmp_path_factory.mktemp("h") / "h.zarr", codes), codes


def test_what_was_said_at_creation_is_known_after_opening(tmp_path):
    placement = Placement((5, 7), Spacing((2.0, 2.5)), (8.0, 10.0), (4.0, -1.5))
    path = tmp_path / "Fälle 🔬.zarr"
    with HeatmapStore.create(
        path, placement, channels=["Gewebe", "Tumör"], attributes={"model": "x 1.0"}
    ) as writer:
        write_rows(writer, random_codes((5, 7), 2))
        writer.finish()
    store = HeatmapStore.open(path)
    assert store.placement == placement
    assert (store.shape, store.spacing, store.downsample) == (
        placement.shape,
        placement.spacing,
        placement.downsample,
    )
    assert store.channels == ("Gewebe", "Tumör")
    assert store.attributes == {"model": "x 1.0"}


def test_labels_know_their_names_and_are_listed_by_their_image(tmp_path):
    image = write_heatmap(tmp_path / "h.zarr", random_codes((6, 6), 1)).path
    labels = np.eye(6, dtype=np.uint8)
    for name in ("mask", "instances"):
        write_labels(image / "labels" / name, labels)
    store = LabelStore.open(image / "labels" / "mask")
    assert store.names == ("background", "Tumor", "Stroma")
    np.testing.assert_array_equal(store.read(Box((-1, 0), (6, 6)))[1:], labels)
    assert zarr.open_group(image / "labels", mode="r").attrs["labels"] == ["instances", "mask"]
    assert HeatmapStore.open(image).shape == (6, 6)


def digests(path):
    return {
        file.relative_to(path).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(path.rglob("*"))
        if file.is_file()
    }


def test_two_runs_write_the_same_bytes_whatever_the_slabs(tmp_path):
    codes = random_codes((1500, 1200), 2)
    codes[600:] = 7
    for name, depths in (("a", (64,)), ("b", (1000, 3))):
        with HeatmapStore.create(
            tmp_path / name / "h.zarr", placement_of((1500, 1200)), channels=["x", "y"]
        ) as writer:
            write_rows(writer, codes, depths)
            writer.finish()
        write_labels(tmp_path / name / "h.zarr" / "labels" / "mask", codes[..., 0] % 3)
    found = digests(tmp_path / "a")
    assert found == digests(tmp_path / "b")
    assert len(found) > 20


def test_threads_inside_the_codec_never_change_the_bytes(tmp_path, monkeypatch):
    codes = random_codes((1100, 1100), 1)
    write_heatmap(tmp_path / "a.zarr", codes)
    monkeypatch.setattr("numcodecs.blosc.use_threads", True)
    write_heatmap(tmp_path / "b.zarr", codes)
    chunk = "0/0/0/0"
    assert digests(tmp_path / "a.zarr")[chunk] == digests(tmp_path / "b.zarr")[chunk]


def test_an_unfinished_heatmap_cannot_be_opened(tmp_path):
    path = tmp_path / "h.zarr"
    writer = HeatmapStore.create(path, placement_of((4, 4)), channels=["x"])
    writer.write(Box((0, 0), (2, 4)), np.ones((2, 4, 1), np.uint8))
    with pytest.raises(UnfinishedHeatmapError, match="never finished"):
        HeatmapStore.open(path)
    with pytest.raises(HeatmapError, match="needed 4 rows of 4 pixels, found them up to row 2"):
        writer.finish()
    assert not path.exists()
    writer.abort()
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(HeatmapError, match="no heatmap here"):
        HeatmapStore.open(path)


def test_a_heatmap_that_lost_its_metadata_counts_as_unfinished(tmp_path):
    store = write_heatmap(tmp_path / "h.zarr", random_codes((4, 4), 1))
    (store.path / ".zattrs").unlink()
    with pytest.raises(UnfinishedHeatmapError, match="no metadata"):
        HeatmapStore.open(store.path)


def test_labels_are_no_heatmap(tmp_path):
    store = write_labels(tmp_path / "l.zarr", np.ones((4, 4), np.uint8))
    with pytest.raises(HeatmapError, match="needed heatmap written by wsiseg"):
        HeatmapStore.open(store.path)


def test_an_error_inside_the_block_leaves_nothing(tmp_path):
    path = tmp_path / "h.zarr"
    with pytest.raises(KeyError), HeatmapStore.create(path, placement_of((4, 4)), channels=["x"]):
        raise KeyError
    assert list(tmp_path.iterdir()) == []


def test_a_heatmap_that_is_there_is_not_touched(tmp_path):
    path = tmp_path / "h.zarr"
    write_heatmap(path, random_codes((4, 4), 1))
    before = digests(path)
    with pytest.raises(HeatmapExistsError, match="overwrite=True"):
        write_heatmap(path, random_codes((5, 5), 1))
    with pytest.raises(FileExistsError):
        HeatmapStore.create(path, placement_of((4, 4)), channels=["x"])
    assert digests(path) == before


def test_overwriting_keeps_the_old_heatmap_until_the_new_one_is_finished(tmp_path):
    path = tmp_path / "h.zarr"
    write_heatmap(path, random_codes((4, 4), 1))
    writer = HeatmapStore.create(path, placement_of((5, 5)), channels=["x"], overwrite=True)
    assert HeatmapStore.open(path).shape == (4, 4)
    write_rows(writer, random_codes((5, 5), 1))
    assert writer.finish().shape == (5, 5)
    assert [p.name for p in tmp_path.iterdir()] == ["h.zarr"]


def test_a_heatmap_that_appears_meanwhile_is_not_replaced(tmp_path):
    path = tmp_path / "h.zarr"
    with HeatmapStore.create(path, placement_of((4, 4)), channels=["x"]) as writer:
        write_rows(writer, random_codes((4, 4), 1))
        path.mkdir()
        (path / "theirs").touch()
        with pytest.raises(HeatmapExistsError, match="appeared"):
            writer.finish()
    assert [p.name for p in path.iterdir()] == ["theirs"]


def test_what_a_killed_run_left_is_begun_anew(tmp_path):
    path = tmp_path / "h.zarr"
    HeatmapStore.create(path, placement_of((9, 9)), channels=["x"])  # and never heard of again
    codes = random_codes((4, 4), 1)
    write_heatmap(path, codes)
    assert [p.name for p in tmp_path.iterdir()] == ["h.zarr"]
    np.testing.assert_array_equal(HeatmapStore.open(path).codes[0], codes[..., 0])


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_is_named_and_leaves_nothing(tmp_path, monkeypatch, code):
    async def full(*_args, **_options):
        raise OSError(code, "No space left on device")

    path = tmp_path / "h.zarr"
    codes = random_codes((4, 4), 1)
    with HeatmapStore.create(path, placement_of((4, 4)), channels=["x"]) as writer:
        monkeypatch.setattr(zarr.storage.LocalStore, "set", full)
        with pytest.raises(DiskFullError, match=r"h\.zarr: no room left.*; free some"):
            write_rows(writer, codes)
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_is_full_from_the_start_is_named_too(tmp_path, monkeypatch):
    async def full(*_args, **_options):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(zarr.storage.LocalStore, "set", full)
    with pytest.raises(DiskFullError, match="no room left"):
        HeatmapStore.create(tmp_path / "h.zarr", placement_of((4, 4)), channels=["x"])
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    path = tmp_path / "file" / "h.zarr"
    with pytest.raises(HeatmapError, match=r"h\.zarr: cannot be written.*elsewhere") as caught:
        HeatmapStore.create(path, placement_of((4, 4)), channels=["x"])
    assert str(caught.value).replace(str(path), "").count(str(tmp_path)) == 0  # no hidden path


@pytest.mark.parametrize(
    ("start", "stop", "message"),
    [
        ((1, 0), (2, 4), "needed rows from 0 on"),
        ((0, 0), (2, 5), "full width"),
        ((0, 1), (2, 4), "full width"),
        ((0, 0), (5, 4), "needed rows from 0 on"),
    ],
)
def test_rows_out_of_order_are_refused(tmp_path, start, stop, message):
    box = Box(start, stop)
    with (
        HeatmapStore.create(tmp_path / "h.zarr", placement_of((4, 4)), channels=["x"]) as writer,
        pytest.raises(HeatmapError, match=message),
    ):
        writer.write(box, np.ones((*box.shape, 1), np.uint8))


@pytest.mark.parametrize(
    ("boxes", "message"),
    [
        ([((0, 0), (4, 2)), ((0, 3), (4, 4))], "pixels 2 to 4"),
        ([((0, 0), (2, 2)), ((0, 2), (2, 4))], "needed rows from 2 on"),
        ([((0, 0), (2, 2)), ((2, 0), (4, 3))], "pixels 0 to 2"),
    ],
)
def test_columns_out_of_order_are_refused(tmp_path, boxes, message):
    first, second = (Box(*box) for box in boxes)
    with HeatmapStore.create(tmp_path / "h.zarr", placement_of((4, 4)), channels=["x"]) as writer:
        writer.write(first, np.ones((*first.shape, 1), np.uint8))
        with pytest.raises(HeatmapError, match=message):
            writer.write(second, np.ones((*second.shape, 1), np.uint8))
        with pytest.raises(HeatmapError, match="cannot finish"):
            writer.finish()


@few
@given(
    shape=shapes,
    channels=st.integers(1, 2),
    cuts=st.sets(st.integers(1, 20), max_size=3),
    seed=st.integers(0, 9),
)
def test_an_image_written_in_columns_is_the_same_on_every_level(
    small_chunks, tmp_path_factory, shape, channels, cuts, seed
):
    folder = tmp_path_factory.mktemp("columns")
    codes = random_codes(shape, channels, seed)
    whole = write_heatmap(folder / "whole.zarr", codes)
    names = [f"class {k}" for k in range(channels)]
    with HeatmapStore.create(folder / "cut.zarr", placement_of(shape), channels=names) as writer:
        edges = [0, *sorted(cut for cut in cuts if cut < shape[-1]), shape[-1]]
        for left, right in pairwise(edges):
            for top in range(0, shape[0], 3):
                middle = shape[1:-1]
                start = (top, *(0 for _ in middle), left)
                box = Box(start, (min(top + 3, shape[0]), *middle, right))
                writer.write(box, codes[box.slices()])
        cut = writer.finish()
    for level in range(whole.placement.levels):
        mine, other = (zarr.open_array(s.path / str(level), mode="r") for s in (cut, whole))
        np.testing.assert_array_equal(np.asarray(mine), np.asarray(other))


@few
@given(
    shape=st.tuples(st.integers(1, 30), st.integers(1, 30)),
    cuts=st.sets(st.integers(1, 20), max_size=3),
    depth=st.integers(1, 9),
    labels=st.booleans(),
)
def test_an_image_written_turned_is_the_same_on_disk(
    small_chunks, tmp_path_factory, shape, cuts, depth, labels
):
    """Walked from left to right, in columns that are rows of the image: byte for byte."""
    folder = tmp_path_factory.mktemp("turned")
    codes = random_codes(shape, 2, 3)
    begin = partial(HeatmapStore.create, channels=["a", "b"])
    if labels:
        codes = codes[..., 0] % 2
        begin = partial(LabelStore.create, classes=CLASSES[:2])
    whole = begin(folder / "a" / "x.zarr", placement_of(shape))
    turned = begin(folder / "b" / "x.zarr", placement_of(shape), turned=True)
    with whole, turned:
        whole.write(Box.of_shape(shape), codes)
        whole.finish()
        edges = [0, *sorted(cut for cut in cuts if cut < shape[0]), shape[0]]
        for left, right in pairwise(edges):
            for top in range(0, shape[1], depth):
                box = Box((top, left), (min(top + depth, shape[1]), right))
                turned.write(box, codes.swapaxes(0, 1)[box.slices()])
        turned.finish()
    assert digests(folder / "a") == digests(folder / "b")


@pytest.mark.parametrize("codes", [np.ones((2, 4, 2), np.uint8), np.ones((2, 4, 1), np.float32)])
def test_codes_of_another_shape_or_type_are_refused(tmp_path, codes):
    with (
        HeatmapStore.create(tmp_path / "h.zarr", placement_of((4, 4)), channels=["x"]) as writer,
        pytest.raises(HeatmapError, match="needed uint8 of shape"),
    ):
        writer.write(Box((0, 0), (2, 4)), codes)


@pytest.mark.parametrize("channels", [[], ["x", "x"]])
def test_channel_names_are_needed_and_unique(tmp_path, channels):
    with pytest.raises(HeatmapError, match="unique channel names"):
        HeatmapStore.create(tmp_path / "h.zarr", placement_of((4, 4)), channels=channels)


@pytest.mark.parametrize("count", [0, 257])
def test_labels_have_1_to_256_classes(tmp_path, count):
    with pytest.raises(HeatmapError, match=f"found {count}"):
        LabelStore.create(
            tmp_path / "l.zarr", placement_of((4, 4)), classes=[LabelClass("x")] * count
        )


def test_one_axis_or_four_are_refused(tmp_path):
    for shape in ((4,), (4, 4, 4, 4)):
        with pytest.raises(HeatmapError, match="two or three axes"):
            HeatmapStore.create(tmp_path / "h.zarr", placement_of(shape), channels=["x"])


def test_probabilities_reach_the_disk_and_come_back(tmp_path):
    values = np.random.default_rng(0).random((30, 40, 2), dtype=np.float32)
    covered = np.random.default_rng(1).random((30, 40)) < 0.5
    box = Box.of_shape((30, 40))
    with HeatmapStore.create(
        tmp_path / "h.zarr", placement_of((30, 40)), channels=["a", "b"]
    ) as writer:
        reducer = Probabilities(writer)
        reducer.push(Slab(box, values, covered))
        reducer.finish()
    store = HeatmapStore.open(tmp_path / "h.zarr")
    np.testing.assert_allclose(store.read(box)[covered], values[covered], atol=0.5 / 254 + 1e-6)
    assert not store.read(box)[~covered].any()
    np.testing.assert_array_equal(store.covered(box), covered)


def test_writer_bytes_grows_with_a_row_of_chunks_not_with_the_height():
    low, high = (writer_bytes(placement_of((n, 50_000)), 1) for n in (5_000, 500_000))
    assert low <= high < 1.1 * low  # a few more, tiny, levels
    assert 50_000 * 512 < low < 3 * 50_000 * 512


def test_paths_may_be_strings(tmp_path):
    store = write_heatmap(str(tmp_path / "h.zarr"), random_codes((4, 4), 1))
    assert HeatmapStore.open(str(store.path)).path == Path(store.path)

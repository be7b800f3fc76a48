"""The stitcher on a device against the one on the host: the same tiles, the same bytes."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit, softmax

from wsiseg.errors import DeviceMemoryError, GridError, HeatmapError
from wsiseg.geometry import Box
from wsiseg.grid import Grid
from wsiseg.model.activation import Scaling
from wsiseg.stitch import (
    ArgmaxLabels,
    ArraySink,
    Probabilities,
    Reducers,
    Stitcher,
    ThresholdLabels,
    stitch_tiles,
)
from wsiseg.stitch.device import (
    CodeWriter,
    DeviceFront,
    DeviceStitcher,
    Kept,
    device_bytes,
)

BLENDS = ("crop", "constant", "gaussian")
CPU = torch.device("cpu")


@st.composite
def cases(draw, blends=BLENDS):
    axes = draw(st.integers(2, 3))
    blend = draw(st.sampled_from(blends))
    overlap = st.just(0) if blend == "crop" else st.integers(0, 4)
    grid = Grid(
        draw(st.tuples(*[st.integers(1, 9)] * axes)),
        stride=draw(st.tuples(*[st.integers(1, 5)] * axes)),
        halo=draw(st.tuples(*[st.integers(0, 2)] * axes)),
        overlap=draw(st.tuples(*[overlap] * axes)),
    )
    indices = [tile.index for tile in grid]
    chosen = draw(st.sets(st.sampled_from(indices)))
    return grid, blend, [grid.tile(index) for index in sorted(chosen)]


def raw_values(grid, tiles, channels, seed=0, scale=1.0):
    rng = np.random.default_rng(seed)
    return rng.random((len(tiles), *grid.patch, channels), dtype=np.float32) * np.float32(scale)


def on_host(grid, blend, tiles, values, kept):
    codes = ArraySink((*grid.shape, len(kept.channels)))
    labels = ArraySink(grid.shape)
    labeller = (
        ArgmaxLabels(labels) if kept.labels == "argmax" else ThresholdLabels(labels, kept.threshold)
    )
    reducers = Reducers([Probabilities(codes, channels=kept.channels), labeller])
    stitcher = Stitcher(grid, values.shape[-1], blend=blend)
    for slab in stitch_tiles(zip(tiles, values, strict=True), stitcher):
        reducers.push(slab)
    return codes.array, labels.array


def on_device(grid, blend, tiles, raw, kept, *, batch=3, device=CPU, **options):
    codes, labels = ArraySink((*grid.shape, len(kept.channels))), ArraySink(grid.shape)
    writer = CodeWriter(codes, labels)
    stitcher = DeviceStitcher(
        grid, raw.shape[-1], kept, blend=blend, device=device, **({"activation": "none"} | options)
    )

    def batches():
        for start in range(0, len(tiles), batch):
            part = np.zeros((batch, *raw.shape[1:]), np.float32)  # filled up, as the engine does
            part[: len(raw[start : start + batch])] = raw[start : start + batch]
            yield tiles[start : start + batch], torch.from_numpy(part).to(device)

    def slabs():
        for some, part in batches():
            yield from stitcher.add(some, part)
        yield from stitcher.finish()

    row, zeros = 0, (0,) * (len(grid.shape) - 1)
    for slab in slabs():
        assert slab.box == Box((row, *zeros), (slab.box.stop[0], *grid.shape[1:]))
        row = slab.box.stop[0]
        writer.push(slab)
    assert row == grid.shape[0]
    return codes.array, labels.array


kepts = st.sampled_from(
    [
        Kept((1, 2)),
        Kept((0, 1, 2), "argmax"),
        Kept((2,), "threshold", 0.3),
        Kept((2, 0), "threshold", 0.5),
    ]
)


@given(case=cases(), kept=kepts, batch=st.integers(1, 5), seed=st.integers(0, 99))
def test_the_same_probabilities_give_the_same_bytes(case, kept, batch, seed):
    grid, blend, tiles = case
    values = raw_values(grid, tiles, 3, seed)
    wanted = on_host(grid, blend, tiles, values, kept)
    found = on_device(grid, blend, tiles, values, kept, batch=batch)
    np.testing.assert_array_equal(found[0], wanted[0])
    np.testing.assert_array_equal(found[1], wanted[1])


@pytest.mark.parametrize("activation", ["softmax", "sigmoid", "none"])
def test_where_a_batch_does_not_fit_its_tiles_go_one_by_one(monkeypatch, activation):
    grid = Grid((40, 30), (8, 8), (2, 2), (0, 0))
    tiles, kept = list(grid), Kept((1, 2))
    raw = raw_values(grid, tiles, 3, 1)
    wanted = on_device(grid, "crop", tiles, raw, kept, activation=activation)
    activate, sizes = DeviceStitcher._activate, []

    def activate_little(self, values):
        sizes.append(values.ndim)
        if values.ndim == 4:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return activate(self, values)

    monkeypatch.setattr(DeviceStitcher, "_activate", activate_little)
    found = on_device(grid, "crop", tiles, raw, kept, activation=activation)
    np.testing.assert_array_equal(found[0], wanted[0])
    np.testing.assert_array_equal(found[1], wanted[1])
    assert sizes.count(3) == len(tiles)


@given(case=cases(), seed=st.integers(0, 99))
def test_the_front_is_that_of_the_host(case, seed):
    grid, blend, tiles = case
    values = raw_values(grid, tiles, 2, seed)
    wanted = np.zeros((*grid.shape, 2), np.float32)
    for slab in stitch_tiles(zip(tiles, values, strict=True), Stitcher(grid, 2, blend=blend)):
        wanted[slab.box.slices()] = slab.values
    found = np.zeros_like(wanted)
    covered = np.zeros(grid.shape, bool)
    front = DeviceFront(grid, 2, blend=blend, device=CPU)

    def take(stop):
        while (cut := front.cut(stop)) is not None:
            rows, part, there = cut
            if there.numel():
                found[front.top - rows : front.top] = part.movedim(0, -1).numpy()
                covered[front.top - rows : front.top] = there.numpy()

    for tile, raw in zip(tiles, values, strict=True):
        take(tile.write.start[0])
        inner = raw[tile.write.relative_to(tile.read).slices()]
        front.add(tile.write, torch.from_numpy(inner))
    take(grid.shape[0])
    if blend == "crop":
        np.testing.assert_array_equal(found, wanted)
    else:
        np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5)
    np.testing.assert_array_equal(covered, found.any(axis=-1))


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
@given(
    case=cases(),
    scaling=st.sampled_from(
        [Scaling(), Scaling((0.7,)), Scaling((3.0, 0.5, 1.2), (-1.0, 0.25, 0.75))]
    ),
)
def test_activations_are_made_on_the_device(activation, case, scaling):
    grid, blend, tiles = case
    raw = raw_values(grid, tiles, 3, scale=8) - np.float32(4)
    scaled = raw * np.array(scaling.weights, "f4") + np.array(scaling.biases, "f4")
    values = softmax(scaled, axis=-1) if activation == "softmax" else expit(scaled)
    kept = Kept((0, 1, 2))
    wanted, _ = on_host(grid, blend, tiles, values.astype(np.float32), kept)
    options = {"activation": activation, "scaling": scaling}
    found, _ = on_device(grid, blend, tiles, raw, kept, **options)
    assert np.abs(found.astype(int) - wanted).max(initial=0) <= 1
    np.testing.assert_array_equal(found == 0, wanted == 0)


def test_ties_go_to_the_lower_class():
    grid = Grid((2, 2), (2, 2), (0, 0), (0, 0))
    raw = np.full((1, 2, 2, 4), 0.25, np.float32)
    raw[0, 0, 0] = [0.1, 0.4, 0.4, 0.1]
    _, labels = on_device(grid, "crop", list(grid), raw, Kept((1,)))
    np.testing.assert_array_equal(labels, [[1, 0], [0, 0]])


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1.1, -0.1])
@pytest.mark.parametrize("labels", ["none", "argmax"])
def test_what_is_no_probability_is_refused(bad, labels):
    grid = Grid((4, 4), (2, 4), (0, 0), (0, 0))
    raw = raw_values(grid, list(grid), 2)
    raw[1, 1, 2, 1] = bad
    with pytest.raises(HeatmapError, match=r"between 0 and 1.*rows 2 to 4"):
        on_device(grid, "crop", list(grid), raw, Kept((0, 1), labels))


def test_slabs_come_while_tiles_are_added():
    grid = Grid((40, 4), (2, 4), (0, 0), (0, 0))
    stitcher = DeviceStitcher(grid, 1, Kept((0,)), activation="none", device="cpu")
    counts = [
        len(stitcher.add([tile], torch.zeros((1, *grid.patch, 1)))) for tile in list(grid)[:10]
    ]
    assert sum(counts) == 10 - 1 - 2  # the last row is open, two are on their way
    assert len(stitcher.finish()) == 20 - 7


GRID = Grid((8, 8), (4, 4), (1, 1), (0, 0))


def stitcher(channels=1, **options):
    return DeviceStitcher(GRID, channels, Kept((0,)), **({"device": "cpu"} | options))


def test_tiles_out_of_order_or_of_another_grid_are_refused():
    raw = torch.zeros((2, *GRID.patch, 1))
    tiles = list(GRID)
    found = stitcher()
    found.add(tiles[1:2], raw)
    for wrong in (
        tiles[:1],
        tiles[1:2],
        [tiles[3], tiles[2]],
        [Grid((8, 8), (4, 4), (0, 0), (0, 0)).tile((1, 1))],
    ):
        with pytest.raises(HeatmapError, match="row-major order"):
            found.add(wrong, raw)


@pytest.mark.parametrize(
    "raw",
    [torch.zeros(1, 6, 6, 2), torch.zeros(1, 4, 4, 1), torch.zeros(1, 6, 6, 1).double()],
)
def test_values_of_another_shape_or_type_are_refused(raw):
    with pytest.raises(HeatmapError, match="needed float32 values of shape"):
        stitcher().add([GRID.tile((0, 0))], raw)


def test_fewer_values_than_tiles_are_refused():
    with pytest.raises(HeatmapError, match="2 or more"):
        stitcher().add(list(GRID)[:2], torch.zeros((1, *GRID.patch, 1)))


def test_nothing_is_added_after_the_end():
    found = stitcher()
    found.finish()
    with pytest.raises(HeatmapError, match="finished"):
        found.add([], torch.zeros((1, *GRID.patch, 1)))
    with pytest.raises(HeatmapError, match="finished"):
        found.finish()


def test_what_cannot_be_stitched_is_refused():
    overlapping = Grid((8, 8), (4, 4), (0, 0), (0, 1))
    with pytest.raises(GridError, match="do not overlap"):
        DeviceStitcher(overlapping, 1, Kept((0,)), device="cpu")
    for channels in (0, 257):
        with pytest.raises(HeatmapError, match="channels"):
            stitcher(channels)
    with pytest.raises(HeatmapError, match="one to keep"):
        DeviceStitcher(GRID, 1, Kept(()), device="cpu")


def test_a_front_that_does_not_fit_says_what_it_needs(monkeypatch: pytest.MonkeyPatch):
    def full(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(torch, "zeros", full)
    with pytest.raises(DeviceMemoryError, match=r"cpu: stitching needs 0.00 GB"):
        stitcher()


def test_memory_that_runs_out_later_is_named_too(monkeypatch: pytest.MonkeyPatch):
    def full(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    stitched = stitcher()
    stitched.add([GRID.tile((0, 0))], torch.zeros((1, *GRID.patch, 1)))
    monkeypatch.setattr(DeviceFront, "cut", full)
    with pytest.raises(DeviceMemoryError, match="take a smaller batch"):
        stitched.finish()


def test_the_memory_grows_with_a_row_not_with_the_image():
    low, high = (Grid((n, 1000), (100, 100), (8, 8), (0, 0)) for n in (1000, 100_000))
    for blend in BLENDS:
        assert device_bytes(low, 3, blend) == device_bytes(high, 3, blend)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("blend", BLENDS)
@pytest.mark.parametrize("labels", ["argmax", "threshold"])
def test_a_gpu_gives_the_same_bytes(blend, labels):
    overlap = (0, 0) if blend == "crop" else (16, 8)
    grid = Grid((700, 900), (96, 112), (8, 8), overlap)
    tiles = [tile for tile in grid if sum(tile.index) % 5]
    values = raw_values(grid, tiles, 3)
    kept = Kept((0, 1, 2), labels, 0.4)
    wanted = on_host(grid, blend, tiles, values, kept)
    found = on_device(grid, blend, tiles, values, kept, batch=8, device=torch.device("cuda"))
    for mine, theirs in itertools.zip_longest(found, wanted):
        np.testing.assert_array_equal(mine, theirs)

"""Windows and blends of MONAI and nnU-Net, compared with MONAI and with nnU-Net's definition."""

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from wsiseg.errors import GridError
from wsiseg.grid import Grid, cut_columns, window_grid
from wsiseg.stitch import Stitcher, stitch_tiles, window_weights

SHAPES = (
    ((50,), (16,)),
    ((10,), (16,)),
    ((16,), (16,)),
    ((40, 33), (16, 12)),
    ((9, 33), (16, 12)),
    ((9, 7), (16, 12)),
    ((17, 12), (16, 12)),
    ((20, 24, 28), (8, 12, 16)),
    ((7, 40, 28), (8, 12, 16)),
    ((33, 17, 25), (16, 16, 16)),
    ((5, 6, 7), (8, 8, 8)),
    ((8, 30, 9), (8, 8, 8)),
)
OVERLAPS = (0.0, 0.25, 0.5, 0.625, "each")


def overlap_of(overlap, axes):
    return (0.25, 0.5, 0.6)[:axes] if overlap == "each" else overlap


def read(image, box):
    out = np.zeros((image.shape[0], *box.shape), image.dtype)
    inner = box.clip(image.shape[1:])
    if inner.size:
        out[:, *inner.relative_to(box).slices()] = image[:, *inner.slices()]
    return out


def network(batch):
    """Give three channels that depend on the place in the window, so that each window counts."""
    ramp = torch.linspace(0.5, 2, batch.shape[-1], dtype=batch.dtype)
    turned = batch.flip(2) * ramp
    return torch.cat([turned, torch.roll(batch, 1, 2) - turned / 2, batch * batch], 1)


def answers(image, grid):
    for tile in grid:
        batch = torch.from_numpy(read(image, tile.read))[None]
        yield tile, np.moveaxis(network(batch)[0].numpy(), 0, -1)


def stitched(image, grid, blend, *, summed=True):
    stitcher = Stitcher(grid, 3, blend=blend, summed=summed)
    out = np.full((*grid.shape, 3), np.nan, np.float32)
    for slab in stitch_tiles(answers(image, grid), stitcher):
        out[slab.box.slices()] = slab.values
    return np.moveaxis(out, -1, 0)


@pytest.mark.parametrize("overlap", OVERLAPS)
@pytest.mark.parametrize(("shape", "patch"), SHAPES)
def test_equals_monai(shape, patch, overlap):
    from monai.inferers import sliding_window_inference

    overlap = overlap_of(overlap, len(shape))
    image = np.random.default_rng(0).normal(size=(1, *shape)).astype(np.float32)
    for mode, blend in (("constant", "constant"), ("gaussian", "gaussian-monai")):
        expected = sliding_window_inference(
            torch.from_numpy(image)[None], patch, 3, network, overlap=overlap, mode=mode
        )
        grid = window_grid(shape, patch, plan="monai", overlap=overlap)
        for summed in (False, True):
            found = stitched(image, grid, blend, summed=summed)
            assert np.abs(found - expected[0].numpy()).max() <= 1e-5


def nnunet_starts(size, patch, step_size):
    """Return window starts by the formula of nnU-Net's paper and code, written anew."""
    if size <= patch:
        return [-((patch - size) // 2)]
    steps = int(np.ceil((size - patch) / (patch * step_size))) + 1
    return [int(v) for v in np.round(np.arange(steps) * ((size - patch) / (steps - 1)))]


def nnunet_map(patch, dtype):
    """Return the importance map as nnU-Net makes it: a filtered delta, at most 10, no zeros."""
    delta = np.zeros(patch)
    delta[tuple(n // 2 for n in patch)] = 1
    weights = gaussian_filter(delta, [n / 8 for n in patch], 0, mode="constant", cval=0)
    weights = (weights / (weights.max() / 10)).astype(dtype)
    weights[weights == 0] = weights[weights != 0].min()
    return weights


def nnunet_sum(image, grid_starts, patch, dtype):
    """Return the weighted sum of all windows over the sum of weights, in one type."""
    weights = nnunet_map(patch, dtype)
    total = np.zeros((3, *image.shape[1:]), dtype)
    count = np.zeros(image.shape[1:], dtype)
    for start in np.ndindex(*map(len, grid_starts)):
        place = tuple(
            slice(starts[i], starts[i] + n)
            for starts, i, n in zip(grid_starts, start, patch, strict=True)
        )
        window = torch.from_numpy(image[(slice(None), *place)].astype(np.float32))[None]
        total[(slice(None), *place)] += network(window)[0].numpy().astype(dtype) * weights
        count[place] += weights
    return total / count


@pytest.mark.parametrize("size", [8, 9, 17, 40, 41, 64, 100, 131])
@pytest.mark.parametrize("patch", [8, 16, 24])
@pytest.mark.parametrize("overlap", [0.25, 0.5, 0.75])
def test_nnunet_windows(size, patch, overlap):
    grid = window_grid((size,), (patch,), plan="nnunet", overlap=overlap)
    assert list(grid.starts[0]) == nnunet_starts(size, patch, 1 - overlap)


def test_nnunet_map():
    for patch in ((32, 24, 16), (20, 28, 28), (7, 9, 11)):
        expected = nnunet_map(patch, np.float64) / 10
        found = window_weights(patch, "gaussian-nnunet")
        assert np.abs(found - expected).max() <= 1e-6


def test_closer_to_float64_than_half_precision_sums():
    shape, patch = (40, 45, 50), (16, 20, 24)
    image = np.random.default_rng(1).normal(size=(1, *shape)).astype(np.float32)
    grid = window_grid(shape, patch, plan="nnunet", overlap=0.5)
    ours = stitched(image, grid, "gaussian-nnunet")
    running = stitched(image, grid, "gaussian-nnunet", summed=False)
    assert np.abs(ours - running).max() / np.abs(ours).max() <= 1e-6
    exact = nnunet_sum(image, grid.starts, patch, np.float64)
    half = nnunet_sum(image, grid.starts, patch, np.float16)
    scale = np.abs(exact).max()
    error, theirs = (np.abs(found - exact).max() / scale for found in (ours, half))
    assert error <= 1e-5
    assert error < theirs / 20
    assert (ours.argmax(0) != exact.argmax(0)).mean() <= 1e-6
    assert np.abs(ours - half).mean() / scale <= 1e-3  # the same thing, but for its rounding


@pytest.mark.parametrize("blend", ["constant", "gaussian", "gaussian-monai", "gaussian-nnunet"])
@pytest.mark.parametrize("plan", ["monai", "nnunet"])
def test_constants_stay(blend, plan):
    for shape, patch in SHAPES:
        grid = window_grid(shape, patch, plan=plan, overlap=0.5)
        ones = np.ones((*patch, 1), np.float32)
        for summed in (False, True):
            stitcher = Stitcher(grid, 1, blend=blend, summed=summed)
            for slab in stitch_tiles(((tile, ones) for tile in grid), stitcher):
                assert np.abs(slab.values - 1).max() <= 1e-6
                assert slab.covered.all()


def test_columns_of_irregular_windows_give_the_whole():
    shape, patch = (20, 24, 50), (8, 12, 16)
    image = np.random.default_rng(2).normal(size=(1, *shape)).astype(np.float32)
    for plan in ("monai", "nnunet"):
        grid = window_grid(shape, patch, plan=plan, overlap=0.4)
        whole = stitched(image, grid, "gaussian")
        left = 0
        for column in cut_columns(grid, 20):
            part = image[..., column.offset : column.offset + column.grid.shape[-1]]
            found = stitched(part, column.grid, "gaussian")
            last = column.decided.stop == grid.counts[-1]
            right = shape[-1] if last else grid.starts[-1][column.decided.stop]
            own = found[..., left - column.offset : right - column.offset]
            assert np.array_equal(own, whole[..., left:right])
            left = right
        assert left == shape[-1]


def test_crop_refuses_overlap():
    with pytest.raises(GridError, match="crop"):
        Stitcher(window_grid((20,), (8,), plan="monai", overlap=0.5), 1)


def test_windows_that_leave_gaps_are_refused():
    with pytest.raises(GridError, match="cover"):
        Grid((20,), (8,), (0,), (0,), ((0, 8),))
    with pytest.raises(GridError, match="overlap"):
        window_grid((20,), (8,), plan="monai", overlap=1.0)

"""Whole regions: cells centred on their patches, the same numbers a run gives."""

import numpy as np
import pytest
import torch

from wsiseg.geometry import Box
from wsiseg.model.networks import build
from wsiseg.train.infer import predict_cells, predict_pixels, resample_cells


class CentreOfMass(torch.nn.Module):
    """Logit of class 1: the red of the middle four pixels, in grey values."""

    def forward(self, image):
        assert image.shape[1:] == (3, 8, 8)
        middle = image.shape[-1] // 2
        red = image[:, 0, middle - 1 : middle + 1, middle - 1 : middle + 1].mean(dim=(1, 2)) * 255
        return torch.stack([torch.zeros_like(red), red], dim=1)


def logit(p):
    return np.log(p) - np.log1p(-p)


def test_a_cell_is_the_centre_of_its_patch():
    image = np.zeros((20, 26, 3), np.uint8)
    image[..., 0] = np.arange(20)[:, None] // 4 + np.arange(26)[None] // 4  # one value per cell
    cells = predict_cells(CentreOfMass(), image, patch=8, stride=4)
    assert cells.shape == (5, 7, 2)
    expected = np.arange(5)[:, None] + np.arange(6)[None]
    np.testing.assert_allclose(logit(cells[:, :6, 1].astype(float)), expected, rtol=1e-2)


def test_cells_outside_the_wanted_block_stay_zero():
    image = np.random.default_rng(0).integers(0, 5, (20, 24, 3), dtype=np.uint8)
    whole = predict_cells(CentreOfMass(), image, patch=8, stride=4)
    block = (slice(1, 4), slice(2, 5))
    part = predict_cells(CentreOfMass(), image, patch=8, stride=4, within=block)
    np.testing.assert_array_equal(part[block], whole[block])
    part[block] = 0
    assert not part.any()


def test_resampled_cells_keep_their_place():
    cells = np.zeros((4, 6, 1), np.float32)
    cells[2, 3] = 1
    pixels = resample_cells(cells, Box.of_shape((32, 48)), 1 / 8)[..., 0]
    mass = pixels / pixels.sum()
    rows, columns = np.indices(pixels.shape) + 0.5  # pixel i covers [i, i + 1)
    assert (rows * mass).sum() == pytest.approx(2.5 * 8)
    assert (columns * mass).sum() == pytest.approx(3.5 * 8)


def test_resampling_fades_to_zero_at_the_edge_as_a_run_does():
    pixels = resample_cells(np.ones((2, 2, 1), np.float32), Box.of_shape((8, 8)), 1 / 4)[..., 0]
    # The outermost pixel centre lies 1.5 pixels outside the first cell centre: 1 - 1.5 / 4.
    assert pixels[4, 0] == pytest.approx(0.625)
    assert pixels[4, 4] == pytest.approx(1.0)


def test_a_box_beyond_the_cells_continues_the_same_grid():
    cells = np.random.default_rng(0).random((3, 4, 1), dtype=np.float32)
    inside = resample_cells(cells, Box.of_shape((24, 32)), 1 / 8)
    wide = resample_cells(cells, Box((-9, -5), (40, 50)), 1 / 8)
    np.testing.assert_allclose(wide[9:33, 5:37], inside, atol=1e-6)
    assert not wide[:4].any()  # more than half a cell outside
    assert wide[6, 8:30].all()


def test_pixels_do_not_depend_on_the_halo():
    arguments = {"widths": [4, 4], "bottleneck": 4}
    network = build("wsiseg.h2g_unet", channels=(3, 1), classes=2, arguments=arguments)
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (21, 30, 3), dtype=np.uint8)
    cells = rng.random((3, 4, 1), dtype=np.float32)

    def heatmap(box):
        return resample_cells(cells, box, 1 / 8)

    near = predict_pixels(network, image, heatmap, multiple=4, halo=24)
    far = predict_pixels(network, image, heatmap, multiple=4, halo=32)
    assert near.shape == (21, 30, 2)
    np.testing.assert_allclose(near, far, atol=1e-6)

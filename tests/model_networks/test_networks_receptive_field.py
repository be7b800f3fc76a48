"""How far a U-Net looks: the formula against gradients, and what a halo of it is worth."""

import pytest
import torch

from wsiseg.model.networks import build, receptive_field_radius


def unet(levels):
    arguments = {"widths": [4] * levels, "bottleneck": 4}
    torch.manual_seed(0)
    network = build("wsiseg.unet", channels=(1,), classes=1, arguments=arguments).double()
    for module in network.modules():
        # All weights positive and max pooling replaced by its mean: no path is ever cut off.
        if isinstance(module, torch.nn.Conv2d):
            module.weight.data.abs_()
    network.pool = torch.nn.AvgPool2d(2)
    return network.eval()


@pytest.mark.parametrize("levels", [1, 2, 3, 4])
def test_radius_is_what_gradients_measure(levels):
    network, cell = unet(levels), 2**levels
    radius = receptive_field_radius(levels)
    size = -(-(2 * radius + 3 * cell) // cell) * cell
    farthest = 0
    for offset in range(cell):
        pixel = size // 2 // cell * cell + offset
        image = torch.full((1, 1, size, size), 0.5, dtype=torch.float64, requires_grad=True)
        network(image)[0, 0, pixel, pixel].backward()
        seen = torch.nonzero(image.grad[0, 0])
        farthest = max(farthest, int((seen - pixel).abs().max()))
    assert farthest == radius


def test_a_halo_of_the_radius_makes_tiles_equal_the_whole():
    levels = 2
    network = build(
        "wsiseg.h2g_unet",
        channels=(3, 1),
        classes=2,
        arguments={"widths": [4, 8], "bottleneck": 8},
    ).eval()
    halo = -(-receptive_field_radius(levels) // 4) * 4
    image, heatmap = torch.rand(1, 3, 96, 96), torch.rand(1, 1, 96, 96)
    start, stop = 36, 60  # a multiple of 2 ** levels
    cut = (..., slice(start - halo, stop + halo), slice(start - halo, stop + halo))
    with torch.inference_mode():
        whole = network(image, heatmap)[..., start:stop, start:stop]
        tile = network(image[cut], heatmap[cut])[..., halo:-halo, halo:-halo]
    torch.testing.assert_close(tile, whole, atol=1e-6, rtol=0)

"""Stains: estimated where a patch shows them, varied along their own lines; lenses and files."""

from dataclasses import replace

import numpy as np
import pytest
import scipy.ndimage
import torch

from wsiseg.train import optics
from wsiseg.train.augment_options import AugmentOptions
from wsiseg.train.draws import Draws
from wsiseg.train.optics import add_noise_, compress_, defocus_
from wsiseg.train.stain import STAINS, estimate_stains, recolour

NONE = AugmentOptions(
    stain=0, stain_shift=0, stain_direction=0, hue_degrees=0, saturation=0, brightness=0,
    contrast=0, gamma=0, noise=0, defocus=0,
)  # fmt: skip


def draws(count, seed=0):
    return Draws(torch.Generator().manual_seed(seed), count, torch.device("cpu"))


def stained(vectors, count=3, size=40, seed=0):
    """Return images (n, 3, y, x) of two stains, each pixel some of both, some of one alone."""
    rng = np.random.default_rng(seed)
    amounts = rng.gamma(2.0, 0.4, (count, size * size, 2))
    amounts[:, :200, 0], amounts[:, 200:400, 1] = 0.0, 0.0
    density = (amounts + 0.02) @ np.asarray(vectors)
    pixels = np.exp(-density).transpose(0, 2, 1).reshape(count, 3, size, size)
    return torch.from_numpy(pixels.astype(np.float32))


def test_the_textbook_stains_are_the_published_ones():
    published = [[0.65, 0.70, 0.29], [0.07, 0.99, 0.11], [0.27, 0.57, 0.78]]
    np.testing.assert_allclose(STAINS.numpy(), published, atol=0.01)


@pytest.mark.parametrize("swap", [False, True])
def test_stains_are_estimated_from_what_a_patch_shows(swap):
    vectors = np.array([[0.55, 0.75, 0.36], [0.15, 0.95, 0.27]])
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    image = stained(vectors[::-1] if swap else vectors)
    found = estimate_stains(-image.flatten(2).log()).numpy()
    for blue, pink, rest in found:
        assert blue @ vectors[0] > 0.998
        assert pink @ vectors[1] > 0.998
        np.testing.assert_allclose([rest @ blue, rest @ pink], 0, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(found, axis=2), 1, atol=1e-5)


@pytest.mark.parametrize("kind", ["white", "black", "one stain", "mostly glass", "noise"])
def test_a_patch_that_shows_too_little_gets_the_textbook(kind):
    image = stained(STAINS[:2].numpy())
    if kind == "white":
        image[:] = 1
    elif kind == "black":
        image[:] = 1 / 255
    elif kind == "one stain":
        image = stained(STAINS[[1, 1]].numpy())
    elif kind == "mostly glass":
        image[:, :, 3:] = 0.98
    else:
        image = torch.rand(3, 3, 40, 40, generator=torch.Generator().manual_seed(0)) * 0.8
    found = estimate_stains(-image.flatten(2).log())
    if kind == "noise":
        assert torch.isfinite(found).all()
    else:
        torch.testing.assert_close(found, STAINS.expand(3, 3, 3))


@pytest.mark.parametrize("macenko", [0.0, 1.0])
def test_recolouring_without_strength_is_the_identity(macenko):
    image = stained(STAINS[:2].numpy())
    found = recolour(image, draws(3), replace(NONE, macenko=macenko))
    torch.testing.assert_close(found, image.clamp(min=1 / 255), atol=1e-4, rtol=0)


@pytest.mark.parametrize("macenko", [0.0, 1.0])
def test_stain_scale_moves_each_stain_along_its_own_line(macenko):
    """A pixel of pure haematoxylin stays pure: its optical density is only multiplied."""
    image = stained(STAINS[:2].numpy(), count=40)
    image[:, :, 0, 0] = torch.exp(-0.8 * STAINS[0])
    found = recolour(image, draws(40), replace(NONE, macenko=macenko, stain=0.3))
    density = -found[:, :, 0, 0].log()
    factor = density @ STAINS[0] / (0.8 * STAINS[0] @ STAINS[0])
    expected = 0.8 * factor[:, None] * STAINS[0]
    torch.testing.assert_close(density, expected, atol=1e-4 if macenko == 0 else 0.05, rtol=0)
    spread = 0.3 if macenko == 0 else 0.15
    assert 1 - 1.1 * spread < factor.min() < 1 - 0.7 * spread
    assert 1 + 0.7 * spread < factor.max() < 1 + 1.1 * spread


def test_gamma_is_a_power():
    image = stained(STAINS[:2].numpy(), count=30).clamp(min=1 / 255)
    shifted = replace(NONE, macenko=0.0, stain_shift=0.05)
    plain = recolour(image, draws(30), shifted)
    found = recolour(image, draws(30), replace(shifted, gamma=0.5))
    bright = (plain < 0.99).all(dim=1, keepdim=True) & (found < 0.99).all(dim=1, keepdim=True)
    power = torch.where(bright, found.log() / plain.log(), torch.nan).flatten(1)
    power = torch.where(power.isnan(), power.nanmedian(dim=1, keepdim=True)[0], power)
    torch.testing.assert_close(power, power[:, :1].expand_as(power), atol=1e-3, rtol=1e-3)
    assert 1 / 1.5 <= power.min() < 0.75
    assert 1.35 < power.max() <= 1.501


def test_hue_turns_about_grey_and_saturation_leaves_brightness():
    grey = torch.full((50, 3, 2, 2), 0.4)
    turned = recolour(grey, draws(50), replace(NONE, hue_degrees=120, saturation=0.5))
    torch.testing.assert_close(turned, grey, atol=1e-4, rtol=0)
    red = torch.tensor([0.6, 0.2, 0.2])[:, None, None].expand(200, 3, 2, 2).contiguous()
    turned = recolour(red, draws(200), replace(NONE, hue_degrees=120))
    torch.testing.assert_close(turned.sum(dim=1), red.sum(dim=1), atol=1e-4, rtol=0)
    assert turned[:, 0].min() < 0.25
    paler = recolour(red, draws(200), replace(NONE, saturation=0.5))
    luma = torch.tensor([0.299, 0.587, 0.114])
    torch.testing.assert_close(
        torch.einsum("c,nchw->nhw", luma, paler), torch.einsum("c,nchw->nhw", luma, red)
    )


def test_contrast_keeps_the_mean_and_brightness_multiplies():
    image = 0.4 + 0.2 * torch.rand(20, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    found = recolour(image, draws(20), replace(NONE, contrast=0.3))
    torch.testing.assert_close(found.mean(dim=(2, 3)), image.mean(dim=(2, 3)), atol=1e-4, rtol=0)
    ratio = (found.std(dim=(1, 2, 3)) / image.std(dim=(1, 2, 3))).numpy()
    assert 0.69 < ratio.min() < 0.8
    assert 1.2 < ratio.max() < 1.31
    ratio = (recolour(image, draws(20), replace(NONE, brightness=0.3)) / image).flatten(1)
    torch.testing.assert_close(ratio, ratio[:, :1].expand_as(ratio), atol=1e-3, rtol=0)
    assert 0.69 < ratio.min() < ratio.max() < 1.31


def test_colours_stay_colours():
    image = torch.rand(20, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    image[0], image[1] = 0.0, 1.0
    wild = AugmentOptions(stain=0.9, stain_shift=0.5, stain_direction=0.3, hue_degrees=180)
    found = recolour(image, draws(20), wild)
    assert torch.isfinite(found).all()
    assert 0 <= found.min() <= found.max() <= 1


@pytest.mark.parametrize(("sigma", "radius"), [(0.3, 1), (1.2, 3), (4.0, 10)])
def test_blur_equals_scipy(sigma, radius):
    image = torch.rand(2, 3, 24, 17, generator=torch.Generator().manual_seed(0))
    sigmas = torch.tensor([[sigma], [2 * sigma]])
    found = optics._blur(image, sigmas, radius)
    for picture, result, width in zip(image, found, sigmas[:, 0].tolist(), strict=True):
        expected = scipy.ndimage.gaussian_filter(
            picture.numpy(), (0, width, width), mode="nearest", radius=radius
        )
        np.testing.assert_allclose(result.numpy(), expected, atol=1e-5)


def test_blur_is_in_um():
    """The same blur in µm is twice as many pixels at half the spacing."""
    point = torch.zeros(64, 3, 65, 65)
    point[:, :, 32, 32] = 1.0
    widths = []
    for spacing in (1.0, 0.5):
        options = replace(NONE, defocus=1.0, blur_um=(2.0, 2.0), sharpen=0.0)
        found = defocus_(point.clone(), draws(64), options, spacing_um=spacing)[:, 0]
        across = torch.arange(65.0) - 32
        tail = found * (across != 0)[:, None] * (across != 0)  # without what stayed sharp
        variance = (tail * across**2).sum(dim=(1, 2)) / tail.sum(dim=(1, 2))
        widths.append(variance.mean().sqrt().item() * spacing)
    assert widths[0] == pytest.approx(widths[1], rel=0.1)


def test_some_are_sharpened():
    image = torch.rand(40, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 0.2 + 0.4
    found = defocus_(image.clone(), draws(40), replace(NONE, defocus=1.0), spacing_um=1.0)
    ratio = found.std(dim=(1, 2, 3)) / image.std(dim=(1, 2, 3))
    assert ratio.min() < 0.6
    assert ratio.max() > 1.3
    torch.testing.assert_close(found.mean(), image.mean(), atol=1e-3, rtol=0)


def test_noise_has_the_strength_asked_for_and_no_two_images_share_it():
    image = torch.full((40, 3, 32, 32), 0.5)
    found = add_noise_(image.clone(), draws(40), replace(NONE, noise=8.0)) - image
    deviation = found.std(dim=(1, 2, 3)) * 255
    assert 6 < deviation.max() < 8.3
    assert deviation.min() < 2
    assert found.mean().abs() < 1e-3
    flat = found.flatten(1)
    correlation = torch.corrcoef(flat) - torch.eye(40)
    assert correlation.abs().max() < 0.15


def test_compression_is_that_of_a_file():
    image = scipy.ndimage.gaussian_filter(
        np.random.default_rng(0).random((3, 3, 32, 24)), (0, 0, 2, 2)
    )
    image = torch.from_numpy(image.astype(np.float32))
    fine, coarse = (
        compress_(image.clone(), draws(3), replace(NONE, jpeg=1.0, jpeg_quality=(q, q)))
        for q in (98.0, 5.0)
    )
    assert (coarse - image).abs().mean() > 1.5 * (fine - image).abs().mean() > 0
    assert torch.equal((coarse * 255).round() / 255, coarse)

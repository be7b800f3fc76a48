"""Other stains and scanners, as two affine maps per patch.

Stain varies in optical density (Beer-Lambert): unmix, scale and shift each stain, mix again with
slightly other stain vectors; gamma is a factor there. Hue, saturation, brightness and contrast are
affine in RGB.
"""

import math

import torch

from wsiseg.train.augment_options import AugmentOptions
from wsiseg.train.draws import Draws

__all__ = ["STAINS", "estimate_stains", "recolour"]

STAINS = torch.tensor([[0.650, 0.704, 0.286], [0.072, 0.990, 0.105], [0.268, 0.570, 0.776]])
"""Optical density of haematoxylin, eosin and DAB in RGB (Ruifrok & Johnston 2001, PMID 11531144);
DAB stands for whatever the first two do not explain."""

LUMA = (0.299, 0.587, 0.114)
"""Brightness of RGB (ITU-R BT.601)."""

DARKEST = 1 / 255

ESTIMATE_PIXELS = 1024
"""Pixels per patch, about, that stains are estimated from."""

TISSUE_DENSITY, TISSUE_SHARE = 0.15, 0.1
"""Pixels denser than this in every channel are tissue (Macenko et al. 2009); with a smaller share
of them, a patch says too little about its stains."""

PERCENTILES = (0.01, 0.99)
"""Of the angles between stains: the extremes without outliers (Macenko et al. 2009)."""

APART = 0.25
"""Sine of the angle below which two estimated stains are not told apart."""


def recolour(image: torch.Tensor, draws: Draws, options: AugmentOptions) -> torch.Tensor:
    """Return images of which some were stained and scanned elsewhere.

    Parameters
    ----------
    image
        float32 (n, 3, y, x) RGB in 0..1.
    """
    chosen = draws.some(options.recolour)
    if not len(chosen):
        return image
    everyone = len(chosen) == len(image)
    changed = _recolour(image if everyone else image[chosen], draws.of(chosen), options)
    return changed if everyone else image.index_copy(0, chosen, changed)


def _recolour(image: torch.Tensor, draws: Draws, options: AugmentOptions) -> torch.Tensor:
    light = image.flatten(2).clamp(min=DARKEST).log_()  # minus the optical density
    mix, shift = _stain_maps(light, draws, options)
    pixels = torch.baddbmm(-shift, mix, light).exp_()
    colour = _colour_maps(draws, options)
    contrast = draws.around(1, options.contrast, 1, 1)
    middle = colour @ pixels.mean(dim=2, keepdim=True) * (1 - contrast)
    return torch.baddbmm(middle, colour * contrast, pixels).clamp_(0, 1).reshape(image.shape)


def estimate_stains(density: torch.Tensor) -> torch.Tensor:
    """Return the stain vectors of patches; those of the textbook where a patch shows too little.

    Parameters
    ----------
    density
        float32 (n, 3, pixel), optical density (natural logarithm) of RGB.

    Returns
    -------
    float32 (n, 3, 3) on the CPU: rows of length 1, haematoxylin, eosin and what is
    perpendicular to both.

    References
    ----------
    Macenko et al. 2009, doi:10.1109/ISBI.2009.5193250.
    """
    sample = density.double().cpu()
    tissue = sample.amin(dim=1) > TISSUE_DENSITY
    weight = tissue.double() / tissue.sum(dim=1, keepdim=True).clamp(min=1)
    centred = sample - (sample * weight[:, None]).sum(dim=2, keepdim=True)
    covariance = (centred * weight[:, None]) @ centred.transpose(1, 2)
    plane = torch.linalg.eigh(covariance).eigenvectors[:, :, 1:].flip(2)  # largest first
    plane = plane * torch.where(plane.sum(dim=1, keepdim=True) < 0, -1.0, 1.0)
    along, across = (plane.transpose(1, 2) @ sample).unbind(dim=1)
    angles = torch.where(tissue, torch.atan2(across, along), torch.nan)
    limits = torch.nanquantile(angles, angles.new_tensor(PERCENTILES), dim=1)
    first, second = (
        plane[:, :, 0] * a.cos()[:, None] + plane[:, :, 1] * a.sin()[:, None] for a in limits
    )
    # Haematoxylin absorbs more red than eosin does.
    swap = (first[:, 0] < second[:, 0])[:, None]
    blue, pink = torch.where(swap, second, first), torch.where(swap, first, second)
    rest = torch.linalg.cross(blue, pink)
    apart = rest.norm(dim=1)
    usable = (tissue.double().mean(dim=1) > TISSUE_SHARE) & (apart > APART)
    usable &= torch.stack([blue, pink]).amin(dim=(0, 2)) > -0.05  # nothing shines
    found = torch.stack([blue, pink, rest / apart.clamp(min=1e-9)[:, None]], dim=1)
    return torch.where(usable[:, None, None], found, STAINS.double()).float()


def _stain_maps(
    light: torch.Tensor, draws: Draws, options: AugmentOptions
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return (n, 3, 3) and (n, 3, 1): density is multiplied by the one, then the other added."""
    estimated = draws.some(options.macenko)
    stains = STAINS.repeat(draws.count, 1, 1)
    strength = torch.full((draws.count, 1, 1), float(options.stain))
    if len(estimated):
        where = estimated.cpu()
        step = max(1, light.shape[2] // ESTIMATE_PIXELS)
        stains[where] = estimate_stains(-light[:, :, ::step][estimated])
        strength[where] /= 2
    stains, strength = stains.to(light.device), strength.to(light.device)
    target = (stains + draws.normal(options.stain_direction, 3, 3)).transpose(1, 2)
    scale = 1 + strength * draws.around(0, 1, 1, 3)
    gamma = draws.factor(options.gamma, 1, 1)
    mix = target * scale @ torch.linalg.inv(stains.transpose(1, 2))
    shift = target @ draws.around(0, options.stain_shift, 3, 1)
    return mix * gamma, shift * gamma


def _colour_maps(draws: Draws, options: AugmentOptions) -> torch.Tensor:
    """Return (n, 3, 3) maps of RGB: turn the hue about grey, scale saturation and light."""
    angle = torch.deg2rad(draws.around(0, options.hue_degrees, 1, 1))
    eye, grey = torch.eye(3), torch.full((3, 3), 1 / 3)
    cross = torch.tensor([[0.0, -1.0, 1.0], [1.0, 0.0, -1.0], [-1.0, 1.0, 0.0]]) / math.sqrt(3)
    luma = torch.tensor(LUMA).expand(3, 3)
    eye, grey, cross, luma = (x.to(draws.device) for x in (eye, grey, cross, luma))
    hue = grey + angle.cos() * (eye - grey) + angle.sin() * cross
    saturation = draws.around(1, options.saturation, 1, 1)
    light = draws.around(1, options.brightness, 1, 1)
    return (luma + saturation * (eye - luma)) @ hue * light

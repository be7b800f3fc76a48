"""What lenses, sensors and files do to an image."""

import math

import simplejpeg  # type: ignore[import-untyped]
import torch
from torch.nn import functional

from wsiseg.train.augment_options import AugmentOptions
from wsiseg.train.draws import Draws

__all__ = ["add_noise_", "compress_", "defocus_"]

REACH = 2.5
"""Standard deviations at which the blur is cut off."""


def defocus_(
    image: torch.Tensor, draws: Draws, options: AugmentOptions, *, spacing_um: float
) -> torch.Tensor:
    """Blur some images and sharpen others, in place: scanners differ in optics.

    Parameters
    ----------
    image
        float32 (n, 3, y, x) in 0..1.
    """
    chosen = draws.some(options.defocus)
    if not len(chosen):
        return image
    draws = draws.of(chosen)
    sigma = draws.uniform(*options.blur_um, 1) / spacing_um
    gain = draws.uniform(-1, options.sharpen, 1, 1, 1)
    radius = max(1, math.ceil(REACH * options.blur_um[1] / spacing_um))
    sharp = image[chosen]
    smooth = _blur(sharp, sigma, radius)
    image[chosen] = torch.lerp(sharp, smooth, -gain).clamp_(0, 1)
    return image


def add_noise_(image: torch.Tensor, draws: Draws, options: AugmentOptions) -> torch.Tensor:
    """Add normal noise to every pixel and channel, in place, of another strength per image.

    Images take theirs from a common pool, from different places on: drawing normal numbers costs
    more than all else that is done to a pixel.
    """
    if options.noise == 0:
        return image
    deviation = draws.uniform(0, options.noise / 255, 1, 1, 1)
    length = image[0].numel()
    pool = torch.randn(2 * length, generator=draws.generator(), device=image.device)
    # No two images start at the same place.
    starts = (draws.uniform(0, 1).cpu() + torch.arange(draws.count)) * (length / draws.count)
    noise = torch.stack([pool[start : start + length] for start in starts.int().tolist()]).reshape(
        image.shape
    )
    return image.addcmul_(noise, deviation).clamp_(0, 1)


def compress_(image: torch.Tensor, draws: Draws, options: AugmentOptions) -> torch.Tensor:
    """Write some images as JPEG and read them again, in place."""
    chosen = draws.some(options.jpeg)
    qualities = draws.of(chosen).uniform(*options.jpeg_quality).round().int().tolist()
    for index, quality in zip(chosen.tolist(), qualities, strict=True):
        pixels = (image[index] * 255).round().byte().permute(1, 2, 0).contiguous().cpu()
        file = simplejpeg.encode_jpeg(pixels.numpy(), quality=quality, colorsubsampling="420")
        read = torch.from_numpy(simplejpeg.decode_jpeg(file)).to(image.device)
        image[index] = read.permute(2, 0, 1) / 255
    return image


def _blur(image: torch.Tensor, sigma: torch.Tensor, radius: int) -> torch.Tensor:
    """Return images (n, c, y, x) blurred by sigma (n, 1) pixels each; edges repeat outwards."""
    count, channels, height, width = image.shape
    offsets = torch.arange(-radius, radius + 1, device=image.device)
    kernel = torch.exp(-0.5 * (offsets / sigma) ** 2)
    kernel = (kernel / kernel.sum(dim=1, keepdim=True)).repeat_interleave(channels, dim=0)
    stack = image.reshape(1, count * channels, height, width)
    stack = functional.pad(stack, (radius,) * 4, mode="replicate")
    stack = functional.conv2d(stack, kernel[:, None, None, :], groups=count * channels)
    stack = functional.conv2d(stack, kernel[:, None, :, None], groups=count * channels)
    return stack.reshape(image.shape)

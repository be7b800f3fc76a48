"""Augmentation of patches of scans: geometry moves images and labels, intensity the images alone.

A scanner may have been set up otherwise and the patient may lie otherwise: patches are mirrored,
turned within the plane and by a small affine map, brighter or darker, noisier, of another contrast.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch.nn import functional

from wsiseg.train.augment_options import require
from wsiseg.train.draws import Draws
from wsiseg.train.losses import IGNORE

__all__ = ["ScanAugmentOptions", "augment_scans"]

SHARES = ("mirror", "turn", "affine", "intensity", "gamma", "noise", "contrast")
LEAST = 1e-6
KNOTS = 6
"""Of a random curve from grey values to grey values."""

Tensors = tuple[torch.Tensor, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ScanAugmentOptions:
    """Chances per patch and strengths; whatever is drawn is drawn evenly.

    Raises
    ------
    TrainingError
        If a chance is not in 0..1, a strength is negative, or an axis is none.
    """

    mirror: float = 0.5
    """Chance of a mirror image, for each of `mirror_axes`."""

    mirror_axes: tuple[int, ...] = (0, 1, 2)
    """Axes of the network, 0 to 2. Leave out the one from left to right (2 of `RAS`) where classes
    have a side."""

    turn: float = 0.5
    """Chance of quarter turns within the plane of axes 1 and 2; where that is square, with one
    spacing, else half turns."""

    affine: float = 0.3
    """Chance of a free rotation, scale and shift together."""

    rotation_degrees: float = 15.0
    """Up to which it is rotated about each axis."""

    scale: float = 0.15
    """Size is multiplied by up to 1 + this, or divided by it."""

    shift_mm: float = 0.0

    intensity: float = 0.5
    """Chance of another brightness and contrast."""

    intensity_scale: float = 0.2
    """Values are multiplied by 1 ± this, about their mean."""

    intensity_shift: float = 0.2
    """± this many standard deviations of the patch are added."""

    gamma: float = 0.3
    """Chance of an exponent between `1 / (1 + gamma_strength)` and `1 + gamma_strength`."""

    gamma_strength: float = 0.5
    noise: float = 0.3
    """Chance of noise."""

    noise_strength: float = 0.1
    """Its largest standard deviation, in those of the patch."""

    contrast: float = 0.0
    """Chance of a random curve instead of the patch's own contrast, at times one that falls: what
    is learned then are shapes. For scans of any sequence (after Billot et al. 2023,
    doi:10.1016/j.media.2023.102789, who draw a grey value per class)."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, tuple):
                right, needed = set(value) <= {0, 1, 2}, "axes of 0, 1 and 2"
            elif field.name in SHARES:
                right, needed = 0 <= value <= 1, "a chance in 0..1"
            else:
                right, needed = value >= 0, "0 or more"
            require(right, field.name, needed, value)

    @classmethod
    def off(cls) -> "ScanAugmentOptions":
        """Return options that change nothing."""
        return cls(**dict.fromkeys(SHARES, 0.0))  # type: ignore[arg-type]


@torch.no_grad()
def augment_scans(
    images: Tensors,
    labels: torch.Tensor,
    options: ScanAugmentOptions,
    *,
    spacing_mm: Sequence[float],
    generator: torch.Generator,
    size: Sequence[int],
) -> tuple[Tensors, torch.Tensor]:
    """Return augmented patches.

    Parameters
    ----------
    images
        float32 `(n, channel, z, y, x)` of one grid; are not changed.
    labels
        Integer `(n, z, y, x)`; 255 where nobody knows.
    options
        Chances and strengths.
    spacing_mm
        Of a voxel (z, y, x).
    generator
        On the CPU; its state and the rest decide the result.
    size
        Voxels of the centre that is returned; a margin around it keeps turned patches clear of
        what lies beyond, which is taken for what lies at the border and is not learned from.
    """
    draws = Draws(generator, len(labels), labels.device)
    counts = [image.shape[1] for image in images]
    joined, labels = torch.cat(images, dim=1), labels.clone()
    _mirror_(joined, labels, draws, options)
    _turn_(joined, labels, draws, options, spacing_mm)
    joined, labels = _warped(joined, labels, draws, options, spacing_mm, size)
    _recontrast_(joined, draws, options)
    _shade_(joined, draws, options)
    return torch.split(joined, counts, dim=1), labels


def _mirror_(
    images: torch.Tensor, labels: torch.Tensor, draws: Draws, options: ScanAugmentOptions
) -> None:
    for axis in options.mirror_axes:
        chosen = draws.some(options.mirror)
        images[chosen] = images[chosen].flip(axis + 2)
        labels[chosen] = labels[chosen].flip(axis + 1)


def _turn_(
    images: torch.Tensor,
    labels: torch.Tensor,
    draws: Draws,
    options: ScanAugmentOptions,
    spacing_mm: Sequence[float],
) -> None:
    chosen = draws.some(options.turn)
    quarters = draws.of(chosen).integers(4)
    even = abs(spacing_mm[1] / spacing_mm[2] - 1) < 1e-3
    if not even or labels.shape[2] != labels.shape[3]:
        quarters = quarters // 2 * 2
    for patch, count in zip(chosen.tolist(), quarters.tolist(), strict=True):
        images[patch] = torch.rot90(images[patch], count, (-2, -1))
        labels[patch] = torch.rot90(labels[patch], count, (-2, -1))


def _warped(
    images: torch.Tensor,
    labels: torch.Tensor,
    draws: Draws,
    options: ScanAugmentOptions,
    spacing_mm: Sequence[float],
    size: Sequence[int],
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the centres, some of them rotated, scaled and shifted about their middle, in mm."""
    chosen = draws.some(options.affine)
    theta = _maps(draws.of(chosen), options, spacing_mm, labels.shape[1:], size)
    z, y, x = (
        slice((n - m) // 2, (n - m) // 2 + m) for n, m in zip(labels.shape[1:], size, strict=True)
    )
    images_out, labels_out = images[..., z, y, x].clone(), labels[..., z, y, x].clone()
    if len(chosen):
        grid = functional.affine_grid(theta, [len(chosen), 1, *size], align_corners=False)
        images_out[chosen] = functional.grid_sample(
            images[chosen], grid, padding_mode="border", align_corners=False
        )
        known = (labels[chosen].float() - IGNORE)[:, None]  # outside is unknown
        found = functional.grid_sample(known, grid, mode="nearest", align_corners=False)
        labels_out[chosen] = (found[:, 0] + IGNORE).round().to(labels.dtype)
    return images_out, labels_out


def _maps(
    draws: Draws,
    options: ScanAugmentOptions,
    spacing_mm: Sequence[float],
    source: Sequence[int],
    target: Sequence[int],
) -> torch.Tensor:
    """Return (n, 3, 4): from halves of the result, (x, y, z), to halves of the patch."""
    angles = torch.deg2rad(draws.around(0, options.rotation_degrees, 3))
    turn = torch.eye(3, device=draws.device).expand(draws.count, 3, 3)
    for axis in range(3):
        turn = turn @ _rotations(angles[:, axis], axis)
    turn = turn / draws.factor(options.scale)[:, None, None]
    shift = draws.around(0, options.shift_mm, 3)
    mm = turn.new_tensor(list(spacing_mm)[::-1])
    inner, outer = (turn.new_tensor(list(shape)[::-1]) / 2 for shape in (target, source))
    # An odd margin leaves the centre of the cut half a voxel beside that of the patch.
    odd = turn.new_tensor([-((n - m) % 2) / 2 for n, m in zip(source, target, strict=True)][::-1])
    linear = turn * (mm * inner)[None, None, :] / (mm * outer)[None, :, None]
    return torch.cat([linear, ((shift / mm + odd) / outer)[:, :, None]], dim=2)


def _rotations(angles: torch.Tensor, axis: int) -> torch.Tensor:
    """Return (n, 3, 3) about one axis."""
    one, zero = torch.ones_like(angles), torch.zeros_like(angles)
    cos, sin = angles.cos(), angles.sin()
    rows = torch.stack([one, zero, zero, zero, cos, -sin, zero, sin, cos], dim=1).reshape(-1, 3, 3)
    places = [(k - axis) % 3 for k in range(3)]
    return rows[:, places][:, :, places]


def _recontrast_(images: torch.Tensor, draws: Draws, options: ScanAugmentOptions) -> None:
    """Send the grey values of some patches along random curves, each from 0 to 1 and back."""
    chosen = draws.some(options.contrast)
    if not len(chosen):
        return
    own = draws.of(chosen)
    knots = own.uniform(0, 1, KNOTS)
    rising = own.some(0.5)
    knots[rising] = knots[rising].sort(dim=1).values
    falling = own.some(0.3)
    knots[falling] = knots[falling].flip(1)
    values = images[chosen]
    low, span = _range(values)
    place = ((values - low) / span).clamp(0, 1) * (KNOTS - 1)
    left = place.floor().clamp(max=KNOTS - 2)
    flat = left.long().flatten(1)
    start, stop = (knots.gather(1, flat + step).view_as(place) for step in (0, 1))
    images[chosen] = torch.lerp(start, stop, place - left) * span + low


def _shade_(images: torch.Tensor, draws: Draws, options: ScanAugmentOptions) -> None:
    axes = (1, 1, 1, 1)
    chosen = draws.some(options.gamma)
    own = draws.of(chosen)
    low, span = _range(images[chosen])
    power = own.factor(options.gamma_strength).reshape(-1, *axes)
    images[chosen] = ((images[chosen] - low) / span).clamp(0, 1) ** power * span + low

    chosen = draws.some(options.intensity)
    own, values = draws.of(chosen), images[chosen]
    middle, deviation = _spread(values)
    factor = own.around(1, options.intensity_scale).reshape(-1, *axes)
    shift = own.around(0, options.intensity_shift).reshape(-1, *axes)
    images[chosen] = (values - middle) * factor + middle + shift * deviation

    chosen = draws.some(options.noise)
    own, values = draws.of(chosen), images[chosen]
    amount = own.uniform(0, options.noise_strength).reshape(-1, *axes) * _spread(values)[1]
    drawn = torch.randn(values.shape, generator=own.generator(), device=images.device)
    images[chosen] = values + amount * drawn


def _range(values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the least value of each patch and channel, and how far the largest is from it."""
    low, high = values.amin((2, 3, 4), keepdim=True), values.amax((2, 3, 4), keepdim=True)
    return low, (high - low).clamp(min=LEAST)


def _spread(values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return mean and standard deviation of each patch and channel."""
    middle = values.mean((2, 3, 4), keepdim=True)
    return middle, (values - middle).square().mean((2, 3, 4), keepdim=True).sqrt()

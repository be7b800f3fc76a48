"""What lies on slides besides tissue: ink, dust, bubbles, folds, and bare glass.

Everything is drawn as a shape in µm about a point of the patch, so that some of it is always seen;
light passes through it as it does on a slide (factors of transmitted light).
"""

from collections.abc import Callable

import torch
from torch.nn import functional

from wsiseg.train.augment_options import AugmentOptions
from wsiseg.train.draws import Draws
from wsiseg.train.losses import IGNORE
from wsiseg.train.patches import Patches

__all__ = ["paste_artefacts_", "spill_glass_"]

INKS = torch.tensor(
    [
        [2.3, 2.2, 2.0],  # black
        [2.2, 1.3, 0.25],  # blue
        [2.0, 0.5, 1.2],  # green
        [0.15, 1.8, 1.7],  # red
    ]
)
"""Optical density of marker ink in RGB (natural logarithm), round figures for common markers."""

RELIEF = 5
"""Random heights along each side of a patch whose smooth surface decides where glass is."""

COVERED = 0.5
"""Share of an artefact from which a pixel belongs to it."""

Shape = tuple[torch.Tensor, torch.Tensor]
"""How much of each pixel is covered, 0..1, and the images with the artefact; (n, 1 or 3, y, x)."""


def paste_artefacts_(
    patches: Patches, draws: Draws, options: AugmentOptions, *, spacing_um: float
) -> Patches:
    """Paste folds, bubbles, dust and marker strokes into some patches, in place.

    Parameters
    ----------
    patches
        Channels first, float.
    """
    kinds: tuple[tuple[float, Callable[..., Shape]], ...] = (
        (options.fold, _fold),
        (options.bubble, _bubble),
        (options.dust, _dust),
        (options.pen, _pen),
    )
    for share, kind in kinds:
        chosen = draws.some(share)
        if len(chosen):
            cover, image = kind(patches.image[chosen], draws.of(chosen), options, spacing_um)
            patches.image[chosen] = image.clamp_(0, 1)
            _mark_(patches, chosen, cover[:, 0] > COVERED, options)
    return patches


def spill_glass_(patches: Patches, draws: Draws, options: AugmentOptions) -> Patches:
    """Replace part of the tissue of some patches by glass, in smooth random shapes, in place.

    Annotated regions lie inside tissue; slides have edges, tears and fat, where the label is
    background.
    """
    chosen = draws.some(options.glass)
    if not len(chosen):
        return patches
    draws = draws.of(chosen)
    rows, columns = (_smooth_weights(size, RELIEF).to(draws.device) for size in patches.size)
    relief = rows @ draws.normal(1, 1, RELIEF, RELIEF) @ columns.T
    glass = relief > draws.uniform(-1.0, 1.5, 1, 1, 1)
    colour = draws.uniform(225, 255, 1, 1, 1) - draws.uniform(0, 6, 3, 1, 1)
    patches.image[chosen] = torch.where(glass, colour / 255, patches.image[chosen])
    _set_background_(patches, chosen, glass[:, 0])
    return patches


def _smooth_weights(size: int, knots: int) -> torch.Tensor:
    """Return (size, knots): bicubic interpolation along one axis as a matrix."""
    unit = torch.eye(knots)[None, None]
    weights = functional.interpolate(unit, (size, knots), mode="bicubic", align_corners=True)
    return weights[0, 0]


def _mark_(
    patches: Patches, chosen: torch.Tensor, covered: torch.Tensor, options: AugmentOptions
) -> None:
    """Write what is known under an artefact."""
    if options.artefact_label == "background":
        _set_background_(patches, chosen, covered)
    elif options.artefact_label == "ignore":
        patches.labels[chosen] = patches.labels[chosen].masked_fill(covered, IGNORE)


def _set_background_(patches: Patches, chosen: torch.Tensor, where: torch.Tensor) -> None:
    patches.labels[chosen] = patches.labels[chosen].masked_fill(where, 0)
    if patches.heatmap is not None:
        patches.heatmap[chosen] = patches.heatmap[chosen].masked_fill(where[:, None], 0)


def _pen(image: torch.Tensor, draws: Draws, options: AugmentOptions, spacing_um: float) -> Shape:
    """Draw a stroke far longer than the patch: ink absorbs, in streaks along the stroke."""
    along, across = _band_axes(image, draws, spacing_um)
    width = draws.uniform(*options.pen_width_um, 1, 1)
    # The stroke's edge, not its middle, passes through the point: most are wider than a patch.
    across = across + 0.5 * width + _wobble(along, draws, 0.05 * width)
    softness = draws.uniform(2, 15, 1, 1).clamp(min=spacing_um)
    cover = torch.sigmoid((width / 2 - across.abs()) / softness)
    streaks = torch.zeros_like(across)
    for _ in range(3):
        period = width * draws.uniform(0.03, 0.3, 1, 1)
        streaks += torch.cos(6.283 * (across / period + draws.uniform(0, 1, 1, 1)))
    strength = draws.uniform(0.4, 1.1, 1, 1) * (1 + 0.1 * streaks)
    ink = INKS[draws.integers(len(INKS))].to(image.device)[:, :, None, None]
    ink = ink + draws.around(0, 0.15, 3, 1, 1)
    return cover[:, None], image * torch.exp(-(cover * strength)[:, None] * ink.clamp(min=0))


def _dust(image: torch.Tensor, draws: Draws, options: AugmentOptions, spacing_um: float) -> Shape:
    """Drop a dark speck of irregular outline, out of focus."""
    y, x = _places(image, draws, spacing_um)
    turn = torch.atan2(y, x)
    outline = draws.uniform(*options.dust_radius_um, 1, 1)
    uneven = torch.ones_like(turn)
    for waves in (2, 3, 5):
        uneven += draws.around(0, 0.5 / waves, 1, 1) * torch.cos(
            waves * turn + draws.uniform(0, 6.283, 1, 1)
        )
    softness = (outline * draws.uniform(0.1, 0.3, 1, 1)).clamp(min=spacing_um / 2)
    cover = torch.sigmoid((outline * uneven - torch.hypot(y, x)) / softness)[:, None]
    density = draws.uniform(0.4, 2.0, 1, 1, 1) + draws.around(0, 0.2, 3, 1, 1)
    return cover, image * torch.exp(-cover * density)


def _bubble(image: torch.Tensor, draws: Draws, options: AugmentOptions, spacing_um: float) -> Shape:
    """Trap air under the cover glass: a dark rim, a bright line in it, pale and flat within."""
    radius = draws.uniform(*options.bubble_radius_um, 1, 1)
    rim = (0.02 * radius + draws.uniform(1.5, 5, 1, 1)).clamp(min=spacing_um)
    y, x = _places(image, draws, spacing_um)
    direction, depth = draws.uniform(0, 6.283, 1, 1), radius - draws.uniform(-2, 3, 1, 1) * rim
    distance = torch.hypot(y - depth * direction.sin(), x - depth * direction.cos())
    inside = radius - distance  # µm from the rim inwards
    dark = torch.exp(-((inside / rim) ** 2)) * draws.uniform(0.5, 1.6, 1, 1)
    bright = 0.4 * torch.exp(-((inside / rim - 2) ** 2))
    cover = torch.sigmoid((inside + 1.5 * rim) / (rim / 4))[:, None]
    within = torch.sigmoid(inside / (rim / 4))[:, None] * draws.uniform(0.1, 0.4, 1, 1, 1)
    pale = torch.lerp(image, image.mean(dim=(2, 3), keepdim=True) * 0.5 + 0.5, within)
    return cover, pale * torch.exp(-dark)[:, None] + bright[:, None] * (1 - pale)


def _fold(image: torch.Tensor, draws: Draws, options: AugmentOptions, spacing_um: float) -> Shape:
    """Lay a band of tissue on top of other tissue: their densities add up."""
    along, across = _band_axes(image, draws, spacing_um)
    width = draws.uniform(*options.fold_width_um, 1, 1)
    across = across + draws.around(0, 0.5, 1, 1) * width + _wobble(along, draws, 0.3 * width)
    softness = draws.uniform(1, 3, 1, 1).clamp(min=spacing_um / 2)
    cover = torch.sigmoid((width / 2 - across.abs()) / softness)[:, None]
    shifts = [size // 4 + int(draws.integers(size // 2 + 1)[0]) for size in image.shape[2:]]
    second = image.roll(shifts, dims=(2, 3)).clamp(min=1 / 255).log() * draws.uniform(
        0.7, 1.2, 1, 1, 1
    )
    return cover, image * torch.exp(cover * second)


def _places(
    image: torch.Tensor, draws: Draws, spacing_um: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return y and x in µm from a random point of each patch, (n, y, 1) and (n, 1, x)."""
    axes = []
    for axis, size in enumerate(image.shape[2:]):
        place = torch.arange(size, device=image.device) + 0.5
        shape = (1, -1, 1) if axis == 0 else (1, 1, -1)
        axes.append((place.reshape(shape) - draws.uniform(0, size, 1, 1)) * spacing_um)
    return axes[0], axes[1]


def _band_axes(
    image: torch.Tensor, draws: Draws, spacing_um: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return µm along and across a line through a random point, in a random direction."""
    y, x = _places(image, draws, spacing_um)
    angle = draws.uniform(0, 6.283, 1, 1)
    return x * angle.cos() + y * angle.sin(), y * angle.cos() - x * angle.sin()


def _wobble(along: torch.Tensor, draws: Draws, size: torch.Tensor) -> torch.Tensor:
    """Return how far a line that no hand draws straight is off, in µm."""
    period = size * draws.uniform(10, 40, 1, 1)
    return size * torch.sin(6.283 * (along / period + draws.uniform(0, 1, 1, 1)))

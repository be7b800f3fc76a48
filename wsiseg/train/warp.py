"""Geometry of augmentation: image, labels and heatmap move together."""

import torch
from torch.nn import functional

from wsiseg.train.augment_options import AugmentOptions
from wsiseg.train.draws import Draws
from wsiseg.train.losses import IGNORE
from wsiseg.train.patches import Patches

__all__ = ["orient", "warp"]

WHITE = 1.0
"""What lies outside a patch: white, as outside a slide."""


def orient(patches: Patches, draws: Draws, options: AugmentOptions) -> Patches:
    """Return each patch in one of its eight orientations; of four, where it is not square.

    Parameters
    ----------
    patches
        Channels first, of any types; no pixel is interpolated.
    """
    chosen = draws.some(options.orient).cpu()
    turns, mirrored = draws.integers(4), draws.integers(2)
    if patches.size[0] != patches.size[1]:
        turns = turns // 2 * 2
    keep = torch.ones(draws.count, dtype=torch.bool)
    keep[chosen] = False
    kind = (turns + 4 * mirrored).masked_fill(keep, 0)

    def turn(tensor: torch.Tensor) -> torch.Tensor:
        out = torch.empty_like(tensor)
        for value in sorted(set(kind.tolist())):
            index = (kind == value).nonzero()[:, 0].to(tensor.device)
            turned = torch.rot90(tensor[index], value % 4, (-2, -1))
            out[index] = turned.flip(-1) if value >= 4 else turned
        return out

    heatmap = None if patches.heatmap is None else turn(patches.heatmap)
    return Patches(turn(patches.image), turn(patches.labels), heatmap)


def warp(
    patches: Patches, draws: Draws, options: AugmentOptions, *, spacing_um: float, size: int | None
) -> Patches:
    """Return some patches rotated, scaled, sheared and shifted about their centres.

    Parameters
    ----------
    patches
        Channels first, float.
    size
        Side in pixels of the centre that is returned; patches with a margin keep clear of what
        lies outside: white, of unknown class, with probability 0. Default: everything.

    Notes
    -----
    Image and heatmap are interpolated linearly, labels take the nearest pixel.
    """
    target = patches.size if size is None else (size, size)
    chosen = draws.some(options.affine)
    maps = _affine_maps(draws.of(chosen), options, spacing_um)
    centre = _centre(patches, target)
    if not len(chosen):
        return centre
    grid = _grid(maps, patches.size, target)
    image = _sample(patches.image[chosen] - WHITE, grid, "bilinear") + WHITE
    known = (patches.labels[chosen].float() - IGNORE)[:, None]
    labels = _sample(known, grid, "nearest")[:, 0] + IGNORE
    centre.image[chosen] = image
    centre.labels[chosen] = labels.to(centre.labels.dtype)
    if patches.heatmap is not None and centre.heatmap is not None:
        centre.heatmap[chosen] = _sample(patches.heatmap[chosen], grid, "bilinear")
    return centre


def _affine_maps(draws: Draws, options: AugmentOptions, spacing_um: float) -> torch.Tensor:
    """Return (n, 2, 3): from (x, y) about the centre of the result to the patch, in pixels."""
    angle = torch.deg2rad(draws.around(0, options.rotation_degrees))
    shear = torch.tan(torch.deg2rad(draws.around(0, options.shear_degrees)))
    zoom = draws.factor(options.scale)
    shift = draws.around(0, options.shift_um / spacing_um, 2)
    cos, sin = angle.cos() / zoom, angle.sin() / zoom
    rows = [cos, cos * shear - sin, shift[:, 0], sin, sin * shear + cos, shift[:, 1]]
    return torch.stack(rows, dim=1).reshape(-1, 2, 3)


def _centre(patches: Patches, target: tuple[int, int]) -> Patches:
    """Return copies of the centres."""
    if target == patches.size:
        return patches
    top, left = ((n - t) // 2 for n, t in zip(patches.size, target, strict=True))
    cut = (..., slice(top, top + target[0]), slice(left, left + target[1]))
    heatmap = None if patches.heatmap is None else patches.heatmap[cut].contiguous()
    return Patches(patches.image[cut].contiguous(), patches.labels[cut].contiguous(), heatmap)


def _grid(maps: torch.Tensor, source: tuple[int, int], target: tuple[int, int]) -> torch.Tensor:
    """Return (n, y, x, 2): where to look, in halves of the patch's width and height."""
    to_pixels = maps.new_tensor([target[1] / 2, target[0] / 2, 1.0])
    from_pixels = maps.new_tensor([[2 / source[1]], [2 / source[0]]])
    # An odd margin leaves the centre of the cut half a pixel beside that of the patch.
    odd = maps.new_tensor([-((n - t) % 2) / 2 for n, t in zip(source, target, strict=True)][::-1])
    shift = maps[:, :, 2:] + maps[:, :, :2] @ odd[:, None]
    theta = torch.cat([maps[:, :, :2], shift], dim=2) * to_pixels * from_pixels
    return functional.affine_grid(theta, [len(maps), 1, *target], align_corners=False)


def _sample(values: torch.Tensor, grid: torch.Tensor, mode: str) -> torch.Tensor:
    return functional.grid_sample(
        values, grid, mode=mode, padding_mode="zeros", align_corners=False
    )

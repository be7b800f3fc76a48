"""Losses: cross-entropy against the share of a class, and soft Dice without background."""

import torch
from torch.nn import functional

__all__ = ["central_share", "patch_loss", "segmentation_loss", "soft_dice_loss"]

SMOOTH = 1.0
"""Added above and below in the Dice ratio, as in H2G-Net: an empty image scores 1, not 0 / 0."""


def central_share(labels: torch.Tensor, classes: int, cell: int) -> torch.Tensor:
    """Return how much of the central cell of each patch belongs to each class.

    Parameters
    ----------
    labels
        int64 (n, y, x) class indices.
    classes
        Number of classes.
    cell
        Side in pixels of the central square, the part of the slide a heatmap cell stands for.

    Returns
    -------
    float32 (n, classes), rows sum to one.
    """
    top, left = ((size - cell) // 2 for size in labels.shape[1:])
    centre = labels[:, top : top + cell, left : left + cell].flatten(1)
    return functional.one_hot(centre, classes).float().mean(dim=1)


def patch_loss(logits: torch.Tensor, labels: torch.Tensor, *, cell: int) -> torch.Tensor:
    """Return the cross-entropy of patch logits (n, class) against the central cell's classes."""
    return functional.cross_entropy(logits, central_share(labels, logits.shape[1], cell))


def soft_dice_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return `1 - (2 Σpg + 1) / (Σp² + Σg² + 1)`, mean over images and foreground classes.

    Parameters
    ----------
    logits
        float32 (n, class, y, x); probabilities p are their softmax.
    labels
        int64 (n, y, x) class indices; g is 1 where the class is.

    References
    ----------
    Milletari et al. 2016, doi:10.1109/3DV.2016.79; without background, per image, as in
    Pedersen et al. 2022, doi:10.3389/fmed.2022.971873.
    """
    p = logits.float().softmax(dim=1)[:, 1:]
    g = functional.one_hot(labels, logits.shape[1]).movedim(-1, 1)[:, 1:].float()
    common, total = (p * g).sum(dim=(2, 3)), (p * p + g * g).sum(dim=(2, 3))
    return (1 - (2 * common + SMOOTH) / (total + SMOOTH)).mean()


def segmentation_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return soft Dice plus cross-entropy: Dice for the overlap, entropy for honest odds."""
    return soft_dice_loss(logits, labels) + functional.cross_entropy(logits, labels)

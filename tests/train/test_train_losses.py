"""Losses against values computed by hand."""

import math

import pytest
import torch

from wsiseg.train.losses import central_share, patch_loss, segmentation_loss, soft_dice_loss

SURE = 40.0
"""A logit whose softmax is one within float32."""


def logits_of(foreground):
    """Two-class logits whose softmax gives these foreground probabilities."""
    p = torch.tensor(foreground, dtype=torch.float64)
    return torch.stack([torch.log1p(-p), torch.log(p)], dim=1)


def test_soft_dice_by_hand():
    # p = 0.5, 0.8, 0.2, 0.1; g = 1, 1, 0, 0: Σpg = 1.3, Σp² = 0.94, Σg² = 2
    logits = logits_of([[[0.5, 0.8], [0.2, 0.1]]])
    labels = torch.tensor([[[1, 1], [0, 0]]])
    expected = 1 - (2 * 1.3 + 1) / (0.94 + 2 + 1)
    assert soft_dice_loss(logits, labels).item() == pytest.approx(expected, abs=1e-6)


def test_soft_dice_is_a_mean_over_images_not_over_pixels():
    # First image perfect (loss 0), second misses its one pixel: 1 - 1 / (0 + 1 + 1)
    p = torch.zeros(2, 2, 1, 4)
    p[:, 0] = SURE
    p[0, :, 0, :3] = torch.tensor([[0.0], [SURE]])
    labels = torch.tensor([[[1, 1, 1, 0]], [[1, 0, 0, 0]]])
    assert soft_dice_loss(p, labels).item() == pytest.approx((0 + 0.5) / 2, abs=1e-6)


def test_soft_dice_ignores_the_background_class():
    # All background, predicted as background: no overlap anywhere, yet no loss (1 / 1).
    logits = torch.zeros(1, 2, 3, 3)
    logits[:, 0] = SURE
    assert soft_dice_loss(logits, torch.zeros(1, 3, 3, dtype=torch.long)).item() == 0


def test_segmentation_loss_adds_cross_entropy():
    logits = logits_of([[[0.5, 0.8], [0.2, 0.1]]])
    labels = torch.tensor([[[1, 1], [0, 0]]])
    entropy = -sum(math.log(p) for p in (0.5, 0.8, 0.8, 0.9)) / 4
    expected = soft_dice_loss(logits, labels).item() + entropy
    assert segmentation_loss(logits, labels).item() == pytest.approx(expected, abs=1e-6)


def test_central_share_looks_at_the_centre_alone():
    labels = torch.zeros(1, 6, 6, dtype=torch.long)
    labels[0, :, :3] = 1  # left half
    labels[0, 0] = 2  # border, outside the cell
    assert central_share(labels, 3, 2).tolist() == [[0.5, 0.5, 0.0]]


def test_patch_loss_by_hand():
    # A quarter of the 2 x 2 cell is tumour; predicted tumour 0.2.
    labels = torch.zeros(1, 4, 4, dtype=torch.long)
    labels[0, 1, 1] = 1
    logits = torch.tensor([[math.log(0.8), math.log(0.2)]])
    expected = -(0.75 * math.log(0.8) + 0.25 * math.log(0.2))
    assert patch_loss(logits, labels, cell=2).item() == pytest.approx(expected, abs=1e-6)

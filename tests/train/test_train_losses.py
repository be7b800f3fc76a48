"""Losses against values computed by hand, MONAI and torch."""

import math
from functools import partial

import pytest
import torch
from monai.losses import DiceLoss, FocalLoss, TverskyLoss

from wsiseg.errors import TrainingError
from wsiseg.train.losses import (
    DeepSupervision,
    LossOptions,
    central_share,
    cross_entropy_loss,
    focal_loss,
    make_loss,
    patch_loss,
    segmentation_loss,
    soft_dice_loss,
    tversky_loss,
)

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


LOSSES = {
    "dice": soft_dice_loss,
    "dice over the batch": partial(soft_dice_loss, over_batch=True),
    "tversky": partial(tversky_loss, alpha=0.3, beta=0.7),
    "cross-entropy": cross_entropy_loss,
    "weighted cross-entropy": partial(cross_entropy_loss, weights=(0.2, 1.0, 3.0)),
    "focal": partial(focal_loss, gamma=2.0, alpha=0.25),
    "sum": segmentation_loss,
}


def case(seed, classes=3, count=2, size=5):
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(count, classes, size, size, generator=generator)
    return logits, torch.randint(classes, (count, size, size), generator=generator)


def monai_case(seed):
    logits, labels = case(seed)
    return logits, labels, {"to_onehot_y": True, "softmax": True, "include_background": False}


@pytest.mark.parametrize("batch", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_dice_and_tversky_equal_monai(seed, batch):
    logits, labels, how = monai_case(seed)
    how |= {"batch": batch, "smooth_nr": 1.0, "smooth_dr": 1.0}
    expected = DiceLoss(squared_pred=True, **how)(logits, labels[:, None])
    found = soft_dice_loss(logits, labels, over_batch=batch)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)
    expected = TverskyLoss(alpha=0.3, beta=0.7, **how)(logits, labels[:, None])
    found = tversky_loss(logits, labels, alpha=0.3, beta=0.7, over_batch=batch)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("alpha", [None, 0.25])
@pytest.mark.parametrize("gamma", [0.0, 2.0])
def test_focal_equals_monai(gamma, alpha):
    logits, labels = case(0)
    oracle = FocalLoss(
        gamma=gamma, alpha=alpha, use_softmax=True, to_onehot_y=True, reduction="none"
    )
    expected = oracle(logits, labels[:, None]).sum(dim=1).mean()
    found = focal_loss(logits, labels, gamma=gamma, alpha=alpha)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)


def test_weighted_cross_entropy_equals_torch():
    logits, labels = case(0)
    weights = (0.2, 1.0, 3.0)
    expected = torch.nn.functional.cross_entropy(logits, labels, torch.tensor(weights))
    torch.testing.assert_close(cross_entropy_loss(logits, labels, weights=weights), expected)


@pytest.mark.parametrize("name", LOSSES)
def test_ignored_pixels_change_nothing(name):
    """Cut away or ignored, the rest costs the same, and no gradient reaches what is ignored."""
    logits, labels = case(1)
    labels[..., 3:] = 255
    whole = logits.clone().requires_grad_()
    value = LOSSES[name](whole, labels)
    cut = LOSSES[name](logits[..., :3], labels[..., :3])
    torch.testing.assert_close(value, cut, atol=1e-6, rtol=0)
    value.backward()
    assert not whole.grad[..., 3:].any()
    assert whole.grad[..., :3].any()


@pytest.mark.parametrize("name", LOSSES)
def test_an_image_nobody_knows_is_as_if_it_were_not_there(name):
    logits, labels = case(2)
    labels[1] = 255
    torch.testing.assert_close(
        LOSSES[name](logits, labels), LOSSES[name](logits[:1], labels[:1]), atol=1e-6, rtol=0
    )


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("value", [255, 0, 2])
def test_one_class_or_none_at_all_is_finite(name, value):
    logits, labels = case(3)
    logits.requires_grad_()
    loss = LOSSES[name](50 * logits, torch.full_like(labels, value))
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(logits.grad).all()
    assert (loss.item() == 0) == (value == 255)


@pytest.mark.parametrize("name", LOSSES)
def test_labels_of_whole_patches_are_images_of_one_pixel(name):
    logits, labels = case(4, size=1)
    found = LOSSES[name](logits[..., 0, 0], labels[:, 0, 0])
    torch.testing.assert_close(found, LOSSES[name](logits, labels))


@pytest.mark.parametrize("name", LOSSES)
def test_losses_fall_when_followed(name):
    logits, labels = case(5)
    logits.requires_grad_()
    before = LOSSES[name](logits, labels)
    (slope,) = torch.autograd.grad(before, logits)
    assert LOSSES[name](logits - slope, labels) < before


def test_another_ignore_index():
    logits, labels = case(6)
    other = torch.where(labels == 2, 7, labels)
    ignored = torch.where(labels == 2, 255, labels)
    expected = segmentation_loss(logits, ignored)
    torch.testing.assert_close(segmentation_loss(logits, other, 7), expected)


def test_deep_supervision_by_hand():
    logits, labels = case(7, size=8)
    heads = (logits, logits[..., ::2, 1::2], logits[..., ::4, ::4])
    known = [labels, labels[:, ::2, ::2], labels[:, ::4, ::4]]
    values = [segmentation_loss(h, k) for h, k in zip(heads, known, strict=True)]
    found = DeepSupervision(segmentation_loss)(heads, labels)
    torch.testing.assert_close(found, sum(values) / 3)
    found = DeepSupervision(segmentation_loss, (1.0, 0.5, 0.0))(heads, labels)
    torch.testing.assert_close(found, values[0] + 0.5 * values[1])
    torch.testing.assert_close(DeepSupervision(segmentation_loss)(logits, labels), values[0])


def test_deep_supervision_refuses_what_does_not_fit():
    logits, labels = case(8, size=8)
    with pytest.raises(TrainingError, match="2 head weights for a network of 1 outputs"):
        DeepSupervision(segmentation_loss, (1.0, 0.5))((logits,), labels)
    with pytest.raises(TrainingError, match="does not divide"):
        DeepSupervision(segmentation_loss)((logits[..., :3, :3],), labels)


def test_the_options_name_the_sum():
    logits, labels = case(9)
    options = LossOptions(dice=0.5, cross_entropy=0, tversky=2, focal=1, focal_gamma=1)
    expected = (
        0.5 * soft_dice_loss(logits, labels)
        + 2 * tversky_loss(logits, labels)
        + focal_loss(logits, labels, gamma=1)
    )
    torch.testing.assert_close(make_loss(options)(logits, labels), expected)


@pytest.mark.parametrize("options", [{"dice": 0, "cross_entropy": 0}, {"focal": -1}])
def test_wrong_weights_are_refused(options):
    with pytest.raises(TrainingError, match="needed weights of 0 or more"):
        LossOptions(**options)


def test_patches_whose_cell_is_not_known_are_left_out():
    labels = torch.full((3, 4, 4), 255)
    labels[0, 1, 1:3], labels[1, 1, 1] = torch.tensor([0, 1]), 1
    shares = central_share(labels, 2, 2)
    assert shares.tolist() == [[0.5, 0.5], [0.0, 1.0], [0.0, 0.0]]
    logits = torch.tensor([[math.log(0.8), math.log(0.2)]]).repeat(3, 1)
    expected = -(0.5 * math.log(0.8) + 0.5 * math.log(0.2) + math.log(0.2)) / 2
    assert patch_loss(logits, labels, cell=2).item() == pytest.approx(expected, abs=1e-6)

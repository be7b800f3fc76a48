"""The loop learns, repeats itself, and says when it cannot."""

import numpy as np
import pytest
import torch

from wsiseg.errors import TrainingError
from wsiseg.model.networks import build
from wsiseg.train.augment import AugmentOptions
from wsiseg.train.fit import FitOptions, fit, to_tensors
from wsiseg.train.losses import segmentation_loss
from wsiseg.train.sampling import Batch, PatchSampler, Region

MILD = AugmentOptions(glass=0, hue_degrees=0, stain=0.05)


def discs(*, heatmap=False):
    """Dark discs on a bright ground: what any segmenter learns in a few steps."""
    rows, columns = np.indices((64, 64))
    labels = (((rows % 32 - 16) ** 2 + (columns % 32 - 16) ** 2) < 80).astype(np.uint8)
    image = np.where(labels[..., None] > 0, (90, 40, 120), (230, 190, 220)).astype(np.uint8)
    extra = labels[..., None].astype(np.float32) if heatmap else None
    return Region("discs", image, labels, extra)


def trained(seed, *, steps=20, accumulate=1):
    torch.manual_seed(seed)
    network = build(
        "wsiseg.h2g_unet",
        channels=(3,),
        classes=2,
        arguments={"widths": [8, 8], "bottleneck": 16},
    )
    options = FitOptions(
        steps=steps, batch=4, learning_rate=5e-3, accumulate=accumulate, seed=seed, augment=MILD
    )
    history = fit(network, PatchSampler([[discs()]], patch=32), segmentation_loss, options)
    return network, history


def test_twenty_steps_reduce_the_loss():
    network, history = trained(0)
    assert np.mean(history[-3:]) < 0.6 * np.mean(history[:3])
    assert not network.training


def test_training_repeats_itself_bit_for_bit():
    (first, losses), (again, same) = trained(1, steps=4), trained(1, steps=4)
    assert losses == same
    for a, b in zip(first.state_dict().values(), again.state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_gradients_accumulate_to_the_mean_of_the_batches():
    """Two batches of four, one step, against the sum of two half losses by autograd."""

    class Recorder(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(2, 3))
            self.seen = []

        def forward(self, image):
            self.seen.append(image.detach().clone())
            return torch.einsum("kc,nchw->nkhw", self.weight, image)

    def loss(logits, labels):
        return logits[:, 1].mean() + 0 * labels.sum()

    network = Recorder()
    grads = []
    network.weight.register_post_accumulate_grad_hook(lambda p: grads.append(p.grad.clone()))
    options = FitOptions(steps=1, batch=4, accumulate=2, augment=MILD)
    fit(network, PatchSampler([[discs()]], patch=32), loss, options)
    mean = torch.cat(network.seen).mean(dim=(0, 2, 3))
    torch.testing.assert_close(grads[-1][1], mean)


def test_a_loss_that_explodes_is_an_error():
    network = torch.nn.Conv2d(3, 2, 1)
    options = FitOptions(steps=2, batch=2)

    def broken(logits, labels):
        return logits.sum() * float("nan") + 0 * labels.sum()

    with pytest.raises(TrainingError, match="the loss became nan at step 0"):
        fit(network, PatchSampler([[discs()]], patch=8), broken, options)


@pytest.mark.parametrize("wrong", [{"steps": 0}, {"batch": 0}, {"learning_rate": 0.0}])
def test_impossible_options_are_refused(wrong):
    with pytest.raises(TrainingError, match="positive learning rate"):
        FitOptions(**{"steps": 1, "batch": 1, **wrong})


def test_inputs_are_what_the_card_states():
    image = np.arange(2 * 4 * 4 * 3, dtype=np.uint8).reshape(2, 4, 4, 3)
    heatmap = np.random.default_rng(0).random((2, 4, 4, 1), dtype=np.float32)
    rgb, extra = to_tensors(Batch(image, image[..., 0], heatmap))
    assert rgb.dtype == extra.dtype == torch.float32
    np.testing.assert_allclose(rgb.numpy(), np.moveaxis(image, -1, 1) / np.float32(255))
    np.testing.assert_array_equal(extra.numpy(), np.moveaxis(heatmap, -1, 1))


def test_h2g_net_refinement_at_full_width_trains():
    network = build("wsiseg.h2g_unet", channels=(3, 1), classes=2)
    sampler = PatchSampler([[discs(heatmap=True)]], patch=256)
    before = network.classify.weight.detach().clone()
    history = fit(network, sampler, segmentation_loss, FitOptions(steps=1, batch=2, augment=MILD))
    assert np.isfinite(history).all()
    assert not torch.equal(before, network.classify.weight)


@pytest.mark.slow
def test_h2g_net_refinement_trains_at_its_own_size():
    network = build("wsiseg.h2g_unet", channels=(3, 1), classes=2)
    sampler = PatchSampler([[discs(heatmap=True)]], patch=1024)
    options = FitOptions(steps=1, batch=1, accumulate=2, augment=MILD)
    assert np.isfinite(fit(network, sampler, segmentation_loss, options)).all()
